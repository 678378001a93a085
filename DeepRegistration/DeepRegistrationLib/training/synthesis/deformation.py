"""Random diffeomorphic maps between the two images of a pair, known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...field import cell_determinant
from ...frame import Frame
from ...interpolation import sample
from ...transforms.coarse import halved, upsampled
from ...transforms.stationary_velocity import exponential
from .noise import smooth_noise

_SCALES = ((0.35, 0.10), (0.17, 0.05), (0.08, 0.02))
"""Smoothness of each part of the velocity and its largest deviation, of half the box."""

_LEAST_DETERMINANT = 0.1


@dataclass(frozen=True)
class Deformation:
    """Where two images find the anatomy they share, all in normalised units of their lattice.

    Attributes:
        fixed, moving: points of the anatomy that the images' voxels show, (*S, d).
        displacement: of the map from fixed to moving points, (*S, d): the fixed image shows at x what the
            moving one shows at x + displacement(x).
    """

    fixed: Tensor
    moving: Tensor
    displacement: Tensor


def random_deformation(
    shape: tuple[int, ...],
    draw: np.random.Generator,
    strength: float = 1.0,
    affine: float = 1.0,
    device: torch.device | str = "cpu",
) -> Deformation:
    """Draw a map: the flow of a smooth velocity v at three scales, after an affine map A near the identity.

    Fixed voxels show the anatomy at exp(-v/2) A x and moving ones at exp(v/2) x, so neither is the
    undeformed one; between them lies exp(-v) A. Where the flow would compress more than tenfold, v is
    shortened. Some pairs are bent up to three times as much as others.

    Args:
        shape: of the lattice, array order.
        draw: where the numbers come from.
        strength: of the velocity.
        affine: of the affine part.
        device: where it is computed; the map is the same on all, to rounding.
    """
    frame = Frame.regular(tuple(reversed(shape)))
    coarse, amount = halved(frame), float(draw.uniform(0.3, 1.0))
    velocity = amount * strength * _velocity(coarse, draw, device)
    matrix, shift = (part.to(device) for part in _affine(shape, draw, amount * affine))
    grid = coarse.grid(device)
    while True:
        back = exponential(velocity * -0.5, coarse)
        whole = back + _read(back, grid + back)
        if float(cell_determinant(whole).min()) > _LEAST_DETERMINANT:
            break
        velocity = velocity * 0.8
    voxels = frame.grid(device)
    turned = voxels @ matrix.T + shift
    goal = turned + _read(whole, turned)
    forth = upsampled(exponential(velocity * 0.5, coarse), frame)
    # read through the map, not from exp(-v/2): what the images show then fits the map to the last digit
    return Deformation(goal + _read(forth, goal), voxels + forth, goal - voxels)


def _read(displacement: Tensor, points: Tensor) -> Tensor:
    return sample(displacement.movedim(-1, 0)[None], points)[0].movedim(0, -1)


def _velocity(frame: Frame, draw: np.random.Generator, device: torch.device | str) -> Tensor:
    """(*S, d), normalised units, equally strong along all axes of a box with unequal sides."""
    n = np.array(frame.size)
    total = torch.zeros(frame.dimension, *frame.shape, device=device)
    for smoothness, most in _SCALES:
        amount = float(draw.uniform(0.1, 1.0)) * most
        total += amount * smooth_noise(frame.shape, smoothness * n.mean() / 2, frame.dimension, draw, device)
    sides = torch.tensor(n.mean() / n, dtype=torch.float32, device=device)
    return total.movedim(0, -1) * sides


def _affine(shape: tuple[int, ...], draw: np.random.Generator, amount: float) -> tuple[Tensor, Tensor]:
    """Matrix (d, d) and shift (d,) in normalised coordinates: turns of about 4 degrees, scales and shears
    of 5 %, shifts of 2 % of the box."""
    d, n = len(shape), np.array(shape[::-1])
    drawn = amount * np.clip(draw.standard_normal((d, d)), -2.5, 2.5)
    turn, stretch = 0.5 * (drawn - drawn.T), 0.5 * (drawn + drawn.T)
    generator = torch.from_numpy(0.1 * turn + 0.05 * stretch)
    matrix = torch.linalg.matrix_exp(generator)
    sides = torch.from_numpy(n / n.mean())
    shift = amount * 0.04 * draw.uniform(-1, 1, d)
    return (matrix * sides / sides[:, None]).float(), torch.from_numpy(shift).float()
