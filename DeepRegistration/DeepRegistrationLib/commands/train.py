"""`deepregistration train`: one loop for all methods."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..progress import CancelToken
from ..training.checkpoint import CHECKPOINT
from ..training.log import CURVE, TEXT
from ..training.loop import WEIGHTS, TrainingResult, train
from ..training.options import TrainingOptions
from .files import check_folder
from .progress import shown_progress
from .tables import Row, table

_INTERRUPTED = 130


def run(options: argparse.Namespace) -> int:
    """Train, and say how it ended unless asked to be quiet; returns the exit code."""
    folder = Path(options.out)
    check_folder(folder)
    quiet = options.quiet or int(os.environ.get("RANK") or 0) > 0  # one of several processes speaks
    with _stoppable() as cancel, shown_progress(quiet, json_lines=False) as progress:
        result = train(
            TrainingOptions(
                folder,
                options.method,
                options.config,
                options.data,
                options.steps,
                options.seed,
                options.dimension,
                None if options.shape is None else tuple(options.shape),
                options.resume,
                options.max_minutes,
                options.checkpoint_minutes,
                options.device,
                options.threads,
                options.half,
            ),
            progress=progress,
            cancel=cancel,
        )
    if not quiet:
        _tell(result, folder)
    return _INTERRUPTED if result.reason == "interrupted" else 0


def _tell(result: TrainingResult, folder: Path) -> None:
    if result.validation:
        print(table(_rows(result)))
    done = f"{result.step} of {result.steps} steps, {result.seconds / 60:.1f} minutes"
    how = {"finished": "Trained", "time": "Time is over", "interrupted": "Interrupted"}[result.reason]
    print(f"\n{how}: {done}; {WEIGHTS}, {CHECKPOINT}, {TEXT} and {CURVE} are in {folder}")
    if result.skipped:
        print(f"{result.skipped} steps were skipped because their gradient was not a finite number.")
    if result.step < result.steps:
        print(f"Go on with: deepregistration train --resume --out {folder}")


def _rows(result: TrainingResult) -> list[Row]:
    numbers = result.validation
    rows: list[Row] = [(f"held-out pairs ({numbers['pairs']})", "before", "after")]
    for key, name, digits in (("dice", "Dice, mean", 3), ("mse", "mean squared difference", 5)):
        if f"{key}_after" in numbers:
            values = (f"{numbers[f'{key}_{when}']:.{digits}f}" for when in ("before", "after"))
            rows.append((name, *values))
    rows.append(("folds (% of voxels)", "", f"{numbers['folds_percent']:.4f}"))
    return rows


@contextmanager
def _stoppable() -> Iterator[CancelToken]:
    """A token that the first interrupt or polite kill sets; the second one interrupts at once."""
    cancel = CancelToken()
    if threading.current_thread() is not threading.main_thread():
        yield cancel
        return

    def stop(number: int, frame: object) -> None:
        if cancel.cancelled:
            raise KeyboardInterrupt
        cancel.cancel()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
