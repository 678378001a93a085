"""R2Net's network in its configurations, fresh or from a weights file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...networks.voxel_unet import VoxelUNet
from ...weights import Weights
from ..maps import FieldMap
from .flow import ResidualFlow


@dataclass(frozen=True)
class Configuration:
    """What of the network can be chosen, and a recipe.

    Attributes:
        strict: whether the blocks' convolutions themselves are 1-Lipschitz (see `SpectralConv`).
        variational: whether the network also predicts how uncertain the initial velocity is, from which
            training then draws.
        gentle: whether the initial velocity starts near zero.
        normalised: whether the U-Net normalises (see `VoxelUNet`).
        odd: whether the U-Net is asked both ways round, and half the difference of the velocities counts:
            equal images then stay where they are, and exchanged ones move the other way. On images unlike
            those trained on, what it gives for any pair whatever can otherwise outweigh what it sees of
            this one.
        smoothness: of the prior on the initial velocity, lambda of `loss.smooth_prior`; None is the
            standard normal distribution.
        deviation: of the images' noise, sigma in the paper.
        measure: of the images, a name in `loss.MEASURES`; the squared error is the paper's.
        similarity, prior, folds: weights of the loss's terms.
        samples: velocities drawn for each pair, K in the paper.
        steps: optimiser steps.
        batch: pairs per step and process.
        rate: learning rate.
        shape: of the training images, array order (z, y, x).
    """

    strict: bool = False
    variational: bool = True
    gentle: bool = False
    normalised: bool = False
    odd: bool = False
    smoothness: float | None = None
    deviation: float = 0.01
    measure: str = "mse"
    similarity: float = 2.0
    prior: float = 1.0
    folds: float = 1.0
    samples: int = 1
    steps: int = 358_500
    batch: int = 1
    rate: float = 1e-4
    shape: tuple[int, int, int] = (160, 192, 224)


_PAPER = Configuration()
_SMALL = Configuration(
    strict=True,
    gentle=True,
    smoothness=10.0,
    deviation=0.1,
    folds=200.0,
    steps=6000,
    batch=4,
    rate=1e-3,
    shape=(64, 64, 64),
)

CONFIGURATIONS: Mapping[str, Configuration] = {
    "small": _SMALL,
    "small-lncc": replace(
        _SMALL, variational=False, normalised=True, odd=True, measure="lncc", similarity=0.2, folds=20.0
    ),
    "paper": _PAPER,
    "strict": replace(_PAPER, strict=True),
}
"""Joshi and Hong (MIDL 2022), with the constants of the authors' code.

"paper": weights 2, 1 and 1, a standard normal prior, Adam at 1e-4, 1500 epochs of 239 pairs, one pair a step.
231 922 weights with one block for all steps, 233 434 with seven (77 461 and 77 821 in 2-D), and 246 (56)
for the logarithm of the variance. The paper leaves sigma open; 0.01 is VoxelMorph's.
"strict": the same, but each block is invertible as a map of velocities.
"small": strict, with a smoothness prior and a velocity that starts near zero, for images of 64 voxels a side;
sigma and the folds' weight such that the images do not outweigh the rest.
"small-lncc": with the local correlation, for images whose brightness differs from pair to pair; it weighs
against the smoothness about as in SITReg. Its U-Net is asked both ways round and normalises, and its velocity
is not drawn: without normalising it did not begin to learn within 400 steps of generated anatomy, with
drawing single steps undid hundreds.
"""

_NEAR_ZERO, _NEARER_ZERO = 1e-5, 1e-10
_LITTLE = -10.0
"""Logarithm of the variance to begin with, where the prior does not shy away from it."""


class InitialVelocity(NamedTuple):
    """The distribution of the initial velocity, (B, d, *S), voxels; independent voxels and components.

    Attributes:
        mean: components (x, y, z).
        log_variance: None where the network is not variational.
    """

    mean: Tensor
    log_variance: Tensor | None

    def drawn(self, samples: int) -> Tensor:
        """(samples B, d, *S), those of a pair side by side, by torch's global generator."""
        mean = self.mean.repeat_interleave(samples, 0)
        if self.log_variance is None:
            return mean
        deviation = (self.log_variance / 2).exp().repeat_interleave(samples, 0)
        return mean + deviation * torch.randn_like(mean)


