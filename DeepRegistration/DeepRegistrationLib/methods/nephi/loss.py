"""What NePhi minimises, measured at random points: images need not be warped as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ...interpolation import sample
from ...objectives import GlobalNCC, Similarity
from ...objectives.regularity import PointMap
from ..gradicon.inverse_consistency import gradient_by_autograd
from .maps import MapPair


class Images(Protocol):
    """Pairs of images that can be read anywhere, in the normalised coordinates of the maps."""

    def fixed_at(self, points: Tensor) -> Tensor:
        """Points (B, N, d) to values (B, C, N)."""
        ...

    def moving_at(self, points: Tensor) -> Tensor:
        """Points (B, N, d) to values (B, C, N)."""
        ...

    def both_seen(self, points: Tensor) -> Tensor:
        """Those of points (N, d) where both images have something to say."""
        ...


@dataclass(frozen=True)
class BatchImages:
    """Images (B, C, *S) on lattices of one box; the border goes on outside."""

    fixed: Tensor
    moving: Tensor

    def fixed_at(self, points: Tensor) -> Tensor:
        return _read(self.fixed, points)

    def moving_at(self, points: Tensor) -> Tensor:
        return _read(self.moving, points)

    def both_seen(self, points: Tensor) -> Tensor:
        return points


@dataclass(frozen=True)
class SampledLoss:
    """(S(I o phi, J) + S(J o psi, I)) / 2 + weight (R(psi o phi) + R(phi o psi)) / 2 + prior P.

    Tian et al., NePhi (ECCV 2024, arXiv 2309.07322), section 3.3, with the constants of the authors' code.
    Memory grows with the points alone. Each of the four terms draws points of its own, uniform in the
    box and the same for all pairs.

    Attributes:
        similarity_points: for each S.
        regularity_points: for each R; far fewer do, as it is a property of smooth functions.
        similarity: S, of values at points, so without a neighbourhood.
        weight: lambda. R is the mean over points and entries of the squared gradient of
            psi(phi(x)) - x, by automatic differentiation.
        prior: of P, the mean length of the code's vectors.
    """

    similarity_points: int
    regularity_points: int
    similarity: Similarity = field(default_factory=GlobalNCC)
    weight: float = 10.0
    prior: float = 0.01

    def __call__(self, maps: MapPair, images: Images, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars `loss`, `similarity` (the mean of both directions), `inverse_consistency`, `prior`.

        Args:
            maps: of the pairs.
            images: of the pairs.
            generator: on the CPU; draws the points.
        """
        values: dict[str, Tensor] = {}
        for name, share, value in self.terms(maps, images, generator):
            values[name] = values.get(name, 0) + share * value
        return {"loss": sum(self.weights[name] * value for name, value in values.items()), **values}

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms in the loss, by name."""
        return {"similarity": 1.0, "inverse_consistency": self.weight, "prior": self.prior}

    def terms(
        self, maps: MapPair, images: Images, generator: torch.Generator
    ) -> Iterator[tuple[str, float, Tensor]]:
        """Name, share of the value of that name, and value, one direction after the other.

        Each is computed when it is asked for, and shares nothing but `maps` with the others: where code and
        weights are leaves, it can be differentiated and forgotten before the next one needs memory.
        """
        forward, backward = maps.forward, maps.backward
        draw = _Draw(maps.code.whole, maps.code.grid.ndim - 2, generator)
        here, there = (images.both_seen(draw(self.similarity_points)) for _ in range(2))
        here, there = draw.for_all(here), draw.for_all(there)
        yield "similarity", 0.5, self._unlike(images.moving_at(forward(here)), images.fixed_at(here))
        yield "similarity", 0.5, self._unlike(images.fixed_at(backward(there)), images.moving_at(there))
        smooth = forward.twice_differentiable(), backward.twice_differentiable()
        for first, second in (smooth, smooth[::-1]):
            points = draw.for_all(draw(self.regularity_points))
            yield "inverse_consistency", 0.5, entry_gradient(first, second, points)
        yield "prior", 1.0, maps.code.whole.norm(dim=1).mean() + maps.code.grid.norm(dim=1).mean()

    def _unlike(self, warped: Tensor, target: Tensor) -> Tensor:
        """The measure of (B, C, N) values, pairs as channels of an image of one row."""
        return self.similarity(*(v.flatten(0, 1)[None, :, None] for v in (warped, target)))


def entry_gradient(forward: PointMap, backward: PointMap, points: Tensor) -> Tensor:
    """R of forward o backward: the mean over points and the d x d entries of the squared gradient of its
    difference from the identity; unitless. As `gradient_by_autograd`, which is d times that."""
    return gradient_by_autograd(forward, backward, points) / points.shape[-1]


class _Draw:
    """Uniform points of the box for B pairs."""

    def __init__(self, like: Tensor, dimension: int, generator: torch.Generator) -> None:
        self.like, self.dimension, self.generator = like, dimension, generator

    def __call__(self, count: int) -> Tensor:
        """(count, d) in [-1, 1]."""
        drawn = torch.rand(count, self.dimension, generator=self.generator)
        return (2 * drawn - 1).to(self.like)

    def for_all(self, points: Tensor) -> Tensor:
        return points.expand(len(self.like), *points.shape)


def _read(images: Tensor, points: Tensor) -> Tensor:
    """(B, C, *S) at (B, N, d): (B, C, N), the border repeated."""
    read = [sample(image[None], p)[0] for image, p in zip(images, points, strict=True)]
    return torch.stack(read)
