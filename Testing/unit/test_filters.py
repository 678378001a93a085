"""Filters against brute force, analytic values and other implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib import filters
from DeepRegistrationLib.errors import InputError


def window_loop(image: np.ndarray, radius: tuple[int, ...]) -> np.ndarray:
    """Box sums voxel by voxel; `radius` in array order."""
    result = np.empty_like(image)
    for index in np.ndindex(image.shape):
        window = tuple(slice(max(0, i - r), i + r + 1) for i, r in zip(index, radius, strict=True))
        result[index] = image[window].sum()
    return result


@pytest.mark.parametrize(
    ("shape", "radius"),
    [
        ((6, 7, 8), (1, 2, 3)),
        ((5, 9, 12), (4, 0, 5)),
        ((4, 3), (2, 7)),
        ((1, 6, 5), (2, 1, 0)),
        ((11,), (3,)),
    ],
)
def test_box_sum_is_the_window_loop(shape: tuple[int, ...], radius: tuple[int, ...]) -> None:
    image = torch.rand(2, 3, *shape, generator=torch.manual_seed(1), dtype=torch.float64)
    expected = torch.stack(
        [torch.stack([torch.from_numpy(window_loop(c.numpy(), radius[::-1])) for c in b]) for b in image]
    )
    torch.testing.assert_close(filters.box_sum(image, radius), expected)
    count = filters.window_count(shape, radius, image)
    torch.testing.assert_close(count, torch.from_numpy(window_loop(np.ones(shape), radius[::-1])))


def test_blocks_do_not_change_results(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(2, 9, 8, 7)
    whole = filters.box_sum(image, (2, 1, 4)), filters.gaussian_smooth(image, (1.0, 0.7, 2.0))
    monkeypatch.setattr(filters, "_BLOCK", 60)
    torch.testing.assert_close(filters.box_sum(image, (2, 1, 4)), whole[0], rtol=0, atol=0)
    torch.testing.assert_close(filters.gaussian_smooth(image, (1.0, 0.7, 2.0)), whole[1], rtol=0, atol=0)


def test_in_place_versions_equal_and_leave_the_others_input_alone() -> None:
    image = torch.rand(1, 1, 6, 7, 8)
    kept = image.clone()
    summed = filters.box_sum(image, (1, 2, 3))
    smooth = filters.gaussian_smooth(image, (1.0, 0.0, 0.8), border="replicate")
    assert torch.equal(image, kept)
    assert torch.equal(filters.box_sum_(image.clone(), (1, 2, 3)), summed)
    assert torch.equal(filters.gaussian_smooth_(image.clone(), (1.0, 0.0, 0.8), border="replicate"), smooth)
    target = image.clone()
    assert filters.box_sum_(target, (1, 1, 1)).data_ptr() == target.data_ptr()
    with pytest.raises(InputError):
        filters.box_sum_(image.transpose(-1, -2), (1, 1, 1))


def test_gaussian_taps_are_the_integrals_of_the_gaussian() -> None:
    taps = filters.gaussian_taps(1.3, 4.0)
    assert taps[0] + 2 * sum(taps[1:]) == pytest.approx(1, abs=1e-12)
    x = np.linspace(0.5, 1.5, 20001)
    integral = np.trapezoid(np.exp(-(x**2) / (2 * 1.3**2)) / (1.3 * math.sqrt(2 * math.pi)), x)
    assert taps[1] == pytest.approx(integral, rel=1e-4)
    assert filters.gaussian_taps(0.0) == (1.0,)
    assert len(filters.gaussian_taps(2.0, 1.0)) == 3


def test_gaussian_against_simpleitk() -> None:
    """Discrete Gaussian of SimpleITK (replicated border), whose taps do not include the voxel's variance."""
    z, y, x = torch.meshgrid(*[torch.arange(float(n)) for n in (30, 32, 34)], indexing="ij")
    image = torch.sin(0.3 * x) * torch.cos(0.25 * y) + torch.sin(0.3 * z)
    variance = [s**2 + 1 / 12 for s in (2.0, 1.5, 1.0)]
    reference = sitk.DiscreteGaussian(sitk.GetImageFromArray(image.numpy()), variance, 64, [1e-4] * 3)
    ours = filters.gaussian_smooth(image, (2.0, 1.5, 1.0), border="replicate", truncate=4.0)
    difference = (ours - torch.from_numpy(sitk.GetArrayFromImage(reference))).abs()
    assert difference[6:-6, 6:-6, 6:-6].max() < 0.003 and difference.max() < 0.02
    assert (ours - image).abs().max() > 0.3


