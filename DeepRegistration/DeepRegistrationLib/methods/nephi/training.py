"""How NePhi is trained: one stage, on values at random points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...interpolation import read_at
from ...training.base import Batch, Stage, TrainingTask
from ...training.guidance import guided
from .loss import BatchImages
from .predictor import CONFIGURATIONS, Configuration, Predictor

_GUIDES = 4096
"""Points at which the map is compared with a known one."""


class NePhiTask(TrainingTask):
    """`SampledLoss` on a `Predictor` (Tian et al., ECCV 2024, arXiv 2309.07322, section 4).

    Only images are looked at: labels and landmarks of a batch serve the validation.
    """

    method: ClassVar[str] = "nephi"
    configurations: ClassVar[Mapping[str, Configuration]] = CONFIGURATIONS

    def network(self, configuration: str, dimension: int) -> Predictor:
        return Predictor(configuration, dimension)

    def convention(self, configuration: str, dimension: int) -> dict[str, Any]:
        side = CONFIGURATIONS[configuration].sizes[dimension].side
        return {"shape": [side] * dimension, "intensity": [0.0, 1.0]}

    def stages(self, configuration: str) -> tuple[Stage, ...]:
        c = CONFIGURATIONS[configuration]
        return (Stage("encoder and networks of the position", 1.0, c.rate, c.batch),)

    def optimiser(self, network: nn.Module, stage: Stage) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            [
                {"params": network.encoder.parameters(), "lr": stage.rate},
                {"params": network.fields.parameters(), "lr": network.field_rate},
            ]
        )

    def loss(
        self, network: nn.Module, batch: Batch, done: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        maps = network(batch.fixed, batch.moving)
        with torch.autocast(batch.fixed.device.type, enabled=False):
            terms = network.loss()(maps, BatchImages(batch.fixed, batch.moving), generator)
            if batch.guidance:
                points = 2 * torch.rand(_GUIDES, len(batch.spacing), generator=generator) - 1
                points = points.to(batch.fixed).expand(len(batch.fixed), -1, -1)
                known = read_at(batch.displacement.movedim(-1, 1), points).movedim(1, -1)
                return guided(terms, maps.forward(points) - points, known, batch)
            return terms

    def displacement(self, network: nn.Module, batch: Batch) -> Tensor:
        return network(batch.fixed, batch.moving).forward.displacement(batch.fixed.shape[2:])


TASK = NePhiTask()
