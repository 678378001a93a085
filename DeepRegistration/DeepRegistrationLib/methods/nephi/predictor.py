"""NePhi's networks in their configurations, fresh or from a weights file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...networks.latent_encoder import CHANNELS, LatentCode, LatentEncoder
from ...networks.latent_unet import LatentUNet
from ...networks.modulated_siren import ModulatedSiren
from ...weights import Weights
from .loss import SampledLoss
from .maps import MapPair

WHOLE = LOCAL = 32
"""Components of the code: of the pair, and of its place."""


@dataclass(frozen=True)
class Size:
    """What depends on the dimension.

    Attributes:
        side: voxels along each side of the images the encoder works on.
        channels: of the encoder's stages.
        up: of those of its way up again, for a `LatentUNet`; none for a `LatentEncoder`.
        frequencies, hidden: of the two networks of the position (`ModulatedSiren`).
        similarity_points, regularity_points: drawn for each term of the loss (`SampledLoss`).
    """

    side: int
    channels: tuple[int, ...]
    frequencies: int
    hidden: int
    similarity_points: int
    regularity_points: int
    up: tuple[int, ...] = ()

    def encoder(self, dimension: int) -> nn.Module:
        """A fresh one, of images (B, 1, *S) to a `LatentCode`."""
        shape = (self.side,) * dimension
        if self.up:
            return LatentUNet(dimension, shape, self.channels, self.up, WHOLE, LOCAL)
        return LatentEncoder(dimension, shape, self.channels, whole=WHOLE, local=LOCAL)


@dataclass(frozen=True)
class Configuration:
    """A size of network and a recipe.

    Attributes:
        sizes: by dimension.
        steps: optimiser steps.
        batch: pairs per step and process.
        rate: learning rate of the encoder.
        field_rate: of the networks of the position, whose fast sines bear no large one.
    """

    sizes: Mapping[int, Size]
    steps: int
    batch: int
    rate: float
    field_rate: float = 1e-4


CONFIGURATIONS: Mapping[str, Configuration] = {
    "small": Configuration(
        sizes={
            2: Size(64, CHANNELS[:4], 64, 64, 1024, 128),
            3: Size(64, CHANNELS, 128, 128, 20_000, 500),
        },
        steps=6000,
        batch=4,
        rate=1e-3,
    ),
    "small-unet": Configuration(
        sizes={d: Size(40, (16, 32, 64, 64), 128, 128, 2048, 128, up=(16, 32, 48, 48)) for d in (2, 3)},
        steps=6000,
        batch=2,
        rate=2e-4,
        field_rate=2e-4,
    ),
    "paper": Configuration(
        sizes={
            2: Size(512, CHANNELS, 128, 128, 5242, 26),
            3: Size(175, CHANNELS, 128, 128, 100_000, 500),
        },
        steps=73_000,
        batch=8,
        rate=1e-4,
    ),
}
"""Tian et al., NePhi, ECCV 2024 (arXiv 2309.07322), with the constants of the authors' code.

"paper": 3.27 million weights at 175 voxels a side, 0.28 of them in the two networks of the position (2.16
million in 2-D at 512 a side). Similarity looks at a fiftieth of the voxels, at most 100 000, regularity at
one in ten thousand, at most 500. Adam at 1e-4 with 8 pairs on each of 4 GPUs, 2600 epochs of 899 pairs.
"small": 1.55 million weights for images of 64 voxels a side (375 thousand in 2-D), a rate of the encoder that
suits fewer steps, and more points than the published rule has for so small images.
"small-unet": 1.25 million weights, for few steps with few, unlike pairs at a time: the code by a
`LatentUNet`, lower rates, and fewer points, since the known maps of generated pairs guide it.
"""


class Predictor(nn.Module):
    """The encoder, and one network of the position for each direction.

    Args:
        configuration: a name from `CONFIGURATIONS`.
        dimension: 2 or 3.

    All weights are drawn from torch's global generator.

    Raises:
        InputError: there is no such configuration.
    """

    def __init__(self, configuration: str, dimension: int) -> None:
        super().__init__()
        size = size_of(configuration, dimension)
        self.size, self.field_rate = size, CONFIGURATIONS[configuration].field_rate
        self.encoder = size.encoder(dimension)
        self.fields = field_networks(size, dimension)

    @classmethod
    def from_weights(cls, weights: Weights) -> Predictor:
        """The trained predictor, in evaluation mode and without gradients.

        Raises:
            InputError: the weights do not fit what they say they are for.
        """
        return weights.into(cls(weights.configuration, weights.dimension))

    def forward(self, fixed: Tensor, moving: Tensor) -> MapPair:
        """Images (B, 1, *S) in [0, 1] on one lattice to the maps of both directions."""
        code = self.encoder(fixed, moving)
        # coordinates, and sines of frequency 30, need float32 whatever the encoder ran in
        return MapPair(self.fields, LatentCode(code.whole.float(), code.grid.float()))

    @property
    def sides(self) -> tuple[int, ...]:
        """Voxels along each axis of the images the encoder works on."""
        return self.encoder.shape

    def loss(self) -> SampledLoss:
        """What it is trained with."""
        return SampledLoss(self.size.similarity_points, self.size.regularity_points)


def size_of(configuration: str, dimension: int) -> Size:
    """The sizes of a configuration. Raises InputError: there is no such configuration."""
    if configuration not in CONFIGURATIONS:
        raise InputError(f"NePhi has no configuration '{configuration}'; choose {', '.join(CONFIGURATIONS)}.")
    return CONFIGURATIONS[configuration].sizes[dimension]


def field_networks(size: Size, dimension: int, generator: torch.Generator | None = None) -> nn.ModuleList:
    """The networks of the position, fixed to moving points first; both are the identity to begin with."""
    return nn.ModuleList(
        ModulatedSiren(dimension, WHOLE + LOCAL, size.frequencies, size.hidden, generator) for _ in range(2)
    )
