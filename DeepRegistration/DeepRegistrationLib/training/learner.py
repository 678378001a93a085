"""The part of a training that learns: network, optimiser and one step, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, RegistrationError
from ..weights import Weights
from .base import Batch, Stage, TrainingTask
from .checkpoint import Checkpoint
from .processes import Processes
from .thin_layers import ThinInFloat32

_NETWORK, _STEP, _LAYERS = 0, 1, 2
"""What a seed is for."""

_LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}
"""How convolutions keep their weights, by dimension: as processors and GPUs go through them fastest."""

_RISE = 0.02
"""Share of the steps in which an annealed rate rises first: at the full rate from the beginning, when Adam
knows no gradient's size yet, single steps undid hundreds of the training that gave the weights."""

_MOST_SKIPPED = 30
"""Steps in a row without a finite gradient; mixed precision needs up to 16 to find its scale."""


class Learner:
    """A network on its way through the stages of a training.

    Torch's global generator is seeded anew for each step: the caller keeps it for the program around.

    Args:
        task, configuration, dimension: what is trained.
        steps: of the whole training.
        seed: of everything random.
        processes: those that share the batch.
        batch: pairs in a step, per process; None takes the stages' own.
        precision: see `TrainingOptions`.
        anneal: see `TrainingOptions`.
        guidance: see `TrainingOptions`.
        grown: stages whose changes to the network it has from the beginning.
        start: weights to begin with; of a network that has grown that far.
        before: state to go on from.

    Attributes:
        step: steps done.
        stage_index: stage that network and optimiser belong to.
        skipped: steps left out because the gradient was not finite.

    Raises:
        InputError: checkpoint or weights do not fit the network.
    """

    def __init__(
        self,
        task: TrainingTask,
        configuration: str,
        dimension: int,
        steps: int,
        seed: int,
        processes: Processes,
        before: Checkpoint | None = None,
        batch: int | None = None,
        precision: str | None = None,
        anneal: bool = False,
        guidance: float = 0.0,
        grown: int = 0,
        start: Weights | None = None,
    ) -> None:
        self.task, self.steps, self.seed, self.processes = task, steps, seed, processes
        self._dimension, self._grown = dimension, grown
        self._anneal, self._guidance = anneal, guidance
        stages = task.stages(configuration)
        self.stages = tuple(replace(stage, batch=batch or stage.batch) for stage in stages)
        self._bounds = _bounds(self.stages, steps)
        self.step = self.skipped = self._skipped_in_a_row = 0
        self.precision = _precision(task, processes.device, precision)
        self._scaler = torch.amp.GradScaler(processes.device.type, enabled=self.precision == "float16")
        self._sow(_NETWORK, 0)
        self.network = task.network(configuration, dimension)
        for index in range(1, grown + 1):
            self.network = task.enter_stage(self.network, index)
        if start is not None:
            start.into(self.network).requires_grad_(True)
        for index in range((before.stage if before else 0) + 1):
            self._enter(index)
        if before is not None:
            self._restore(before)

    @property
    def stage(self) -> Stage:
        return self.stages[self.stage_index]

    @property
    def grown_to(self) -> int:
        """Index of the stage whose network this is: the weights begun with may be ahead of the training."""
        return max(self.stage_index, self._grown)

    @property
    def rate(self) -> float:
        return self.optimiser.param_groups[0]["lr"]

    def stage_of(self, step: int) -> int:
        """Index of the stage that a step belongs to."""
        return min(sum(step >= bound for bound in self._bounds[1:]), len(self.stages) - 1)

    def learn(self, batch: Batch) -> tuple[dict[str, float], bool]:
        """Take one step.

        Returns:
            The loss's terms with the length of the gradient (``gradient``), and whether that was finite;
            if not, the network is what it was.

        Raises:
            RegistrationError: it has not been finite for many steps in a row.
        """
        if self.stage_of(self.step) != self.stage_index:
            self._enter(self.stage_of(self.step))
        start, end = self._bounds[self.stage_index], self._bounds[self.stage_index + 1]
        factor = self.task.rate_at(self.stage, (self.step - start) / max(1, end - start))
        if self._anneal:
            rise = min(1.0, (self.step + 1) / (_RISE * self.steps))
            factor *= rise * (1 + math.cos(math.pi * self.step / self.steps)) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor
        try:
            numbers = self._numbers(self._gradient(batch))
        except BaseException:
            self._undo()
            raise
        # The gradient is the same on all processes, a loss is not: they have to decide alike.
        finite = math.isfinite(numbers["gradient"])
        if finite or self._scaler.is_enabled():
            self._scaler.step(self.optimiser)  # leaves out by itself what is not finite
            self._scaler.update()
        self.step += 1
        if finite:
            self._skipped_in_a_row = 0
        else:
            self._skip()
        return numbers, finite

    def checkpoint_state(self) -> dict:
        """What a `Checkpoint` holds of this; shares memory with the network."""
        return {
            "step": self.step,
            "stage": self.stage_index,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "skipped": self.skipped,
        }

    def _enter(self, index: int) -> None:
        """Make network, optimiser and what surrounds them those of a stage."""
        self.stage_index = index
        self._sow(_NETWORK, 1 + index)
        network = self.network
        if index > self._grown:
            network = self.task.enter_stage(network, index)
        network = network.to(self.processes.device, memory_format=_LAYOUT[self._dimension])
        self.network = self.processes.synchronised(network).train()
        self.optimiser = self.task.optimiser(self.network, self.stage)
        for group in self.optimiser.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._module = self.processes.shared(_Loss(self.task, self.network, self.precision))
        self._running = [b for b in self.network.buffers() if b.is_floating_point()]
        self._kept = [b.clone() for b in self._running]

    def _sow(self, *keys: int) -> None:
        """Seed the global generators of the processor and of this device (`torch.manual_seed` also takes
        a picture of the call stack for GPUs that are not in use, which costs more than a small step)."""
        number = _seed(self.seed, *keys)
        torch.default_generator.manual_seed(number)
        if self.processes.device.type == "cuda":
            torch.cuda.manual_seed(number)

    def _restore(self, before: Checkpoint) -> None:
        try:
            self.network.load_state_dict(before.network)
            self.optimiser.load_state_dict(before.optimiser)
            if before.scaler:
                self._scaler.load_state_dict(before.scaler)
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError("The checkpoint does not fit this version of the network.") from error
        self.step, self.skipped = before.step, before.skipped

    def _gradient(self, batch: Batch) -> dict[str, Tensor]:
        """The loss's terms and the length of its gradient, which is left in the parameters, clipped."""
        generator = torch.Generator().manual_seed(_seed(self.seed, _STEP, self.step))
        self._sow(_LAYERS, self.step, self.processes.rank)
        for kept, running in zip(self._kept, self._running, strict=True):
            kept.copy_(running)
        self.optimiser.zero_grad(set_to_none=True)
        if self._guidance and batch.displacement is None:
            raise InputError("--guidance needs data whose true map is known, as generated:anatomy.")
        batch = replace(batch.to(self.processes.device), guidance=self._guidance)
        terms = self._module(batch, self.step / self.steps, generator)
        if self._guidance and "error" not in terms:
            raise InputError(f"{self.task.method} is not trained on maps, so --guidance does not serve it.")
        self._scaler.scale(terms["loss"]).backward()
        self._scaler.unscale_(self.optimiser)
        return {**terms, "gradient": nn.utils.clip_grad_norm_(self.network.parameters(), self.task.clip)}

    @staticmethod
    def _numbers(terms: dict[str, Tensor]) -> dict[str, float]:
        """As numbers, by one transfer from the device."""
        values = torch.stack([term.detach().float().reshape(()) for term in terms.values()]).tolist()
        return dict(zip(terms, values, strict=True))

    def _undo(self) -> None:
        """Undo what a step that came to nothing did to the network: its running statistics."""
        for kept, running in zip(self._kept, self._running, strict=True):
            running.copy_(kept)

    def _skip(self) -> None:
        """Leave out a step without a finite gradient."""
        self._undo()
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= _MOST_SKIPPED:
            raise RegistrationError(
                f"The gradient was not a finite number for {_MOST_SKIPPED} steps in a row, up to step "
                f"{self.step}; check the data, or train with a lower rate. The last good state is kept."
            )


