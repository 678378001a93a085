"""Optimisation as a layer: from two images' features to the displacement that aligns them, differentiably.

The forward pass is the engine's solver on detached features. At the optimum w* of a scale the gradient of
the objective C(w, F) vanishes, so exact implicit differentiation gives dw*/dF = -H^-1 d2C/dw dF with the
Hessian H. Jacobian-free backpropagation (Jena et al., arXiv 2406.07361, after Fung et al., AAAI 2022) puts
the identity in the place of H: one differentiable step of descent from the detached optimum,

    w = G_warp [w* - r G_gradient dC/dw (w*, F)],

both Gaussians included, so that dL/dF = -r (d2C/dw dF)^T dL/dw, smoothing aside. It is the first term of
the Neumann series of H^-1 = r sum_k (I - r H)^k; n such steps unrolled are its first n terms. The error
relative to the exact gradient is therefore of the order of ||I - r H||^n, and zero after one step where
H = I / r.

How exact that is, on 8 x 8 voxels with four smooth features in double precision: the implicit gradient
agrees with finite differences of the whole layer to 1e-5. One Jacobian-free step is much shorter than it and
points its way with a cosine of 0.2 to 0.3 where the loss' gradient in w is white noise, and 0.5 to 0.65 where
that is smooth; thirty steps reach 0.4 to 0.6 and 0.8. A direction to descend in, then, and no more.

The objective is the mean squared difference of the features over channels and voxels. The paper's steps
have a constant rate, which works only because the network learns how large its features have to be; here
the solver's steps are normalised, and the step that is differentiated has the rate 1 / max(h), with h the
Gauss-Newton curvature of the objective per voxel. Neither depends on the features' scale.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...filters import gaussian_smooth, spatial_gradient
from ...frame import Frame
from ...interpolation import gather_sample, warp
from ...objective import Channel, PairObjective, Pyramid
from ...objectives import MeanSquaredError
from ...progress import Reporter
from ...solver import Settings, solve
from ...transforms.base import Representation
from ...transforms.diffeomorphic import Diffeomorphic
from ...transforms.free_form import FreeForm
from ...transforms.linear import LinearRepresentation, LinearTransform

_DENSE = 2048
"""Unknowns up to which the exact implicit gradient builds the Hessian instead of iterating."""

_MOST_ITERATIONS = 1000


@dataclass(frozen=True)
class Differentiation:
    """How an optimum depends on the features.

    Attributes:
        kind: ``jacobian-free``, or ``implicit``: the exact gradient where the objective is stationary,
            without smoothing, by the whole Hessian; for small problems.
        steps: differentiable ("phantom") steps after the optimum; 0 leaves the optimum as it is, without
            gradient, which is right for inference.
        rate: of these steps, squared normalised units (of parameters, for linear maps) per unit of the
            objective; None takes 1 over the curvature.
    """

    kind: str = "jacobian-free"
    steps: int = 1
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("jacobian-free", "implicit") or self.steps < 0:
            raise InputError("There is no such way to differentiate the solver's optimum.")


@dataclass(frozen=True)
class Aligned:
    """A scale's optimum.

    Attributes:
        frame: the scale's.
        displacement: (*frame.shape, d), normalised units, differentiable in the features.
    """

    frame: Frame
    displacement: Tensor


@dataclass(frozen=True)
class AlignmentLayer:
    """Features in, displacements out.

    Attributes:
        settings: the solver's.
        differentiation: how gradients come back.
        linear: applied after the displacement.
    """

    settings: Settings
    differentiation: Differentiation = field(default_factory=Differentiation)
    linear: LinearTransform | None = None

    def __call__(
        self, fixed: Pyramid, moving: Pyramid, start: Representation, report: Reporter | None = None
    ) -> list[Aligned]:
        """Align two images' features.

        Args:
            fixed, moving: features on frames of their own.
            start: free-form, diffeomorphic, rigid or affine for gradients; any without. Not altered.
            report: progress and cancellation.

        Returns:
            An optimum per scale of the settings, coarse to fine. The solver goes on from the optimum itself,
            not from where the differentiable steps lead.
        """
        linear = self.linear or LinearTransform.identity(start.dimension)

        def objective(of_fixed: Pyramid, of_moving: Pyramid) -> PairObjective:
            return PairObjective([Channel(of_fixed, of_moving, MeanSquaredError())], linear)

        found: list[Aligned] = []
        attached = objective(fixed, moving)

        def keep(optimum: Representation) -> None:
            stiffness = self.settings.scales[len(found)].stiffness
            sigmas = self.settings.gradient_sigma, self.settings.warp_sigma * stiffness
            found.append(
                Aligned(optimum.frame, differentiable(attached, optimum, self.differentiation, *sigmas))
            )

        detached = objective(fixed.detached(), moving.detached())
        finished, _ = solve(detached, start, self.settings, report, after_scale=keep)
        if self.differentiation.steps == 0:
            found[-1] = Aligned(finished.frame, _detached(finished))
        return found


def differentiable(
    objective: PairObjective,
    optimum: Representation,
    how: Differentiation,
    gradient_sigma: float = 0.0,
    warp_sigma: float = 0.0,
) -> Tensor:
    """The displacement (*S, d) of an optimum, depending on the objective's features as `how` says.

    Raises:
        InputError: a representation whose optimum cannot be differentiated here.
    """
    if how.steps == 0:
        return _detached(optimum)
    energy = objective.at(optimum.frame, twice=True)
    if isinstance(optimum, LinearRepresentation):
        return _linear_steps(energy, objective, optimum, how)
    if not isinstance(optimum, FreeForm):
        raise InputError(f"Training through the solver is not possible with the map {optimum.name}.")
    w = optimum.displacement().detach().clone()
    if how.kind == "implicit":
        return implicit_step(energy, w)
    d = optimum.dimension
    rate = _rates(objective, optimum.frame, how)
    current = w.requires_grad_()
    for _ in range(how.steps):
        (gradient,) = torch.autograd.grad(energy(current), current, create_graph=True)
        if isinstance(optimum, Diffeomorphic):
            gradient = _inside(gradient, w.detach())
        step = -rate * gaussian_smooth(gradient, (gradient_sigma,) * d, channels_last=True)
        if isinstance(optimum, Diffeomorphic):
            current = _composed(current, _short(step, optimum), optimum.frame)
        else:
            current = current + step
        current = gaussian_smooth(current, (warp_sigma,) * d, channels_last=True)
    return current


@torch.no_grad()
def _detached(optimum: Representation) -> Tensor:
    return optimum.displacement().detach().clone()


def implicit_step(energy: Callable[[Tensor], Tensor], optimum: Tensor) -> Tensor:
    """A Newton step from an optimum, whose derivative in what `energy` closes over is the implicit one.

    Args:
        energy: twice differentiable, of a tensor like `optimum`.
        optimum: where its gradient vanishes (nearly: the value takes the Newton step).
    """
    x = optimum.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(x), x, create_graph=True)
    return x.detach() - _Solved.apply(gradient, _inverse_hessian(gradient, x))


class _Solved(torch.autograd.Function):
    """H^-1 v for a symmetric constant H given as a function."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, inverse: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.inverse = inverse
        return inverse(vector)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.inverse(upstream), None


