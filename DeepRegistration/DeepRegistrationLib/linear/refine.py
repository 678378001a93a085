"""Local refinement of a linear map: BFGS over the group of maps, in coordinates both images agree about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .looks import Look


@dataclass(frozen=True)
class Refined:
    """A refined map: matrix (d+1, d+1) float64 and its loss."""

    matrix: Tensor
    loss: float


def generators(kind: str, centre: Tensor) -> Tensor:
    """A basis of a group's Lie algebra about a centre (d,): (K, d+1, d+1), float64."""
    d = len(centre)
    bases = []
    for i in range(d):
        for j in range(d):
            unit = torch.zeros(d, d, dtype=torch.float64)
            if kind == "affine":
                unit[i, j] = 1
            elif kind in ("rigid", "similarity") and i < j:
                unit[i, j], unit[j, i] = -1, 1
            else:
                continue
            bases.append(unit)
    if kind == "similarity":
        bases.append(torch.eye(d, dtype=torch.float64))
    result = torch.zeros(len(bases) + d, d + 1, d + 1, dtype=torch.float64)
    for k, base in enumerate(bases):
        result[k, :d, :d], result[k, :d, d] = base, -base @ centre
    for i in range(d):
        result[len(bases) + i, i, d] = 1
    return result


def whitened(kind: str, matrix: Tensor, first: Look, second: Look) -> Tensor:
    """Generators (K, d+1, d+1) whose unit coefficients move the images' places by 1 mm, root mean square.

    The mean is that of both images, each in its own millimetres scaled to their geometric mean: a swap of
    the images, with the map inverted, turns the coefficients and leaves their length as it is.
    """
    d = first.frame.dimension
    points = [_corners(look) for look in (first, second)]
    basis = generators(kind, points[0].mean(0)[:d])
    inverse = torch.linalg.inv(matrix)
    scale = float(torch.linalg.det(matrix[:d, :d]).abs()) ** (1 / d)
    moved = [points[0] @ basis.transpose(1, 2), points[1] @ (matrix @ basis @ inverse).transpose(1, 2)]
    gram = sum(
        torch.einsum("knd,lnd->kl", m, m) * s / (2 * m.shape[1])
        for m, s in zip(moved, (scale, 1 / scale), strict=True)
    )
    # thin images leave some coefficients nearly free
    values, vectors = torch.linalg.eigh(gram)
    root = vectors / values.clamp_min(1e-8 * float(values[-1])).sqrt()
    return torch.einsum("kl,kij->lij", root, basis)


def refined(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    kind: str,
    pair: tuple[Look, Look],
    iterations: int,
    report: Callable[[float, float], None],
) -> Refined:
    """The nearest minimum of a loss among the maps start exp(X), X in the algebra of `kind`.

    BFGS with backtracking (Nocedal and Wright, Numerical Optimization, 2006, algorithm 6.1), the first step
    one voxel long. The result is never worse than the start.

    Args:
        loss: of a matrix (d+1, d+1) float64, differentiable.
        start: matrix, first to second points, LPS mm.
        report: called with the share done and the loss at each iteration; may raise.
    """
    basis = whitened(kind, start, *pair)
    voxel = float(np.sqrt(pair[0].spacing * pair[1].spacing))

    def evaluate(z: Tensor) -> tuple[float, Tensor]:
        leaf = z.clone().requires_grad_()
        value = loss(start @ torch.linalg.matrix_exp(torch.einsum("k,kij->ij", leaf, basis)))
        (gradient,) = torch.autograd.grad(value, leaf)
        return float(value.detach()), gradient

    z = torch.zeros(len(basis), dtype=torch.float64)
    value, gradient = evaluate(z)
    metric = None
    for k in range(iterations):
        report(k / iterations, value)
        if metric is None:
            step = -gradient * (0.5 * voxel / gradient.norm().clamp_min(1e-30))
        else:
            step = -metric @ gradient
            step = step * min(1.0, 2 * voxel / float(step.norm().clamp_min(1e-30)))
        found = _backtracked(evaluate, z, value, gradient, step, voxel)
        if found is None:
            if metric is None:
                break
            metric = None  # once more along the plain gradient
            continue
        new, new_value, new_gradient = found
        moved, change = new - z, new_gradient - gradient
        metric = _updated(metric, moved, change)
        gain = value - new_value
        z, value, gradient = new, new_value, new_gradient
        if float(moved.norm()) < 2e-4 * voxel or gain < 1e-8:
            break
    matrix = start @ torch.linalg.matrix_exp(torch.einsum("k,kij->ij", z, basis))
    matrix[-1] = start[-1]  # exactly, whatever rounding did
    return Refined(matrix, value)


def _backtracked(
    evaluate: Callable[[Tensor], tuple[float, Tensor]],
    z: Tensor,
    value: float,
    gradient: Tensor,
    step: Tensor,
    voxel: float,
) -> tuple[Tensor, float, Tensor] | None:
    """The first of ever shorter steps that lowers the loss enough, or None."""
    slope = float(gradient @ step)
    if slope >= 0:
        return None
    length = 1.0
    for _ in range(6):
        new_value, new_gradient = evaluate(z + length * step)
        if new_value <= value + 1e-4 * length * slope:
            return z + length * step, new_value, new_gradient
        curvature = 2 * (new_value - value - length * slope) / length**2
        length = min(0.5 * length, max(0.1 * length, -slope / max(curvature, 1e-30)))
        if length * float(step.norm()) < 1e-4 * voxel:
            return None
    return None


def _updated(metric: Tensor | None, moved: Tensor, change: Tensor) -> Tensor | None:
    """BFGS's update of the inverse Hessian; left as it is where curvature is not positive."""
    product = float(moved @ change)
    if product <= 1e-12 * float(moved.norm() * change.norm()):
        return metric
    n = len(moved)
    eye = torch.eye(n, dtype=torch.float64)
    if metric is None:
        metric = eye * (product / float(change @ change))
    left = eye - torch.outer(moved, change) / product
    return left @ metric @ left.T + torch.outer(moved, moved) / product


def _corners(look: Look) -> Tensor:
    """A few places all over an image's box, homogeneous, (M, d+1), LPS mm."""
    d = look.frame.dimension
    points = look.frame.resized((4,) * d).points().reshape(-1, d)
    return torch.cat([points, torch.ones(len(points), 1, dtype=points.dtype)], 1)