class _Loss(nn.Module):
    """A task's loss as one module, so that several processes meet once a step, whatever the task calls."""

    def __init__(self, task: TrainingTask, network: nn.Module, precision: str | None) -> None:
        super().__init__()
        self.network = network
        self._task, self._precision = task, precision

    def forward(self, batch: Batch, done: float, generator: torch.Generator) -> dict[str, Tensor]:
        if self._precision is None:
            terms = self._task.loss(self.network, batch, done, generator)
        else:
            half = getattr(torch, self._precision)
            with torch.autocast(batch.fixed.device.type, dtype=half), ThinInFloat32():
                terms = self._task.loss(self.network, batch, done, generator)
        return {name: term if name == "loss" else term.detach() for name, term in terms.items()}


def _precision(task: TrainingTask, device: torch.device, wanted: str | None) -> str | None:
    """The half precision to use, None for float32 throughout."""
    if wanted not in (None, "auto"):
        return None if wanted == "float32" or not task.mixed_precision else wanted
    if device.type != "cuda" or not task.mixed_precision:
        return None
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def _seed(*keys: int) -> int:
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)


def _bounds(stages: Sequence[Stage], steps: int) -> list[int]:
    """First step of each stage, and the number of steps."""
    ends = np.cumsum([stage.share for stage in stages])
    return [0, *(round(steps * float(end / ends[-1])) for end in ends)]
