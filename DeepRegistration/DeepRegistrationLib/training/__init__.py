"""Training: one loop for all methods. `TASKS` holds what can be trained, by method name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from .base import Batch, Stage, TrainingTask

_PLACES = {
    "dio": "methods.dio.training",
    "gradicon": "methods.gradicon.training",
    "nephi": "methods.nephi.training",
    "nsvf-r2net": "methods.r2net.training:NSVF_TASK",
    "sitreg": "methods.sitreg.training",
    "svf-r2net": "methods.r2net.training:SVF_TASK",
}
"""The module of a method's task, and what it is called there unless that is ``TASK``."""


class _Tasks(Mapping[str, TrainingTask]):
    """Imports a method's task when it is asked for: the tasks themselves import this package."""

    def __getitem__(self, name: str) -> TrainingTask:
        package = __package__.rpartition(".")[0]
        module, _, attribute = _PLACES[name].partition(":")
        return getattr(import_module(f"{package}.{module}"), attribute or "TASK")

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


TASKS: Mapping[str, TrainingTask] = _Tasks()

__all__ = ["TASKS", "Batch", "Stage", "TrainingTask"]
