"""Inverting a dense map where it is asked for: fixed-point iteration, then Newton for what is left."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Displacement = Callable[[Tensor], Tensor]
"""From normalised points (N, d) to displacements (N, d), normalised units."""

_CHUNK = 1 << 18
"""Points handled at a time, to keep memory small."""

_PLAIN_ITERATIONS = 8
_PROBE = 0.25
"""Half the distance over which the Jacobian is measured, voxels."""


def invert_at(
    displacement: Displacement,
    points: Tensor,
    voxel: Tensor,
    start: Displacement,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, float]:
    """Solve v(y) = -u(y + v(y)) at points y.

    Fixed-point iteration, each point only until it is solved. Where
    the map compresses so much that this does not contract, damped Newton steps go on.

    Args:
        displacement: u.
        points: (*T, d) normalised coordinates.
        voxel: (d,) size of a voxel in normalised units.
        start: first guess of v at points.
        tolerance: largest allowed error |v + u(y + v)| along any axis, voxels.
        max_iterations: of Newton's steps.

    Returns:
        v (*T, d), and the largest error left, in voxels.
    """
    flat = points.reshape(-1, points.shape[-1])
    result = torch.empty_like(flat)
    worst = 0.0
    for first in range(0, len(flat), _CHUNK):
        part = slice(first, first + _CHUNK)
        result[part], error = _solve(
            displacement, flat[part], voxel, start(flat[part]), tolerance, max_iterations
        )
        worst = max(worst, error)
    return result.view(points.shape), worst


def _solve(
    displacement: Displacement, points: Tensor, voxel: Tensor, v: Tensor, tolerance: float, iterations: int
) -> tuple[Tensor, float]:
    """One chunk of `invert_at`."""
    result, worst = v, 0.0
    places: Tensor | None = None  # of the points still open, among all
    for _ in range(_PLAIN_ITERATIONS):
        residual = displacement(points + v).add_(v)
        size = (residual.abs() / voxel).amax(-1)
        open_points = (size > tolerance).nonzero().flatten()
        if len(open_points) == 0:
            return _placed(result, places, v), max(worst, float(size.max()))
        if len(open_points) < 0.5 * len(points):
            result = _placed(result, places, v)
            solved = size[size <= tolerance]
            worst = max(worst, float(solved.max()) if len(solved) else 0.0)
            places = open_points if places is None else places[open_points]
            points, v, residual = points[open_points], v[open_points], residual[open_points]
        v = v - residual
    v, error = _newton(displacement, points, v, voxel, tolerance, iterations)
    return _placed(result, places, v), max(worst, error)


def _placed(result: Tensor, places: Tensor | None, v: Tensor) -> Tensor:
    return v if places is None else result.index_copy(0, places, v)


def _newton(
    displacement: Displacement, points: Tensor, v: Tensor, voxel: Tensor, tolerance: float, iterations: int
) -> tuple[Tensor, float]:
    """Damped Newton steps on r(v) = v + u(y + v), (N, d), halved for points they do not help."""
    result = v.clone()
    residual = v + displacement(points + v)
    size = (residual.abs() / voxel).amax(-1, keepdim=True)
    sizes, places = size.clone(), torch.arange(len(v), device=v.device)
    damping = torch.ones_like(size)
    for _ in range(iterations):
        still = (size > tolerance).flatten().nonzero().flatten()
        if len(still) == 0:
            break
        places, points, v, residual, size, damping = (
            t[still] for t in (places, points, v, residual, size, damping)
        )
        step = torch.linalg.solve(_jacobian(displacement, points + v, voxel), residual[..., None])[..., 0]
        trial = v - damping * step
        trial_residual = trial + displacement(points + trial)
        trial_size = (trial_residual.abs() / voxel).amax(-1, keepdim=True)
        better = trial_size < size
        v, residual = torch.where(better, trial, v), torch.where(better, trial_residual, residual)
        size = torch.where(better, trial_size, size)
        damping = torch.where(better, (2 * damping).clamp_max(1), damping / 2)
        result[places], sizes[places] = v, size
    return result, float(sizes.max())


def _jacobian(displacement: Displacement, points: Tensor, voxel: Tensor) -> Tensor:
    """(N, d, d) of the map x + u(x), by central differences; kept away from singular."""
    columns = []
    for axis in range(points.shape[1]):
        offset = torch.zeros_like(voxel)
        offset[axis] = _PROBE * voxel[axis]
        columns.append((displacement(points + offset) - displacement(points - offset)) / (2 * offset[axis]))
    identity = torch.eye(len(voxel), dtype=points.dtype, device=points.device)
    jacobian = torch.stack(columns, -1) + identity
    flat = torch.linalg.det(jacobian).abs() < 1e-3
    return torch.where(flat[:, None, None], jacobian + 0.1 * identity, jacobian)
