"""Regularity of a dense displacement, and of a pair of maps that ought to be each other's inverse.

Displacements are (*S, d), (x, y, z) components, in normalised units ([-1, 1] over the box); `extent` is
the box's side lengths in mm, (x, y, z) order, which turns derivatives into mm per mm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ..errors import InputError
from ..field import cell_determinant

PointMap = Callable[[Tensor], Tensor]
"""Points (..., d) to points (..., d), both in the same normalised coordinates."""

_STACK = 1 << 17
"""Numbers of a stack of planes handled at a time on a processor, so that they stay in the cache."""


def diffusion(displacement: Tensor, extent: Sequence[float]) -> Tensor:
    """Mean squared Frobenius norm of the displacement's gradient; unitless (mm/mm squared), >= 0.

    Forward differences between neighbouring voxels, averaged per axis over the neighbours there are and
    summed over axes and components: a linear displacement x -> Ax in mm gives ||A||_F^2 exactly. An axis
    of one voxel contributes nothing. The gradient is closed-form and is computed in the same pass.

    Args:
        displacement: (*S, d), normalised units.
        extent: mm, (x, y, z) order.
    """
    return _Diffusion.apply(displacement, tuple(float(e) for e in _checked(displacement, extent)))


def bending_energy(displacement: Tensor, extent: Sequence[float]) -> Tensor:
    """Mean squared second derivatives of the displacement, 1/mm^2, >= 0; zero for affine maps.

    The sum over components and over ordered pairs of axes (mixed derivatives count twice) of the squared
    second differences, each averaged over the places where it exists (Rueckert et al., IEEE TMI 18,
    1999). An axis too short for a difference contributes nothing.
    """
    d = displacement.shape[-1]
    extent = _checked(displacement, extent)
    millimetres = displacement * displacement.new_tensor([e / 2 for e in extent])
    first = [_derivative(millimetres, axis, extent) for axis in range(d)]
    total = displacement.new_zeros(())
    for a in range(d):
        for b in range(a, d):
            second = _derivative(first[a], b, extent, displacement.shape[d - 1 - b])
            if second.numel():
                total = total + (1 if a == b else 2) * (second * second).sum(-1).mean()
    return total


def fold_penalty(displacement: Tensor) -> Tensor:
    """Mean over the lattice's cells of max(0, -det J) of the map x + displacement; unitless, 0 without folds.

    The determinant is the smallest at the corners of a cell, that of the linearly interpolated map: central
    differences do not see folds between neighbours.
    """
    corners = product((0, 1), repeat=displacement.shape[-1])
    # computed again on the way back, a corner at a time: there would be more to keep than of a network
    values = (
        checkpoint(cell_determinant, displacement, [c], use_reentrant=False, preserve_rng_state=False)
        for c in corners
    )
    return torch.relu(-reduce(torch.minimum, values)).mean()


def inverse_consistency(forward: PointMap, backward: PointMap, points: Tensor) -> Tensor:
    """Mean squared error p - forward(backward(p)) over points and components (ICON), both orders averaged.

    Greer et al., ICCV 2021, but a mean over components. `points` (..., d); unit: that of the points, squared.
    """
    errors = [points - a(b(points)) for a, b in ((forward, backward), (backward, forward))]
    return torch.stack([(e * e).mean() for e in errors]).mean()


def gradient_inverse_consistency(
    forward: PointMap,
    backward: PointMap,
    points: Tensor,
    delta: float = 2e-3,
    symmetric: bool = False,
) -> Tensor:
    """Mean squared gradient of the inverse-consistency error (GradICON); unitless.

    With e(p) = p - forward(backward(p)), the sum over axes k of the mean over points and components of
    ((e(p + delta e_k) - e(p)) / delta)^2, which is ||AB - I||_F^2 / d for linear maps A and B (Tian et
    al., CVPR 2023, with a one-sided difference). A constant drift costs nothing.

    Args:
        forward, backward: maps of points in normalised coordinates.
        points: (..., d), normalised. Jittered off the lattice they represent the map better than voxel
            centres (`jittered_points`).
        delta: step of the difference, normalised; the default is a thousandth of the box.
        symmetric: whether to average both orders of composition instead of taking the first only.
    """
    orders = [(forward, backward), (backward, forward)] if symmetric else [(forward, backward)]
    total = points.new_zeros(())
    for first, second in orders:
        error = points - first(second(points))
        for axis in range(points.shape[-1]):
            step = points.new_zeros(points.shape[-1])
            step[axis] = delta
            moved = points + step
            slope = (moved - first(second(moved)) - error) / delta
            total = total + (slope * slope).mean()
    return total / len(orders)


def jittered_points(
    size: Sequence[int],
    generator: torch.Generator,
    every: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Every `every`-th voxel centre per axis, moved by Gaussian noise of that many voxels: (N, d).

    `size` in (x, y, z) order; normalised coordinates; drawn on the generator's device.
    """
    device = generator.device
    axes = [(2 * torch.arange(0, n, every, device=device, dtype=dtype) + 1) / n - 1 for n in size]
    lattice = torch.stack(torch.meshgrid(*axes[::-1], indexing="ij")[::-1], -1).reshape(-1, len(size))
    noise = torch.randn(lattice.shape, generator=generator, device=device, dtype=dtype)
    return lattice + noise * (2 * every / lattice.new_tensor(list(size)))


