"""What the generators of training pairs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from .base import Batch
from .source import PairSource

_HELD_OUT = 64


def flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(text)
    return text == "1"


def choice(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(text)
        return text

    return parse


class GeneratedPairs(PairSource):
    """What the generators share: a lattice of 1 mm voxels, pairs without end, some held out.

    Attributes:
        device: where pairs are made, by those that look at it.

    Class attributes:
        size: voxels along each axis unless anybody says otherwise.
        options: what can be written after the question mark, and how it is read.
    """

    size: ClassVar[int]
    options: ClassVar[Mapping[str, Callable]]

    def __init__(self, spec: str, shape: tuple[int, ...]) -> None:
        self.spec, self.shape, self.dimension = spec, shape, len(shape)
        self.device = torch.device("cpu")

    @property
    def held_out_count(self) -> int:
        return _HELD_OUT

    def _batch(self, images: Tensor, labels: Tensor) -> Batch:
        """From (B, 2, *S) images and labels of the fixed and the moving side: one label, the shape."""
        fixed, moving = images[:, :1].contiguous(), images[:, 1:].contiguous()
        of_fixed, of_moving = labels[:, :1].contiguous(), labels[:, 1:].contiguous()
        return Batch(fixed, moving, of_fixed, of_moving, None, None, (1.0,) * self.dimension)
