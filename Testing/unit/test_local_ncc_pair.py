"""Measures of two images that both move: local correlation in one pass, and what the other ones do."""

from __future__ import annotations

import pytest
import torch
from DeepRegistrationLib.filters import gaussian_smooth
from DeepRegistrationLib.objectives import SIMILARITIES, LocalNCC, Similarity, similarity_by_name
from torch import Tensor

SHAPES = [(23, 19), (13, 16, 18)]


def textures(shape: tuple[int, ...], seed: int, channels: int = 1) -> tuple[Tensor, Tensor]:
    """Two images (1, C, *S), related but not alike."""
    noise = torch.Generator().manual_seed(seed)
    one, other = (torch.rand(1, channels, *shape, generator=noise) for _ in range(2))
    one, other = (gaussian_smooth(image, (1.0,) * len(shape), border="replicate") for image in (one, other))
    return one, 0.6 * one**2 + 0.4 * other


def weight(shape: tuple[int, ...]) -> Tensor:
    values = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(7))
    return values * (values > 0.3)


def derivatives(measure: LocalNCC, a: Tensor, b: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    one, other = (image.clone().requires_grad_() for image in (a, b))
    value = measure.symmetric(one, other, w)
    return value.detach(), *torch.autograd.grad(value, (one, other))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("radius", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=["2-D", "3-D"])
def test_it_is_the_one_sided_measure_asked_both_ways(
    shape: tuple[int, ...], radius: int, channels: int, weighted: bool
) -> None:
    a, b = textures(shape, 1, channels)
    w = weight(shape) if weighted else None
    measure = LocalNCC(radius, gradient="centre")
    value, along_a, along_b = derivatives(measure, a, b, w)
    for found, moved, still in ((along_a, a, b), (along_b, b, a)):
        moved = moved.clone().requires_grad_()
        expected = measure(moved, still, w)
        (gradient,) = torch.autograd.grad(expected, moved)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-5, atol=1e-6)
        assert float(gradient.abs().max()) > 1e-5
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()))
    assert 0.05 < float(value) < 0.95


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (70, 60, 50)], ids=["2-D", "3-D", "stacks of planes"])
def test_exchanging_the_images_is_exact_to_the_last_bit(shape: tuple[int, ...], weighted: bool) -> None:
    a, b = textures(shape, 2)
    w = weight(shape) if weighted else None
    measure = LocalNCC(2, gradient="centre")
    value, along_a, along_b = derivatives(measure, a, b, w)
    again, other_b, other_a = derivatives(measure, b, a, w)
    assert torch.equal(value, again)
    assert torch.equal(along_a, other_a) and torch.equal(along_b, other_b)


def test_a_weight_of_one_is_none_and_where_it_is_zero_nothing_counts() -> None:
    shape = SHAPES[1]
    a, b = textures(shape, 3)
    measure = LocalNCC(2, gradient="centre")
    plain = derivatives(measure, a, b, None)
    for one, other in zip(plain, derivatives(measure, a, b, torch.ones(1, 1, *shape)), strict=True):
        torch.testing.assert_close(one, other)
    half = torch.zeros(1, 1, *shape)
    half[..., :9] = 1
    value, along_a, along_b = derivatives(measure, a, b, half)
    assert not along_a[..., 9:].any() and not along_b[..., 9:].any()
    elsewhere = b.clone()
    elsewhere[..., 11:] = elsewhere[..., 11:].flip(2)  # beyond the windows of what counts; the variance stays
    torch.testing.assert_close(value, derivatives(measure, a, elsewhere, half)[0])
    empty = derivatives(measure, a, b, torch.zeros(1, 1, *shape))
    assert all(bool(t.isfinite().all()) for t in empty) and not empty[1].any()


@pytest.mark.parametrize("level", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("shape", SHAPES, ids=["2-D", "3-D"])
def test_flat_regions_are_finite_and_two_of_them_agree(shape: tuple[int, ...], level: float) -> None:
    measure = LocalNCC(2, gradient="centre")
    flat, (texture, _) = torch.full((1, 1, *shape), level), textures(shape, 4)
    value, *gradients = derivatives(measure, flat, flat.clone(), None)
    assert float(value) == pytest.approx(0, abs=1e-3)
    assert all(float(g.abs().max()) < 1e-6 for g in gradients)
    value, *gradients = derivatives(measure, flat, texture, None)
    assert 0.9 < float(value) <= 1.001 and all(bool(g.isfinite().all()) for g in gradients)
    part = texture.clone()
    part[..., :9] = level
    value, *gradients = derivatives(measure, part, part.clone(), None)
    assert float(value) == pytest.approx(0, abs=5e-3)  # the window sums' rounding
    assert all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("radius", [1, 2])
def test_equal_images_are_its_optimum(radius: int) -> None:
    a, b = textures(SHAPES[1], 5)
    measure = LocalNCC(radius, gradient="centre")
    value, *gradients = derivatives(measure, a, a.clone(), None)
    reference = derivatives(measure, a, b, None)
    assert float(value) == pytest.approx(0, abs=1e-5) and float(reference[0]) > 0.05
    assert all(float(g.abs().max()) < 1e-3 * float(reference[1].abs().max()) for g in gradients)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=["2-D", "3-D"])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_every_measure_is_the_mean_of_both_orders(name: str, shape: tuple[int, ...], weighted: bool) -> None:
    a, b = (similarity_by_name(name).prepare(image) for image in textures(shape, 6))
    w = weight(shape) if weighted else None
    value = float(similarity_by_name(name).symmetric(a, b, w))
    orders = [float(similarity_by_name(name)(*pair, w)) for pair in ((a, b), (b, a))]
    assert value == pytest.approx(sum(orders) / 2, rel=1e-5, abs=1e-6)
    assert float(similarity_by_name(name).symmetric(b, a, w)) == pytest.approx(value, rel=1e-5, abs=1e-6)


def exact(name: str) -> Similarity:
    """The measure with a gradient that is no approximation, histograms over a range that does not move."""
    ranges = {"warped_range": (-0.5, 1.5), "fixed_range": (-0.5, 1.5)} if "nmi" in name else {}
    return similarity_by_name(name, **ranges)


@pytest.mark.parametrize("moved", [0, 1])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_every_measures_gradient_is_that_of_the_measure_with_that_image_first(name: str, moved: int) -> None:
    """By finite differences along a random, smooth change of one image."""
    measure = exact(name)
    pair = [similarity_by_name(name).prepare(image).double() for image in textures(SHAPES[0], 8)]
    leaf = pair[moved].clone().requires_grad_()
    given = [leaf, pair[1].requires_grad_()] if moved == 0 else [pair[0].requires_grad_(), leaf]
    (gradient,) = torch.autograd.grad(measure.symmetric(*given), leaf)
    noise = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    change = gaussian_smooth(noise, (1.0, 1.0))
    start, still = leaf.detach(), pair[1 - moved].detach()
    step = 1e-5 * float(start.std()) / float(change.std())
    one_sided = exact(name)
    up, down = (float(one_sided(start + sign * step * change, still)) for sign in (1, -1))
    expected = (up - down) / (2 * step)
    assert abs(expected) > 1e-6
    assert float((gradient * change).sum()) == pytest.approx(expected, rel=1e-3, abs=1e-7)
