"""From a pair of images to a latent code by a U-Net: every place's code has seen its wider surroundings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..filters import downsample
from .latent_encoder import LatentCode
from .tall_unet import TallUNet


class LatentUNet(nn.Module):
    """Two images, as two channels, to their code: a vector in every voxel, and a mean for the pair.

    In the place of `LatentEncoder` where little training is to be had. There a place's code is made of four
    or five convolutions of its neighbourhood, a few voxels wide, and a shift of more cannot be seen in
    it; and batches of few, unlike pairs have statistics of no use.

    Args:
        dimension: 2 or 3.
        shape: of the images it works on and of the code's grid, array order; others are resized to it.
        channels: after each down step (`TallUNet`).
        up: channels after each up step, shallowest first.
        whole, local: components of the pair's vector and of the grid's.
    """

    def __init__(
        self,
        dimension: int,
        shape: Sequence[int],
        channels: Sequence[int],
        up: Sequence[int],
        whole: int = 32,
        local: int = 32,
    ) -> None:
        super().__init__()
        self.shape, self.parts = tuple(shape), (local, whole)
        self.network = TallUNet(dimension, (2, *channels), up, local + whole, alone=True)
        self.network.last.reset_parameters()  # the networks of the position begin as the identity

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Cells of the code's grid, array order."""
        return self.shape

    def forward(self, fixed: Tensor, moving: Tensor) -> LatentCode:
        """Images (B, 1, *S) in [0, 1] to codes."""
        images = downsample(torch.cat([moving, fixed], 1), tuple(reversed(self.shape)))
        grid, spread = self.network(images).split(self.parts, 1)
        return LatentCode(spread.flatten(2).mean(2), grid)
