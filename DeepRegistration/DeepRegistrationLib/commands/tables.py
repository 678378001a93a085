"""Numbers as text a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = tuple[str, ...]


def table(rows: Sequence[Row]) -> str:
    """Rows of equal length as aligned columns; the first to the left, the others to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def quality_rows(quality: dict[str, Any]) -> list[Row]:
    """The rows (what, before, after) of quality.json's numbers, as far as they are there."""
    rows: list[Row] = [("", "before", "after")]
    similarity = quality.get("similarity", {})
    for key, name in (("ncc", "correlation (NCC)"), ("nmi", "mutual information (NMI)")):
        if similarity:
            rows.append((name, *(number(similarity[when][key], 3) for when in ("before", "after"))))
    labels = quality.get("labels")
    if labels:
        for key, name, digits in (
            ("dice_mean", "Dice, mean", 3),
            ("hd95_mean_mm", "95 % Hausdorff, mean (mm)", 2),
        ):
            rows.append((name, *(number(labels[when][key], digits) for when in ("before", "after"))))
    landmarks = quality.get("landmarks", {})
    for kind, numbers in landmarks.items():
        for key, name in (("mean_mm", "mean"), ("max_mm", "largest")):
            if numbers:
                what = f"landmark error{_KINDS[kind]}, {name} (mm)"
                rows.append((what, *(number(numbers[when][key], 2) for when in ("before", "after"))))
    regularity = quality["regularity"]
    rows.append(("folds (% of voxels)", "", number(regularity["folds_percent"], 4)))
    for key, name in (("determinant_min", "smallest"), ("determinant_max", "largest")):
        rows.append((f"Jacobian determinant, {name}", "", number(regularity[key], 3)))
    rows.append(("SD of log Jacobian determinant", "", number(regularity["log_determinant_sd"], 3)))
    consistency = quality.get("inverse_consistency")
    if consistency:
        for key, name in (("mean_mm", "mean"), ("max_mm", "largest")):
            rows.append((f"inverse consistency error, {name} (mm)", "", number(consistency[key], 3)))
    return rows


_KINDS = {"fitted": " (fitted)", "held_out": " (not used)", "given": ""}


def label_rows(labels: dict[str, Any]) -> list[Row]:
    """A row per label: Dice and 95 % Hausdorff distance before and after."""
    rows: list[Row] = [("label", "Dice before", "after", "HD95 before (mm)", "after (mm)")]
    for value in labels["after"]["dice"]:
        numbers = [(labels[when]["dice"].get(value), 3) for when in ("before", "after")]
        numbers += [(labels[when]["hd95_mm"].get(value), 2) for when in ("before", "after")]
        rows.append((value, *(number(*pair) for pair in numbers)))
    return rows


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
