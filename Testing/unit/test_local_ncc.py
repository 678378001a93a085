"""Local correlation against a loop over windows, and how it behaves where images are flat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.objectives import LocalNCC, local_ncc


def window_loop(
    a: np.ndarray, b: np.ndarray, radius: tuple[int, ...], epsilon: float, weight: np.ndarray | None = None
) -> float:
    """1 - weighted mean of the squared correlation in windows cut at the border; radius in array order."""
    terms = np.empty_like(a)
    for index in np.ndindex(a.shape):
        window = tuple(slice(max(0, i - r), i + r + 1) for i, r in zip(index, radius, strict=True))
        p, q = a[window].ravel(), b[window].ravel()
        covariance = abs(((p - p.mean()) * (q - q.mean())).mean()) + epsilon * a.std() * b.std()
        terms[index] = covariance**2 / ((p.var() + epsilon * a.var()) * (q.var() + epsilon * b.var()))
    return 1 - float(np.average(terms, weights=weight))


def pair(*shape: int, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.manual_seed(3)
    warped = torch.rand(1, channels, *shape, generator=generator, dtype=torch.float64)
    noise = torch.rand(1, channels, *shape, generator=generator, dtype=torch.float64)
    return warped, 0.6 * warped + 0.4 * noise


@pytest.mark.parametrize(
    ("shape", "radius"),
    [((5, 6, 7), (1, 2, 1)), ((9, 4, 5), (2, 1, 4)), ((8, 9), (2, 1)), ((1, 6, 5), (1, 1, 1))],
)
def test_equals_the_window_loop(shape: tuple[int, ...], radius: tuple[int, ...]) -> None:
    warped, fixed = pair(*shape)
    weight = torch.rand(1, 1, *shape, dtype=torch.float64)
    arrays = warped[0, 0].numpy(), fixed[0, 0].numpy()
    measure = LocalNCC(radius, epsilon=1e-2)
    expected = window_loop(*arrays, radius[::-1], 1e-2)
    assert float(measure(warped, fixed)) == pytest.approx(expected, abs=1e-9)
    expected = window_loop(*arrays, radius[::-1], 1e-2, weight[0, 0].numpy())
    assert float(measure(warped, fixed, weight)) == pytest.approx(expected, abs=1e-9)


def test_stacks_do_not_change_value_or_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    warped, fixed = pair(11, 6, 5, channels=2)
    warped.requires_grad_()
    results = []
    for stack in (1 << 20, 1, 70):
        monkeypatch.setattr(local_ncc, "_STACK", stack)
        loss = LocalNCC(1)(warped, fixed)
        results.append((loss.detach(), *torch.autograd.grad(loss, warped)))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-12, atol=1e-14)


def test_range_and_channels() -> None:
    warped, fixed = pair(8, 8, 8, channels=2)
    measure = LocalNCC(2, epsilon=1e-9)
    assert float(measure(3 - 2 * warped, warped)) == pytest.approx(0, abs=1e-6)
    parts = [float(LocalNCC(2)(warped[:, c : c + 1], fixed[:, c : c + 1])) for c in range(2)]
    assert float(LocalNCC(2)(warped, fixed)) == pytest.approx(sum(parts) / 2)
    assert 0 < parts[0] < 1


def test_single_precision_is_good_enough_on_a_large_offset() -> None:
    warped, fixed = pair(12, 12, 12)
    exact = float(LocalNCC(2)(warped, fixed))
    single = float(LocalNCC(2)((1000 + warped).float(), (500 + fixed).float()))
    assert single == pytest.approx(exact, abs=1e-3)


def test_single_precision_gradient_on_smooth_images() -> None:
    """Smooth images are the hard case: window variances are small differences of large sums."""
    coarse = torch.rand(1, 2, 4, 4, 4, generator=torch.manual_seed(12), dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, size=(24, 24, 24), mode="trilinear")
    slopes = []
    for dtype in (torch.float64, torch.float32):
        warped, fixed = smooth[:, :1].to(dtype).requires_grad_(), smooth[:, 1:].to(dtype)
        slopes.append(torch.autograd.grad(LocalNCC(2)(warped, fixed), warped)[0].double())
    assert float((slopes[0] - slopes[1]).norm() / slopes[0].norm()) < 1e-3


def test_flat_background_contributes_nothing() -> None:
    warped, fixed = (torch.nn.functional.pad(x, (8,) * 4).float() for x in pair(10, 10))
    background = torch.zeros(1, 1, 26, 26)
    background[..., :5, :] = 1
    warped = (warped + 0.1).requires_grad_()
    loss = LocalNCC(2)(warped, fixed, background)
    assert loss.item() == pytest.approx(0, abs=1e-3)  # both are flat there, and so agree
    assert torch.autograd.grad(loss, warped)[0].abs().max() < 1e-4


@pytest.mark.parametrize("gradient", ["exact", "centre"])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1000.0])
def test_constant_images_and_zero_weight_are_finite(gradient: str, constant: float) -> None:
    warped, fixed = (x.float() for x in pair(6, 7, 8))
    flat = torch.full_like(warped, constant)
    nothing = torch.zeros(1, 1, 6, 7, 8)
    for a, b, weight in (
        (flat, fixed, None),
        (warped, flat, None),
        (flat, flat, None),
        (warped, fixed, nothing),
    ):
        both_flat = a is flat and b is flat
        a = a.clone().requires_grad_()
        loss = LocalNCC(1, gradient=gradient)(a, b, weight)
        loss.backward()
        assert loss.item() == pytest.approx(0 if both_flat else 1, abs=1e-3)
        assert a.grad is not None and bool(a.grad.isfinite().all())


def test_centre_gradient_points_the_same_way() -> None:
    smooth = torch.nn.functional.interpolate(torch.rand(1, 2, 5, 5, 5), size=(20, 20, 20), mode="trilinear")
    warped, fixed = smooth[:, :1].clone().requires_grad_(), smooth[:, 1:]
    exact, centre = (
        torch.autograd.grad(LocalNCC(2, gradient=g)(warped, fixed), warped)[0] for g in ("exact", "centre")
    )
    inner = (..., *(slice(3, -3),) * 3)
    cosine = torch.nn.functional.cosine_similarity(exact[inner].flatten(), centre[inner].flatten(), 0)
    assert float(cosine) > 0.6
    assert 0.3 < float(centre[inner].norm() / exact[inner].norm()) < 3


def test_fixed_statistics_are_kept_for_the_same_tensor_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = LocalNCC._statistics
    monkeypatch.setattr(LocalNCC, "_statistics", lambda self, x: calls.append(1) or original(self, x))
    warped, fixed = pair(6, 6)
    measure = LocalNCC(1)
    first = float(measure(warped, fixed))
    assert float(measure(warped, fixed)) == first and len(calls) == 1
    fixed.mul_(torch.rand_like(fixed))
    assert float(measure(warped, fixed)) != first and len(calls) == 2
    measure(warped, fixed.clone())
    assert len(calls) == 3


def test_window_in_millimetres() -> None:
    measure = LocalNCC(window_mm=7.0, gradient="centre").at((1.0, 2.0, 5.0))
    assert measure.radius == [3, 1, 1] and measure.gradient == "centre"
    voxels = LocalNCC(3)
    assert voxels.at((1.0, 1.0)) is voxels
    with pytest.raises(InputError):
        LocalNCC(window_mm=7.0)(*pair(5, 5))


def test_unusable_settings() -> None:
    for options in (
        {"radius": 2, "window_mm": 5.0},
        {"radius": -1},
        {"gradient": "none"},
        {"window_mm": 0.0},
    ):
        with pytest.raises(InputError):
            LocalNCC(**options)
    with pytest.raises(InputError):
        LocalNCC((1, 1))(*pair(4, 4, 4))
    warped, fixed = pair(4, 4)
    with pytest.raises(InputError):
        LocalNCC(1)(warped, fixed[..., :3])
    with pytest.raises(InputError):
        LocalNCC(1)(warped, fixed, torch.ones(4, 4))