def test_gaussian_moments_order_and_borders() -> None:
    impulse = torch.zeros(31, 33, 35, dtype=torch.float64)
    impulse[15, 16, 17] = 1
    smooth = filters.gaussian_smooth(impulse, (2.0, 1.0, 0.5), truncate=6.0)
    assert float(smooth.sum()) == pytest.approx(1)
    for dim, (sigma, centre) in enumerate([(0.5, 15), (1.0, 16), (2.0, 17)]):
        profile = smooth.sum([k for k in range(3) if k != dim])
        variance = (profile * (torch.arange(len(profile)) - centre) ** 2).sum()
        # Integrating over a voxel adds the voxel's own variance.
        assert float(variance) == pytest.approx(sigma**2 + 1 / 12, rel=1e-3 if sigma >= 1 else 0.03)
    ones = torch.ones(1, 5, 6)
    replicated = filters.gaussian_smooth(ones, (3.0, 3.0, 3.0), border="replicate")
    torch.testing.assert_close(replicated, ones)
    assert filters.gaussian_smooth(torch.ones(9, 9), (1.0, 1.0))[0, 0] < 0.7


def test_channels_last_is_channels_first_per_component() -> None:
    displacement = torch.rand(6, 7, 8, 3)
    last = filters.gaussian_smooth(displacement, (1.0, 0.5, 2.0), channels_last=True)
    first = filters.gaussian_smooth(displacement.permute(3, 0, 1, 2), (1.0, 0.5, 2.0))
    torch.testing.assert_close(last, first.permute(1, 2, 3, 0))
    flat = torch.rand(6, 7, 2)
    last = filters.gaussian_smooth(flat, (1.0, 0.5), channels_last=True)
    torch.testing.assert_close(last[..., 1], filters.gaussian_smooth(flat[..., 1], (1.0, 0.5)))


def test_downsample_keeps_linear_images_and_removes_fine_patterns() -> None:
    shape, size = (12, 16, 20), (10, 8, 12)  # z not changed, x and y halved
    grid = torch.meshgrid(*[(2 * torch.arange(n) + 1) / n - 1 for n in shape], indexing="ij")
    image = (0.3 * grid[0] + 0.5 * grid[1] - 0.7 * grid[2])[None, None]
    small = filters.downsample(image, size)
    assert small.shape == (1, 1, 12, 8, 10)
    new = torch.meshgrid(*[(2 * torch.arange(n) + 1) / n - 1 for n in reversed(size)], indexing="ij")
    expected = 0.3 * new[0] + 0.5 * new[1] - 0.7 * new[2]
    torch.testing.assert_close(small[0, 0, :, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], atol=1e-5, rtol=0)
    pattern = (-1.0) ** torch.arange(32)
    assert filters.downsample(pattern.expand(1, 1, 8, 32), (12, 8))[..., 1:-1].abs().max() < 0.02
    assert filters.downsample(image, (20, 16, 12)) is image


def test_spatial_gradient_of_a_quadratic() -> None:
    z, y, x = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (5, 6, 7)], indexing="ij")
    image = (x * x + 3 * y - 2 * z)[None, None]
    gradient = filters.spatial_gradient(image)
    assert gradient.shape == (1, 1, 3, 5, 6, 7)
    torch.testing.assert_close(gradient[0, 0, 0, :, :, 1:-1], 2 * x[..., 1:-1])
    torch.testing.assert_close(gradient[0, 0, 0, :, :, 0], torch.ones(5, 6, dtype=torch.float64))
    torch.testing.assert_close(gradient[0, 0, 1], torch.full_like(x, 3))
    torch.testing.assert_close(gradient[0, 0, 2], torch.full_like(x, -2))
    assert filters.spatial_gradient(torch.rand(1, 2, 1, 4))[:, :, 1].abs().max() == 0


def test_unusable_widths() -> None:
    with pytest.raises(InputError):
        filters.box_sum(torch.rand(4, 4), (1, -1))
    with pytest.raises(InputError):
        filters.gaussian_smooth(torch.rand(4, 4, 2), (1.0, 1.0, 1.0), channels_last=True)
    with pytest.raises(InputError):
        filters.gaussian_smooth(torch.rand(4, 4), (1.0, 1.0), border="mirror")
    with pytest.raises(InputError):
        filters.downsample(torch.rand(1, 1, 4, 4), (0, 2))


@pytest.mark.parametrize("shape", [(6, 7), (5, 6, 7), (1, 6, 7), (2, 3, 4)])
def test_a_displacement_slides_along_the_border(shape: tuple[int, ...]) -> None:
    """What leads along the border stays, what leads across is drawn to zero; inside all is as ever."""
    d = len(shape)
    ones, sigma = torch.ones(*shape, d), (0.8, 1.1, 0.6)[:d]
    smooth = filters.slide_smooth_(ones.clone(), sigma)
    for k in range(d):
        component = smooth[..., k].movedim(d - 1 - k, 0)
        assert component[0].max() < 0.9
        torch.testing.assert_close(
            component,
            component[:, :1, :1].expand_as(component) if d == 3 else component[:, :1].expand_as(component),
        )
    vectors = torch.zeros(*(9,) * d, d)
    vectors[(4,) * d] = 1.0
    expected = filters.gaussian_smooth(vectors, (0.8,) * d, channels_last=True)
    torch.testing.assert_close(filters.slide_smooth_(vectors, (0.8,) * d), expected)