def _inverse_hessian(gradient: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
    def product(v: Tensor) -> Tensor:
        return torch.autograd.grad(gradient, x, v, retain_graph=True)[0]

    if x.numel() > _DENSE:
        return lambda b: conjugate_gradients(product, b)
    basis = torch.eye(x.numel(), dtype=x.dtype, device=x.device)
    hessian = torch.stack([product(e.view_as(x)).flatten() for e in basis])
    # voxels without information have no say, instead of an infinite one
    inverse = torch.linalg.pinv((hessian + hessian.T) / 2, hermitian=True)
    return lambda b: (inverse @ b.flatten()).view_as(b)


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, tolerance: float = 1e-8) -> Tensor:
    """x with product(x) = b, for a symmetric positive (semi)definite linear map; any shape.

    Where the map turns out not to be positive along a direction, the search ends with what it has.
    """
    x, residual = torch.zeros_like(b), b.detach().clone()
    direction, squared = residual.clone(), float(residual.square().sum())
    goal = tolerance**2 * squared
    for _ in range(min(_MOST_ITERATIONS, 2 * b.numel())):
        if squared <= goal:
            break
        image = product(direction).detach()
        curvature = float((direction * image).sum())
        if curvature <= 0:
            break
        length = squared / curvature
        x, residual = x + length * direction, residual - length * image
        before, squared = squared, float(residual.square().sum())
        direction = residual + (squared / before) * direction
    return x


