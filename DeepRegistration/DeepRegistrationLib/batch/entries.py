"""What there is to say about each row of a batch, and which went worst."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..catalogue import ACROSS_CONTRASTS, SIMILARITIES
from ..verdict import Sentence, summed_up, verdict
from .names import RECORD
from .pool import Outcome
from .rows import Row

# column, and where in quality.json it comes from; "inverse" is what inverse.h5 does to the fixed image
NUMBERS = (
    ("ncc_before", ("similarity", "before", "ncc")),
    ("ncc_after", ("similarity", "after", "ncc")),
    ("nmi_before", ("similarity", "before", "nmi")),
    ("nmi_after", ("similarity", "after", "nmi")),
    ("ncc_inverse", ("moving_space", "similarity", "after", "ncc")),
    ("nmi_inverse", ("moving_space", "similarity", "after", "nmi")),
    ("dice_before", ("labels", "before", "dice_mean")),
    ("dice_after", ("labels", "after", "dice_mean")),
    ("dice_inverse", ("moving_space", "labels", "after", "dice_mean")),
    ("hd95_before_mm", ("labels", "before", "hd95_mean_mm")),
    ("hd95_after_mm", ("labels", "after", "hd95_mean_mm")),
    ("hd95_inverse_mm", ("moving_space", "labels", "after", "hd95_mean_mm")),
    ("landmarks_before_mm", ("landmarks", "fitted", "before", "mean_mm")),
    ("landmarks_after_mm", ("landmarks", "fitted", "after", "mean_mm")),
    ("folds_percent", ("regularity", "folds_percent")),
    ("folds_inverse_percent", ("moving_space", "regularity", "folds_percent")),
    ("determinant_min", ("regularity", "determinant_min")),
    ("determinant_max", ("regularity", "determinant_max")),
    ("inverse_error_mean_mm", ("inverse_consistency", "mean_mm")),
    ("seconds", ("seconds", "total")),
)
_ONE_CONTRAST = SIMILARITIES.keys() - {"auto", *ACROSS_CONTRASTS}


@dataclass(frozen=True)
class Entry:
    """What there is to say about a row.

    Attributes:
        row: which.
        state: ``done``, ``failed``, or ``missing`` if nobody came to it.
        sentence: why it failed.
        folder: of its results.
        quality: as quality.json; empty unless done.
        files: what the results are called, by their usual names.
        details: of an error in the program, for whoever mends it.
    """

    row: Row
    state: str
    sentence: str
    folder: Path
    quality: dict[str, Any]
    files: dict[str, str]
    details: str = ""

    @property
    def findings(self) -> list[Sentence]:
        """What its numbers mean, the gravest first."""
        return verdict(self.quality)

    @property
    def level(self) -> str:
        """Of the gravest finding; empty unless done."""
        return summed_up(self.quality)["level"] if self.state == "done" else ""

    def number(self, column: str) -> float | None:
        """A number of the table; None where it was not measured."""
        value: Any = self.quality
        for key in dict(NUMBERS)[column]:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, int | float) and math.isfinite(value) else None


def entry_of(row: Row, folder: Path, outcome: Outcome | None) -> Entry:
    """The entry of a row whose results lie in `folder`, if any."""
    if outcome is None or not outcome.done:
        state = "missing" if outcome is None else "failed"
        sentence, details = (outcome.sentence, outcome.details) if outcome else ("It was not done.", "")
        return Entry(row, state, sentence, folder, {}, {}, details)
    try:
        files = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        quality = json.loads((folder / files["quality.json"]).read_text(encoding="utf-8"))
        fine = all(isinstance(value, dict) for value in (files, quality, quality.get("parameters", {})))
        if not fine or not all(isinstance(text, str) for text in quality.get("warnings", [])):
            raise ValueError("they are damaged")
        verdict(quality)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Entry(row, "failed", f"Its results cannot be read ({error}).", folder, {}, {})
    return Entry(row, "done", "", folder, quality, files)


def ranked(entries: Sequence[Entry]) -> tuple[list[Entry], str]:
    """The entries, worst first, and by what.

    Those without results come first, then those without the number that most have: the mean overlap of labels
    or else the mean landmark error; otherwise the images' correlation, or their mutual information where a
    pair has two contrasts.
    """
    done = [entry for entry in entries if entry.state == "done"]
    used = {e.quality.get("parameters", {}).get("similarity_used") for e in done} - {None}
    measures: tuple[tuple[str, str, bool], ...] = (
        ("dice_after", "Dice", False),
        ("landmarks_after_mm", "landmark error", True),
        ("ncc_after", "correlation", False),
        ("nmi_after", "mutual information", False),
    )
    for column, name, large_is_bad in measures:
        if column == "ncc_after" and not used <= _ONE_CONTRAST:
            continue
        if 2 * sum(entry.number(column) is not None for entry in done) > len(done):
            return sorted(entries, key=_badness(column, large_is_bad)), name
    return sorted(entries, key=lambda entry: entry.state == "done"), "order"


def _badness(column: str, large_is_bad: bool) -> Callable[[Entry], tuple[bool, bool, float]]:
    def key(entry: Entry) -> tuple[bool, bool, float]:
        value = entry.number(column)
        order = 0.0 if value is None else -value if large_is_bad else value
        return entry.state == "done", value is not None, order

    return key
