"""A differentiable inverse of a displacement, of which only the solution is kept for the way back.

Honkamaa and Marttinen, SITReg (MELBA 2024, arXiv 2303.10211): the inverse is the fixed point
of a contraction, found by Anderson acceleration; its derivative follows from the implicit function
theorem and is a fixed point too. Both are as many small systems as there are voxels, none of which looks at
another's unknowns, so the acceleration has weights for each voxel where the paper's are the whole image's:
at the bound of the control points it then takes half the iterations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .interpolation import read_at, voxel_centres

_DEPENDENT = 1e-4
"""A direction of which less than this is new, as a share of its square, is left out."""

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
        memory: iterates that Anderson acceleration combines; 1 is the plain iteration, and more than
            d + 1 bring nothing.
    """

    tolerance: float = 0.01
    backward_tolerance: float = 0.01
    most: int = 50
    least: int = 2
    memory: int = 3


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
    """x = g(x), each point's d equations apart from the others', by Anderson acceleration (type II).

    The next iterate is the combination of the last images g(x_i), weights summing to one, for which the
    same combination of the changes g(x_i) - x_i is smallest. One criterion stops the whole batch.

    Args:
        function: g, of (..., d) to (..., d).
        start: x_0; the first step is plain.
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
        x = _combined(images, changes)
    return FixedPoint(image, iteration, left)


def _combined(images: list[Tensor], changes: list[Tensor]) -> Tensor:
    """At each point the mean of the images whose mean change is smallest, by Gram and Schmidt's way.

    Every older iterate gives a direction: how the change would alter, and with it the image. Latest first,
    each is made orthogonal to those before it and takes its share out of what is left of the change.
    """
    image, left = images[-1].clone(), changes[-1].clone()
    taken: list[tuple[Tensor, Tensor, Tensor]] = []
    for older, changed in zip(images[-2::-1], changes[-2::-1], strict=True):
        direction, along = changed - changes[-1], older - images[-1]
        whole = _dot(direction, direction)
        for other, its_along, its_square in taken:
            share = _dot(direction, other) / its_square
            direction.addcmul_(share, other, value=-1)
            along.addcmul_(share, its_along, value=-1)
        square = _dot(direction, direction)
        new = square > _DEPENDENT * whole
        square = torch.where(new, square, 1.0)
        share = torch.where(new, _dot(left, direction) / square, 0.0)
        image.addcmul_(share, along, value=-1)
        left.addcmul_(share, direction, value=-1)
        taken.append((direction.mul_(new), along.mul_(new), square))
    return image


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


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
