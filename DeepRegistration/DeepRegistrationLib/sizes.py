"""How many voxels the lattices of a run have: arithmetic on sizes, without torch or numpy.

Sizes and spacings are tuples in (x, y, z) order, two or three of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

Size = tuple[int, ...]

FINEST_VOXELS = {"prediction": 1_600_000, "fast": 1_600_000, "balanced": 8_000_000, "accurate": 8_000_000}
"""Of each preset: about the most voxels its finest scale may have; larger images are coarsened."""

SMALLEST = 16
"""No axis is cut into fewer voxels than this by a coarse scale."""


def scaled_size(size: Sequence[int], spacing: Sequence[float], factor: float, smallest: int) -> Size:
    """Voxels of a box at `factor` times the spacing of its finest axis, no axis made finer than it is.

    Thick slices are left alone until the other axes are as coarse as they are. No axis is cut into
    fewer than `smallest` voxels (or its own number).
    """
    aim = factor * min(spacing)
    return tuple(
        max(min(n, smallest), round(n * s / max(s, aim))) for n, s in zip(size, spacing, strict=True)
    )


def finest_size(size: Sequence[int], spacing: Sequence[float], voxels: int) -> Size:
    """Voxels of the working lattice: those of the image, coarsened where they are more than `voxels`."""
    factor, found = 1.0, scaled_size(size, spacing, 1.0, SMALLEST)
    while prod(found) > voxels and max(found) > SMALLEST:
        factor *= 1.02
        found = scaled_size(size, spacing, factor, SMALLEST)
    return found


def spaced_size(size: Sequence[int], spacing: Sequence[float], wanted: float | None) -> Size:
    """Voxels of a box at about `wanted` mm, at least one per axis; None leaves it as it is."""
    if wanted is None:
        return tuple(size)
    return tuple(max(1, round(n * s / wanted)) for n, s in zip(size, spacing, strict=True))
