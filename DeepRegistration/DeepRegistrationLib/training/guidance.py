"""The way to a known map, as one more term of any method's loss."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Batch

_SOFT = 0.1
"""Voxels; distances below that count as squares."""


def guided(terms: dict[str, Tensor], found: Tensor, known: Tensor, batch: Batch) -> dict[str, Tensor]:
    """The terms with one more, ``error``: the mean distance of a map from the known one, voxels.

    It counts `batch.guidance` times in the loss. A distance, not its square, as where an image shows nothing
    nobody could know the map.

    Args:
        terms: of the loss.
        found, known: displacements (..., d), normalised units, of the batch's maps at the same points.
        batch: with guidance above zero; its images' voxels are meant.
    """
    with torch.autocast(found.device.type, enabled=False):
        half_side = found.new_tensor(tuple(reversed(batch.fixed.shape[2:]))) / 2
        away = ((found - known.to(found.dtype)) * half_side).square().sum(-1)
        error = (away + _SOFT**2).sqrt().mean() - _SOFT
    return {**terms, "loss": terms["loss"] + batch.guidance * error, "error": error}
