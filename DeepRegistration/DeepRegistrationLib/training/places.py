"""Where a drawn image sees what: small turns, stretches, shifts and bends, in mm around its centre."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .synthesis.noise import smooth_noise

_BENDS = ((0.35, 0.03), (0.15, 0.025), (0.07, 0.012))
"""Smoothness of each part of the deformation and its largest deviation, shares of the image's mean side."""

_TURN, _STRETCH, _SHIFT = 0.17, 0.10, 0.05
"""Deviations of the affine part: radians, logarithms, shares of the side."""


def affine(
    draw: np.random.Generator, shape: Sequence[int], voxel: float, amount: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a matrix (d, d) and a shift (d,) mm around the centre, axes x, y, z.

    Args:
        draw: where the numbers come from.
        shape: voxels of the image, array order.
        voxel: its voxel, mm.
        amount: times turns of about 10 degrees, stretches of 10 % and shifts of 5 % of the side.
    """
    d = len(shape)
    drawn = amount * np.clip(draw.standard_normal((d, d)), -2, 2)
    turn, stretch = 0.5 * (drawn - drawn.T), 0.5 * (drawn + drawn.T)
    matrix = torch.linalg.matrix_exp(torch.from_numpy(_TURN * turn + _STRETCH * stretch)).numpy()
    side = voxel * np.array(shape[::-1])
    return matrix, amount * _SHIFT * side * np.clip(draw.standard_normal(d), -2, 2)


def bent(draw: np.random.Generator, shape: Sequence[int], voxel: float, strength: float = 1.0) -> Tensor:
    """The voxels' places, bent smoothly: (d, *S) mm around the centre, components x, y, z.

    Args:
        draw: where the numbers come from.
        shape: voxels of the image, array order.
        voxel: its voxel, mm.
        strength: times shifts of up to some 3 % of the side.
    """
    axes = [(torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * voxel for n in shape]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])
    side = float(np.mean(shape))
    for smoothness, most in _BENDS:
        amount = strength * float(draw.uniform(0.1, 1.0)) * most * side * voxel
        places += amount * smooth_noise(shape, smoothness * side / 2, len(shape), draw)
    return places
