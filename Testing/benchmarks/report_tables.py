"""The report's table and its plot of accuracy against time, from the records `report.py` keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

Record = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A measure: its key in a record, its head, digits, and whether more of it is better."""

    key: str
    head: str
    digits: int
    more: bool = True


ACCURACY = (
    Column("mean_dice", "Dice", 4),
    Column("tre", "TRE mm", 2, False),
    Column("nmi", "NMI", 4),
)
"""What methods are ranked by: the first of these that all records have."""

_COLUMNS = (
    *ACCURACY[:1],
    Column("mean_hd95", "HD95 mm", 2, False),
    *ACCURACY[1:],
    Column("folds_percent", "folds %", 4, False),
    Column("inverse_mm", "inverse error mm", 3, False),
    Column("wall_s", "wall s", 1, False),
    Column("work_s", "without imports s", 1, False),
    Column("cpu_s", "CPU s", 1, False),
    Column("peak_mb", "peak MB", 0, False),
)


def measure_of(records: Sequence[Record]) -> Column:
    """The measure of accuracy that all records have."""
    return next(column for column in ACCURACY if all(column.key in record for record in records))


def by_method(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records in the order of the methods' medians, best first."""
    measure = measure_of(records)
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["method"], []).append(record)
    sign = -1 if measure.more else 1
    return dict(sorted(found.items(), key=lambda item: sign * median(r[measure.key] for r in item[1])))


def table(records: Sequence[Record]) -> str:
    """A Markdown table: medians over pairs, and in brackets the quartiles of what is accuracy."""
    columns = [column for column in _COLUMNS if any(column.key in record for record in records)]
    if measure_of(records).key != "nmi":
        columns = [column for column in columns if column.key != "nmi"]
    rows = [["method", "pairs", *(column.head for column in columns)]]
    for method, mine in by_method(records).items():
        cells = [
            _cell(column, [r[column.key] for r in mine if r.get(column.key) is not None])
            for column in columns
        ]
        rows.append([method, str(len(mine)), *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def _cell(column: Column, values: list[float]) -> str:
    if not values:
        return ""
    middle = f"{median(values):.{column.digits}f}"
    if column not in ACCURACY or len(values) < 3:
        return middle
    low, high = (f"{v:.{column.digits}f}" for v in np.percentile(values, (25, 75)))
    return f"{middle} ({low} to {high})"


def by_pair(records: Sequence[Record]) -> str:
    """A Markdown table of what accuracy is measured by, a method a row, a pair a column."""
    measure = measure_of(records)
    pairs = list(dict.fromkeys(record["pair"] for record in records))
    lines = ["| " + " | ".join([f"{measure.head} of pair", *pairs]) + " |", "|" + "---|" * (len(pairs) + 1)]
    for method, mine in by_method(records).items():
        values = {record["pair"]: f"{record[measure.key]:.{measure.digits}f}" for record in mine}
        lines.append("| " + " | ".join([method, *(values.get(pair, "") for pair in pairs)]) + " |")
    return "\n".join(lines)


def compared(records: Sequence[Record], start: str = "start") -> list[str]:
    """Sentences: in how many pairs predictions beat the start, and refined ones the refinement alone."""
    measure = measure_of(records)
    methods = {m: {r["pair"]: r for r in mine} for m, mine in by_method(records).items()}

    def against(name: str, other: str) -> str:
        shared = methods[name].keys() & methods[other].keys()
        gains = {p: methods[name][p][measure.key] - methods[other][p][measure.key] for p in shared}
        worse = sorted(p for p, gain in gains.items() if (gain < 0) == measure.more and gain != 0)
        better = sum((gain > 0) == measure.more and gain != 0 for gain in gains.values())
        told = f"{name} is better than {other} in {better} of {len(shared)} pairs"
        middle = f"{measure.head} {median(gains.values()):+.{measure.digits}f} in the median"
        return f"{told}, {middle}" + (f"; worse in {', '.join(worse)}" if worse else "")

    def seconds(name: str) -> float:
        return median(record["work_s"] for record in methods[name].values())

    lines = []
    for name in methods:
        method, _, preset = name.rpartition("-")
        other = start if preset == "prediction" else f"classical-{preset}"
        if name not in (start, other) and method and other in methods:
            times = "" if other == start else f"; {seconds(name):.1f} s against {seconds(other):.1f}"
            lines.append(f"{against(name, other)}{times}.")
    return lines


def plot(records: Sequence[Record], file: Path) -> None:
    """Accuracy against seconds (without imports), a point per method: its medians, quartiles as bars.

    Ours are discs, other tools squares; the legend goes from the best to the worst.

    Raises:
        ImportError: matplotlib is not there.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    measure = measure_of(records)
    figure, axes = pyplot.subplots(figsize=(11, 6))
    ranked = sorted(
        by_method(records).items(),
        key=lambda item: median(r[measure.key] for r in item[1]),
        reverse=measure.more,
    )
    for k, (method, mine) in enumerate(ranked):
        seconds, values = median(r["work_s"] for r in mine), [r[measure.key] for r in mine]
        middle = median(values)
        if seconds == 0:
            axes.axhline(middle, color="0.6", linestyle=":", linewidth=1, label=method)
            continue
        low, high = np.percentile(values, (25, 75))
        bars = [[max(0, middle - low)], [max(0, high - middle)]]
        marker = "o" if mine[0].get("ours") else "s"
        colour = pyplot.get_cmap("tab20")(k % 20)
        axes.errorbar(seconds, middle, yerr=bars, fmt=marker, color=colour, capsize=2, label=method)
    axes.set_xscale("log")
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis(ticker.FormatStrFormatter("%g"))
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    axes.set_xlabel("seconds (median; the time of starting and importing left out)")
    axes.set_ylabel(measure.head + " (median, quartiles)")
    if not measure.more:
        axes.invert_yaxis()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    unfinished = file.with_name(f"unfinished-{file.name}")
    figure.savefig(unfinished, dpi=120)
    pyplot.close(figure)
    unfinished.replace(file)
