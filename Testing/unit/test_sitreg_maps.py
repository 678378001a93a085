"""Bounded splines, half-way maps and the inverse at points."""

from __future__ import annotations

import itertools

import pytest
import torch
from DeepRegistrationLib.errors import NotAvailableError
from DeepRegistrationLib.interpolation import gather_sample, voxel_centres
from DeepRegistrationLib.inversion_layer import inverse_displacement
from DeepRegistrationLib.methods.maps import FieldMap
from DeepRegistrationLib.methods.sitreg.affine import AffineMap
from DeepRegistrationLib.methods.sitreg.extraction import SAFETY, bounded_spline
from DeepRegistrationLib.methods.sitreg.half_way import HalfWay, InverseMap, Lattice
from DeepRegistrationLib.transforms.b_spline_bound import control_point_bound
from torch import Tensor

DOUBLE = torch.float64
BOUNDS = {
    2: {1: 0.450000, 2: 0.492327, 4: 0.479803, 8: 0.484597, 16: 0.486127, 32: 0.487287},
    3: {1: 0.360000, 2: 0.385447, 4: 0.398031, 8: 0.400725, 16: 0.401753, 32: 0.402536},
}
"""Honkamaa and Marttinen, arXiv 2303.10211, Table 16."""


def raw(shape: tuple[int, ...], rate: int, seed: int = 0, strength: float = 1.0, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (batch, len(shape), *(-(-n // rate) for n in shape))
    return strength * torch.randn(size, generator=generator, dtype=DOUBLE)


def points(d: int, count: int = 200, batch: int = 2, reach: float = 1.2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return (torch.rand(batch, count, d, generator=generator, dtype=DOUBLE) * 2 - 1) * reach


def voxel(shape: tuple[int, ...]) -> Tensor:
    return 2 / torch.tensor(shape[::-1], dtype=DOUBLE)


@pytest.mark.parametrize(("d", "rate"), [(d, rate) for d in BOUNDS for rate in BOUNDS[d]])
def test_the_bounds_are_those_of_the_published_table(d: int, rate: int) -> None:
    assert control_point_bound(rate, d) == pytest.approx(BOUNDS[d][rate], abs=2e-6)


@pytest.mark.parametrize(("shape", "rate"), [((16, 24), 4), ((17, 22), 4), ((9, 12, 8), 2), ((5, 6), 1)])
def test_a_spline_is_its_control_points_in_the_middle_of_their_blocks(
    shape: tuple[int, ...], rate: int
) -> None:
    """Against the gather interpolator, on a lattice of control points with its border repeated."""
    values, d = raw(shape, rate), len(shape)
    found = bounded_spline(values, rate, shape)
    assert found.shape == (2, *shape, d)
    lattice = Lattice(shape, rate.bit_length() - 1)
    at = lattice.to_level(voxel_centres(shape, values))
    limit = SAFETY * BOUNDS[d][rate] * rate * voxel(shape)
    for one, control in zip(found, values, strict=True):
        expected = gather_sample(control.tanh()[None], at, "cubic")[0].movedim(0, -1) * limit
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("rate", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", [(40, 44), (24, 20, 17)])
def test_no_control_points_make_a_displacement_that_does_not_contract(
    shape: tuple[int, ...], rate: int
) -> None:
    for seed in range(3):
        u = bounded_spline(raw(shape, rate, seed, 1e4), rate, shape) / voxel(shape)
        inner = (slice(None), *(slice(0, n - 1) for n in shape))
        slopes = [u.diff(dim=1 + k) for k in range(len(shape))]
        slopes = [
            s[tuple(slice(0, min(s.shape[i], r.stop or s.shape[i])) for i, r in enumerate(inner))].abs()
            for s in slopes
        ]
        assert sum(slopes).max() <= SAFETY + 1e-9


@pytest.mark.parametrize(("d", "rate"), [(2, 1), (2, 2), (2, 4), (2, 8), (3, 1), (3, 2), (3, 4)])
def test_the_worst_control_points_reach_the_bound_and_no_more(d: int, rate: int) -> None:
    """At every voxel of a block the control points that are worst for it, from the spline's own derivative.

    Other signs of the slopes are, by mirroring, other corners of the cell between voxels.
    """
    shape = (7 * rate,) * d
    control = torch.zeros(1, d, *(7,) * d, dtype=DOUBLE, requires_grad=True)
    u = bounded_spline(control, rate, shape)[0, ..., 0] / voxel(shape)[0]
    whole = (slice(0, -1),) * d
    slopes = [u.diff(dim=k)[(*whole[:k], slice(None), *whole[k + 1 :])] for k in range(d)]
    block = (slice(3 * rate, 4 * rate),) * d
    worst = []
    for signs in itertools.product((1, -1), repeat=d - 1):
        slope = slopes[0] + sum(s * other for s, other in zip(signs, slopes[1:], strict=True))
        for one in slope[block].flatten():
            (gradient,) = torch.autograd.grad(one, control, retain_graph=True)
            worst.append(float(gradient.abs().sum()))
    assert max(worst) == pytest.approx(SAFETY, abs=1e-9)


@pytest.mark.parametrize("shape", [(16, 20), (13, 18), (9, 12, 7)])
def test_a_levels_lattice(shape: tuple[int, ...]) -> None:
    """Voxel i of level k lies at voxel 2^k i + (2^k - 1) / 2 of the full resolution."""
    level = 2
    lattice = Lattice(shape, level)
    assert lattice.shape == tuple(-(-n // 4) for n in shape)
    like = torch.zeros(1, dtype=DOUBLE)
    box = lattice.to_box(voxel_centres(lattice.shape, like))
    index = ((box + 1) / voxel(shape)) - 0.5
    expected = 4 * torch.stack(
        torch.meshgrid(*(torch.arange(n) for n in lattice.shape), indexing="ij")[::-1], -1
    )
    torch.testing.assert_close(index, expected + 1.5, rtol=0, atol=1e-9, check_dtype=False)
    torch.testing.assert_close(lattice.to_level(box), voxel_centres(lattice.shape, like))
    features = torch.rand(1, 3, *lattice.shape, dtype=DOUBLE)
    torch.testing.assert_close(lattice.read(features, box[None]), features)


@pytest.mark.parametrize("shape", [(16, 20), (9, 12, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_inverse_at_points(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    u = bounded_spline(raw(shape, 2, strength=2.0), 2, shape).to(dtype)
    inverse, forward = InverseMap(u, inverse_displacement(u)), FieldMap(u)
    p = points(len(shape)).to(dtype)
    limit = 1e-3 if dtype == torch.float32 else 1e-10
    for one, other in ((forward, inverse), (inverse, forward)):
        assert ((one(other(p)) - p) / voxel(shape)).abs().max() < limit
    torch.testing.assert_close(inverse.part(1, 2)(p[1:]), inverse(p)[1:], rtol=0, atol=1e-9)
    with pytest.raises(NotAvailableError):
        inverse.twice_differentiable()


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("shape", [(24, 20), (12, 14, 9)])
def test_the_running_maps_are_updated_in_the_stated_order(shape: tuple[int, ...], complete: bool) -> None:
    d = len(shape)
    levels = [bounded_spline(raw(shape, 4, seed, 0.3), 4, shape) for seed in range(3)]
    maps = HalfWay(complete=complete)
    for u in levels:
        maps = maps.updated(u)
    p = points(d, reach=1.0)[:1]

    def delta(k: int, x: Tensor, back: bool = False) -> Tensor:
        u12, u21 = levels[k].chunk(2)
        outer, inner = (u21, u12) if back else (u12, u21)
        return FieldMap(outer)(InverseMap(inner, -inner)(x))

    left = delta(0, delta(1, delta(2, p)))
    right = delta(0, delta(1, delta(2, p, True), True), True)
    left_inverse = delta(2, delta(1, delta(0, p, True), True), True)
    right_inverse = delta(2, delta(1, delta(0, p)))
    both = p.expand(2, *p.shape[1:])
    limit = 1e-9 if complete else 0.3  # voxels; in the usual way maps are resampled
    found = torch.cat([maps.outward(both), maps.inward(both)])
    expected = torch.cat([left, right, right_inverse, left_inverse])
    error = ((found - expected) / voxel(shape)).abs()
    assert error.max() < limit
    wrong = torch.cat([right, left, left_inverse, right_inverse])
    assert ((found - wrong) / voxel(shape)).abs().mean() > 5 * error.mean()
    whole = maps.whole()(both)
    expected = maps.outward(maps.inward(both))
    assert torch.equal(whole, expected)


def test_an_affine_map() -> None:
    matrix = torch.eye(3, dtype=DOUBLE).repeat(2, 1, 1)
    matrix[0, :2] = torch.tensor([[1.1, 0.2, 0.05], [-0.1, 0.9, -0.02]])
    one = AffineMap(matrix, (5, 7))
    p = points(2)
    torch.testing.assert_close(one(p)[0], p[0] @ matrix[0, :2, :2].T + matrix[0, :2, 2])
    torch.testing.assert_close(one.part(1, 2)(p[1:]), p[1:])
    torch.testing.assert_close(one.field, one.displacement((5, 7)))
    assert one.twice_differentiable() is one
