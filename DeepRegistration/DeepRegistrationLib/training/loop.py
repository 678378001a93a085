"""The training loop of all methods.

A step's randomness is a function of (seed, step) alone, so a training that was stopped and resumed ends,
on a processor, with the same bits as one that went through.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .. import __version__
from ..errors import InputError, RegistrationError, ResourceError
from ..folder_lock import locked
from ..progress import CancelToken, Progress, ProgressCallback
from ..quality import environment
from ..resources import is_out_of_memory, threads
from ..weights import Weights, load_weights, save_weights
from . import TASKS
from .base import Batch, TrainingTask
from .checkpoint import WEIGHTS, Checkpoint, save_checkpoint
from .data import PairSource, Prefetched, open_data
from .learner import Learner
from .log import TrainingLog
from .options import TrainingOptions
from .processes import Processes, has_lost_one, joined
from .validate import validate

_RECORDED = ("data", "seed", "shape", "start", "guidance", "anneal")
_GO_ON, _CHECKPOINT, _TIME, _STOP = 0, 1, 2, 3


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        reason: ``finished``, ``time`` (max_minutes are over) or ``interrupted``.
        step: steps done, of `steps`.
        seconds: spent in all, earlier runs included.
        losses: terms of the last step.
        validation: see `validate.validate`; empty without held-out pairs.
        skipped: steps left out because the gradient was not a finite number.
        sha256: of the weights file; None on processes that write nothing.
    """

    reason: str
    step: int
    steps: int
    seconds: float
    losses: dict[str, float]
    validation: dict[str, Any]
    skipped: int
    sha256: str | None