class R2Net(nn.Module):
    """A U-Net predicts an initial velocity, Lipschitz-constrained residual blocks make it a displacement.

    Args:
        configuration: what to build.
        dimension: 2 or 3.
        shared: one block for all steps (SVF-R2Net), or a block for each (NSVF-R2Net).
    """

    def __init__(self, configuration: Configuration, dimension: int, shared: bool) -> None:
        super().__init__()
        self.configuration, self.dimension, self.shared = configuration, dimension, shared
        conv = nn.Conv2d if dimension == 2 else nn.Conv3d
        self.unet = VoxelUNet(dimension, normalised=configuration.normalised)
        self.velocity = conv(VoxelUNet.outputs, dimension, 3, padding=1, bias=False)
        if configuration.gentle:
            nn.init.normal_(self.velocity.weight, std=_NEAR_ZERO)
        else:
            nn.init.kaiming_normal_(self.velocity.weight, nonlinearity="relu")
        self.log_variance = None
        if configuration.variational:
            self.log_variance = conv(VoxelUNet.outputs, dimension, 3, padding=1)
            nn.init.normal_(self.log_variance.weight, std=_NEARER_ZERO)
            nn.init.constant_(self.log_variance.bias, 0.0 if configuration.smoothness is None else _LITTLE)
        self.flow = ResidualFlow(dimension, shared, configuration.strict)

    @classmethod
    def named(cls, configuration: str, dimension: int, shared: bool) -> R2Net:
        """A fresh network, drawn from torch's global generator.

        Raises:
            InputError: there is no such configuration.
        """
        if configuration not in CONFIGURATIONS:
            raise InputError(
                f"R2Net has no configuration '{configuration}'; choose {', '.join(CONFIGURATIONS)}."
            )
        return cls(CONFIGURATIONS[configuration], dimension, shared)

    @classmethod
    def from_weights(cls, weights: Weights, shared: bool) -> R2Net:
        """The trained network, in evaluation mode and without gradients.

        Raises:
            InputError: the weights do not fit what they say they are for.
        """
        return weights.into(cls.named(weights.configuration, weights.dimension, shared))

    def initial(self, moving: Tensor, fixed: Tensor) -> InitialVelocity:
        """What the network predicts from images (B, 1, *S) in [0, 1] on one lattice of any size."""
        features = self.unet(torch.cat([moving, fixed], 1))
        spread = None if self.log_variance is None else _exact(self.log_variance(features))
        return InitialVelocity(self._mean(features, moving, fixed), spread)

    def _mean(
        self, features: Tensor, moving: Tensor, fixed: Tensor, watch: Callable[[], None] | None = None
    ) -> Tensor:
        velocity = self.velocity(features)
        if self.configuration.odd:
            exchanged = self.velocity(self.unet(torch.cat([fixed, moving], 1), watch))
            velocity = (velocity - exchanged) / 2
        return _exact(velocity / 2)

    def displaced(self, velocity: Tensor, watch: Callable[[], None] | None = None) -> FieldMap:
        """The map x -> x + v_7(x), fixed to moving points, of initial velocities (B, d, *S) in voxels."""
        with torch.autocast(velocity.device.type, enabled=False):
            last = self.flow(velocity, watch)
        voxel = 2 / last.new_tensor(last.shape[:1:-1])
        return FieldMap(last.movedim(1, -1) * voxel)

    def forward(self, moving: Tensor, fixed: Tensor, watch: Callable[[], None] | None = None) -> FieldMap:
        """The map of each pair, fixed to moving points: that of the mean velocity, nothing is drawn.

        Args:
            moving, fixed: (B, 1, *S) in [0, 1] on one lattice of any size.
            watch: called between layers; it may raise.
        """
        features = self.unet(torch.cat([moving, fixed], 1), watch)
        if watch is not None:
            watch()
        return self.displaced(self._mean(features, moving, fixed, watch), watch)


def _exact(values: Tensor) -> Tensor:
    """At least float32: velocities are coordinates, which need more digits than mixed precision leaves."""
    return values if values.dtype == torch.float64 else values.float()
