"""A differentiable inverse of a displacement, of which only the solution is kept for the way back.

Honkamaa and Marttinen, SITReg (MELBA 2024, arXiv 2303.10211): the inverse is the fixed point
of a contraction, found by Anderson acceleration; its derivative follows from the implicit function
theorem and is a fixed point too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .interpolation import read_at, voxel_centres

_DAMPING = 1e-6
"""Added to the diagonal of the changes' Gram matrix, of which the entries are cosines."""

Watch = Callable[[], None]
"""Called at every iteration; it may raise, as a cancelled `Reporter` does."""


@dataclass(frozen=True)
class FixedPoint:
    """What an iteration came to.

    Attributes:
        value: the last image g(x).
        iterations: evaluations of g.
        error: as it was measured at the last one.
    """

    value: Tensor
    iterations: int
    error: float


@dataclass(frozen=True)
class Inversion:
    """How exactly to invert.

    Attributes:
        tolerance: largest |v(y) + u(y + v(y))| along any axis at any voxel of the whole batch, voxels.
        backward_tolerance: of the derivative's iteration, relative, Euclidean.
        most: iterations at most, in either direction.
        least: iterations at least.
        memory: iterates that Anderson acceleration combines; 1 is the plain iteration.
    """

    tolerance: float = 0.01
    backward_tolerance: float = 0.01
    most: int = 50
    least: int = 2
    memory: int = 4


def inverse_displacement(
    displacement: Tensor, settings: Inversion | None = None, watch: Watch | None = None
) -> Tensor:
    """v with (id + u)(id + v) = id at the voxel centres; differentiable once in u.

    u is linear between voxels and goes on as its border value outside. Where u is a contraction in voxels
    (maximum norm) the solution exists, is unique, and is found to the tolerance. Between the passes
    only u and v are kept, whatever the number of iterations.

    Args:
        displacement: u (B, *S, d), components (x, y, z), normalised units (one voxel is 2 / size).
        settings: how exactly.
        watch: called at every iteration of the forward pass.

    Returns:
        v (B, *S, d), normalised units.
    """
    scale = _voxel(displacement)
    return scale * _Inverse.apply(displacement / scale, settings or Inversion(), watch)


@torch.no_grad()
def solve_inverse(
    displacement: Tensor, settings: Inversion | None = None, watch: Watch | None = None
) -> FixedPoint:
    """As `inverse_displacement`, without derivative; tells iterations and the largest error, in voxels."""
    scale = _voxel(displacement)
    found = _solve(displacement / scale, settings or Inversion(), watch)
    return FixedPoint(scale * found.value, found.iterations, found.error)


def fixed_point(
    function: Callable[[Tensor], Tensor],
    start: Tensor,
    error: Callable[[Tensor, Tensor], Tensor],
    settings: Inversion,
    tolerance: float,
    watch: Watch | None = None,
) -> FixedPoint:
    """x = g(x) by Anderson acceleration (type II, no relaxation), each item of the batch by itself.

    The next iterate is the combination of the last images g(x_i), weights summing to one, for which the
    same combination of the changes g(x_i) - x_i is smallest. One criterion stops the whole batch.

    Args:
        function: g, of (B, ...) to (B, ...).
        start: x_0; the first two steps are plain.
        error: of a change and the image it led to; below `tolerance` the iteration ends.
    """
    images: list[Tensor] = []
    changes: list[Tensor] = []
    x = start
    for iteration in range(1, settings.most + 1):
        if watch is not None:
            watch()
        image = function(x)
        change = image - x
        left = float(error(change, image))
        if (left < tolerance and iteration >= settings.least) or iteration == settings.most:
            break
        images, changes = [*images, image][-settings.memory :], [*changes, change][-settings.memory :]
        x = image if len(images) < 2 else _combined(images, changes)
    return FixedPoint(image, iteration, left)


def _combined(images: list[Tensor], changes: list[Tensor]) -> Tensor:
    """The weighted mean of the images whose weighted mean change is smallest."""
    m = len(images)
    flat = [c.flatten(1) for c in changes]
    gram = torch.stack([torch.stack([(p * q).sum(1) for q in flat], 1) for p in flat], 1).double()
    # scaled by the changes' lengths: any tolerance is within reach, and an item may be solved already
    length = gram.diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-100)
    gram = gram / (length[:, :, None] * length[:, None, :])
    gram = gram + _DAMPING * torch.eye(m, dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram, 1 / length) / length
    weights = (weights / weights.sum(1, keepdim=True)).to(images[0].dtype)
    total = torch.zeros_like(images[0])
    for k, image in enumerate(images):
        total.addcmul_(image, weights[:, k].view(-1, *(1,) * (image.ndim - 1)))
    return total


class _Inverse(torch.autograd.Function):
    """u to v, both in voxels."""

    @staticmethod
    def forward(ctx, u: Tensor, settings: Inversion, watch: Watch | None) -> Tensor:
        v = _solve(u, settings, watch).value
        ctx.save_for_backward(u, v)
        ctx.settings = settings
        return v

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        u, v = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        with torch.enable_grad():
            image = _image(u, v)
        # v = g(u, v): the derivative of a loss with respect to g is w = upstream + (dg/dv)^T w
        found = fixed_point(
            lambda w: upstream + torch.autograd.grad(image, v, w, retain_graph=True)[0],
            torch.zeros_like(upstream),
            lambda change, w: change.norm() / w.norm().clamp_min(1e-30),
            ctx.settings,
            ctx.settings.backward_tolerance,
        )
        return torch.autograd.grad(image, u, found.value)[0], None, None


def _solve(u: Tensor, settings: Inversion, watch: Watch | None) -> FixedPoint:
    return fixed_point(
        lambda v: _image(u, v), -u, lambda change, _: change.abs().max(), settings, settings.tolerance, watch
    )


def _image(u: Tensor, v: Tensor) -> Tensor:
    """g(v) = -u(y + v(y)) at the voxel centres y, all in voxels, (B, *S, d)."""
    points = voxel_centres(u.shape[1:-1], u) + v * _voxel(u)
    return -read_at(u.movedim(-1, 1), points).movedim(1, -1)


def _voxel(field: Tensor) -> Tensor:
    """One voxel in normalised units, (x, y, z)."""
    return 2 / field.new_tensor(field.shape[1:-1][::-1])
