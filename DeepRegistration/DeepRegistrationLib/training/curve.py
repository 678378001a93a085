"""Curves as a picture with axes and labels, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..atomic import atomic_path
from ..demo.font import text_mask
from ..errors import OutputError

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]

_PAPER, _INK, _FAINT = (1.0, 1.0, 1.0), (0.13, 0.15, 0.18), (0.86, 0.88, 0.90)
# Colours that stay apart for colour-blind readers (Okabe and Ito).
_COLOURS = (
    (0.0, 0.45, 0.70), (0.84, 0.37, 0.0), (0.0, 0.62, 0.45), (0.80, 0.47, 0.65), (0.90, 0.62, 0.0),
    (0.34, 0.71, 0.91), (0.35, 0.35, 0.35),
)  # fmt: skip
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 900, 380, 108, 24, 40, 62
_LEGEND_LINE, _SWATCH, _GAP, _THICKNESS = 22, 24, 10, 1.6
_MOST_POINTS = 700


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        curves: by name, x and y; values that are not finite leave a gap.
        title, x_label, y_label: words (the alphabet has capitals only).
        log: a logarithmic y axis, if all values are above zero; a linear one otherwise.
        x_range: what the x axis has to reach at least.
    """

    curves: Curves
    title: str
    x_label: str
    y_label: str
    log: bool = False
    x_range: tuple[float, float] | None = None


def draw_curves(
    path: str | Path, curves: Curves, title: str, x_label: str, y_label: str, log: bool = False
) -> None:
    """Write one panel as a PNG; see `Panel`. Raises OutputError."""
    draw_panels(path, [Panel(curves, title, x_label, y_label, log)])


def draw_panels(path: str | Path, panels: Sequence[Panel]) -> None:
    """Write panels, one below the other, as a PNG, whole or not at all.

    Raises:
        OutputError: not a .png, missing or closed folder, full disk.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path} could not be written: pictures are saved as .png.")
    page = np.concatenate([_drawn(panel) for panel in panels])
    pixels = (page.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    with atomic_path(path) as temporary:
        sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(temporary), True)


def _drawn(panel: Panel) -> np.ndarray:
    """(height, width, 3) in 0..1; curves, ticks and labels of one panel."""
    curves = {name: _cleaned(*xy) for name, xy in panel.curves.items()}
    curves = {name: xy for name, xy in curves.items() if np.isfinite(xy[1]).any()}
    ys = np.concatenate([y[np.isfinite(y)] for _, y in curves.values()]) if curves else np.array([0.0, 1.0])
    xs = [x for x, _ in curves.values()] + [np.asarray(panel.x_range or (() if curves else (0.0, 1.0)))]
    xs = np.concatenate(xs)
    log = panel.log and bool((ys > 0).all())
    rows = _legend_rows(list(curves))
    top = _TOP + _LEGEND_LINE * len(rows)
    page = np.empty((_HEIGHT + top, _WIDTH, 3), np.float32)
    page[:] = _PAPER
    x_axis = _Axis(float(xs.min()), float(xs.max()), _LEFT, _WIDTH - _RIGHT, False)
    y_axis = _Axis(float(ys.min()), float(ys.max()), top + _HEIGHT - _BOTTOM, top, log)
    _draw_axes(page, x_axis, y_axis)
    for k, (x, y) in enumerate(curves.values()):
        _draw_line(page, x_axis.pixels(x), y_axis.pixels(y), _COLOURS[k % len(_COLOURS)])
    _draw_legend(page, rows)
    _write(page, panel.title, _WIDTH // 2, _TOP // 2 - 2)
    _write(page, panel.x_label, (_LEFT + _WIDTH - _RIGHT) // 2, len(page) - 16)
    _write(page, panel.y_label, 14, top + (_HEIGHT - _BOTTOM) // 2, upright=True)
    return page


class _Axis:
    """Values to pixels along one side, with round ticks."""

    def __init__(self, low: float, high: float, start: int, end: int, log: bool) -> None:
        self._log, self.start, self.end = log, start, end
        if log:
            low, high = math.log10(low), math.log10(high)
        margin = 0.04 * (high - low) or max(0.5 * abs(low), 0.5)
        self._low, self._high = low - margin, high + margin

    def pixels(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            values = np.log10(values) if self._log else values
        return self.start + (values - self._low) / (self._high - self._low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Pixel and text of each tick."""
        span = self._high - self._low
        if self._log and span >= 1:
            every = max(1, math.ceil(span / 6))
            powers = range(math.ceil(self._low), math.floor(self._high) + 1, every)
            values = [10.0**p for p in powers]
            if span < 3:
                values = sorted(v * m for v in [10.0 ** math.floor(self._low), *values] for m in (1, 2, 5))
        else:
            low, high = (10**self._low, 10**self._high) if self._log else (self._low, self._high)
            step = _round_step((high - low) / 6)
            values = [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
        places = self.pixels(np.asarray(values, dtype=np.float64))
        inside = sorted((self.start, self.end))
        return [
            (float(p), _number(v)) for p, v in zip(places, values, strict=True) if inside[0] <= p <= inside[1]
        ]


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * 0.999)


