"""GradICON: networks predict the map of a pair (Tian et al., CVPR 2023, arXiv 2206.05897).

Of the two directions it is trained for, only the forward one is predicted; the solver's result is
inverted like any other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...frame import Frame
from ...weights import Weights
from ..base import MethodInput
from ..maps import BatchMap
from ..predicting import PredictingMethod
from .instance import optimised
from .predictor import CONFIGURATIONS, Predictor

_ADAPTED_ON_PROCESSOR = 1 << 16
"""Voxels up to which a processor adapts the networks; 64^3 would take it some minutes."""


class GradIcon(PredictingMethod):
    """A prediction by trained networks, refined by the shared solver."""

    name = "gradicon"

    def scales(self, weights: Weights) -> tuple[float, ...]:
        return CONFIGURATIONS[weights.configuration].scales

    def network(self, weights: Weights) -> Predictor:
        return Predictor.from_weights(weights)

    def proposal(
        self, network: Predictor, moving: Tensor, fixed: Tensor, frame: Frame, pair: MethodInput
    ) -> BatchMap:
        """The networks' map; where the preset says so, by networks trained further on the pair.

        `instance.optimised` does that, with a copy; on a processor only in 2-D or on as few voxels, since
        it takes minutes where the solver takes seconds.
        """
        if pair.preset.instance_steps and (fixed.is_cuda or fixed.numel() <= _ADAPTED_ON_PROCESSOR):
            loss = network.pair_loss(pair.similarity if pair.similarity.across_contrasts else None)
            network = optimised(network, moving, fixed, loss, pair.preset.instance_steps, report=pair.report)
        with torch.no_grad():
            return network(moving, fixed)


__all__ = ["GradIcon"]