class _Diffusion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, displacement: Tensor, extent: tuple[float, ...]) -> Tensor:
        d = displacement.shape[-1]
        shape = displacement.shape[:-1]
        # Rows of voxels and components in one axis: arithmetic with a vector per component stays fast.
        volume = displacement.detach().reshape(*(1,) * (3 - d), *shape[:-1], shape[-1] * d)
        scales = [_row_scale(displacement, axis, extent) for axis in range(d)]
        wanted = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(volume) if wanted else None
        depth = volume.shape[0]
        step = depth
        if volume.device.type == "cpu":
            step = max(1, _STACK // max(1, volume[0].numel()))
        total = torch.zeros((), dtype=torch.float64, device=volume.device)
        for start in range(0, depth, step):
            stop = min(start + step, depth)
            for axis, scale in enumerate(scales):
                dim, shift = 2 - axis, d if axis == 0 else 1
                # Along z a stack reaches one plane into the next.
                part = slice(start, min(stop + 1, depth) if axis == 2 else stop)
                values = volume[part]
                n = values.shape[dim] - shift
                if n <= 0:
                    continue
                difference = values.narrow(dim, shift, n) - values.narrow(dim, 0, n)
                weighted = difference * (scale[shift:] if axis == 0 else scale)
                total += torch.dot(difference.view(-1), weighted.view(-1))
                if gradient is not None:
                    gradient[part].narrow(dim, shift, n).add_(weighted)
                    gradient[part].narrow(dim, 0, n).sub_(weighted)
        ctx.save_for_backward(gradient)
        ctx.shape = displacement.shape
        return total.to(displacement.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * (2 * upstream)).view(ctx.shape), None


def _row_scale(displacement: Tensor, axis: int, extent: tuple[float, ...]) -> Tensor:
    """(X * d): what a squared difference along `axis` counts, for each component of each voxel of a row."""
    d = displacement.shape[-1]
    size = displacement.shape[d - 1 - axis]
    count = displacement.numel() / d * (size - 1) / size
    scale = [(e / 2 * size / extent[axis]) ** 2 / max(count, 1) for e in extent]
    return displacement.new_tensor(scale).repeat(displacement.shape[d - 1])


def _derivative(values: Tensor, axis: int, extent: Sequence[float], size: int | None = None) -> Tensor:
    """Forward difference along image axis `axis`, per mm; `size` voxels where values are already cut."""
    dim = values.ndim - 2 - axis
    size = values.shape[dim] if size is None else size
    return values.diff(dim=dim) * (size / extent[axis])


def _checked(displacement: Tensor, extent: Sequence[float]) -> Sequence[float]:
    d = displacement.shape[-1]
    if displacement.ndim != d + 1 or d not in (2, 3) or len(extent) != d or min(extent) <= 0:
        raise InputError("The displacement and the extent of its box do not fit together.")
    return extent
