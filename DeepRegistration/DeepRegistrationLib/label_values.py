"""Label values of any size, kept exactly: atlases count to 614454277 and beyond, float32 to 2^24."""

from __future__ import annotations

import torch
from torch import Tensor

from .interpolation import sample

_EXACT = 1 << 24
"""Whole numbers below it are exact in float32."""


def whole_labels(labels: Tensor) -> Tensor:
    """Labels of any type as int32, int64 where their values need it; floats are rounded."""
    if not labels.is_floating_point() and labels.dtype != torch.int64:
        return labels.to(torch.int32)
    if labels.is_floating_point():
        labels = labels.double().round().to(torch.int64)
    limits = torch.iinfo(torch.int32)
    fits = labels.numel() == 0 or (limits.min <= int(labels.min()) and int(labels.max()) <= limits.max)
    return labels.to(torch.int32) if fits else labels


class LabelReader:
    """Reads a label map between its voxels, by nearest neighbour.

    Large values are read by their rank among those that there are, which is small.

    Args:
        labels: (C, *S), of any integer type.
    """

    def __init__(self, labels: Tensor) -> None:
        self._type = labels.dtype
        self._values: Tensor | None = None
        if labels.numel() and (int(labels.min()) <= -_EXACT or int(labels.max()) >= _EXACT):
            known, ranks = labels.unique(return_inverse=True)
            self._values = torch.cat([known.new_zeros(1), known])  # what is beyond the map has rank 0
            labels = ranks + 1
        many = self._values is not None and len(self._values) >= _EXACT
        self._image = labels[None].double() if many else labels[None].float()

    def __call__(self, points: Tensor, padding: str = "zeros") -> Tensor:
        """Labels (C, *T) of the map's type at points (*T, d), normalised coordinates of the map.

        Args:
            points: where.
            padding: ``zeros``, or ``border`` to repeat the outermost voxel.
        """
        read = sample(self._image, points.to(self._image), padding, "nearest")[0].round()
        return read.to(self._type) if self._values is None else self._values[read.long()]
