"""The "tall" U-Net of the GradICON family: image pair in, small displacement out, in 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SLOPE = 0.01
"""Of the leaky rectifiers."""


class TallUNet(nn.Module):
    """U-Net with residual down and up steps, whose last layer starts at zero.

    Tian et al., GradICON, CVPR 2023 (arXiv 2206.05897), as the authors' code has it: the rectifier comes
    before each convolution and none after the last one. A down step adds a strided convolution to the
    average-pooled input, its missing channels zero; an up step adds a transposed convolution to the
    first channels of the upsampled input, and normalises (batch normalisation). What enters a down step
    is the skip to the up step that undoes it, so the raw input meets the last convolution and its
    intensities matter.

    Any spatial size works, also sizes that are odd or smaller than 2^levels.

    Args:
        dimension: 2 or 3.
        down: channels before the first and after each down step; the first number is the input's.
        up: channels after each up step, shallowest first; as many as there are down steps.
        outputs: channels of the result.
        alone: whether no image knows of the others of its batch: a scale and a shift of each channel, which
            are learned, take the place of batch normalisation. (Statistics of a single image would not do:
            they would take away what a shift of the whole image looks like.)
    """

    def __init__(
        self, dimension: int, down: Sequence[int], up: Sequence[int], outputs: int, alone: bool = False
    ) -> None:
        super().__init__()
        conv = nn.Conv2d if dimension == 2 else nn.Conv3d
        transposed = nn.ConvTranspose2d if dimension == 2 else nn.ConvTranspose3d
        norm = Scaled if alone else nn.BatchNorm2d if dimension == 2 else nn.BatchNorm3d
        levels = range(len(up))
        # into an up step comes the level below: its own output and the skip beside it
        below = [up[k + 1] + down[k + 1] for k in levels[:-1]] + [down[-1]]
        self.mode = "bilinear" if dimension == 2 else "trilinear"
        self.down = nn.ModuleList(conv(down[k], down[k + 1], 3, stride=2, padding=1) for k in levels)
        self.up = nn.ModuleList(transposed(below[k], up[k], 4, stride=2, padding=1) for k in levels)
        self.norm = nn.ModuleList(norm(up[k]) for k in levels)
        self.last = conv(up[0] + down[0], outputs, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, image: Tensor) -> Tensor:
        """(B, down[0], *S) to (B, outputs, *S); exactly zero until the last layer has been trained."""
        skips = []
        for down in self.down:
            skips.append(image)
            image = self._down(image, down)
        for k in reversed(range(len(self.up))):
            image = self.norm[k](self._up(image, self.up[k]))
            image = torch.cat([_cropped(image, skips[k].shape[2:]), skips[k]], 1)
        return self.last(image)

    def _down(self, image: Tensor, layer: nn.Module) -> Tensor:
        fresh = layer(F.leaky_relu(image, _SLOPE))
        pooled = halved(image)
        missing = fresh.new_zeros(fresh.shape[0], fresh.shape[1] - pooled.shape[1], *fresh.shape[2:])
        return fresh + torch.cat([pooled, missing], 1)

    def _up(self, image: Tensor, layer: nn.Module) -> Tensor:
        fresh = layer(F.leaky_relu(image, _SLOPE))
        kept = image[:, : fresh.shape[1]]
        return fresh + F.interpolate(kept, scale_factor=2, mode=self.mode, align_corners=False)


class Scaled(nn.Module):
    """(B, channels, *S) to the same, each channel with a scale and a shift of its own, at first 1 and 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, image: Tensor) -> Tensor:
        shape = (-1, *(1,) * (image.ndim - 2))
        return image * self.weight.view(shape) + self.bias.view(shape)


def halved(image: Tensor) -> Tensor:
    """(B, C, *S) averaged over blocks of two voxels per axis; an odd axis' last block has one voxel."""
    pool = F.avg_pool2d if image.ndim == 4 else F.avg_pool3d
    return pool(image, tuple(min(2, n) for n in image.shape[2:]), ceil_mode=True)


def _cropped(image: Tensor, shape: Sequence[int]) -> Tensor:
    return image[(slice(None), slice(None), *(slice(n) for n in shape))]
