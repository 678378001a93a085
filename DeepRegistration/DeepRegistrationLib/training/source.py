"""What any source of training pairs offers.

Every draw is a function of (seed, step, place in the step), not of what was drawn before: a training
that is resumed sees what it would have seen, and processes side by side share one step's draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from .base import Batch

_TRAINING, _HELD_OUT = 0, 1


class PairSource(ABC):
    """Pairs on one lattice, without end.

    Attributes:
        spec: the text that described it.
        dimension: 2 or 3.
        shape: voxels, array order.
        voxel_mm: size of a voxel that all images have, None where they differ or have none.
        axes: ``lps`` where images have their axes along left, posterior and superior (x, y, z), else None.
        structures: where all batches have the same label channels, the label of each (the smallest, where
            several count as one) and the median of its volumes, mm^3 (mm^2 in 2-D); else None.
        notes: sentences for the user.
    """

    spec: str
    dimension: int
    shape: tuple[int, ...]
    voxel_mm: float | None = None
    axes: str | None = None
    structures: dict[int, float] | None = None
    notes: tuple[str, ...] = ()

    def batch(self, count: int, seed: int, step: int, first: int = 0) -> Batch:
        """Pairs `first` to `first + count - 1` of a training step."""
        return self._pairs(
            [np.random.default_rng([_TRAINING, seed, step, first + k]) for k in range(count)], False
        )

    def held_out(self, index: int) -> Batch:
        """One of the pairs kept for validation; the same for every seed. There are `held_out_count`."""
        return self._pairs([np.random.default_rng([_HELD_OUT, index])], True, index)

    @property
    @abstractmethod
    def held_out_count(self) -> int:
        """How many pairs there are for validation."""

    @abstractmethod
    def _pairs(self, draws: Sequence[np.random.Generator], held_out: bool, index: int = 0) -> Batch:
        """A pair per generator; the held-out pair number `index` when that is asked for."""
