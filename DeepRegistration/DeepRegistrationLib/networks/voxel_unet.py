"""The U-Net of the VoxelMorph family: image pair in, three channels at full resolution out."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_DOWN = (16, 32, 32, 32)
"""Channels after each strided convolution, 1/2 to 1/16 of the resolution."""

_UP = 8
"""Channels of each transposed convolution."""

_SLOPE = 0.2


class VoxelUNet(nn.Module):
    """Four strided convolutions down, four transposed ones up, each after a convolution.

    Joshi and Hong (MIDL 2022), as the authors' code has it: 3 voxels wide throughout, with bias, each
    convolution but the transposed ones followed by a leaky rectifier, the last one included; concatenated
    skips, the raw input among them. He's initialisation, biases zero.

    Any size works: the far ends are filled up with zeros to a multiple of `stride`, and cut off again.

    Args:
        dimension: 2 or 3.
        inputs: channels of the images side by side.
        normalised: whether what comes out of each strided convolution is normalised before the rectifier (a
            mean and a deviation for each image and channel), which published networks do without and a
            short training does not. On the way up it would take away what a shift of the whole image and
            the size of any shift look like.
    """

    stride = 2 ** len(_DOWN)
    outputs = 3

    def __init__(self, dimension: int, inputs: int = 2, normalised: bool = False) -> None:
        super().__init__()
        self.normalised = normalised
        conv = nn.Conv2d if dimension == 2 else nn.Conv3d
        transposed = nn.ConvTranspose2d if dimension == 2 else nn.ConvTranspose3d
        skips = [inputs, *_DOWN[:-1]]
        self.down = nn.ModuleList(
            conv(b, c, 3, stride=2, padding=1) for b, c in zip(skips, _DOWN, strict=True)
        )
        # deepest first: what is convolved at each level, before it is brought to the next one
        below = [_DOWN[-1], *(_UP + c for c in skips[:0:-1])]
        self.level = nn.ModuleList(conv(b, 32, 3, padding=1) for b in below)
        self.at_half = conv(32, 16, 3, padding=1)
        widths = [32, 32, 32, 16]
        self.up = nn.ModuleList(transposed(w, _UP, 3, stride=2, padding=1, output_padding=1) for w in widths)
        self.full = conv(_UP + inputs, 16, 3, padding=1)
        self.last = conv(16, self.outputs, 3, padding=1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")

    def forward(self, image: Tensor, watch: Callable[[], None] | None = None) -> Tensor:
        """(B, inputs, *S) to (B, outputs, *S). `watch` is called between layers; it may raise."""
        shape = image.shape[2:]
        image = F.pad(image, [k for n in reversed(shape) for k in (0, -n % self.stride)])
        skips = []
        for layer in self.down:
            skips.append(image)
            image = self._layer(layer, image, watch, self.normalised)
        for k, layer in enumerate(self.level):
            image = self._layer(layer, image, watch)
            if k == len(self.level) - 1:
                image = self._layer(self.at_half, image, watch)
            image = torch.cat([self.up[k](image), skips.pop()], 1)
        image = self._layer(self.full, image, watch)
        image = self._layer(self.last, image, watch)
        return image[(..., *(slice(n) for n in shape))]

    def _layer(
        self, layer: nn.Module, image: Tensor, watch: Callable[[], None] | None, normalised: bool = False
    ) -> Tensor:
        if watch is not None:
            watch()
        values = layer(image)
        if normalised and values[0, 0].numel() > 1:  # one voxel has no deviation
            values = F.instance_norm(values)
        return F.leaky_relu(values, _SLOPE)
