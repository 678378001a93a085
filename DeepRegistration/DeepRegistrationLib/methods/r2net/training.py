"""How R2Net is trained: one stage, Adam at a constant rate, for each of its two forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...training.base import Batch, Stage, TrainingTask
from .loss import PairLoss
from .network import CONFIGURATIONS, Configuration, R2Net


class SvfTask(TrainingTask):
    """`PairLoss` on an `R2Net` whose steps share one block; only images are looked at."""

    method: ClassVar[str] = "svf-r2net"
    shared: ClassVar[bool] = True
    configurations: ClassVar[Mapping[str, Configuration]] = CONFIGURATIONS

    def network(self, configuration: str, dimension: int) -> R2Net:
        return R2Net.named(configuration, dimension, self.shared)

    def convention(self, configuration: str, dimension: int) -> dict[str, Any]:
        return {"shape": list(CONFIGURATIONS[configuration].shape[-dimension:]), "intensity": [0.0, 1.0]}

    def stages(self, configuration: str) -> tuple[Stage, ...]:
        c = CONFIGURATIONS[configuration]
        return (Stage("all", 1.0, c.rate, c.batch),)

    def loss(
        self, network: nn.Module, batch: Batch, done: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        return PairLoss.of(network.configuration)(network, batch)

    def displacement(self, network: nn.Module, batch: Batch) -> Tensor:
        return network(batch.moving, batch.fixed).field


class NsvfTask(SvfTask):
    """The same with a block for each step."""

    method: ClassVar[str] = "nsvf-r2net"
    shared: ClassVar[bool] = False


SVF_TASK, NSVF_TASK = SvfTask(), NsvfTask()
