"""SITReg: symmetric, inverse consistent, topology preserving by construction.

Honkamaa and Marttinen, MELBA 2024 (arXiv 2303.10211). The method has no optimisation of its own for a
single pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...frame import Frame
from ...weights import Weights
from ..base import MethodInput
from ..maps import BatchMap
from ..predicting import PredictingMethod
from .network import SitRegNetwork


class SitReg(PredictingMethod):
    """A symmetric prediction by a trained network, refined by the shared solver."""

    name = "sitreg"

    def network(self, weights: Weights) -> SitRegNetwork:
        return SitRegNetwork.from_weights(weights)

    def proposals(
        self, network: SitRegNetwork, moving: Tensor, fixed: Tensor, frame: Frame, pair: MethodInput
    ) -> tuple[BatchMap, BatchMap | None]:
        """Both of the network's directions, of one evaluation.

        Where no solver follows, and for presets that spend extra work on a prediction
        (`Preset.instance_steps`), that is the complete one, which has no folds; else the standard one.
        """

        def watch() -> None:
            pair.report("Predicting", 0.0)

        with torch.no_grad():
            complete = pair.preset.instance_steps > 0 or not pair.preset.refines
            there, back = network(moving, fixed, frame.spacing, complete, watch).directions()
        return there, back if pair.symmetric else None

    def proposal(
        self, network: SitRegNetwork, moving: Tensor, fixed: Tensor, frame: Frame, pair: MethodInput
    ) -> BatchMap:
        """The forward map of `proposals`."""
        return self.proposals(network, moving, fixed, frame, pair)[0]


__all__ = ["SitReg"]
