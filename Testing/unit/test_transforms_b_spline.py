"""The B-spline's basis, its bound, and the bounded chain."""

from __future__ import annotations

import pytest
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.filters import gaussian_smooth
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.interpolation import gather_sample
from DeepRegistrationLib.transforms import BSpline, FieldTransform
from DeepRegistrationLib.transforms.b_spline_basis import ControlLattice
from DeepRegistrationLib.transforms.b_spline_bound import control_point_bound

OBLIQUE = Frame(
    (14, 17, 10), (1.5, 0.9, 2.0), (50.0, 2.0, 3.0), ((0.0, 0.6, 0.8), (0.0, -0.8, 0.6), (-1.0, 0.0, 0.0))
)

# SITReg (arXiv 2303.10211), Table 16: the largest change K per unit coefficient
TABLE = {
    2: {1: 2.2222, 2: 2.03117, 4: 2.08419, 8: 2.06357, 16: 2.05707},
    3: {1: 2.7778, 2: 2.59439, 4: 2.51237, 8: 2.49548, 16: 2.48909},
}


@pytest.mark.parametrize(("dimension", "rate"), [(d, r) for d in (2, 3) for r in (1, 2, 4, 8, 16)])
def test_bound_agrees_with_the_published_table(dimension: int, rate: int) -> None:
    assert 1 / control_point_bound(rate, dimension) == pytest.approx(TABLE[dimension][rate], abs=2e-4)


@pytest.mark.parametrize("rate", [(1, 1), (2, 2), (4, 4), (3, 1), (2.4, 2.4)])
def test_bound_is_what_the_worst_coefficients_reach(rate: tuple[float, ...]) -> None:
    """The largest sum of slopes over coefficients of +-1, from the evaluated field itself."""
    size = (24, 18)
    frame = Frame.regular(size)
    lattice = ControlLattice(frame, tuple(2 * r / n for r, n in zip(rate, size, strict=True)))
    in_y, in_x = lattice.bases
    slopes = torch.einsum("ya,xb->yxab", in_y[:-1], in_x.diff(dim=0) * rate[0])
    slopes = slopes + torch.einsum("ya,xb->yxab", in_y.diff(dim=0) * rate[1], in_x[:-1])
    reached = float(slopes.abs().sum((2, 3)).max())
    allowed = 1 / control_point_bound(rate, 2)
    assert reached <= allowed + 1e-9
    assert reached > 0.9 * allowed
    if all(r == int(r) for r in rate):
        assert reached == pytest.approx(allowed)


def test_evaluation_is_the_cubic_kernel_on_the_coefficients() -> None:
    """Against the gather interpolator, at the control lattice's own coordinates."""
    lattice = ControlLattice.with_rate(OBLIQUE, (4, 3, 2))
    coefficients = torch.randn(*lattice.shape, 3, dtype=torch.float64)
    place = (
        (OBLIQUE.grid(dtype=torch.float64) + 1) / torch.tensor(lattice.spacing, dtype=torch.float64)
        - 0.5
        - lattice.first
    )
    points = (2 * place + 1) / torch.tensor(lattice.shape[::-1]) - 1
    expected = gather_sample(coefficients.movedim(-1, 0)[None], points, "cubic")[0].movedim(0, -1)
    torch.testing.assert_close(lattice.evaluate(coefficients), expected, atol=1e-12, rtol=0)


def test_constant_coefficients_give_a_constant() -> None:
    lattice = ControlLattice.with_rate(OBLIQUE, (5, 5, 5))
    values = lattice.evaluate(torch.ones(*lattice.shape, 3, dtype=torch.float64))
    torch.testing.assert_close(values, torch.ones_like(values))


@pytest.mark.parametrize(
    "options", [{"bounded": False, "rate": 3}, {"rate": 2, "levels": 2}, {"rate": 2, "levels": 1}]
)
def test_displacement_gradient(options: dict) -> None:
    spline = BSpline(Frame.regular((7, 6)), **options)
    spline.coefficients = [
        (0.1 * torch.randn(c.shape).double()).requires_grad_() for c in spline.coefficients
    ]
    assert torch.autograd.gradcheck(
        lambda *_: spline.displacement(), spline.parameters(), eps=1e-7, atol=1e-4
    )


@pytest.mark.parametrize("rate", [1, 2, 4])
@pytest.mark.parametrize("size", [(24, 20), (14, 12, 16)])
def test_a_single_level_at_its_bound_contracts_and_cannot_fold(rate: int, size: tuple[int, ...]) -> None:
    """Every sign pattern drawn, saturated: differences sum to less than one, no determinant is negative."""
    frame = Frame.regular(size)
    spline = BSpline(frame, rate=rate, levels=1)
    for seed in range(6):
        draw = torch.randn(spline.coefficients[0].shape, generator=torch.Generator().manual_seed(seed))
        spline.coefficients = [1e3 * draw.sign()]
        u = spline.displacement() * torch.tensor(size) / 2  # voxels
        d = len(size)
        inner = (slice(0, -1),) * d
        total = sum(
            u.diff(dim=k)[tuple(inner[j] if j != k else slice(None) for j in range(d))].abs()
            for k in range(d)
        )
        assert total.max() <= 0.991
        assert Field(spline.displacement(), frame).jacobian_determinant(strict=True).min() > 0


