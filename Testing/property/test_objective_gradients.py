"""Closed-form gradients against finite differences in double precision, and adjoints."""

from __future__ import annotations

import pytest
import torch
from DeepRegistrationLib import filters
from DeepRegistrationLib.objectives import (
    GlobalNCC,
    LabelOverlap,
    LandmarkDistance,
    LocalNCC,
    MeanSquaredError,
    NormalisedMutualInformation,
    Similarity,
    bending_energy,
    diffusion,
    fold_penalty,
    local_ncc,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

DOUBLE = torch.float64
SHAPES = [(5, 4), (4, 3, 5), (1, 4, 5)]

MEASURES = [
    MeanSquaredError(),
    GlobalNCC(),
    LocalNCC(1),
    LocalNCC(2, epsilon=0.3),
    NormalisedMutualInformation(6, warped_range=(-0.1, 1.1)),
]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: type(m).__name__)
def test_similarity_gradients(
    measure: Similarity, weighted: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_ncc, "_STACK", 20)
    warped, fixed = random(1, 2, *shape).requires_grad_(), random(1, 2, *shape, seed=1)
    weight = random(1, 1, *shape, seed=2) if weighted else None
    assert gradcheck(lambda x: 3 * measure(x, fixed, weight), (warped,))


@pytest.mark.parametrize("shape", SHAPES)
def test_regularity_gradients(shape: tuple[int, ...]) -> None:
    d = len(shape)
    field = random(*shape, d).requires_grad_()
    extent = (3.0, 5.0, 4.0)[:d]
    assert gradcheck(lambda u: 2 * diffusion(u, extent), (field,))
    assert gradcheck(lambda u: bending_energy(u, extent), (field,))
    assert gradcheck(fold_penalty, (field,))


def test_prompt_gradients() -> None:
    points = random(4, 3).requires_grad_()
    for robust in (None, 0.3):
        loss = LandmarkDistance(points.detach(), random(4, 3, seed=1), random(4, seed=2), robust)
        assert gradcheck(loss, (points,))
    labels = random(1, 2, 3, 4).requires_grad_()
    fixed, weight = random(1, 2, 3, 4, seed=1), random(1, 1, 3, 4, seed=2)
    assert gradcheck(lambda x: LabelOverlap()(x, fixed, weight), (labels,))


@pytest.mark.parametrize("border", ["zero", "replicate"])
@pytest.mark.parametrize("shape", [(4, 5), (3, 2, 6)])
def test_filter_gradients(border: str, shape: tuple[int, ...]) -> None:
    image = random(2, *shape).requires_grad_()
    sigma = (1.5, 0.6, 0.9)[: len(shape)]
    assert gradcheck(lambda x: filters.gaussian_smooth(x, sigma, border=border), (image,))
    field = random(*shape, 2).requires_grad_()
    assert gradcheck(lambda x: filters.gaussian_smooth(x, sigma, channels_last=True, border=border), (field,))
    assert gradcheck(lambda x: filters.box_sum(x, (1, 5, 2)[: len(shape)]), (image,))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 7), min_size=2, max_size=3),
    radius=st.lists(st.integers(0, 6), min_size=3, max_size=3),
    sigma=st.lists(st.floats(0, 3), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
def test_zero_padded_filters_are_their_own_adjoint(
    shape: list[int], radius: list[int], sigma: list[float], seed: int
) -> None:
    d = len(shape)
    x, y = random(*shape, seed=seed), random(*shape, seed=seed + 1)
    for operator in (
        lambda v: filters.box_sum(v, radius[:d]),
        lambda v: filters.gaussian_smooth(v, sigma[:d]),
    ):
        assert float((operator(x) * y).sum()) == pytest.approx(float((x * operator(y)).sum()), rel=1e-10)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(2, 8), min_size=2, max_size=3),
    radius=st.integers(1, 3),
    gain=st.floats(0.1, 50),
    offset=st.floats(-100, 100),
)
def test_local_correlation_ignores_gain_and_offset_and_stays_in_range(
    shape: list[int], radius: int, gain: float, offset: float
) -> None:
    warped, fixed = random(1, 1, *shape), random(1, 1, *shape, seed=1)
    measure = LocalNCC(radius)
    value = float(measure(warped, fixed))
    assert 0 <= value <= 1
    assert float(measure(offset - gain * warped, fixed)) == pytest.approx(value, abs=1e-7)
    assert float(measure(fixed, warped)) == pytest.approx(value, abs=1e-9)
