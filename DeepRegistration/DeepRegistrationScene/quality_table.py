"""The numbers of a registration as a table node: the command line's rows, and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import vtk
from DeepRegistrationLib.commands.tables import Row, number, quality_rows

from .changes import node_modified_once
from .geometry import Node

COLUMNS = ("Measure", "Before", "After", "Inverse")
NOT_MEASURED = "-"


def table_rows(quality: Mapping[str, Any], label_names: Mapping[str, str] | None = None) -> list[Row]:
    """Rows of text: measure with its unit, before, after, and what the inverse makes, on the moving image;
    `NOT_MEASURED` where there is no number.

    Args:
        quality: as quality.json has it.
        label_names: what label values ("1", "2", ...) are called; by default as the numbers say.
    """
    names = label_names if label_names is not None else quality.get("label_names") or {}
    rows = [*quality_rows(dict(quality))[1:], *_structures(quality, names)]
    rows += _landmarks(quality)
    rows += _run(quality)
    return [(row[0][:1].upper() + row[0][1:], *(cell or NOT_MEASURED for cell in row[1:])) for row in rows]


def fill_table(node: Node, quality: Mapping[str, Any], label_names: Mapping[str, str] | None = None) -> Node:
    """Let a table node show `table_rows`; whatever it held before is replaced."""
    return fill_rows(node, COLUMNS, table_rows(quality, label_names))


def fill_rows(node: Node, titles: Sequence[str], rows: Sequence[Row]) -> Node:
    """Let a table node show rows of text, and not be typed over."""
    with node_modified_once(node):
        node.SetLocked(False)
        node.RemoveAllColumns()
        for name, cells in zip(titles, zip(*rows, strict=True), strict=True):
            values = vtk.vtkStringArray()
            values.SetName(name)
            for cell in cells:
                values.InsertNextValue(cell)
            node.AddColumn(values)
        node.SetUseColumnTitleAsColumnHeader(True)
        node.SetUseFirstColumnAsRowHeader(False)
        node.SetLocked(True)
    return node


def _structures(quality: Mapping[str, Any], names: Mapping[str, str]) -> list[Row]:
    labels, other = (of.get("labels") or {} for of in (quality, quality.get("moving_space") or {}))
    rows: list[Row] = []
    for key, what, digits in (("dice", "Dice", 3), ("hd95_mm", "95 % Hausdorff (mm)", 2)) if labels else ():
        before, after = labels["before"][key], labels["after"][key]
        inverse = other["after"][key] if other else {}
        for value in dict.fromkeys((*before, *after)):
            cells = (number(numbers.get(value), digits) for numbers in (before, after, inverse))
            rows.append((f"{what}, {names.get(value, f'label {value}')}", *cells))
    return rows


def _landmarks(quality: Mapping[str, Any]) -> list[Row]:
    landmarks, other = (of.get("landmarks") or {} for of in (quality, quality.get("moving_space") or {}))
    rows: list[Row] = []
    for kind, what in (("fitted", "landmark"), ("held_out", "landmark (not used)"), ("given", "landmark")):
        numbers, inverse = landmarks.get(kind), other.get(kind)
        for name in numbers["after"]["each_mm"] if numbers else ():
            parts = numbers["before"], numbers["after"], inverse["after"] if inverse else {"each_mm": {}}
            cells = (number(part["each_mm"].get(name), 2) for part in parts)
            rows.append((f"{what} {name} (mm)", *cells))
    return rows


def _run(quality: Mapping[str, Any]) -> list[Row]:
    """What was run, how long it took and where."""
    choices: Mapping[str, Any] = quality.get("parameters") or {}
    rows: list[tuple[str, str]] = []
    for key, what in (
        ("method", "method"),
        ("representation", "transform representation"),
        ("preset", "preset"),
        ("similarity_used", "similarity"),
        ("linear", "linear stage"),
    ):
        if choices.get(key):
            rows.append((what, str(choices[key])))
    seconds = (quality.get("seconds") or {}).get("total")
    if seconds is not None:
        rows.append(("time (s)", number(seconds, 1)))
    if quality.get("device"):
        threads = quality.get("threads")
        device = str(quality["device"])
        if quality.get("device_type") == "cpu" and threads:
            device += f", {threads} {'thread' if threads == 1 else 'threads'}"
        rows.append(("device", device))
    if quality.get("peak_memory_mb") is not None:
        rows.append(("peak memory (MB)", number(quality["peak_memory_mb"], 0)))
    return [(what, "", cell, "") for what, cell in rows]
