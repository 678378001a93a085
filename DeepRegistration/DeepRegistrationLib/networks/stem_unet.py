"""A feature U-Net that does its work at half the image's resolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .unet import initialise

_GROUPS = 8


class StemUNet(nn.Module):
    """U-Net whose image enters by a strided convolution, so that all but its first and last layers work on an
    eighth (3-D) of the voxels; the finest features come from those below and one thin layer of the image.

    A level is two units (group normalisation, convolution, leaky rectifier), as in `unet.FeatureUNet`; widths
    from 32 on suit the matrix units of processors in bfloat16. Convolutions continue the image by zeros.

    Args:
        dimension: 2 or 3.
        widths: channels of each level, finest (the image's voxels) first; three at least.
        channels: features of every level but the coarsest, which has none.
        structures: 0, or how many structures the network tells apart. A voxel's features are then the mean of
            the codes of background and structures, by how likely it belongs to each, so that what the network
            is not sure of between two structures lies between them.
    """

    def __init__(
        self,
        dimension: int,
        widths: Sequence[int] = (16, 32, 64, 96),
        channels: int = 8,
        structures: int = 0,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d if dimension == 2 else nn.Conv3d
        fine, trunk = widths[0], list(widths[1:])
        self.thin = conv(1, fine, 3, padding=1)
        self.stem = conv(1, trunk[0], 2, stride=2)
        self.down = nn.ModuleList(
            _level(conv, before, width) for before, width in zip([trunk[0], *trunk], trunk, strict=False)
        )
        self.up = nn.ModuleList(_level(conv, width + below, width) for width, below in pairwise(trunk))
        self.last = nn.Sequential(conv(fine + trunk[0], fine, 3, padding=1), nn.LeakyReLU(inplace=True))
        outputs = 1 + structures if structures else channels
        self.heads = nn.ModuleList(conv(width, outputs, 1) for width in widths[:-1])
        self.register_buffer("codes", spread_codes(1 + structures, channels) if structures else None)
        self.pool = F.max_pool2d if dimension == 2 else F.max_pool3d
        initialise(self)

    @property
    def stride(self) -> int:
        """Every axis of the image has to be a multiple of this."""
        return 2 ** len(self.heads)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 1, *S) to features (B, channels, *S / 2^k) for k = 0, 1, ..., finest first."""
        return [self.coded(level) for level in self.outputs(image)]

    def coded(self, output: Tensor) -> Tensor:
        """Features (B, channels, *T) of what `outputs` gives for a level."""
        if self.codes is None:
            return output
        return torch.einsum("bk...,kc->bc...", output.float().softmax(1), self.codes.float())

    def outputs(self, image: Tensor) -> list[Tensor]:
        """What `forward` makes features of: those, or logits (B, 1 + structures, *S / 2^k)."""
        skips, values = [], self.stem(image)
        for k, level in enumerate(self.down):
            values = level(values if k == 0 else self.pool(values, 2))
            skips.append(values)
        values, features = skips.pop(), []
        for k in reversed(range(len(self.up))):
            values = self.up[k](torch.cat([skips.pop(), _doubled(values)], 1))
            features.append(self.heads[k + 1](values))
        values = self.last(torch.cat([self.thin(image), _doubled(values)], 1))
        return [self.heads[0](values), *features[::-1]]


def spread_codes(count: int, channels: int) -> Tensor:
    """Unit vectors (count, channels) as far from one another as they will go: orthogonal where there are
    channels enough, else spread by repelling each other."""
    codes = torch.eye(max(count, channels))[:count, :channels]
    if count <= channels:
        return codes
    codes = F.normalize(torch.randn(count, channels, generator=torch.Generator().manual_seed(0)), dim=1)
    own = 4 * torch.eye(count)
    for _ in range(500):
        apart = codes[:, None] - codes
        push = (apart / (apart.square().sum(-1) + own)[..., None].square()).sum(1)
        codes = F.normalize(codes + 0.02 * push, dim=1)
    return codes


def _doubled(values: Tensor) -> Tensor:
    return F.interpolate(values, scale_factor=2, mode="nearest")


def _level(conv: type[nn.Module], inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (inputs, outputs):
        layers += [
            nn.GroupNorm(_GROUPS if before % _GROUPS == 0 else 1, before),
            conv(before, outputs, 3, padding=1, bias=False),
            nn.LeakyReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
