"""How SITReg is trained: one stage, Adam at a constant rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...training.base import Batch, Stage, TrainingTask
from .loss import PairLoss
from .network import CONFIGURATIONS, Configuration, SitRegNetwork


class SitRegTask(TrainingTask):
    """`PairLoss` on a `SitRegNetwork`; only images are looked at."""

    method: ClassVar[str] = "sitreg"
    configurations: ClassVar[Mapping[str, Configuration]] = CONFIGURATIONS

    def network(self, configuration: str, dimension: int) -> SitRegNetwork:
        return SitRegNetwork.named(configuration, dimension)

    def convention(self, configuration: str, dimension: int) -> dict[str, Any]:
        return {"shape": list(CONFIGURATIONS[configuration].shape[-dimension:]), "intensity": [0.0, 1.0]}

    def stages(self, configuration: str) -> tuple[Stage, ...]:
        c = CONFIGURATIONS[configuration]
        return (Stage("all", 1.0, c.rate, c.batch),)

    def loss(
        self, network: nn.Module, batch: Batch, done: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        return PairLoss.of(network)(network, batch)

    def displacement(self, network: nn.Module, batch: Batch) -> Tensor:
        forward, _ = network(batch.moving, batch.fixed, batch.spacing).directions()
        return forward.displacement(batch.fixed.shape[2:])


TASK = SitRegTask()
