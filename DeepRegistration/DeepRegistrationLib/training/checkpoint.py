"""Checkpoints: everything a training needs to go on as if it had not stopped.

All randomness of a training is a function of its seed and the step, so the step is the only random
state there is to keep; network, optimiser and the scale of mixed precision are the rest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..atomic import atomic_path
from ..errors import InputError
from ..plain_archive import read_plain

CHECKPOINT, WEIGHTS = "checkpoint.pt", "weights.pt"
_FORMAT = "deepregistration-checkpoint-3"
_STATES = ("settings", "network", "optimiser", "scaler", "record")


@dataclass(frozen=True)
class Checkpoint:
    """Where a training stands.

    Attributes:
        settings: what it was started with, JSON values.
        step: steps done.
        seconds: spent so far.
        stage: index of the stage the network and the optimiser belong to.
        network: state of the network.
        optimiser: state of the optimiser.
        scaler: state of the gradient scaler of mixed precision, empty without one.
        skipped: steps left out so far because something was not a finite number.
        record: numbers for the weights file (latest losses, validation), JSON values.
    """

    settings: dict[str, Any]
    step: int
    seconds: float
    stage: int
    network: dict[str, Any]
    optimiser: dict[str, Any]
    scaler: dict[str, Any] = field(default_factory=dict)
    skipped: int = 0
    record: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint.pt`` in the folder, whole or not at all; raises OutputError."""
    content = {**vars(checkpoint), "format": _FORMAT}
    for name in ("settings", "record"):
        content[name] = json.dumps(content[name])
    with atomic_path(folder / CHECKPOINT) as temporary:
        torch.save(content, temporary)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read the folder's checkpoint; tensors are on the CPU.

    Raises:
        InputError: there is none, or it is damaged or something else.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise InputError(f"{folder} holds no training to resume: there is no {CHECKPOINT} in it.")
    content = read_plain(path, "checkpoint")
    if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
        raise InputError(f"{path} is not a checkpoint of this version of the program.")
    try:
        for name in ("settings", "record"):
            content[name] = json.loads(content[name])
        checkpoint = Checkpoint(**content)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged.") from error
    counts = (checkpoint.step, checkpoint.stage, checkpoint.skipped)
    states = [getattr(checkpoint, name) for name in _STATES]
    if not all(type(n) is int and n >= 0 for n in counts) or not all(isinstance(s, dict) for s in states):
        raise InputError(f"{path} is damaged.")
    return checkpoint
