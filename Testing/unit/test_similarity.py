"""Whole-image measures against numpy, their ranges, and the registry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.objectives import (
    SIMILARITIES,
    AdaptiveNCC,
    GlobalNCC,
    LocalNCC,
    MeanSquaredError,
    similarity_by_name,
)

GENERATOR = torch.Generator().manual_seed(4)


def images(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    a = torch.rand(1, 2, *shape, generator=GENERATOR)
    b = 0.5 * a + torch.rand(1, 2, *shape, generator=GENERATOR)
    return a, b, torch.rand(1, 1, *shape, generator=GENERATOR)


@pytest.mark.parametrize("shape", [(7, 8), (5, 6, 7)])
def test_mean_squared_error(shape: tuple[int, ...]) -> None:
    a, b, weight = images(*shape)
    square = (a.numpy() - b.numpy()) ** 2
    assert float(MeanSquaredError()(a, b)) == pytest.approx(square.mean(), rel=1e-5)
    expected = np.average(square, weights=np.broadcast_to(weight.numpy(), square.shape))
    assert float(MeanSquaredError()(a, b, weight)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(7, 8), (5, 6, 7)])
def test_global_ncc(shape: tuple[int, ...]) -> None:
    a, b, weight = images(*shape)
    plain, weighted = [], []
    for p, q in zip(a[0].numpy(), b[0].numpy(), strict=True):
        plain.append(np.corrcoef(p.ravel(), q.ravel())[0, 1])
        c = np.cov(p.ravel(), q.ravel(), aweights=weight.numpy().ravel())
        weighted.append(c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]))
    assert float(GlobalNCC()(a, b)) == pytest.approx(1 - np.mean(plain), abs=1e-5)
    assert float(GlobalNCC()(a, b, weight)) == pytest.approx(1 - np.mean(weighted), abs=1e-5)
    assert float(GlobalNCC()(2 + 3 * a, a)) == pytest.approx(0, abs=1e-5)
    assert float(GlobalNCC()(-a, a)) == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("shape", [(9, 10), (8, 9, 10), (1, 9, 10)])
def test_every_measure_is_finite_where_there_is_nothing_to_measure(name: str, shape: tuple[int, ...]) -> None:
    a, b, weight = images(*shape)
    for p, q, w in ((a * 0, b, None), (a, b * 0 + 3, weight), (a * 0 + 0.1, b * 0, None), (a, b, weight * 0)):
        measure = similarity_by_name(name)
        p, q = measure.prepare(p).clone().requires_grad_(), measure.prepare(q)
        loss = measure.at((1.0,) * len(shape))(p, q, w)
        loss.backward()
        assert bool(loss.isfinite()) and p.grad is not None and bool(p.grad.isfinite().all())


@pytest.mark.parametrize("name", SIMILARITIES)
def test_every_measure_prefers_aligned_images(name: str) -> None:
    z, y, x = torch.meshgrid(*[torch.linspace(-3, 3, 16)] * 3, indexing="ij")
    fixed = (torch.sin(x * y) + torch.cos(2 * z + y))[None, None]
    measure = similarity_by_name(name)
    shifted = [torch.roll(fixed, k, -1)[..., 3:-3] for k in (0, 1, 2)]
    losses = [float(measure(measure.prepare(s), measure.prepare(fixed[..., 3:-3]))) for s in shifted]
    assert losses[0] < losses[1] < losses[2]


def test_registry() -> None:
    assert set(SIMILARITIES) == {"mse", "ncc", "lncc", "adaptive-ncc", "nmi", "mind", "mind-nmi"}
    measure = similarity_by_name("lncc", radius=3)
    assert isinstance(measure, LocalNCC) and measure.radius == 3
    with pytest.raises(InputError, match="ssd"):
        similarity_by_name("ssd")


def test_adaptive_weights_are_those_of_the_recursion() -> None:
    terms = torch.tensor([0.5, 0.4, 0.06, 0.02, 0.08], dtype=torch.float64)
    for form in ("threshold", "parameter-free"):
        loss = float(terms[0])
        for i in range(1, 5):
            gate = float(terms[i])
            if form == "threshold":
                gate = min(1.0, gate / (0.1 / 1.3 ** (4 - i)))
            loss = gate * float(terms[i]) + (1 - gate) * loss
        weights = AdaptiveNCC(form).weights_for(terms)
        assert float((weights * terms).sum()) == pytest.approx(loss, rel=1e-12)
        assert float(weights.sum()) == pytest.approx(1)


def test_adaptive_hands_over_from_coarse_to_fine() -> None:
    measure = AdaptiveNCC()
    fine, coarse = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.9]), torch.tensor([0.9, 0.9, 0.9, 0.9, 0.0])
    assert measure.weights_for(fine).tolist() == [0, 0, 0, 0, 1]
    assert measure.weights_for(coarse).tolist() == [0, 0, 0, 1, 0]
    assert measure.weights_for(torch.zeros(5)).tolist() == [1, 0, 0, 0, 0]


def test_adaptive_on_images() -> None:
    a, b, weight = images(17, 18, 19)
    measure = AdaptiveNCC("parameter-free")
    loss = measure(a, b, weight)
    assert len(measure.weights) == len(measure.terms) == 5
    assert float(loss) == pytest.approx(float(np.dot(measure.weights, measure.terms)), rel=1e-5)
    assert measure.terms[0] == pytest.approx(float(GlobalNCC()(a, b, weight)), rel=1e-5)
    # The gates are constants for the derivative.
    a.requires_grad_()
    slope = torch.autograd.grad(measure(a, b), a)[0]
    scales = [measure._scales(x) for x in (a, b)]
    terms = torch.stack([GlobalNCC()(p, q) for p, q in zip(*scales, strict=True)])
    expected = torch.autograd.grad((torch.tensor(measure.weights) * terms).sum(), a)[0]
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-8)
    with pytest.raises(InputError):
        AdaptiveNCC("greedy")
