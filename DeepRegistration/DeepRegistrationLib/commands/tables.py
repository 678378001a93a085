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
    """The rows (what, before, after, inverse) of quality.json's numbers, as far as they are there.

    The last column is what the inverse transform makes: the fixed image on the moving one, measured there.
    """
    other = quality.get("moving_space") or {}
    rows: list[Row] = [("", "before", "after", "inverse")]

    def both(name: str, digits: int, *keys: str) -> None:
        """A row of something measured before and after; the last key comes after those."""
        group, last = keys[:-1], keys[-1]
        ways = (quality, "before"), (quality, "after"), (other, "after")
        rows.append((name, *(number(_at(of, *group, when, last), digits) for of, when in ways)))

    def afterwards(name: str, digits: int, *keys: str) -> None:
        rows.append((name, "", *(number(_at(of, *keys), digits) for of in (quality, other))))

    if quality.get("similarity"):
        both("correlation (NCC)", 3, "similarity", "ncc")
        both("mutual information (NMI)", 3, "similarity", "nmi")
    if quality.get("labels"):
        both("Dice, mean", 3, "labels", "dice_mean")
        both("95 % Hausdorff, mean (mm)", 2, "labels", "hd95_mean_mm")
    for kind, numbers in (quality.get("landmarks") or {}).items():
        if numbers:
            both(f"landmark error{_KINDS[kind]}, mean (mm)", 2, "landmarks", kind, "mean_mm")
            both(f"landmark error{_KINDS[kind]}, largest (mm)", 2, "landmarks", kind, "max_mm")
    afterwards("folds (% of voxels)", 4, "regularity", "folds_percent")
    afterwards("Jacobian determinant, smallest", 3, "regularity", "determinant_min")
    afterwards("Jacobian determinant, largest", 3, "regularity", "determinant_max")
    afterwards("SD of log Jacobian determinant", 3, "regularity", "log_determinant_sd")
    if quality.get("inverse_consistency"):
        afterwards("inverse consistency error, mean (mm)", 3, "inverse_consistency", "mean_mm")
        afterwards("inverse consistency error, largest (mm)", 3, "inverse_consistency", "max_mm")
    return rows


def _at(numbers: Any, *keys: str) -> float | None:
    for key in keys:
        numbers = numbers.get(key) if isinstance(numbers, dict) else None
    return numbers


_KINDS = {"fitted": " (fitted)", "held_out": " (not used)", "given": ""}


def label_rows(labels: dict[str, Any], other: dict[str, Any] | None = None) -> list[Row]:
    """A row per label: Dice and 95 % Hausdorff distance before and after, and after the inverse transform, of
    which `other` are the numbers, on the moving image."""
    ways = ((labels, "before"), (labels, "after"), (other or {}, "after"))
    titles = ("before", "after", "inverse")
    rows: list[Row] = [
        (
            "label",
            f"Dice {titles[0]}",
            *titles[1:],
            f"HD95 {titles[0]} (mm)",
            *(f"{t} (mm)" for t in titles[1:]),
        )
    ]
    for value in labels["after"]["dice"]:
        cells = [number(_at(of, when, "dice", value), 3) for of, when in ways]
        cells += [number(_at(of, when, "hd95_mm", value), 2) for of, when in ways]
        rows.append((value, *cells))
    return rows


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
