"""`deepregistration batch`: many pairs, by worker processes or a Dask cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..batch.entries import Entry
from ..batch.names import PAGE, TABLE
from ..batch.pool import Outcome
from ..batch.rows import OPTIONS, Row, read_table, rows_of_files
from ..batch.run import run_batch
from ..errors import Cancelled, InputError
from ..overwriting import check_overwriting
from ..thread_count import check_threads
from .files import check_folder
from .progress import shown_progress
from .stopping import INTERRUPTED, stoppable
from .tables import table


def run(options: argparse.Namespace) -> int:
    """Do the rows, tell how each ended unless asked to be quiet; returns the exit code."""
    folder = Path(options.out)
    rows = _rows(options)
    check_folder(folder, (TABLE, PAGE))
    check_overwriting([folder / name for name in (TABLE, PAGE)], {"table": options.table})
    with stoppable() as cancel, shown_progress(options.quiet, options.json_progress) as progress:
        clear = getattr(progress, "clear", lambda: None)  # a bar makes room for the line

        def told(outcome: Outcome, over: int) -> None:
            if not outcome.done:
                clear()
                print(f"deepregistration: {outcome.name} failed: {outcome.sentence}", file=sys.stderr)
            elif not options.quiet and not options.json_progress:
                clear()
                print(f"{over} of {len(rows)}: {outcome.name}", flush=True)

        try:
            entries = run_batch(
                rows,
                folder,
                workers=options.workers,
                scheduler=options.scheduler,
                resume=options.resume,
                progress=progress,
                cancel=cancel,
                told=told,
                pair_minutes=options.pair_minutes,
            )
        except (Cancelled, KeyboardInterrupt):
            clear()
            print(
                "deepregistration: interrupted; what is finished stays. Go on with --resume.", file=sys.stderr
            )
            return INTERRUPTED
    failed = sum(entry.state != "done" for entry in entries)
    if not options.quiet and not options.json_progress:
        print(table(_totals(entries)))
        print(f"\nThe pairs are in {folder}; {PAGE} shows them, {TABLE} has the numbers.")
    if failed:
        print(f"deepregistration: error: {failed} of {len(rows)} pairs failed.", file=sys.stderr)
    return 1 if failed else 0


def _rows(options: argparse.Namespace) -> list[Row]:
    defaults = {key: value for key in OPTIONS if (value := getattr(options, key)) not in (None, False)}
    check_threads(options.threads, "--threads")
    if options.table is not None:
        if options.moving is not None:
            raise InputError("Give a table, or --fixed and --moving, but not both.")
        return read_table(options.table, defaults)
    if options.fixed is None or not options.moving:
        raise InputError("Give a table of pairs, or --fixed and --moving.")
    return rows_of_files(options.fixed, options.moving, defaults)


def _totals(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    """Means over the pairs that are done."""
    rows: list[tuple[str, ...]] = [("mean", "before", "after")]
    measures = (
        ("ncc", "correlation (NCC)", 3),
        ("dice", "Dice", 3),
        ("landmarks", "landmark error (mm)", 2),
    )
    for key, name, digits in measures:
        unit = "_mm" if key == "landmarks" else ""
        values = [[e.number(f"{key}_{when}{unit}") for e in entries] for when in ("before", "after")]
        known = [[v for v in column if v is not None] for column in values]
        if all(known):
            rows.append((name, *(f"{sum(column) / len(column):.{digits}f}" for column in known)))
    seconds = [v for e in entries if (v := e.number("seconds")) is not None]
    if seconds:
        rows.append(("seconds a pair", "", f"{sum(seconds) / len(seconds):.1f}"))
    return rows
