"""What a method brings to be trained; everything else (data, loop, checkpoints, log) is shared.

A method's task lives in ``methods/<name>/training.py`` as the module constant ``TASK``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .source import PairSource


@dataclass(frozen=True)
class Batch:
    """What a loss sees; all tensors on the device of the run, float32.

    Attributes:
        fixed: (B, 1, *S) in [0, 1].
        moving: (B, 1, *S) in [0, 1], on the same lattice.
        fixed_labels: (B, L, *S) one channel for each label (background left out), or None.
        moving_labels: the same L labels of the moving images.
        fixed_landmarks: (B, N, d) normalised coordinates (x, y, z), or None.
        moving_landmarks: their partners.
        spacing: of a voxel, mm, (x, y, z).
        displacement: the true map where it is known, (B, *S, d), pull-back from fixed to moving, in
            normalised units of the lattice, or None.
        guidance: weight of the distance from it in the loss (see guidance.py).
    """

    fixed: Tensor
    moving: Tensor
    fixed_labels: Tensor | None
    moving_labels: Tensor | None
    fixed_landmarks: Tensor | None
    moving_landmarks: Tensor | None
    spacing: tuple[float, ...]
    displacement: Tensor | None = None
    guidance: float = 0.0

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in memory from which a GPU copies without waiting."""
        return self._with(lambda tensor: tensor.pin_memory() if tensor.device.type == "cpu" else tensor)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = (getattr(self, f.name) for f in fields(self))
        return Batch(*(change(v) if isinstance(v, Tensor) else v for v in values))


@dataclass(frozen=True)
class Stage:
    """A stretch of a training.

    Attributes:
        name: what the log calls it.
        share: of all steps; the shares of a configuration sum to one.
        rate: learning rate at its start.
        batch: pairs in a step, per process.
    """

    name: str
    share: float
    rate: float
    batch: int


class TrainingTask(ABC):
    """How one method is trained.

    On a GPU `loss` runs under mixed precision: what needs float32 (coordinates, displacements, finite
    differences) is cast by the task itself. Randomness comes from the generator that is handed over, or
    from torch's global one, which the loop seeds for each step.

    Class attributes:
        method: the method's name.
        configurations: by name ("small", "paper"); frozen dataclasses.
        clip: gradients longer than this (Euclidean norm over all parameters) are shortened to it.
        mixed_precision: whether a GPU may compute the loss in half precision where torch deems it safe.
    """

    method: ClassVar[str]
    configurations: ClassVar[Mapping[str, Any]]
    clip: ClassVar[float] = 10.0
    mixed_precision: ClassVar[bool] = True

    def for_data(self, source: PairSource) -> TrainingTask:
        """This task, or one made for what a source of pairs has; called before anything else."""
        return self

    @abstractmethod
    def network(self, configuration: str, dimension: int) -> nn.Module:
        """A fresh network, initialised from torch's global generator (which the loop seeds)."""

    @abstractmethod
    def convention(self, configuration: str, dimension: int) -> dict[str, Any]:
        """What inference has to know, JSON values only, stored with the weights.

        `shape` (list of d ints, array order) is the size training images are resampled to unless the
        user or generated data say otherwise; the loop then stores the size that was used.
        """

    @abstractmethod
    def stages(self, configuration: str) -> tuple[Stage, ...]:
        """The stretches of the training, in order."""

    def steps(self, configuration: str) -> int:
        """Optimiser steps in all, unless the user says otherwise: the configuration's field `steps`."""
        return int(self.configurations[configuration].steps)

    def enter_stage(self, network: nn.Module, stage_index: int) -> nn.Module:
        """The network as the stage needs it; called in order for every stage, the first (0) included.

        Also called before a checkpoint or weights of a later stage are loaded, so that the structure fits.
        """
        return network

    def optimiser(self, network: nn.Module, stage: Stage) -> torch.optim.Optimizer:
        """A fresh optimiser at the stage's rate, Adam; the loop multiplies the rate by `rate_at`."""
        return torch.optim.Adam(network.parameters(), lr=stage.rate)

    def rate_at(self, stage: Stage, done: float) -> float:
        """Factor on the learning rate when `done` (0 to 1) of the stage's steps are over."""
        return 1.0

    @abstractmethod
    def loss(
        self, network: nn.Module, batch: Batch, done: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Scalar terms: `loss` is minimised, the others are logged.

        Args:
            network: in training mode.
            batch: pairs.
            done: share (0 to 1) of all the training's steps that are over, for what is switched on late.
            generator: on the CPU; the same on every process, so that a step over n processes is the step
                of one with the n-fold batch.
        """

    @abstractmethod
    def displacement(self, network: nn.Module, batch: Batch) -> Tensor:
        """What inference would give, without prompts: (B, *S, d), components (x, y, z), pull-back from
        fixed to moving, in normalised units of the lattice (one voxel is 2 / size). The network is in
        evaluation mode; gradients are off around the call."""
