"""R2Net: residual networks in the place of an integrator, with shared weights and with separate ones.

Joshi and Hong, Diffeomorphic image registration using Lipschitz continuous residual networks (MIDL 2022).
The method has no optimisation of its own for a single pair.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ...frame import Frame
from ...weights import Weights
from ..base import MethodInput
from ..maps import BatchMap
from ..predicting import PredictingMethod
from .network import R2Net


class SvfR2Net(PredictingMethod):
    """A prediction by a trained network whose integrating blocks share their weights."""

    name = "svf-r2net"
    shared: ClassVar[bool] = True

    def network(self, weights: Weights) -> R2Net:
        return R2Net.from_weights(weights, self.shared)

    def proposal(
        self, network: R2Net, moving: Tensor, fixed: Tensor, frame: Frame, pair: MethodInput
    ) -> BatchMap:
        """The map of the mean velocity."""
        with torch.no_grad():
            return network(moving, fixed, lambda: pair.report("Predicting", 0.0))


class NsvfR2Net(SvfR2Net):
    """The same with weights of its own for each block."""

    name = "nsvf-r2net"
    shared: ClassVar[bool] = False


__all__ = ["NsvfR2Net", "SvfR2Net"]
