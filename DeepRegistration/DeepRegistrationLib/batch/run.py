"""A batch from rows to a summary: what is there already is kept, the rest is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, OutputError
from ..folder_lock import locked
from ..overwriting import check_overwriting
from ..progress import CancelToken, ProgressCallback, Reporter
from .entries import Entry, entry_of
from .names import PAGE, TABLE
from .pair import Task, finished, remove_unfinished
from .pool import Outcome, Pool
from .rows import FILES, Row, check_rows
from .size import workers_for
from .summary import write_summary

if TYPE_CHECKING:
    from .cluster import Cluster


LONGEST_MINUTES = 24 * 60.0
"""For a pair, unless somebody says otherwise: none needs so long that does not hang."""


def run_batch(
    rows: Sequence[Row],
    folder: str | Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    resume: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    told: Callable[[Outcome, int], None] | None = None,
    picture: bool = True,
    pair_minutes: float | None = LONGEST_MINUTES,
) -> list[Entry]:
    """Register every row's pair.

    Each pair's results appear in ``folder/NAME`` when they are complete. At the end, however it comes, there
    are ``summary.csv`` and ``summary.html`` of what is there, worst first. The results do not depend on who
    computes them or beside how many: a row's threads (1 unless it says otherwise) and seed are fixed.

    Args:
        rows: what to do; checked first.
        folder: where the results go.
        workers: processes on this machine; None takes as many as processors and memory allow.
        scheduler: address of a Dask cluster that is to do the work instead.
        resume: whether finished pairs may be there; they are kept, failed ones and those that have lost
            files are done again.
        progress, cancel: as of `pipeline.register`; the stage says how many pairs are over.
        told: called with each outcome and how many rows are over with it.
        picture: whether each pair gets one.
        pair_minutes: after which a pair that is not finished is given up, as one that fails; None is never.

    Returns:
        What there is to say about each row, in the rows' order.

    Raises:
        InputError: a row that cannot work, or a folder with something else in it; nothing has begun.
        NotAvailableError: no cluster.
        OutputError: results cannot be written, so it makes no sense to go on.
        Cancelled: the token was set; what was finished stays, and `resume` goes on from there.
    """
    folder, report = Path(folder), Reporter(progress, cancel)
    check_rows(rows)
    if not rows:
        raise InputError("There is nothing to do.")
    if workers is not None and workers < 1:
        raise InputError("The number of workers must be at least one.")
    check_minutes(pair_minutes)
    for row in rows:
        inputs = {key: row.options.get(key) for key in FILES}
        check_overwriting([folder / name for name in (TABLE, PAGE)], inputs)
    with locked(folder):
        remove_unfinished(folder)
        tasks = {row.name: Task.of(row, folder, picture, pair_minutes) for row in rows}
        over = {name: Outcome(name, True) for name, task in tasks.items() if finished(task)}
        there = sum(task.folder.exists() for task in tasks.values())
        if there and not resume:
            raise InputError(
                f"{folder} holds {there} of these {len(rows)} pairs already; "
                "go on with --resume, or choose another folder."
            )
        todo = [task for name, task in tasks.items() if name not in over]
        try:
            if todo:
                _work(todo, rows, over, workers, scheduler, report, told)
        finally:
            remove_unfinished(folder)  # of processes that died meanwhile
            entries = [entry_of(row, folder / row.name, over.get(row.name)) for row in rows]
            write_summary(entries, folder)
    report("Done", 1.0)
    return entries


def check_minutes(minutes: float | None) -> None:
    """Raise InputError unless a limit for a pair is a positive number of minutes, or None."""
    if minutes is not None and not 0 < minutes < float("inf"):
        raise InputError("The minutes for a pair must be a number above 0.")


def _work(
    todo: Sequence[Task],
    rows: Sequence[Row],
    over: dict[str, Outcome],
    workers: int | None,
    scheduler: str | None,
    report: Reporter,
    told: Callable[[Outcome, int], None] | None,
) -> None:
    before = len(over)

    def moved(done: float) -> None:
        report(f"{len(over)} of {len(rows)} pairs", (before + done) / len(rows))

    moved(0)
    hands: Pool | Cluster
    if scheduler is None:
        hands = Pool(workers or workers_for([row for row in rows if row.name not in over]))
    else:
        from .cluster import Cluster

        hands = Cluster(scheduler)
    try:
        with closing(hands.run(todo, moved)) as outcomes:
            for outcome in outcomes:
                over[outcome.name] = outcome
                if told is not None:
                    told(outcome, len(over))
                if outcome.kind == "output":
                    raise OutputError(outcome.sentence)
    finally:
        hands.close()