def _linear_steps(
    energy: Callable[[Tensor], Tensor],
    objective: PairObjective,
    optimum: LinearRepresentation,
    how: Differentiation,
) -> Tensor:
    """The steps on a rigid or affine map's parameters."""
    values = [p.detach().clone() for p in optimum.parameters()]
    sizes = [len(v) for v in values]
    names = [next(n for n, v in vars(optimum).items() if v is p) for p in optimum.parameters()]

    def displacement(x: Tensor) -> Tensor:
        model = copy(optimum)
        for name, part in zip(names, x.split(sizes), strict=True):
            setattr(model, name, part)
        return model.displacement()

    x = torch.cat(values).requires_grad_()
    if how.kind == "implicit":
        return displacement(implicit_step(lambda y: energy(displacement(y)), x))
    # a unit of a parameter moves points by a voxel or less
    rate = 1 / float(_curvature(objective, optimum.frame).sum()) if how.rate is None else how.rate
    for _ in range(how.steps):
        (gradient,) = torch.autograd.grad(energy(displacement(x)), x, create_graph=True)
        x = x - rate * gradient
    return displacement(x)


def _rates(objective: PairObjective, frame: Frame, how: Differentiation) -> float | Tensor:
    """The dense step's rate, (d,) where it is the curvature's: one for all axes in voxels."""
    if how.rate is not None:
        return how.rate
    curvature = _curvature(objective, frame)
    voxel = 2 / torch.tensor(frame.size, dtype=curvature.dtype, device=curvature.device)
    return voxel**2 / float(curvature.max())


def _curvature(objective: PairObjective, frame: Frame) -> Tensor:
    """Gauss-Newton second derivative of the energy in each voxel's displacement in voxels, (*S), above 0.

    By the fixed features, which the warped ones resemble at an optimum.
    """
    fixed = objective.channels[0].fixed
    assert isinstance(fixed, Pyramid)
    values, matrix = fixed.detached().for_scale(frame, LinearTransform.identity(frame.dimension))
    grid = frame.grid(values.device, values.dtype)
    slopes = spatial_gradient(warp(values, torch.zeros_like(grid), matrix.to(grid), grid))
    squares = slopes.square().sum((0, 1, 2)) * (2 / (slopes.shape[1] * frame.voxels))
    return squares.clamp_min(torch.finfo(squares.dtype).tiny)


def _inside(gradient: Tensor, w: Tensor) -> Tensor:
    """From the gradient in w to that in an update v composed on the inside, w <- v + w o (id + v).

    That is (I + Dw)^T times it, for (*S, d) in normalised units.
    """
    slopes = spatial_gradient(w.movedim(-1, 0)[None])[0]  # (component, axis, *S), per voxel
    d = w.shape[-1]
    half = slopes.new_tensor([w.shape[d - 1 - axis] / 2 for axis in range(d)])
    slopes = slopes * half.view(1, d, *(1,) * d)
    return gradient + torch.einsum("ca...,...c->...a", slopes, gradient)


def _short(step: Tensor, optimum: Diffeomorphic) -> Tensor:
    """The step divided by what its longest vector has over half a voxel."""
    longest = float((step.detach() / optimum.voxel(step)).norm(dim=-1).max())
    return step / max(1.0, 2 * longest)


def _composed(w: Tensor, v: Tensor, frame: Frame) -> Tensor:
    """v + w o (id + v), twice differentiable."""
    points = frame.grid(v.device, v.dtype) + v
    return v + gather_sample(w.movedim(-1, 0)[None], points)[0].movedim(0, -1)
