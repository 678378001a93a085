"""Curves as pictures: where the ink is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegistrationLib.errors import OutputError
from DeepRegistrationLib.training.curve import _COLOURS, Panel, draw_curves, draw_panels


def pixels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(int)


def ink(picture: np.ndarray, number: int) -> np.ndarray:
    """Rows and columns that have exactly a curve's colour, the legend's lines left out; (N, 2)."""
    colour = np.round(np.array(_COLOURS[number]) * 255).astype(int)
    found = np.argwhere((np.abs(picture - colour) <= 2).all(-1))
    return found[found[:, 0] > 50]


def test_a_falling_curve_falls_and_a_level_one_is_level(tmp_path: Path) -> None:
    x = list(range(50))
    draw_curves(
        tmp_path / "c.png", {"falling": (x, [-v for v in x]), "level": (x, [-20.0] * 50)}, "T", "X", "Y"
    )
    picture = pixels(tmp_path / "c.png")
    falling, level = ink(picture, 0), ink(picture, 1)
    assert np.corrcoef(falling.T)[0, 1] > 0.999  # rows count downwards
    assert np.ptp(level[:, 0]) <= 3 and np.ptp(level[:, 1]) > 600
    lowest, highest = falling[falling[:, 1].argmax(), 0], falling[falling[:, 1].argmin(), 0]
    # -20 lies 20 / 49 of the way down
    assert (level[:, 0].mean() - highest) / (lowest - highest) == pytest.approx(20 / 49, abs=0.02)


def test_an_exponential_is_straight_on_a_logarithmic_axis(tmp_path: Path) -> None:
    x = np.arange(60)
    y = 10.0 ** (-x / 20)
    draw_curves(tmp_path / "log.png", {"y": (x, y)}, "T", "X", "Y", log=True)
    draw_curves(tmp_path / "linear.png", {"y": (x, y)}, "T", "X", "Y")
    straight, bent = ink(pixels(tmp_path / "log.png"), 0), ink(pixels(tmp_path / "linear.png"), 0)
    assert np.corrcoef(straight.T)[0, 1] > 0.999 > 0.97 > np.corrcoef(bent.T)[0, 1]


def test_gaps_long_curves_and_odd_values(tmp_path: Path) -> None:
    x = np.linspace(0, 1, 20_001)
    y = np.where((x > 0.4) & (x < 0.6), math.nan, np.sin(40 * x))
    draw_curves(tmp_path / "c.png", {"y": (x, y)}, "T", "X", "Y", log=True)
    columns = np.unique(ink(pixels(tmp_path / "c.png"), 0)[:, 1])
    assert 120 < np.diff(columns).max() < 200 and np.sort(np.diff(columns))[-2] < 10
    for curves in ({}, {"y": ([], [])}, {"y": ([1], [2.0])}, {"y": ([1, 2], [math.inf, math.nan])}):
        draw_curves(tmp_path / "odd.png", curves, "T", "X", "Y", log=True)
    draw_curves(tmp_path / "odd.png", {"y": ([1, 2, 3], [5.0, 5.0, 5.0])}, "T", "X", "Y")
    assert len(ink(pixels(tmp_path / "odd.png"), 0)) > 600


def test_panels_lie_below_one_another(tmp_path: Path) -> None:
    one = Panel({"a": ([0, 1], [0.0, 1.0])}, "One", "x", "y")
    draw_panels(tmp_path / "one.png", [one])
    draw_panels(tmp_path / "two.png", [one, one])
    single, double = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
    assert np.array_equal(double, np.concatenate([single, single]))
    wide = Panel({"a": ([0, 1], [0.0, 1.0])}, "One", "x", "y", x_range=(0, 2))
    draw_panels(tmp_path / "wide.png", [wide])
    right = [ink(p, 0)[:, 1].max() for p in (single, pixels(tmp_path / "wide.png"))]
    assert right[1] < 0.6 * right[0] + 60


def test_only_png(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="png"):
        draw_curves(tmp_path / "c.jpg", {}, "T", "X", "Y")
    with pytest.raises(OutputError, match="does not exist"):
        draw_curves(tmp_path / "no" / "c.png", {}, "T", "X", "Y")
