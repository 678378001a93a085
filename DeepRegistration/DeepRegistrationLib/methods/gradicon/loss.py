"""What GradICON's networks minimise: likeness in both directions and the inverse-consistency penalty."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...objectives import Similarity
from ..maps import BatchMap, read_at
from .inverse_consistency import InverseConsistency
from .steps import Step


@dataclass(frozen=True)
class PairLoss:
    """S(A o phi_AB, B) + S(B o phi_BA, A) + weight * R (Tian et al., CVPR 2023, eq. 6).

    Both directions pass through the networks side by side, as one batch of twice the pairs: batch
    statistics are then the same for both.

    Attributes:
        similarity: S, a mean over the channels it is given; the pairs of a batch are passed as channels.
        penalty: R.
        weight: its weight, lambda in the paper.
    """

    similarity: Similarity
    penalty: InverseConsistency = field(default_factory=InverseConsistency)
    weight: float = 1.5

    def __call__(
        self, network: Step, moving: Tensor, fixed: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Scalars `loss`, `similarity` (the sum of both directions) and `inverse_consistency`.

        Args:
            network: of images to `BatchMap`.
            moving, fixed: (B, 1, *S) in [0, 1] on one lattice.
            generator: draws the points of the penalty.
        """
        return self.of_maps(*both_directions(network, moving, fixed), moving, fixed, generator)

    def of_maps(
        self, forward: BatchMap, backward: BatchMap, moving: Tensor, fixed: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The same of the maps of fixed to moving and of moving to fixed points."""
        # Inside, coordinates and moments need float32 whatever the networks ran in.
        with torch.autocast(moving.device.type, enabled=False):
            similarity = self._unlike(forward, moving, fixed) + self._unlike(backward, fixed, moving)
            consistency = self.penalty(forward, backward, fixed.shape[2:], generator)
        loss = similarity + self.weight * consistency
        return {"loss": loss, "similarity": similarity, "inverse_consistency": consistency}

    def _unlike(self, pull_back: BatchMap, moving: Tensor, fixed: Tensor) -> Tensor:
        seen, target = self._prepared(moving), self._prepared(fixed)
        warped = read_at(seen, pull_back.on_grid(fixed.shape[2:]))
        return self.similarity(_as_channels(warped), _as_channels(target))

    def _prepared(self, images: Tensor) -> Tensor:
        return torch.cat([self.similarity.prepare(image[None]) for image in images])


def both_directions(network: Step, moving: Tensor, fixed: Tensor) -> tuple[BatchMap, BatchMap]:
    """Maps of fixed to moving points and, with the images in the other role, of moving to fixed ones."""
    both = network(torch.cat([moving, fixed]), torch.cat([fixed, moving]))
    return both.part(0, len(moving)), both.part(len(moving), 2 * len(moving))


def _as_channels(images: Tensor) -> Tensor:
    """(B, C, *S) as (1, B C, *S)."""
    return images.flatten(0, 1)[None]
