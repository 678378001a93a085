"""SITReg's feature pyramid: one image in, features at every level out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .tall_unet import halved


class FeaturePyramid(nn.Module):
    """A convolutional way down whose every level is an output.

    Honkamaa and Marttinen, SITReg (MELBA 2024, arXiv 2303.10211), as the authors' code has it:
    a level's skip is the strided convolution (2 voxels) of the level above plus a projection of that level's
    averaged skip; two units (convolution, group normalisation, rectifier) make its features of the skip.
    The finest skip is a projection of the image. Any size works: an odd axis is filled up with a zero.

    Args:
        dimension: 2 or 3.
        channels: features of each level, finest first.
        inputs: channels of the image.
        groups: of the normalisation.
    """

    def __init__(self, dimension: int, channels: Sequence[int], inputs: int = 1, groups: int = 2) -> None:
        super().__init__()
        conv = nn.Conv2d if dimension == 2 else nn.Conv3d
        before = [inputs, *channels[:-1]]
        self.project = nn.ModuleList(conv(b, c, 1) for b, c in zip(before, channels, strict=True))
        self.down = nn.ModuleList(
            conv(b, c, 2, stride=2) for b, c in zip(before[1:], channels[1:], strict=True)
        )
        self.blocks = nn.ModuleList(units(dimension, c, c, groups) for c in channels)

    def forward(self, image: Tensor, watch: Callable[[], None] | None = None) -> list[Tensor]:
        """(B, inputs, *S) to features (B, channels[k], *ceil(S / 2^k)), finest first.

        `watch` is called between layers.
        """
        features: list[Tensor] = []
        skip = image
        for k, (project, block) in enumerate(zip(self.project, self.blocks, strict=True)):
            skip = (
                project(skip) if k == 0 else self.down[k - 1](_evened(features[-1])) + project(halved(skip))
            )
            features.append(layer_by_layer(block, skip, watch))
        return features


def units(dimension: int, inputs: int, outputs: int, groups: int | None) -> nn.Sequential:
    """Twice a convolution of 3 voxels, group normalisation (unless `groups` is None) and a rectifier."""
    conv = nn.Conv2d if dimension == 2 else nn.Conv3d
    layers: list[nn.Module] = []
    for before in (inputs, outputs):
        layers.append(conv(before, outputs, 3, padding=1))
        if groups is not None:
            layers.append(nn.GroupNorm(groups, outputs))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def layer_by_layer(layers: nn.Sequential, image: Tensor, watch: Callable[[], None] | None) -> Tensor:
    """The layers applied one after the other; `watch` is called before each."""
    for layer in layers:
        if watch is not None:
            watch()
        image = layer(image)
    return image


def _evened(image: Tensor) -> Tensor:
    """Each odd axis longer by a zero at its far end."""
    return F.pad(image, [k for n in reversed(image.shape[2:]) for k in (0, n % 2)])
