"""How GradICON is trained: two stages, the second with one more network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...training.base import Batch, Stage, TrainingTask
from ...training.guidance import guided
from .loss import both_directions
from .predictor import CONFIGURATIONS, FIRST_STAGE, Configuration, Predictor


class GradIconTask(TrainingTask):
    """`PairLoss` on a `Predictor`; each stage has half of the steps, and an Adam of its own.

    Tian et al., CVPR 2023 (arXiv 2206.05897), section 5. Only images are looked at: labels and landmarks
    of a batch serve the validation.
    """

    method: ClassVar[str] = "gradicon"
    configurations: ClassVar[Mapping[str, Configuration]] = CONFIGURATIONS

    def network(self, configuration: str, dimension: int) -> Predictor:
        return Predictor(configuration, dimension)

    def convention(self, configuration: str, dimension: int) -> dict[str, Any]:
        return {"shape": [CONFIGURATIONS[configuration].size] * dimension, "intensity": [0.0, 1.0]}

    def stages(self, configuration: str) -> tuple[Stage, ...]:
        c = CONFIGURATIONS[configuration]
        names = ("three networks", "a fourth network")
        return tuple(Stage(name, 0.5, c.rate, c.batch) for name in names)

    def enter_stage(self, network: nn.Module, stage_index: int) -> nn.Module:
        if stage_index == 1 and network.count == FIRST_STAGE:
            network.extend()
        return network

    def loss(
        self, network: nn.Module, batch: Batch, done: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        maps = both_directions(network, batch.moving, batch.fixed)
        terms = network.pair_loss().of_maps(*maps, batch.moving, batch.fixed, generator)
        if batch.guidance:
            found = maps[0].displacement(batch.fixed.shape[2:])
            return guided(terms, found, batch.displacement, batch)
        return terms

    def displacement(self, network: nn.Module, batch: Batch) -> Tensor:
        return network(batch.moving, batch.fixed).displacement(batch.fixed.shape[2:])


TASK = GradIconTask()
