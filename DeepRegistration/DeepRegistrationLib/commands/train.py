"""`deepregistration train`: one loop for all methods."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..overwriting import check_overwriting
from ..progress import Progress, ProgressCallback
from ..thread_count import check_threads
from ..training.checkpoint import CHECKPOINT, WEIGHTS
from ..training.data import GENERATED
from ..training.log import CURVE, ROWS, TEXT
from ..training.loop import TrainingResult, train
from ..training.options import TrainingOptions
from .files import check_folder
from .progress import shown_progress
from .stopping import INTERRUPTED, stoppable
from .tables import Row, table


def run(options: argparse.Namespace) -> int:
    """Train, and say how it ended unless asked to be quiet; returns the exit code."""
    folder = Path(options.out)
    check_folder(folder, (WEIGHTS, CHECKPOINT, TEXT, ROWS, CURVE))
    check_threads(options.threads, "--threads")
    check_overwriting([folder / name for name in (WEIGHTS, CHECKPOINT)], {"weights": options.start})
    quiet = options.quiet or int(os.environ.get("RANK") or 0) > 0  # one of several processes speaks
    flat = options.dimension is None and options.shape is None and not options.resume
    flat = flat and not quiet and (options.data or "").startswith(GENERATED)
    with stoppable() as cancel, shown_progress(quiet, json_lines=False) as progress:
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
                options.batch,
                options.precision,
                True if options.anneal else None,
                options.guidance,
                None if options.start is None else Path(options.start),
                options.resume,
                options.max_minutes,
                options.checkpoint_minutes,
                options.device,
                options.threads,
                options.half,
            ),
            progress=_saying_flat(progress) if flat else progress,
            cancel=cancel,
        )
    if not quiet:
        _tell(result, folder)
    return INTERRUPTED if result.reason == "interrupted" else 0


def _saying_flat(progress: ProgressCallback | None) -> ProgressCallback:
    """A callback that says at the first step, when all options are found good, what nobody may have meant."""
    said = False

    def report(step: Progress) -> None:
        nonlocal said
        if not said:
            getattr(progress, "clear", lambda: None)()
            print("The network will be for 2-D images; --dimension 3 makes one for volumes.", flush=True)
            said = True
        if progress is not None:
            progress(step)

    return report


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