def _number(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.6g}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e+")


def _cleaned(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """As float64, long curves averaged to as many points as the picture can show."""
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    ys = np.where(np.isfinite(ys), ys, np.nan)
    if len(xs) <= _MOST_POINTS:
        return xs, ys
    bounds = np.linspace(0, len(xs), _MOST_POINTS + 1).astype(int)
    means = [(xs[a:b].mean(), ys[a:b].mean()) for a, b in pairwise(bounds)]
    return np.array([m[0] for m in means]), np.array([m[1] for m in means])


def _draw_axes(page: np.ndarray, x_axis: _Axis, y_axis: _Axis) -> None:
    left, right, top, bottom = _LEFT, _WIDTH - _RIGHT, y_axis.end, y_axis.start
    for place, text in y_axis.ticks():
        page[round(place), left:right] = _FAINT
        _write(page, text, left - 8 - text_mask(text).shape[1] // 2, round(place))
    for place, text in x_axis.ticks():
        page[top:bottom, round(place)] = _FAINT
        _write(page, text, round(place), bottom + 16)
    page[bottom, left : right + 1] = page[top, left : right + 1] = _INK
    page[top : bottom + 1, left] = page[top : bottom + 1, right] = _INK


def _draw_line(page: np.ndarray, xs: np.ndarray, ys: np.ndarray, colour: tuple[float, ...]) -> None:
    """A smooth-edged polyline; a lone point becomes a dot."""
    points = np.stack([xs, ys], -1)
    for start, end in zip(points, points[1:] if len(points) > 1 else points, strict=False):
        if not np.isfinite([start, end]).all():
            continue
        low = np.floor(np.minimum(start, end)).astype(int) - 3
        high = np.ceil(np.maximum(start, end)).astype(int) + 4
        low, high = np.maximum(low, 0), np.minimum(high, page.shape[1::-1])
        if (high <= low).any():
            continue
        y, x = np.mgrid[low[1] : high[1], low[0] : high[0]]
        along = end - start
        length = max(float(along @ along), 1e-9)
        t = (((x - start[0]) * along[0] + (y - start[1]) * along[1]) / length).clip(0, 1)
        distance = np.hypot(x - start[0] - t * along[0], y - start[1] - t * along[1])
        width = _THICKNESS if len(points) > 1 else 2 * _THICKNESS
        cover = (width - distance).clip(0, 1)[..., None]
        area = page[low[1] : high[1], low[0] : high[0]]
        area += cover * (np.array(colour, np.float32) - area)


def _legend_rows(names: Sequence[str]) -> list[list[tuple[int, int, str]]]:
    """Left pixel, number and text of each name, in as many rows as they need; none for a single curve."""
    rows: list[list[tuple[int, int, str]]] = []
    left = _WIDTH
    for k, name in enumerate(names if len(names) > 1 else ()):
        width = _SWATCH + text_mask(name).shape[1] + 2 * _GAP
        if left + width > _WIDTH - _RIGHT:
            rows.append([])
            left = _LEFT
        rows[-1].append((left, k, name))
        left += width
    return rows


def _draw_legend(page: np.ndarray, rows: list[list[tuple[int, int, str]]]) -> None:
    """Names with their colours, between title and axes."""
    for number, row in enumerate(rows):
        y = _TOP + _LEGEND_LINE * number + 6
        for left, k, name in row:
            page[y - 1 : y + 2, left : left + _SWATCH] = _COLOURS[k % len(_COLOURS)]
            _write(page, name, left + _SWATCH + _GAP + text_mask(name).shape[1] // 2, y)


def _write(page: np.ndarray, text: str, x: int, y: int, scale: int = 2, upright: bool = False) -> None:
    """Write text centred on a pixel; `upright` turns it to read upwards."""
    mask = text_mask(text, scale)
    if upright:
        mask = np.rot90(mask)
    mask = mask[: page.shape[0], : page.shape[1]]
    top = min(max(y - mask.shape[0] // 2, 0), page.shape[0] - mask.shape[0])
    left = min(max(x - mask.shape[1] // 2, 0), page.shape[1] - mask.shape[1])
    page[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = _INK
