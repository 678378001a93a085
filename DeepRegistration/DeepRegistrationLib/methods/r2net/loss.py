"""What R2Net minimises: unlike images, an unlikely velocity, and folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...interpolation import read_at
from ...objectives import LocalNCC, MeanSquaredError, Similarity, fold_penalty
from ...training.base import Batch
from ...training.guidance import guided
from .network import Configuration, InitialVelocity, R2Net

MEASURES: Mapping[str, Similarity] = {"mse": MeanSquaredError(), "lncc": LocalNCC(3)}
"""By the names in a configuration; the local one sees 7 voxels a side."""


@dataclass(frozen=True)
class PairLoss:
    """a / (2 s^2) |J - I o phi|^2 + b KL + c / 2 (|det| - det), means over voxels, pairs and samples.

    Joshi and Hong (MIDL 2022), eq. of the training objective: phi of a velocity drawn from
    N(mean, variance), KL between that and its prior. The determinant is that of the map's own derivative
    (one where nothing moves) and is looked at as `fold_penalty` says; the last term is its negative part.

    Attributes:
        deviation: s.
        similarity, prior, folds: a, b, c.
        smoothness: lambda of the prior, see `smooth_prior`; None takes `standard_prior`.
        samples: drawn for each pair.
        measure: of the images; the squared error is the paper's.
    """

    deviation: float
    similarity: float
    prior: float
    folds: float
    smoothness: float | None = None
    samples: int = 1
    measure: Similarity = MeanSquaredError()  # noqa: RUF009 - has no state

    @classmethod
    def of(cls, configuration: Configuration) -> PairLoss:
        """With the constants of a configuration."""
        c = configuration
        measure = MEASURES[c.measure]
        return cls(c.deviation, c.similarity, c.prior, c.folds, c.smoothness, c.samples, measure)

    def __call__(self, network: R2Net, batch: Batch) -> dict[str, Tensor]:
        """Scalars `loss`, `similarity`, `prior` and `folds`, the latter three without their weights."""
        initial = network.initial(batch.moving, batch.fixed)
        # Inside, coordinates and sums need float32 whatever the network ran in.
        with torch.autocast(batch.fixed.device.type, enabled=False):
            found = network.displaced(initial.drawn(self.samples))
            images, targets = (
                i.to(found.field.dtype).repeat_interleave(self.samples, 0)
                for i in (batch.moving, batch.fixed)
            )
            warped = read_at(images, found.on_grid(images.shape[2:]))
            unlike = self.measure(warped.flatten(0, 1)[None], targets.flatten(0, 1)[None])
            folds = torch.stack([fold_penalty(u) for u in found.field]).mean()
            if self.smoothness is None:
                prior = standard_prior(initial)
            else:
                prior = smooth_prior(initial, self.smoothness)
        scale = self.similarity / (2 * self.deviation**2)
        loss = scale * unlike + self.prior * prior + self.folds * folds
        terms = {"loss": loss, "similarity": unlike, "prior": prior, "folds": folds}
        if batch.guidance:
            known = batch.displacement.repeat_interleave(self.samples, 0)
            return guided(terms, found.field, known, batch)
        return terms


def standard_prior(initial: InitialVelocity) -> Tensor:
    """KL(N(0, 1) || N(mean, variance)), in the order the paper writes it; a voxel's components summed.

    Without a variance that of N(0, 1) itself is taken: half of the squared mean is left.
    """
    mean, spread = initial
    spread = torch.zeros_like(mean) if spread is None else spread
    return mean.shape[1] / 2 * (spread + (1 + mean.square()) * (-spread).exp() - 1).mean()


def smooth_prior(initial: InitialVelocity, smoothness: float) -> Tensor:
    """KL(N(mean, variance) || N(0, (lambda L)^-1)) up to a constant, L the graph Laplacian of the voxels.

    Dalca et al. (Medical Image Analysis 57, 2019), eq. 10: half of lambda D variance - log variance (D the
    neighbours of a voxel) and of lambda times the squared differences of the mean between neighbours,
    averaged over axes and the pairs there are. A mean over voxels, a voxel's components summed.
    """
    mean, spread = initial
    d, shape = mean.shape[1], mean.shape[2:]
    axes = [k + 2 for k in range(d) if shape[k] > 1]
    steps = [mean.diff(dim=axis).square().mean() for axis in axes]
    total = smoothness / (2 * d) * torch.stack(steps).sum() if steps else mean.new_zeros(())
    if spread is not None:
        total = total + (smoothness * _neighbours(mean) * spread.exp() - spread).mean()
    return d / 2 * total


def _neighbours(like: Tensor) -> Tensor:
    """How many neighbours each voxel has, (*S)."""
    shape = like.shape[2:]
    count = like.new_zeros(shape)
    for axis, n in enumerate(shape):
        if n > 1:
            count.narrow(axis, 1, n - 1).add_(1)
            count.narrow(axis, 0, n - 1).add_(1)
    return count
