"""From a pair of images to a latent code: a vector for the pair and a coarse grid of vectors (NePhi)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from ..filters import downsample
from ..interpolation import gather_sample, sample

CHANNELS = (8, 16, 32, 64, 128, 256)
"""Of the stages, as published."""

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@dataclass(frozen=True)
class LatentCode:
    """The codes of B pairs.

    Attributes:
        whole: (B, G), the same everywhere.
        grid: (B, L, *T), linear between the cells of a lattice over the box, constant beyond.
    """

    whole: Tensor
    grid: Tensor

    def at(self, points: Tensor, twice: bool = False) -> Tensor:
        """Codes (B, N, G + L) at normalised points (B, N, d).

        Args:
            twice: let the result be differentiated twice in the points (slower).
        """
        read = gather_sample if twice else sample
        local = [read(g[None], p)[0].T for g, p in zip(self.grid, points, strict=True)]
        whole = self.whole[:, None].expand(-1, points.shape[1], -1)
        return torch.cat([whole, torch.stack(local)], -1)

    def part(self, index: int) -> LatentCode:
        """The code of one pair."""
        return LatentCode(self.whole[index : index + 1], self.grid[index : index + 1])


class LatentEncoder(nn.Module):
    """Two images, as two channels, to their code.

    Tian et al., NePhi (ECCV 2024, arXiv 2309.07322), section 3.2: stages of a convolution with stride 2,
    batch normalisation and leaky ReLU, whose sizes halve, rounded up; from one of them a convolution
    leads to the grid, from the last, flattened, two linear layers to the vector. Images above 181
    voxels a side get one more stage of the last width for every doubling.

    Args:
        dimension: 2 or 3.
        shape: of the images it works on, array order; others are resized to it first, since the linear
            layers fit one size only.
        channels: of the stages.
        hidden: width of the first linear layer.
        whole, local: components of the vector and of the grid's vectors.
    """

    def __init__(
        self,
        dimension: int,
        shape: Sequence[int],
        channels: Sequence[int] = CHANNELS,
        hidden: int = 256,
        whole: int = 32,
        local: int = 32,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        doublings = round(math.log2(max(shape)))
        channels = (*channels, *(channels[-1],) * max(0, doublings - 7))
        self.branch = min(max(0, doublings - 5), len(channels) - 1)
        self.stages = nn.ModuleList(
            _block(dimension, a, b, 2) for a, b in zip((2, *channels), channels, strict=False)
        )
        self.local = _block(dimension, channels[self.branch], local, 1)
        last = channels[-1] * prod(_halved(self.shape, len(channels)))
        self.whole = nn.Sequential(
            nn.Flatten(), nn.Linear(last, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, whole)
        )

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Cells of the code's grid, array order."""
        return _halved(self.shape, self.branch + 1)

    def forward(self, fixed: Tensor, moving: Tensor) -> LatentCode:
        """Images (B, 1, *S) in [0, 1] to codes."""
        values = torch.cat([fixed, moving], 1)
        values = downsample(values, tuple(reversed(self.shape)))
        grid = values
        for k, stage in enumerate(self.stages):
            values = stage(values)
            if k == self.branch:
                grid = self.local(values)
        return LatentCode(self.whole(values), grid)


def _block(dimension: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = _CONV[dimension](inputs, outputs, 3, stride, 1)
    return nn.Sequential(convolution, _NORM[dimension](outputs), nn.LeakyReLU(0.2))


def _halved(shape: Sequence[int], times: int) -> tuple[int, ...]:
    """Sizes after so many halvings, rounded up each time."""
    return tuple(-(-n // 2**times) for n in shape)
