"""`deepregistration template`: the average of many images, of shape and of intensity."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..batch.names import stem
from ..batch.pool import Outcome
from ..batch.rows import matched
from ..errors import Cancelled, InputError
from ..template.average import Numbers, Source
from ..template.build import MAPS, Work, build_template, template_name
from ..thread_count import check_threads
from .files import check_folder
from .progress import shown_progress
from .stopping import INTERRUPTED, stoppable
from .tables import Row, number, table

_OPTIONS = (
    "method",
    "representation",
    "similarity",
    "preset",
    "linear",
    "weights",
    "device",
    "threads",
    "seed",
    "output_spacing",
    "symmetric",
    "stiffness",
    "regularity",
)


def run(options: argparse.Namespace) -> int:
    """Build the template, tell each iteration's numbers unless asked to be quiet; returns the exit code."""
    folder = Path(options.out)
    check_threads(options.threads, "--threads")
    sources = _sources(options.images, options.labels)
    check_folder(folder, [template_name(k) for k in range(max(0, options.iterations) + 1)])
    chosen = {key: value for key in _OPTIONS if (value := getattr(options, key)) is not None}
    if "weights" in chosen:
        chosen["weights"] = os.path.abspath(chosen["weights"])
    numbers: list[Numbers] = []
    with stoppable() as cancel, shown_progress(options.quiet, options.json_progress) as progress:
        clear = getattr(progress, "clear", lambda: None)

        def told(outcome: Outcome, over: int) -> None:
            if not outcome.done:
                clear()
                print(f"deepregistration: {outcome.name} failed: {outcome.sentence}", file=sys.stderr)

        def counted(iteration: int, of_it: Numbers) -> None:
            numbers.append(of_it)
            if not options.quiet and not options.json_progress:
                clear()
                print(_line(iteration, of_it), flush=True)

        try:
            build_template(
                sources,
                folder,
                options.iterations,
                chosen,
                Work(options.workers, options.scheduler, told, options.pair_minutes),
                options.resume,
                options.keep,
                progress,
                cancel,
                counted,
            )
        except (Cancelled, KeyboardInterrupt):
            clear()
            print(
                "deepregistration: interrupted; what is finished stays. Go on with --resume.", file=sys.stderr
            )
            return INTERRUPTED
    if not options.quiet and not options.json_progress:
        print("\n" + table(_rows(numbers)))
        last = template_name(len(numbers) - 1)
        print(f"\nThe template is {folder / last}; {folder / MAPS} has the maps to the images.")
    return 0


def _sources(images: Sequence[str], labels: str | None) -> list[Source]:
    sources, names = [], set()
    for path, fill in matched(images):
        name = stem(path)
        if name.casefold() in names:
            raise InputError(f"Two images have the name {name}; give them different ones.")
        names.add(name.casefold())
        of_it = None if labels is None else Path(os.path.abspath(fill(labels)))
        sources.append(Source(name, Path(os.path.abspath(path)), of_it))
    if labels is not None and len({source.labels for source in sources}) < len(sources):
        raise InputError(
            "--labels needs a star that stands for what the images' star stands for, or a folder."
        )
    return sources


def _line(iteration: int, numbers: Numbers) -> str:
    overlap = "" if numbers.dice is None else f", Dice {numbers.dice:.3f}"
    return (
        f"{template_name(iteration)}: sharpness {numbers.sharpness:.4f}, similarity {numbers.similarity:.3f}"
        f"{overlap}, {numbers.shift_mm:.2f} mm taken out"
    )


def _rows(numbers: Sequence[Numbers]) -> list[Row]:
    rows: list[Row] = [("iteration", "sharpness (1/mm)", "similarity", "Dice", "taken out (mm)")]
    for k, of_it in enumerate(numbers):
        values = ((of_it.sharpness, 4), (of_it.similarity, 3), (of_it.dice, 3), (of_it.shift_mm, 2))
        rows.append((f"{k} (affine)" if k == 0 else str(k), *(number(*value) for value in values)))
    return rows
