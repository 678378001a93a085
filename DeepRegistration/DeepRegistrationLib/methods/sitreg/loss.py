"""What SITReg minimises: likeness in both directions, and smoothness of both maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...interpolation import read_at
from ...objectives import LocalNCC, Similarity, diffusion
from ...training.base import Batch
from ...training.guidance import guided
from .network import SitRegNetwork


@dataclass(frozen=True)
class PairLoss:
    """1/2 (S(A o f, B) + S(B o f^-1, A)) + lambda/2 (R(f) + R(f^-1)).

    Honkamaa and Marttinen, SITReg (MELBA 2024, arXiv 2303.10211). R is the mean squared
    forward difference of the displacement over axes and components, unitless (mm per mm); the affine
    part of a map is left out of it.

    Attributes:
        similarity: S, a mean over the channels it is given; both directions of all pairs are passed as such.
        weight: lambda.
    """

    similarity: Similarity
    weight: float = 1.0

    @classmethod
    def of(cls, network: SitRegNetwork) -> PairLoss:
        """As published, with the constants of the network's configuration."""
        return cls(LocalNCC(network.configuration.radius), network.configuration.weight)

    def __call__(self, network: SitRegNetwork, batch: Batch) -> dict[str, Tensor]:
        """Scalars `loss`, `similarity` and `smoothness`, the means over both directions and all pairs."""
        found = network(batch.moving, batch.fixed, batch.spacing)
        # Inside, coordinates and moments need float32 whatever the networks ran in.
        with torch.autocast(batch.fixed.device.type, enabled=False):
            images = torch.cat([batch.moving, batch.fixed])
            targets = torch.cat([batch.fixed, batch.moving])
            shape = images.shape[2:]
            warped = read_at(images, found.maps.on_grid(shape))
            similarity = self.similarity(warped.flatten(0, 1)[None], targets.flatten(0, 1)[None])
            extent = [n * s for n, s in zip(reversed(shape), batch.spacing, strict=True)]
            displacements = found.deformation.displacement(shape)
            rough = torch.stack([diffusion(u, extent) for u in displacements])
            smoothness = rough.mean() / len(shape) ** 2
            terms = {
                "loss": similarity + self.weight * smoothness,
                "similarity": similarity,
                "smoothness": smoothness,
            }
            if batch.guidance:
                forward = found.directions()[0].displacement(shape)
                return guided(terms, forward, batch.displacement, batch)
        return terms
