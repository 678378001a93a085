"""What became of many moving volumes, as a table node: a row for each, worst first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from DeepRegistrationLib.catalogue import ACROSS_CONTRASTS
from DeepRegistrationLib.commands.tables import number
from DeepRegistrationLib.errors import RegistrationError
from DeepRegistrationLib.verdict import BAD, GOOD, LOOK, Sentence, verdict

from .changes import changes
from .geometry import Node
from .quality_table import fill_rows
from .results import RegistrationNodes

FAILED, NOT_DONE = "failed", "not done"
STATES = {GOOD: "good", LOOK: "worth a look", BAD: "bad", FAILED: "failed", NOT_DONE: "not done"}
"""What became of a volume, in words."""

VOLUME, VERDICT, SENTENCE = "Moving volume", "Verdict", "First to look at"
NUMBERS = (
    ("NCC before", ("similarity", "before", "ncc"), 3),
    ("NCC after", ("similarity", "after", "ncc"), 3),
    ("NMI before", ("similarity", "before", "nmi"), 3),
    ("NMI after", ("similarity", "after", "nmi"), 3),
    ("Folds (%)", ("regularity", "folds_percent"), 4),
    ("Smallest determinant", ("regularity", "determinant_min"), 3),
    ("Inverse error (mm)", ("inverse_consistency", "mean_mm"), 3),
    ("Time (s)", ("seconds", "total"), 1),
)
"""Columns of numbers: title, where in quality.json, digits."""

COLUMNS = (VOLUME, VERDICT, *(title for title, _, _ in NUMBERS), SENTENCE)

_ORDER = (FAILED, NOT_DONE, BAD, LOOK, GOOD)


@dataclass(frozen=True)
class Outcome:
    """What became of one moving volume.

    Attributes:
        moving: its node.
        name: its name when all began.
        nodes: what the registration left in the scene; None if there was none.
        error: why there was none.
        tried: False where nobody came to it.
    """

    moving: Node
    name: str
    nodes: RegistrationNodes | None = None
    error: RegistrationError | None = None
    tried: bool = True

    @property
    def state(self) -> str:
        """One of `STATES`."""
        if self.nodes is None:
            return FAILED if self.tried else NOT_DONE
        findings = self._findings()
        return findings[0].level if findings else LOOK

    @property
    def sentence(self) -> str:
        """The error, or the first finding that asks for a look, or else the first."""
        if self.nodes is None:
            return str(self.error)
        findings = self._findings()
        return findings[0].text if findings else ""

    def number(self, keys: Sequence[str]) -> float | None:
        """One of the quality's numbers; None where it was not measured."""
        value: Any = {} if self.nodes is None else self.nodes.quality
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, int | float) and math.isfinite(value) else None

    def _findings(self) -> list[Sentence]:
        return [] if self.nodes is None else verdict(self.nodes.quality)


def worst_first(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """First what failed, then what nobody came to, then by verdict.

    Within a verdict the images that are least alike come first: by correlation, or by mutual information if
    any pair was compared across contrasts.
    """
    across = any(
        (outcome.nodes.quality.get("parameters") or {}).get("similarity_used") in ACROSS_CONTRASTS
        for outcome in outcomes
        if outcome.nodes is not None
    )
    keys = ("similarity", "after", "nmi" if across else "ncc")

    def badness(outcome: Outcome) -> tuple[int, float]:
        alike = outcome.number(keys)
        return _ORDER.index(outcome.state), -math.inf if alike is None else alike

    return sorted(outcomes, key=badness)


def table_cells(outcome: Outcome) -> tuple[str, ...]:
    """A row of the table, under `COLUMNS`."""
    numbers = ("" if outcome.nodes is None else number(outcome.number(k), d) for _, k, d in NUMBERS)
    return outcome.name, STATES[outcome.state], *numbers, outcome.sentence


def fill_many_table(outcomes: Sequence[Outcome], fixed: Node, node: Node | None = None) -> Node:
    """Let a table node show what became of the moving volumes of `fixed`; None makes one.

    Raises:
        OutputError: the scene refused the node. On any failure the scene is left as it was.
    """
    rows = [table_cells(outcome) for outcome in worst_first(outcomes)]
    with changes() as change:
        if node is None or not change.scene.IsNodePresent(node):
            node = change.add("vtkMRMLTableNode", f"{fixed.GetName()} registrations")
        else:
            change.keep(node)
        fill_rows(node, COLUMNS, rows)
    return node


def rows_of(node: Node | None) -> list[dict[str, str]]:
    """The rows of a table that `fill_many_table` has filled, by column; none of any other table."""
    if node is None:
        return []
    names = [node.GetColumnName(k) for k in range(node.GetNumberOfColumns())]
    if tuple(names) != COLUMNS:
        return []
    return [
        {name: node.GetCellText(row, k) for k, name in enumerate(names)}
        for row in range(node.GetNumberOfRows())
    ]
