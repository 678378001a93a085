"""Gradients through the solver: the Jacobian-free step and the exact implicit gradient, on 8 x 8 voxels.

How exact theory allows them to be: the implicit gradient is exact where the objective is stationary and
twice differentiable, so against finite differences of the whole layer its error is theirs and the
solver's (here 1e-5 relative). The Jacobian-free one is the first term of a series in I - rate x Hessian:
its relative error is up to the norm of that, and zero where the Hessian is I / rate.
"""

from __future__ import annotations

import math

import pytest
import torch
from DeepRegistrationLib.filters import gaussian_smooth
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.interpolation import gather_sample
from DeepRegistrationLib.methods.dio.layer import (
    Differentiation,
    conjugate_gradients,
    differentiable,
    implicit_step,
)
from DeepRegistrationLib.objective import Channel, PairObjective, Pyramid
from DeepRegistrationLib.objectives import MeanSquaredError
from DeepRegistrationLib.transforms import Affine, Diffeomorphic, FreeForm, LinearTransform
from torch import Tensor

FRAME = Frame.regular((8, 8))


def textures(count: int = 4, seed: int = 0) -> Tensor:
    """Smooth features (count, 8, 8), float64."""
    noise = torch.randn(count, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return gaussian_smooth(noise[None], (1.2, 1.2), border="replicate")[0] * 3


def pyramid(features: Tensor) -> Pyramid:
    return Pyramid((Volume(features, FRAME),), FRAME)


def objective(fixed: Tensor, moving: Tensor) -> PairObjective:
    return PairObjective(
        [Channel(pyramid(fixed), pyramid(moving), MeanSquaredError())], LinearTransform.identity(2)
    )


def newton(fixed: Tensor, moving: Tensor, w: Tensor, iterations: int = 8) -> Tensor:
    """A stationary displacement near `w`, to machine precision."""
    energy = objective(fixed, moving).at(FRAME, twice=True)
    for _ in range(iterations):
        w = implicit_step(energy, w).detach()
    return w


def exact_pair() -> tuple[Tensor, Tensor, Tensor]:
    """Fixed and moving features, and a displacement that maps one exactly onto the other.

    It points inwards and ends between voxels, so that the objective is smooth around it and has there a
    positive definite Hessian.
    """
    generator = torch.Generator().manual_seed(5)
    grid, moving = FRAME.grid(dtype=torch.float64), textures(seed=1)
    w = -grid.sign() * (0.25 + 0.2 * torch.rand(8, 8, 2, generator=generator, dtype=torch.float64)) * (2 / 8)
    return gather_sample(moving[None], grid + w)[0], moving, w


def model(w: Tensor, kind: type[FreeForm] = FreeForm) -> FreeForm:
    result = kind(FRAME)
    result._set(w)
    return result


@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_the_jacobian_free_gradient_is_its_formula(sigma: float) -> None:
    """dL/dF = -rate (d2C/dw dF)^T G dL/dw with G the adjoint of the two Gaussians, for both images."""
    fixed, moving = textures().requires_grad_(), textures(seed=1).requires_grad_()
    w = 0.1 * torch.randn(8, 8, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    upstream = torch.randn(8, 8, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rate = 0.37
    pair = objective(fixed, moving)
    found = differentiable(pair, model(w), Differentiation(rate=rate), sigma, sigma)
    gradients = torch.autograd.grad((found * upstream).sum(), (fixed, moving))

    x = w.clone().requires_grad_()
    slope = torch.autograd.grad(pair.at(FRAME, twice=True)(x), x, create_graph=True)[0]
    # with a zero border the Gaussian is its own adjoint
    pulled = gaussian_smooth(gaussian_smooth(upstream, (sigma,) * 2, True), (sigma,) * 2, True)
    expected = torch.autograd.grad((slope * pulled).sum(), (fixed, moving))
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, -rate * other, atol=1e-12, rtol=1e-10)
        assert one.abs().max() > 1e-6


def test_jacobian_free_is_exact_where_the_hessian_is_the_identity_over_the_rate() -> None:
    """C = |w - A F|^2 / (2 rate): one step gives A^T dL/dw, as the implicit gradient does."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20, 12, generator=generator, dtype=torch.float64)
    features = torch.randn(12, generator=generator, dtype=torch.float64).requires_grad_()
    upstream, rate = torch.randn(20, generator=generator, dtype=torch.float64), 0.21

    def energy(w: Tensor) -> Tensor:
        return (w - a @ features).square().sum() / (2 * rate)

    optimum = (a @ features).detach()
    x = optimum.clone().requires_grad_()
    step = x.detach() - rate * torch.autograd.grad(energy(x), x, create_graph=True)[0]
    free = torch.autograd.grad((step * upstream).sum(), features)[0]
    exact = torch.autograd.grad((implicit_step(energy, optimum) * upstream).sum(), features)[0]
    torch.testing.assert_close(free, a.T @ upstream, atol=1e-12, rtol=0)
    torch.testing.assert_close(exact, free, atol=1e-12, rtol=0)


def test_more_steps_come_nearer_to_the_implicit_gradient_on_a_quadratic() -> None:
    """With C = w^T H w / 2 - w^T F, the error after n steps is that of the series: (I - rate H)^n."""
    generator = torch.Generator().manual_seed(1)
    q = torch.linalg.qr(torch.randn(10, 10, generator=generator, dtype=torch.float64))[0]
    values = torch.linspace(0.5, 1.5, 10, dtype=torch.float64)
    hessian, rate = q @ torch.diag(values) @ q.T, 1.0
    features = torch.randn(10, generator=generator, dtype=torch.float64).requires_grad_()
    upstream = torch.randn(10, generator=generator, dtype=torch.float64)
    exact = torch.linalg.solve(hessian, upstream)
    for n in (1, 2, 5):
        w = torch.linalg.solve(hessian, features).detach().requires_grad_()
        for _ in range(n):
            energy = 0.5 * w @ hessian @ w - w @ features
            w = w - rate * torch.autograd.grad(energy, w, create_graph=True)[0]
        free = torch.autograd.grad((w * upstream).sum(), features)[0]
        series = exact - torch.linalg.matrix_power(torch.eye(10) - rate * hessian, n) @ exact
        torch.testing.assert_close(free, series, atol=1e-10, rtol=0)
        assert (free - exact).norm() <= 0.5**n * exact.norm() * (1 + 1e-9)


def test_the_implicit_gradient_is_what_finite_differences_of_the_whole_layer_say() -> None:
    fixed, moving, optimum = exact_pair()
    upstream = torch.randn(8, 8, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    features = fixed.clone().requires_grad_(), moving.clone().requires_grad_()
    found = differentiable(objective(*features), model(optimum), Differentiation("implicit"))
    assert (found - optimum).abs().max() < 1e-9  # it was stationary
    gradients = torch.autograd.grad((found * upstream).sum(), features)
    for which in (0, 1):
        direction = textures(seed=7 + which)
        step = 1e-5
        ends = []
        for sign in (1, -1):
            changed = [fixed, moving]
            changed[which] = changed[which] + sign * step * direction
            ends.append((newton(*changed, optimum) * upstream).sum())
        difference = float(ends[0] - ends[1]) / (2 * step)
        assert float((gradients[which] * direction).sum()) == pytest.approx(difference, rel=1e-5)


def test_the_jacobian_free_gradient_is_as_wrong_as_the_theory_says() -> None:
    """Against the implicit one; with P = H^-1 dL/dw, the cotangents differ by (I - rate H) P exactly."""
    fixed, moving, optimum = exact_pair()
    upstream = torch.randn(8, 8, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = optimum.clone().requires_grad_()
    slope = torch.autograd.grad(objective(fixed, moving).at(FRAME, twice=True)(x), x, create_graph=True)[0]
    rows = [
        torch.autograd.grad(slope, x, e.view_as(x), retain_graph=True)[0] for e in torch.eye(128).double()
    ]
    hessian = torch.stack([r.flatten() for r in rows])
    rate = float(1 / torch.linalg.eigvalsh(hessian).max())
    features = fixed.clone().requires_grad_()
    pair = objective(features, moving)
    cotangents = {}
    for kind in ("implicit", "jacobian-free"):
        found = differentiable(pair, model(optimum), Differentiation(kind, rate=rate))
        cotangents[kind] = torch.autograd.grad((found * upstream).sum(), features)[0]
    error = torch.linalg.solve(hessian, upstream.flatten()) - rate * upstream.flatten()
    x = optimum.clone().requires_grad_()
    slope = torch.autograd.grad(pair.at(FRAME, twice=True)(x), x, create_graph=True)[0]
    expected = torch.autograd.grad((slope * -error.view_as(x)).sum(), features)[0]
    torch.testing.assert_close(
        cotangents["implicit"] - cotangents["jacobian-free"], expected, atol=1e-9, rtol=1e-7
    )
    # not equal, but they point to the same side: what training needs (Fung et al. 2022)
    assert float((cotangents["implicit"] * cotangents["jacobian-free"]).sum()) > 0


def test_conjugate_gradients_solve_what_they_are_given() -> None:
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(30, 30, generator=generator, dtype=torch.float64)
    matrix, b = a @ a.T + torch.eye(30), torch.randn(30, generator=generator, dtype=torch.float64)
    x = conjugate_gradients(lambda v: matrix @ v, b)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), atol=1e-6, rtol=1e-6)


def test_the_affine_implicit_gradient_is_what_finite_differences_say() -> None:
    """Through the six parameters of an affine map: its forward pass works in single precision."""
    grid = FRAME.grid(dtype=torch.float64)
    fixed = torch.stack([torch.exp(-3 * (grid - c).square().sum(-1)) for c in (0.1, -0.3, 0.4)])
    moving = torch.stack([torch.exp(-3 * (grid - c - 0.09).square().sum(-1)) for c in (0.1, -0.3, 0.4)])
    start = Affine(FRAME)

    def solved(f: Tensor, m: Tensor) -> Affine:
        found = Affine(FRAME)
        found.set(start.linear())
        energy = objective(f, m).at(FRAME, twice=True)
        for _ in range(25):
            x = torch.cat([p.detach() for p in found.parameters()])

            def at(y: Tensor) -> Tensor:
                other = Affine(FRAME)
                other.turn, other.stretch, other.shift = y.split((1, 3, 2))
                return energy(other.displacement())

            x = implicit_step(at, x).detach()
            found.turn, found.stretch, found.shift = (p.requires_grad_() for p in x.split((1, 3, 2)))
        return found

    optimum = solved(fixed, moving)
    upstream = torch.randn(8, 8, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    features = fixed.clone().requires_grad_()
    found = differentiable(objective(features, moving), optimum, Differentiation("implicit"))
    gradient = torch.autograd.grad((found * upstream).sum(), features)[0]
    direction, step = textures(3, seed=9), 1e-3
    ends = [
        float((solved(fixed + s * step * direction, moving).displacement().detach() * upstream).sum())
        for s in (1, -1)
    ]
    assert float((gradient * direction).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-2)


def test_the_compositive_step_differentiates_as_finite_differences_say() -> None:
    """The step itself, from a fixed displacement: its derivative in the features, both Gaussians in it."""
    fixed, moving = textures(), textures(seed=1)
    grid = FRAME.grid(dtype=torch.float64)
    w = 0.05 * torch.stack([torch.sin(2 * grid[..., 0]), torch.cos(2 * grid[..., 1])], -1)
    upstream = torch.randn(8, 8, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def value(f: Tensor) -> Tensor:
        step = differentiable(
            objective(f, moving), model(w, Diffeomorphic), Differentiation(rate=0.02), 1.0, 0.5
        )
        return (step * upstream).sum()

    features = fixed.clone().requires_grad_()
    gradient = torch.autograd.grad(value(features), features)[0]
    direction, h = textures(seed=8), 1e-5
    difference = float(value(fixed + h * direction) - value(fixed - h * direction)) / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-5)
    assert math.isfinite(difference) and abs(difference) > 1e-8
