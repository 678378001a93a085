"""How large B-spline coefficients may be before the map can fold.

Honkamaa and Marttinen, SITReg (MELBA 2024, arXiv 2303.10211), Table 16.

With K the largest factor by which a unit of coefficients changes the difference of neighbouring
displacements, coefficients below 1/K (in control cells) make the displacement a contraction in the
maximum norm, hence x + u(x) a homeomorphism without folds.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .b_spline_basis import cubic_weights

_OFFSETS = 24
"""Places tried per cell where control points do not fall on a whole number of voxels."""


def control_point_bound(rate: float | tuple[float, ...], dimension: int) -> float:
    """Largest safe coefficient of a cubic B-spline displacement, in control cells of each axis.

    It holds for the field sampled at the voxels and interpolated linearly between them, `rate` voxels
    per control cell, and bounds sum_b |difference of u_a along b| / (distance in control cells) by 1.

    Args:
        rate: voxels per control cell, one number or one per axis (x, y, z). Whole numbers are taken to
            be cell-aligned (voxel i at (i + 1/2) / rate - 1/2 cells), others may lie anywhere, which
            gives a slightly smaller bound; below 1 the bound for just above 1 is used.
        dimension: 2 or 3.
    """
    rates = rate if isinstance(rate, tuple) else (rate,) * dimension
    return _bound(tuple(sorted(round(max(float(r), 1 + 1e-4 * (r < 1)), 6) for r in rates)))


@lru_cache(maxsize=256)
def _bound(rates: tuple[float, ...]) -> float:
    values, steps = zip(*(_axis(r) for r in rates), strict=True)
    largest = 0.0
    for first, slope in zip(values[0], steps[0], strict=True):  # one offset of axis 0 at a time: small
        total = _outer([slope[None], *values[1:]])
        for axis in range(1, len(rates)):
            parts = [first[None], *values[1:]]
            parts[axis] = steps[axis]
            total = total + _outer(parts)
        # by symmetry of the basis the signs (+, +, ...) stand for all of them
        largest = max(largest, float(total.abs().flatten(len(rates)).sum(-1).max()))
    return 1 / largest


def _axis(rate: float) -> tuple[Tensor, Tensor]:
    """Values and forward differences times the rate, each (offsets, 5 control points)."""
    if rate == round(rate):
        offset = (torch.arange(int(rate), dtype=torch.float64) + 0.5) / rate - 0.5
        offset = offset - offset.floor()
    else:
        offset = torch.arange(_OFFSETS, dtype=torch.float64) / _OFFSETS
    here, there = _five(offset), _five(offset + 1 / rate)
    return here, (there - here) * rate


def _five(place: Tensor) -> Tensor:
    """Weights (offsets, 5) of control points -1 .. 3 at a place in [0, 2]."""
    cell = place.floor().clamp(0, 1)
    taps = cell.long()[:, None] + torch.arange(4)
    return torch.zeros(len(place), 5, dtype=torch.float64).scatter_(1, taps, cubic_weights(place - cell))


def _outer(parts: list[Tensor]) -> Tensor:
    """(o_k, 5) per axis to (o_1, .., o_d, 5, .., 5)."""
    d = len(parts)
    result: Tensor | None = None
    for axis, part in enumerate(parts):
        shape = [1] * (2 * d)
        shape[axis], shape[d + axis] = part.shape
        view = part.reshape(shape)
        result = view if result is None else result * view
    assert result is not None
    return result
