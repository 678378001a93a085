"""DIO's large-kernel U-Net: parallel kernels of 1, 3 and 5 voxels beside an identity."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .unet import conv

LEVELS = 5


class LargeKernelUNet(nn.Module):
    """U-Net with large-kernel blocks on the way down and a feature head on four levels.

    Jena et al., arXiv 2406.07361, after Jia et al., "U-Net vs Transformer", MLMI 2022: a stem of two
    units (convolution, instance normalisation, PReLU), four strided units each with a `LargeKernel`
    block, linear upsampling, a unit on what comes up and two on it beside the skip. Heads are
    convolutions without bias on the concatenated values at 1/8, 1/4 and 1/2 and on the last unit's
    at full size.

    A strided convolution is centred on every other voxel, the lattice of a level on the middle of two, so
    features sit up to half a level's voxel off; that is the same for two images whose lattices are
    parallel, as DIO makes them. `FeatureUNet`, which pools, is exact.

    Args:
        dimension: 2 or 3.
        start: channels of the stem (16 in the paper).
        channels: features per level.
        inputs: channels of the image.
    """

    stride = 2 ** (LEVELS - 1)

    def __init__(self, dimension: int, start: int = 16, channels: int = 16, inputs: int = 1) -> None:
        super().__init__()
        s = start
        widths = (s, 2 * s, 4 * s, 8 * s, 8 * s)
        # finest first: what comes up to each level, and what its two units make of it
        below, middle, after = (2, 2, 4, 8), (2, 4, 4, 8), (2, 2, 2, 4)
        below, middle, after = (tuple(s * n for n in row) for row in (below, middle, after))
        joined = [b + w for b, w in zip(below, widths, strict=False)]
        self.encoder = LargeKernelEncoder(dimension, widths, inputs)
        self.up = nn.ModuleList(unit(dimension, b, b) for b in below)
        self.decoder = nn.ModuleList(
            nn.Sequential(unit(dimension, j, m), unit(dimension, m, a))
            for j, m, a in zip(joined, middle, after, strict=True)
        )
        head_inputs = [after[0], *joined[1:]]
        self.heads = nn.ModuleList(conv(dimension, n, channels, bias=False) for n in head_inputs)
        self.mode = "bilinear" if dimension == 2 else "trilinear"

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, inputs, *S) to features (B, channels, *S / 2^k), k = 0 ... 3, finest first."""
        skips = self.encoder(image)
        values = skips.pop()
        features = []
        for k in reversed(range(len(skips))):
            above = F.interpolate(values, scale_factor=2, mode=self.mode, align_corners=False)
            joined = torch.cat([self.up[k](above), skips.pop()], 1)
            values = self.decoder[k](joined)
            features.append(self.heads[k](joined if k else values))
        return features[::-1]


class LargeKernelEncoder(nn.Module):
    """The way down: a stem, and a strided unit with a `LargeKernel` block for each level below."""

    def __init__(self, dimension: int, widths: tuple[int, ...], inputs: int = 1) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential(unit(dimension, inputs, first), unit(dimension, first, first))
        self.levels = nn.ModuleList(
            nn.Sequential(unit(dimension, before, width, stride=2), LargeKernel(dimension, width))
            for before, width in pairwise(widths)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, inputs, *S) to (B, widths[k], *S / 2^k) for each level k, finest first."""
        values = [self.stem(image)]
        for level in self.levels:
            values.append(level(values[-1]))
        return values


class LargeKernel(nn.Module):
    """Convolutions of 3, 5 and 1 voxels side by side, each normalised, added to the input; then PReLU."""

    def __init__(self, dimension: int, width: int) -> None:
        super().__init__()
        norm = nn.InstanceNorm2d if dimension == 2 else nn.InstanceNorm3d
        self.branches = nn.ModuleList(
            nn.Sequential(conv(dimension, width, width, kernel), norm(width)) for kernel in (3, 5, 1)
        )
        self.act = nn.PReLU()

    def forward(self, image: Tensor) -> Tensor:
        result = image
        for branch in self.branches:
            result = result + branch(image)
        return self.act(result)


def unit(dimension: int, inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution, instance normalisation, PReLU."""
    norm = nn.InstanceNorm2d if dimension == 2 else nn.InstanceNorm3d
    return nn.Sequential(conv(dimension, inputs, outputs, stride=stride), norm(outputs), nn.PReLU())