@pytest.mark.parametrize(
    ("size", "rate"), [((64, 60), 4), ((96, 97), 2), ((48, 40, 36), 4), ((33, 30, 21), (5, 5, 1))]
)
def test_the_chain_does_not_fold_for_strong_parameters(size: tuple[int, ...], rate: int) -> None:
    frame = Frame.regular(size)
    spline = BSpline(frame, rate=rate)
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        strength = (3.0, 100.0)[seed % 2]
        spline.coefficients = [
            strength * torch.randn(c.shape, generator=generator) for c in spline.coefficients
        ]
        assert Field(spline.displacement(), frame).jacobian_determinant(strict=True).min() > 0


def test_the_chain_reaches_far_further_than_its_finest_level() -> None:
    frame = Frame.regular((80, 96, 112), 2.0)
    spline = BSpline(frame)
    spline.coefficients = [torch.full_like(c, 10.0) for c in spline.coefficients]
    assert Field(spline.displacement().detach(), frame).magnitude_mm().min() > 15.0


def _smooth_target(frame: Frame, amplitude: float) -> FieldTransform:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(*frame.shape, frame.dimension, generator=generator)
    vectors = gaussian_smooth(vectors, (5.0,) * frame.dimension, channels_last=True)
    return FieldTransform(Field.from_mm(vectors * (amplitude / vectors.norm(dim=-1).max()), frame))


@pytest.mark.parametrize("frame", [Frame.regular((48, 44), 2.0), OBLIQUE])
def test_unbounded_fit_is_exact_for_its_own_kind(frame: Frame) -> None:
    target = BSpline(frame, rate=4, bounded=False)
    generator = torch.Generator().manual_seed(0)
    target.coefficients = [0.2 * torch.randn(c.shape, generator=generator) for c in target.coefficients]
    fitted = BSpline(frame, rate=4, bounded=False)
    assert fitted.fit(target) < 1e-3
    torch.testing.assert_close(fitted.displacement(), target.displacement(), atol=1e-4, rtol=0)


def test_unbounded_fit_is_the_least_squares_solution() -> None:
    frame = Frame.regular((20, 18), 1.5)
    lattice = ControlLattice.with_rate(frame, (5, 4))
    values = torch.randn(*frame.shape, 1, dtype=torch.float64)
    residual = values - lattice.evaluate(lattice.least_squares(values))
    for axis, basis in enumerate(lattice.bases):  # the residual is orthogonal to every basis function
        residual = torch.tensordot(basis, residual, dims=([0], [axis])).movedim(0, axis)
    assert residual.abs().max() < 1e-2 * values.norm()


@pytest.mark.parametrize("size", [(48, 44), (32, 30, 28)])
def test_bounded_fit_recovers_a_smooth_deformation(size: tuple[int, ...]) -> None:
    frame = Frame.regular(size, 2.0)
    target = _smooth_target(frame, 8.0)
    spline = BSpline(frame)
    before = float(target.stored.magnitude_mm().pow(2).mean().sqrt())
    left = spline.fit(target)
    assert left < 0.05 * before
    reached = spline.field(frame).mm() - target.stored.mm()
    assert float(reached.pow(2).sum(-1).mean().sqrt()) == pytest.approx(left, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("bounded", [True, False])
def test_other_scales_keep_the_map(bounded: bool) -> None:
    coarse = Frame.regular((24, 22, 20), 4.0)
    fine = coarse.resized((48, 44, 40))
    spline = BSpline(coarse, bounded=bounded)
    spline.fit(_smooth_target(coarse, 8.0))
    with torch.no_grad():
        there = spline.resized(fine)
        back = there.resized(coarse)
        torch.testing.assert_close(back.displacement(), spline.displacement(), atol=2e-3, rtol=0)
        # the fine lattice is read at the coarse voxels: only interpolation lies between the two
        read = Field(there.displacement(), fine).resampled(coarse)
        difference = (read.mm() - spline.field(coarse).mm()).norm(dim=-1)
    assert difference.mean() < 0.05 and difference.max() < 0.5


@pytest.mark.parametrize("size", [(64, 60), (32, 30, 28)])
def test_inverse_undoes_the_map_and_reports_its_error(size: tuple[int, ...]) -> None:
    frame = Frame.regular(size)
    spline = BSpline(frame, rate=2)
    generator = torch.Generator().manual_seed(0)
    spline.coefficients = [2 * torch.randn(c.shape, generator=generator) for c in spline.coefficients]
    inverse = spline.inverse()
    assert inverse.inversion_error is not None and inverse.inversion_error < 0.02
    points = frame.points()
    miss = (spline.map(inverse.map(points)) - points).norm(dim=-1)  # mm = voxels
    assert miss.max() <= 2 * inverse.inversion_error + 1e-4


def test_a_step_moves_points_by_at_most_its_rate() -> None:
    frame = Frame.regular((40, 36), 2.0)
    for bounded in (True, False):
        spline = BSpline(frame, bounded=bounded)
        spline.step([torch.ones_like(c) for c in spline.coefficients], 0.5)
        moved = spline.displacement().detach() * torch.tensor(frame.size) / 2
        assert moved.min() > -0.5001 and moved.max() < -0.4


@pytest.mark.parametrize(
    "options", [{"rate": 0}, {"rate": (2, 2)}, {"levels": 0}, {"levels": 2, "bounded": False}]
)
def test_unusable_settings_are_refused(options: dict) -> None:
    with pytest.raises(InputError):
        BSpline(OBLIQUE, **options)


def test_axes_of_one_voxel_work() -> None:
    frame = Frame.regular((20, 18, 1), (1.0, 1.0, 4.0))
    for bounded in (True, False):
        spline = BSpline(frame, bounded=bounded)
        spline.coefficients = [torch.full_like(c, 0.5) for c in spline.coefficients]
        assert torch.isfinite(spline.displacement()).all()
