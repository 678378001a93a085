"""What lies around an image's subject: the value to fill with beyond its box, and what a CT scanner wrote
outside its field of view. Needs no torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_POINTS = 200_000
"""Voxels that are looked at for the range of an image's values."""
_BINS = 64
_FLAT = 0.25
"""Share of the border's voxels that have about one value, for that to be the background's."""

AIR = -1024.0
"""The least that a CT scanner measures, Hounsfield units; with noise values may be somewhat less."""
_PADDING, _LEAST_SHARE = -1200.0, 0.005
_LEAST_AIR, _TISSUE = -1100.0, (-500.0, 6000.0)

_FAR = 2.0
"""Values so many times the range of 98 % of the voxels away from that are outliers: bright metal in a picture
of tissue, hot voxels. Fat in a T1 image of a head lies 1 such range above it."""

_NOWHERE = 100.0
"""One value, on many voxels, so many ranges of the others away from them is a mark of no measurement."""


class Limits(NamedTuple):
    """Between which values an image's measurements lie.

    Attributes:
        low, high: less and more is clamped; infinite where nothing is an outlier.
        unmeasured: from this value on (below it, where it is negative) nothing was measured; or None.
    """

    low: float = -np.inf
    high: float = np.inf
    unmeasured: float | None = None


def filling_value(image: np.ndarray) -> float:
    """The value to show where there is no image: the most common one on the image's border, where enough of
    the border has about that value; otherwise 0, or the smallest of the image if that is less.

    Args:
        image: (*S), 2-D or 3-D, finite.
    """
    faces = [
        image.take(k, axis).ravel() for axis, n in enumerate(image.shape) if n > 1 for k in (0, n - 1)
    ] or [image.ravel()]
    border = _some(np.concatenate(faces)).astype(np.float64)
    low, high = np.percentile(np.concatenate([_some(image.ravel()), border]), (0.1, 99.8))
    otherwise = min(0.0, float(image.min()))
    if high <= low:
        return _middle(border)
    bins = ((border - low) * (_BINS / (high - low))).clip(0, _BINS - 1).astype(int)
    counts = np.bincount(bins, minlength=_BINS)
    # a peak may lie on the limit of two bins
    around = np.convolve(counts, (1, 1, 1), "same")
    peak = int(around.argmax())
    if around[peak] < _FLAT * len(border):
        return otherwise
    return _middle(border[np.abs(bins - peak) <= 1])


def padding_limit(image: np.ndarray) -> float | None:
    """Hounsfield units below which a CT image has no measurement, but the one value that the scanner or
    another program wrote outside the field of view; None where an image has no such value.

    Args:
        image: (*S).
    """
    lowest = float(image.min())
    if lowest > _PADDING:
        return None
    values = _some(image.ravel())
    rest = values[values > lowest]
    if len(rest) < 100 or 1 - len(rest) / len(values) < _LEAST_SHARE:
        return None
    # interpolation leaves a few values in between
    air, tissue = np.percentile(rest, (5, 99))
    return AIR if air >= _LEAST_AIR and _TISSUE[0] < tissue < _TISSUE[1] else None


def limits(values: np.ndarray) -> Limits:
    """Where the measurements of an image end: see `Limits`.

    Args:
        values: (N,) of one image, finite.
    """
    lowest, highest = float(values.min()), float(values.max())
    some = _some(values).astype(np.float64)
    unmeasured = None
    for mark in (lowest, highest):
        rest = some[some != mark]
        if len(rest) < 100 or 1 - len(rest) / len(some) < _LEAST_SHARE:
            continue
        first, last = np.percentile(rest, (1, 99))
        away = max(first - mark, mark - last)
        if last > first and away > _NOWHERE * (last - first):
            # interpolation leaves values in between
            away = _NOWHERE * (last - first) / 2
            unmeasured = first - away if mark < first else last + away
            some = rest
    first, last = np.percentile(some, (1, 99))
    reach = _FAR * (last - first)
    if last <= first:
        return Limits()
    usual = some[(some >= first - reach) & (some <= last + reach)]
    low, high = (float(v) for v in np.percentile(usual, (0.1, 99.8)))
    if unmeasured is not None:
        return Limits(low, high, unmeasured)
    return Limits(
        low if lowest < first - reach else -np.inf,
        high if highest > last + reach else np.inf,
    )


def _some(values: np.ndarray) -> np.ndarray:
    return values[:: max(1, len(values) // _POINTS)]


def _middle(values: np.ndarray) -> float:
    """The median; of an even number the greater of the two in the middle, which is one of the values."""
    return float(np.sort(values)[len(values) // 2])