def train(
    options: TrainingOptions,
    task: TrainingTask | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> TrainingResult:
    """Train a method's network.

    Args:
        options: what, on what, for how long.
        task: what to train in the place of the method's own task.
        progress: told after every step.
        cancel: looked at after every step; when it is set, the training ends with a checkpoint.

    Returns:
        How it ended. The folder then holds ``checkpoint.pt``, ``weights.pt``, ``log.txt``,
        ``log.jsonl`` and ``curve.png``.

    Raises:
        InputError, NotAvailableError, OutputError: with a sentence for the user, nothing overwritten.
        ResourceError: memory ran out; the state before that step is kept.
        RegistrationError: the gradient was not finite for many steps in a row; the last good state is kept.
    """
    with joined(options.device) as processes, threads(options.threads), ExitStack() as held:
        devices = [processes.device] if processes.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            return _Run(options, task, processes, progress, cancel or CancelToken(), held).result()


class _Run:
    """One call of `train`, in one process."""

    def __init__(
        self,
        options: TrainingOptions,
        task: TrainingTask | None,
        processes: Processes,
        progress: ProgressCallback | None,
        cancel: CancelToken,
        held: ExitStack,
    ) -> None:
        self.options, self.processes, self.progress, self.cancel = options, processes, progress, cancel
        self.started = time.monotonic()
        given, before = options.checked(processes.count)
        self.task = task or _task(given["method"])
        self.configuration: str = given["configuration"]
        if self.configuration not in self.task.configurations:
            names = ", ".join(self.task.configurations)
            raise InputError(
                f"{self.task.method} has no configuration '{self.configuration}'; choose {names}."
            )
        start = None
        if options.start is not None:
            start = load_weights(options.start, self.task.method, given["dimension"])
            self._check_start(start, given)
        self.source = self._source(given)
        self.task = self.task.for_data(self.source)
        steps, dimension = given["steps"] or self.task.steps(self.configuration), self.source.dimension
        decided = {"steps": steps, "dimension": dimension, "shape": list(self.source.shape)}
        self.settings = {**given, **decided}
        self.learner = Learner(
            self.task,
            self.configuration,
            dimension,
            steps,
            given["seed"],
            processes,
            before,
            given["batch"],
            given["precision"],
            bool(given["anneal"]),
            given["guidance"] or 0.0,
            given["start"]["stage"] if given["start"] else 0,
            start,
        )
        self.pairs = [stage.batch * given["processes"] for stage in self.learner.stages]
        self.share = [processes.share(pairs) for pairs in self.pairs]
        kept = before.record if before else {"losses": {}, "validation": {}}
        self.losses, self.validation = kept["losses"], kept["validation"]
        self.seconds_before = before.seconds if before else 0.0
        self.log: TrainingLog | None = None
        if processes.main:
            held.enter_context(locked(options.out))
            self.log = self._log(before is not None)

    def _source(self, given: dict[str, Any]) -> PairSource:
        dimension = given["dimension"] or (len(given["shape"]) if given["shape"] else None)
        shape = given["shape"]
        if self.options.resume and "size=" in given["data"]:
            shape = None  # the text says so itself
        return open_data(
            given["data"],
            dimension,
            shape,
            lambda d: self.task.convention(self.configuration, d)["shape"],
            self.processes.device,
        )

    def _check_start(self, start: Weights, given: dict[str, Any]) -> None:
        """Take from the weights to begin with what has to be theirs, and note which they are."""
        if start.configuration != self.configuration:
            raise InputError(
                f"{self.options.start} holds weights of the configuration '{start.configuration}', "
                f"not of '{self.configuration}'."
            )
        given["dimension"] = start.dimension
        given["start"] = {"sha256": start.sha256, "stage": start.convention.get("stage", 0), **_spent(start)}

    def _log(self, resumed: bool) -> TrainingLog:
        """The log, with what is trained at its head."""
        out, learner, source = self.options.out, self.learner, self.source
        log = TrainingLog(out, learner.steps, learner.step if resumed else None)
        parameters = sum(p.numel() for p in learner.network.parameters())
        hardware = environment(self.processes.device)
        start = f"resumed at step {learner.step} of {learner.steps}" if resumed else f"{learner.steps} steps"
        for line in (
            f"{self.task.method}, configuration {self.configuration}, {source.dimension}-D: {start}",
            f"network: {parameters:,} parameters in stage {learner.stage_index + 1} of {len(learner.stages)}",
            f"data: {source.spec}, {' x '.join(map(str, source.shape))} voxels, "
            f"{source.held_out_count} pairs held out",
            f"seed {learner.seed}, {self.processes.count} process(es) on {hardware['device']}, "
            f"{' then '.join(map(str, self.pairs))} pairs a step, "
            f"{hardware['threads']} threads, torch {hardware['versions']['torch']}, "
            f"precision {learner.precision or 'float32'}",
            *source.notes,
        ):
            log.say(line)
        return log

    def result(self) -> TrainingResult:
        """Go through the steps that are left, save, and say how it ended."""
        learner = self.learner
        try:
            reason = self._steps()
        except RegistrationError as error:
            self._save_after(error)
            raise
        except (RuntimeError, MemoryError) as error:
            problem: RegistrationError
            if is_out_of_memory(error):
                problem = ResourceError(
                    "There is not enough memory; train with a smaller --shape or configuration."
                )
            elif self.processes.count > 1 and has_lost_one(error):
                problem = RegistrationError(
                    f"Another process of this training has ended, so process {self.processes.rank} stops at "
                    f"step {learner.step}; go on with --resume."
                )
            else:
                raise
            self._save_after(problem)
            raise problem from error
        sha256 = self._save()
        seconds = self._seconds()
        self._say(f"{reason} after {learner.step} of {learner.steps} steps, {seconds / 60:.1f} minutes")
        numbers = (learner.step, learner.steps, seconds, self.losses, self.validation, learner.skipped)
        return TrainingResult(reason, *numbers, sha256)

    def _steps(self) -> str:
        """Take steps until all are done or somebody wants to stop; returns the reason."""
        learner = self.learner
        if learner.step == 0:
            self._look()
        self.last_checkpoint = time.monotonic()
        with Prefetched(self._draw, learner.step, learner.steps) as batches:
            while learner.step < learner.steps:
                wish = self.processes.agreed(self._wish())
                if wish in (_TIME, _STOP):
                    return "time" if wish == _TIME else "interrupted"
                if wish == _CHECKPOINT:
                    self._save()
                begun, stage = time.perf_counter(), learner.stage
                numbers, finite = learner.learn(batches.take())
                if learner.stage is not stage:
                    self._say(f"stage {learner.stage.name} began")
                self._tell(numbers, finite, time.perf_counter() - begun)
        return "finished"

    def _draw(self, step: int) -> Batch:
        """This process's share of a step's pairs."""
        count = self.share[self.learner.stage_of(step)]
        batch = self.source.batch(count, self.learner.seed, step, first=self.processes.rank * count)
        return batch.pinned() if self.processes.device.type == "cuda" else batch

    def _wish(self) -> int:
        """What this process wants before the next step; the largest wish of all counts."""
        if self.cancel.cancelled:
            return _STOP
        limit = self.options.max_minutes
        if limit is not None and time.monotonic() - self.started >= 60 * limit:
            return _TIME
        due = time.monotonic() - self.last_checkpoint >= 60 * self.options.checkpoint_minutes
        return _CHECKPOINT if due and self.processes.main else _GO_ON

    def _tell(self, numbers: dict[str, float], finite: bool, seconds: float) -> None:
        step, stage = self.learner.step, self.learner.stage.name
        if finite:
            self.losses = numbers
        if self.log is not None and finite:
            self.log.step(step, stage, self.learner.rate, numbers, seconds, _memory(self.processes.device))
        elif self.log is not None:
            self.log.say(f"step {step} skipped: its gradient is not a finite number")
        if self.progress is not None:
            self.progress(Progress(f"Training, {stage}", step / self.learner.steps, numbers["loss"]))

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _say(self, text: str) -> None:
        if self.log is not None:
            self.log.say(text)

    def _save(self) -> str | None:
        """Checkpoint, a look at held-out pairs, weights and curve; only the first process writes."""
        sha256 = None
        if self.log is not None:
            self._save_checkpoint()  # first of all: a validation that fails must not cost the training
            self._look()
            self._save_checkpoint()
            sha256 = self._save_weights()
            self.log.close_row()
            self.log.draw()
            self.log.say(f"checkpoint at step {self.learner.step}")
        self.processes.agreed(_GO_ON)  # wait for the one that writes
        self.last_checkpoint = time.monotonic()
        return sha256

    def _look(self) -> None:
        """Measure the network on held-out pairs, if there are any."""
        if self.log is None:
            return
        numbers = validate(self.task, self.learner.network, self.source, self.processes.device)
        if numbers:
            self.validation = numbers
            self.log.validation(self.learner.step, numbers)

    def _save_after(self, error: Exception) -> None:
        """Keep the state before the step that failed; before the first there is none to keep."""
        if self.log is not None:
            if self.learner.step > 0:
                self._save_checkpoint()
            self.log.close_row()
            self.log.say(f"stopped at step {self.learner.step}: {error}")

    def _save_checkpoint(self) -> None:
        record = {"losses": self.losses, "validation": self.validation}
        state = self.learner.checkpoint_state()
        save_checkpoint(
            self.options.out,
            Checkpoint(settings=self.settings, seconds=self._seconds(), record=record, **state),
        )

    def _save_weights(self) -> str:
        hardware, learner = environment(self.processes.device), self.learner
        record = {
            **{name: self.settings[name] for name in _RECORDED},
            "processes": self.processes.count,
            "pairs_per_step": self.pairs[: learner.stage_index + 1],
            "steps": learner.step,
            "steps_planned": learner.steps,
            "stages": [asdict(stage) for stage in learner.stages[: learner.stage_index + 1]],
            "seconds": round(self._seconds(), 1),
            "hardware": {name: hardware[name] for name in ("device", "device_type", "threads")},
            "versions": {"deepregistration": __version__, **hardware["versions"]},
            "precision": learner.precision or "float32",
            "losses": self.losses,
            "validation": self.validation,
            "skipped": learner.skipped,
        }
        convention = self.task.convention(self.configuration, self.source.dimension)
        convention |= {"shape": list(self.source.shape), "stage": learner.grown_to}
        if self.source.voxel_mm is not None:
            convention["voxel_mm"] = self.source.voxel_mm
        if self.source.axes is not None:
            convention["axes"] = self.source.axes
        return save_weights(
            self.options.out / WEIGHTS,
            self.task.method,
            self.configuration,
            self.source.dimension,
            learner.network.state_dict(),
            convention,
            record,
            self.options.half,
        )


def _task(method: str) -> TrainingTask:
    if method not in TASKS:
        raise InputError(f"There is no method '{method}' that can be trained; choose {', '.join(TASKS)}.")
    return TASKS[method]


def _spent(start: Weights) -> dict[str, Any]:
    """What weights to begin with have cost, and what they began with themselves."""
    return {name: start.record.get(name) for name in ("data", "seed", "shape", "steps", "seconds", "start")}


def _memory(device: torch.device) -> float | None:
    """Peak memory so far, MB: the GPU's on one, the process's otherwise."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1024**2, 1)
    return environment(device)["peak_memory_mb"]
