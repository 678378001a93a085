"""GradICON's predictor in its configurations, fresh or from a weights file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ...errors import InputError
from ...networks.tall_unet import TallUNet
from ...objectives import GaussianNCC, Similarity
from ...weights import Weights
from ..maps import BatchMap
from ..predicting import SCALES
from .inverse_consistency import InverseConsistency
from .loss import PairLoss
from .steps import Displace, Step, TwoStep, multi_step

FIRST_STAGE = 3
"""Networks of the first training stage; the second adds one."""

_COARSER = 2
"""The first networks, at a quarter and at half of the resolution."""

_MOST = 16
"""Networks that a weights file may ask for."""


@dataclass(frozen=True)
class Configuration:
    """A size of network and a recipe.

    Attributes:
        down, up: channels of each network (`TallUNet`).
        sigma: of the local correlation's window, voxels.
        weight: of the inverse-consistency penalty, lambda in the paper.
        sparse: whether the penalty looks at every second voxel only.
        steps: optimiser steps of both stages together.
        batch: pairs per step and process.
        rate: learning rate.
        size: voxels along each side of the training images.
        alone: see `TallUNet`.
        odd: see `Displace`.
        scales: of the looks where no solver follows, see `predicting.SCALES`.
    """

    down: tuple[int, ...]
    up: tuple[int, ...]
    sigma: float
    weight: float
    sparse: bool
    steps: int
    batch: int
    rate: float
    size: int
    alone: bool = False
    odd: bool = False
    scales: tuple[float, ...] = SCALES


_SMALL = Configuration(
    down=(2, 16, 32, 64, 64),
    up=(16, 32, 48, 48),
    sigma=2.5,
    weight=1.5,
    sparse=True,
    steps=6000,
    batch=4,
    rate=5e-4,
    size=64,
)

CONFIGURATIONS: Mapping[str, Configuration] = {
    "small": _SMALL,
    "small-alone": replace(_SMALL, alone=True, odd=True, scales=(2.0, 2.0), rate=1.5e-4),
    "paper": Configuration(
        down=(2, 16, 32, 64, 256, 512),
        up=(16, 32, 64, 128, 256),
        sigma=5.0,
        weight=1.5,
        sparse=False,
        steps=100_000,
        batch=4,
        rate=5e-5,
        size=175,
    ),
}
"""Tian et al., GradICON, CVPR 2023 (arXiv 2206.05897), with the constants of the authors' code.

"paper": 17.7 million weights a network (4.8 in 2-D), local correlation with sigma 5, lambda 1.5, Adam at
5e-5, 50 000 steps a stage with 4 pairs per process, 175 voxels a side (the lungs').
"small": 936 thousand weights a network (250 in 2-D) for images of 64 voxels a side. Its rate is ten times
the published one, which suits smaller networks and the few thousand steps that a processor manages.
"small-alone": the same for images of many kinds, of which a batch holds few: without the batch's statistics,
with which training on generated anatomy stood still, at a lower rate, and asked both ways round. Where no
solver follows it looks at finer voxels than it was trained on: at a half and a quarter of the resolution it
looks anyway, and with still coarser ones structures in slabs of heads were parted, by up to 0.02 of Dice,
though the images had become more alike.
"""


class Predictor(Step):
    """Networks at a quarter, half and full resolution, and a fourth one at full resolution.

    Args:
        configuration: a name from `CONFIGURATIONS`.
        dimension: 2 or 3.
        count: networks: 1 (full resolution), 2 (half and full), 3 (as after the first training stage),
            4 (as after the second) or more. All are drawn from torch's global generator.

    Raises:
        InputError: there is no such configuration.
    """

    def __init__(self, configuration: str, dimension: int, count: int = FIRST_STAGE) -> None:
        super().__init__()
        if configuration not in CONFIGURATIONS:
            raise InputError(
                f"GradICON has no configuration '{configuration}'; choose {', '.join(CONFIGURATIONS)}."
            )
        self.configuration, self.dimension, self.count = CONFIGURATIONS[configuration], dimension, count
        networks = [self._network() for _ in range(count)]
        c = self.configuration
        self.step = multi_step(networks, min(_COARSER, count - 1), c.size, c.odd)

    @classmethod
    def from_weights(cls, weights: Weights) -> Predictor:
        """The trained predictor, in evaluation mode and without gradients.

        Raises:
            InputError: the weights do not fit what they say they are for.
        """
        count = sum(name.endswith("network.last.weight") for name in weights.state)
        if count > _MOST:
            raise InputError(f"The weights are of {count} networks, more than any training makes.")
        return weights.into(cls(weights.configuration, weights.dimension, max(1, count)))

    def extend(self) -> None:
        """Append one more network at full resolution; its output is zero, so nothing changes yet."""
        like = next(self.parameters())
        last = Displace(self._network().to(like), self.configuration.size, self.configuration.odd)
        self.step = TwoStep(self.step, last)
        self.count += 1

    def pair_loss(self, similarity: Similarity | None = None) -> PairLoss:
        """What it is trained with; `similarity` in the place of its own."""
        c = self.configuration
        return PairLoss(similarity or GaussianNCC(c.sigma), InverseConsistency(sparse=c.sparse), c.weight)

    def forward(self, moving: Tensor, fixed: Tensor) -> BatchMap:
        return self.step(moving, fixed)

    def _network(self) -> TallUNet:
        c = self.configuration
        return TallUNet(self.dimension, c.down, c.up, self.dimension, c.alone)
