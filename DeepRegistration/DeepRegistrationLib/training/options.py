"""What a training is started with, and what has to stay the same when it is resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..catalogue import PRECISIONS
from ..errors import InputError
from .checkpoint import CHECKPOINT, WEIGHTS, Checkpoint, load_checkpoint

_IDENTITY = (
    *("method", "configuration", "data", "steps", "dimension", "seed"),
    *("batch", "precision", "anneal", "guidance"),
)


@dataclass(frozen=True)
class TrainingOptions:
    """What to train, on what, for how long.

    Attributes:
        out: folder for checkpoint, weights, log and curve.
        method, configuration: names; None only when resuming.
        data: see `data.open_data`; None only when resuming.
        steps: optimiser steps in all; None takes the configuration's.
        seed: of everything random; None is 0.
        dimension: 2 or 3; None takes that of the data.
        shape: voxels, array order; None takes the data's or the configuration's.
        batch: pairs in a step, per process; None takes the configuration's.
        precision: of the networks' arithmetic: ``auto`` (half on GPUs that have it, None is the same),
            ``float32``, or ``bfloat16``, up to 1.6 times as fast on processors made for it.
        anneal: let the learning rate rise for a fiftieth of the steps and then fall to nothing along half a
            cosine, on top of the method's own schedule; None is False.
        guidance: weight of the distance from the known map, voxels, in the loss of a method that predicts
            maps; needs data that know it. None is 0, the method's own loss.
        start: weights file to begin with in the place of random ones: same method, configuration and
            dimension, any size of image; with `resume` it cannot be given again.
        resume: go on from the folder's checkpoint; what is None is then taken from it.
        max_minutes: stop, with a checkpoint, after that long.
        checkpoint_minutes: between two checkpoints.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: processor threads; None leaves torch's setting.
        half: write the weights as float16.
    """

    out: Path
    method: str | None = None
    configuration: str | None = None
    data: str | None = None
    steps: int | None = None
    seed: int | None = None
    dimension: int | None = None
    shape: tuple[int, ...] | None = None
    batch: int | None = None
    precision: str | None = None
    anneal: bool | None = None
    guidance: float | None = None
    start: Path | None = None
    resume: bool = False
    max_minutes: float | None = None
    checkpoint_minutes: float = 5.0
    device: str = "auto"
    threads: int | None = None
    half: bool = False

    def checked(self, processes: int) -> tuple[dict[str, Any], Checkpoint | None]:
        """What identifies the training (method, configuration, data, steps, dimension, seed, shape; None
        where it is not decided yet), and the checkpoint to go on from, if any.

        With it goes the number of processes it was started with, which decides how many pairs a step
        takes. Resumed with another number, a step still takes the same pairs, dealt out anew.

        Raises:
            InputError: numbers out of range, something missing, a folder that holds a training already,
                nothing to resume, or something else than what is resumed.
        """
        self._check_numbers()
        wanted = {name: getattr(self, name) for name in _IDENTITY}
        wanted["shape"] = None if self.shape is None else list(self.shape)
        if not self.resume:
            for name, flag in (("method", "--method"), ("configuration", "--config"), ("data", "--data")):
                if wanted[name] is None:
                    raise InputError(f"A training needs {flag}.")
            if (self.out / CHECKPOINT).exists():
                raise InputError(
                    f"{self.out} already holds a training; go on with --resume, or choose another folder."
                )
            if (self.out / WEIGHTS).exists():
                raise InputError(f"{self.out} holds the weights of a training; choose another folder.")
            return {**wanted, "seed": self.seed or 0, "processes": processes, "start": None}, None
        if self.start is not None:
            raise InputError("--start is for a new training; what is resumed has begun already.")
        before = load_checkpoint(self.out)
        if not {*wanted, "processes", "start"} <= before.settings.keys():
            raise InputError(f"{self.out / CHECKPOINT} does not say what is trained; it cannot be resumed.")
        for name, value in wanted.items():
            there = before.settings[name]
            if value is not None and value != there:
                raise InputError(
                    f"The training in {self.out} was started with {name} {there}, not {value}; resume it "
                    "with the same settings, or train in another folder."
                )
        return dict(before.settings), before

    def _check_numbers(self) -> None:
        checks: tuple[tuple[str, float | None, Callable[[float], bool], str], ...] = (
            ("steps", self.steps, lambda v: v >= 1, "at least 1"),
            ("batch", self.batch, lambda v: v >= 1, "at least 1"),
            ("guidance", self.guidance, lambda v: 0 <= v < float("inf"), "0 or more"),
            ("seed", self.seed, lambda v: 0 <= v < 2**63, "0 or more"),
            ("max-minutes", self.max_minutes, lambda v: v > 0, "above 0"),
            ("checkpoint-minutes", self.checkpoint_minutes, lambda v: v > 0, "above 0"),
        )
        for name, value, fits, what in checks:
            if value is not None and not fits(value):
                raise InputError(f"--{name} has to be {what}.")
        if self.precision not in (None, *PRECISIONS):
            raise InputError(f"--precision has to be one of {', '.join(PRECISIONS)}.")
