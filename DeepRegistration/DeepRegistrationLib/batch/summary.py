"""How a batch went: a table of numbers, worst first, and a page to leaf through."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from ..atomic import write_text
from ..verdict import GOOD
from .entries import NUMBERS, Entry, ranked
from .names import PAGE, PICTURE, TABLE
from .page import written_page

_FORMULA = ("=", "+", "-", "@")
"""Cells that begin with these are computed by spreadsheets."""


def write_summary(entries: Sequence[Entry], folder: Path) -> None:
    """Write the table and the page; raises OutputError."""
    worst_first, measure = ranked(entries)
    pictures = [_picture(entry) for entry in worst_first]
    texts = {TABLE: _table(worst_first), PAGE: written_page(worst_first, pictures, measure)}
    for name, text in texts.items():
        # a file's name may hold bytes that are no text
        write_text(folder / name, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _picture(entry: Entry) -> bytes | None:
    try:
        return (entry.folder / PICTURE).read_bytes() if entry.state == "done" else None
    except OSError:
        return None


def _table(entries: Sequence[Entry]) -> str:
    columns = [name for name, _ in NUMBERS if any(e.number(name) is not None for e in entries)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", "name", "state", "verdict", "fixed", "moving", *columns, "findings", "error"))
    for entry in entries:
        options = entry.row.options
        numbers = [_cell(entry.number(column)) for column in columns]
        findings = " ".join(finding.text for finding in entry.findings if finding.level != GOOD)
        name, fixed, moving, findings, sentence = map(
            _text, (entry.row.name, options["fixed"], options["moving"], findings, entry.sentence)
        )
        start = (entry.row.number, name, entry.state, entry.level, fixed, moving)
        writer.writerow((*start, *numbers, findings, sentence))
    return text.getvalue()


def _text(value: str) -> str:
    """A cell of one line that spreadsheets take for text: an apostrophe before what would be a formula."""
    value = re.sub(r"[\t\r\n]+", " ", value).strip()
    return f"'{value}" if value.startswith(_FORMULA) else value


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
