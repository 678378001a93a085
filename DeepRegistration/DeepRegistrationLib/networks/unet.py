"""DIO's feature U-Net: one image in, dense features at every level out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROUPS = 8


class FeatureUNet(nn.Module):
    """U-Net whose every decoder level, the bottom included, has a head of its own.

    Jena et al., arXiv 2406.07361, in its published size: two units (group normalisation, convolution
    without bias, leaky rectifier) a level, max-pooling, nearest upsampling and concatenation. A head is
    one more unit and a convolution with bias; nothing normalises its output, since the solver's steps
    depend on how large the features are. Convolutions repeat the border, which a zero border would turn
    into features that hold the two images in place.

    Args:
        dimension: 2 or 3.
        widths: channels of each level, finest first.
        channels: features per level.
        inputs: channels of the image.
    """

    def __init__(
        self,
        dimension: int,
        widths: Sequence[int] = (16, 16, 32, 32, 64),
        channels: int = 16,
        inputs: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(dimension, widths, inputs)
        below = [*widths[:-1][1:], widths[-1]]
        self.decoder = nn.ModuleList(
            nn.Sequential(unit(dimension, w + b, w), unit(dimension, w, w))
            for w, b in zip(widths[:-1], below, strict=True)
        )
        self.heads = nn.ModuleList(head(dimension, w, channels) for w in widths)
        initialise(self)

    @property
    def stride(self) -> int:
        """Every axis of the image has to be a multiple of this."""
        return 2 ** (len(self.heads) - 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, inputs, *S) to features (B, channels, *S / 2^k) for k = 0, 1, ..., finest first."""
        skips = self.encoder(image)
        values = skips.pop()
        features = [self.heads[-1](values)]
        for k in reversed(range(len(skips))):
            above = F.interpolate(values, scale_factor=2, mode="nearest")
            values = self.decoder[k](torch.cat([skips.pop(), above], 1))
            features.append(self.heads[k](values))
        return features[::-1]


class Encoder(nn.Module):
    """The way down of `FeatureUNet`: two units a level, the first of which widens to half the width."""

    def __init__(self, dimension: int, widths: Sequence[int], inputs: int = 1) -> None:
        super().__init__()
        before = [inputs, *widths[:-1]]
        middle = [max(b, w // 2) for b, w in zip(before, widths, strict=True)]
        self.levels = nn.ModuleList(
            nn.Sequential(unit(dimension, b, m), unit(dimension, m, w))
            for b, m, w in zip(before, middle, widths, strict=True)
        )
        self.pool = F.max_pool2d if dimension == 2 else F.max_pool3d

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, inputs, *S) to (B, widths[k], *S / 2^k) for each level k, finest first."""
        values = []
        for k, level in enumerate(self.levels):
            image = level(image if k == 0 else self.pool(image, 2))
            values.append(image)
        return values


def unit(dimension: int, inputs: int, outputs: int) -> nn.Sequential:
    """Group normalisation (8 groups, one where there are fewer channels), convolution, rectifier."""
    groups = _GROUPS if inputs % _GROUPS == 0 else 1
    convolution = conv(dimension, inputs, outputs, bias=False)
    return nn.Sequential(nn.GroupNorm(groups, inputs), convolution, nn.LeakyReLU(inplace=True))


def head(dimension: int, inputs: int, channels: int) -> nn.Sequential:
    """From a level's values to its features."""
    return nn.Sequential(unit(dimension, inputs, channels), conv(dimension, channels, channels, bias=True))


def conv(
    dimension: int, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, bias: bool = True
) -> nn.Module:
    """A convolution that keeps the size (at stride 1) and repeats the border."""
    kind = nn.Conv2d if dimension == 2 else nn.Conv3d
    mode = "replicate" if kernel > 1 else "zeros"
    return kind(inputs, outputs, kernel, stride, kernel // 2, bias=bias, padding_mode=mode)


def initialise(network: nn.Module) -> None:
    """He's initialisation of the convolutions' weights, biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, a=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
