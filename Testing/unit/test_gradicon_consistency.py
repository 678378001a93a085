"""ICON's and GradICON's penalties: what is known of them exactly, and the local correlation beside them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.methods.gradicon.inverse_consistency import (
    DELTA,
    InverseConsistency,
    gradient_by_autograd,
)
from DeepRegistrationLib.methods.gradicon.loss import both_directions
from DeepRegistrationLib.methods.gradicon.predictor import Predictor
from DeepRegistrationLib.methods.maps import BatchMap, FieldMap
from DeepRegistrationLib.objectives import GaussianNCC, gradient_inverse_consistency
from torch import Tensor

DOUBLE = torch.float64
GRADICON = [
    InverseConsistency(derivative=d, both_orders=o) for d in ("difference", "autograd") for o in (False, True)
]


class Affine(BatchMap):
    """x -> A x + t for each of a batch: A (B, d, d), t (B, d)."""

    def __init__(self, matrix: Tensor, shift: Tensor) -> None:
        self.matrix, self.shift = matrix, shift

    @property
    def field(self) -> Tensor:
        return self.shift

    def __call__(self, points: Tensor) -> Tensor:
        return torch.einsum("bij,b...j->b...i", self.matrix, points) + self.shift[:, None]

    def part(self, start: int, stop: int) -> Affine:
        return Affine(self.matrix[start:stop], self.shift[start:stop])

    def twice_differentiable(self) -> Affine:
        return self


def affine(seed: int, d: int, batch: int = 3) -> Affine:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, d, d + 1, generator=generator, dtype=DOUBLE)
    return Affine(torch.eye(d, dtype=DOUBLE) + 0.2 * noise[..., :d], 0.3 * noise[..., d])


def inverse(one: Affine) -> Affine:
    back = torch.linalg.inv(one.matrix)
    return Affine(back, -torch.einsum("bij,bj->bi", back, one.shift))


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("penalty", [*GRADICON, InverseConsistency("icon")], ids=str)
@pytest.mark.parametrize("d", [2, 3])
def test_exact_inverses_cost_nothing(penalty: InverseConsistency, d: int) -> None:
    for seed in range(5):
        one = affine(seed, d)
        assert float(penalty(one, inverse(one), (6,) * d, drawn())) < 1e-12


@pytest.mark.parametrize("penalty", GRADICON, ids=str)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("d", [2, 3])
def test_linear_maps_have_the_analytic_value(penalty: InverseConsistency, sparse: bool, d: int) -> None:
    one, other = affine(1, d), affine(2, d)
    penalty = InverseConsistency("gradicon", penalty.derivative, sparse, penalty.both_orders)
    identity = torch.eye(d, dtype=DOUBLE)
    first = (one.matrix @ other.matrix - identity).square().sum((1, 2)).mean() / d
    second = (other.matrix @ one.matrix - identity).square().sum((1, 2)).mean() / d
    expected = (first + second) / 2 if penalty.both_orders else first
    assert float(penalty(one, other, (6, 7, 8)[:d], drawn())) == pytest.approx(float(expected), rel=1e-8)


@pytest.mark.parametrize("penalty", GRADICON, ids=str)
def test_a_drift_costs_gradicon_nothing_and_icon_its_square(penalty: InverseConsistency) -> None:
    one, other = affine(3, 2), affine(4, 2)
    drifted = Affine(one.matrix, one.shift + torch.tensor([0.4, -0.3], dtype=DOUBLE))
    before, after = (float(penalty(m, other, (6, 6), drawn())) for m in (one, drifted))
    assert after == pytest.approx(before, rel=1e-9)
    icon, still = InverseConsistency("icon"), inverse(affine(3, 2))
    assert float(icon(one, still, (6, 6), drawn())) < 1e-12
    # half of our lengths, squared, mean over two components; the other order's drift is A^-1's image of it
    shift = torch.tensor([0.4, -0.3], dtype=DOUBLE) / 2
    other_shift = torch.linalg.solve(one.matrix, shift.expand(3, 2))
    expected = (shift.square().mean() + other_shift.square().mean(1)).mean()
    assert float(icon(drifted, still, (6, 6), drawn())) == pytest.approx(float(expected), rel=1e-9)


def random_maps(shape: tuple[int, ...], batch: int = 2) -> tuple[FieldMap, FieldMap]:
    generator = torch.Generator().manual_seed(5)
    fields = 0.05 * torch.randn(2, batch, *shape, len(shape), generator=generator, dtype=DOUBLE)
    return FieldMap(fields[0]), FieldMap(fields[1])


def same_cell(one: FieldMap, other: FieldMap, points: Tensor) -> Tensor:
    """Which of the points (B, N, d) keep, with every step of a difference, to one cell of both fields."""
    d = points.shape[-1]
    size = torch.tensor(one.field.shape[1:-1][::-1], dtype=DOUBLE)

    def cell(p: Tensor) -> Tensor:
        return (((p + 1) * size - 1) / 2).floor()

    steady = torch.ones(points.shape[:-1], dtype=torch.bool)
    for axis in range(d):
        moved = points + DELTA * torch.eye(d, dtype=DOUBLE)[axis]
        steady &= (cell(points) == cell(moved)).all(-1)
        steady &= (cell(other(points)) == cell(other(moved))).all(-1)
    return steady


@pytest.mark.parametrize("shape", [(6, 7), (5, 6, 4)])
def test_differences_agree_with_the_jacobian_away_from_cell_faces(shape: tuple[int, ...]) -> None:
    one, other = random_maps(shape, batch=1)
    points = torch.rand(1, 300, len(shape), generator=drawn(6), dtype=DOUBLE) * 1.6 - 0.8
    points = points[:, same_cell(one, other, points)[0]]
    assert points.shape[1] > 100
    exact = float(InverseConsistency(derivative="autograd").at(one, other, points).detach())
    errors = []
    for delta in (DELTA, DELTA / 10):
        found = float(gradient_inverse_consistency(one, other, points, delta))
        errors.append(abs(found / exact - 1))
    assert errors[0] < 5e-3
    assert errors[1] < errors[0] / 5  # of first order in the step
    assert float(InverseConsistency().at(one, other, points)) == pytest.approx(exact, rel=5e-3)


def test_a_batch_is_the_mean_of_its_pairs() -> None:
    one, other = random_maps((6, 7), batch=3)
    points = torch.rand(1, 50, 2, generator=drawn(6), dtype=DOUBLE) * 1.6 - 0.8
    for penalty in (*GRADICON, InverseConsistency("icon")):
        single = [
            float(penalty.at(one.part(k, k + 1), other.part(k, k + 1), points).detach()) for k in range(3)
        ]
        whole = float(penalty.at(one, other, points.expand(3, 50, 2)).detach())
        assert whole == pytest.approx(sum(single) / 3, rel=1e-9)


@pytest.mark.parametrize("derivative", ["difference", "autograd"])
def test_the_penalty_reaches_both_maps(derivative: str) -> None:
    fields = [m.field.clone().requires_grad_() for m in random_maps((6, 7))]
    one, other = map(FieldMap, fields)
    InverseConsistency(derivative=derivative)(one, other, (6, 7), drawn()).backward()
    slopes = [f.grad for f in fields]
    assert all(s is not None and s.abs().max() > 0 for s in slopes)
    # against a difference of the penalty itself
    step = 1e-6 * torch.randn(fields[0].shape, generator=drawn(2), dtype=DOUBLE)
    with torch.no_grad():
        ends = [
            InverseConsistency(derivative=derivative)(FieldMap(fields[0] + s * step), other, (6, 7), drawn())
            for s in (1, -1)
        ]
    assert float((ends[0] - ends[1]) / 2) == pytest.approx(float((slopes[0] * step).sum()), rel=1e-4)


@pytest.mark.parametrize("d", [2, 3])
def test_nothing_is_inconsistent_at_initialisation(d: int) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 2, 1, *(12,) * d, dtype=DOUBLE)
    maps = both_directions(Predictor("small", d).double(), *images)
    for penalty in (*GRADICON, InverseConsistency("icon")):
        assert float(penalty(*maps, (12,) * d, drawn())) < 1e-12


def test_points_are_the_generators_and_sparse_ones_fewer() -> None:
    one, other = random_maps((8, 8))
    same = [float(InverseConsistency()(one, other, (8, 8), drawn(s))) for s in (1, 1, 2)]
    assert same[0] == same[1] != same[2]
    seen: list[Tensor] = []

    class Spy(FieldMap):
        def __call__(self, points: Tensor) -> Tensor:
            seen.append(points)
            return super().__call__(points)

    for sparse in (False, True):
        InverseConsistency(sparse=sparse)(one, Spy(other.field), (8, 8), drawn())
    assert [p.shape[1] for p in seen] == [64] * 3 + [16] * 3


def test_autograd_takes_functions_of_unbatched_points() -> None:
    matrix = torch.tensor([[1.1, 0.2], [0.0, 0.9]], dtype=DOUBLE)
    points = torch.rand(9, 2, dtype=DOUBLE)
    found = gradient_by_autograd(lambda p: p @ matrix.T, lambda p: p, points)
    assert float(found) == pytest.approx(float((matrix - torch.eye(2)).square().sum() / 2), rel=1e-12)


def test_unknown_penalties() -> None:
    with pytest.raises(InputError):
        InverseConsistency("l2")
    with pytest.raises(InputError):
        InverseConsistency(derivative="central")


@pytest.mark.parametrize("shape", [(14, 17), (9, 10, 11)])
def test_gaussian_correlation_against_plain_convolution(shape: tuple[int, ...]) -> None:
    d, sigma = len(shape), 1.5
    a, b = torch.rand(2, 1, 2, *shape, generator=drawn(1), dtype=DOUBLE)
    edges = [math.erf((k - 0.5) / (sigma * 2**0.5)) for k in range(-3, 5)]
    line = torch.tensor(edges, dtype=DOUBLE).diff()
    kernel = line / line.sum()
    for _ in range(d - 1):
        kernel = kernel[..., None] * line / line.sum()
    convolve = F.conv2d if d == 2 else F.conv3d

    def mean(image: Tensor) -> Tensor:
        both = torch.stack([image, torch.ones_like(image)])[:, None]
        top, bottom = convolve(both, kernel[None, None], padding=3)[:, 0]
        return top / bottom

    maps = []
    for p, q in zip(a[0], b[0], strict=True):
        p_mean, q_mean = mean(p), mean(q)
        spreads = (mean(p * p) - p_mean**2 + 1e-5) * (mean(q * q) - q_mean**2 + 1e-5)
        maps.append((mean(p * q) - p_mean * q_mean) / spreads.sqrt())
    found = torch.stack(maps)
    assert float(GaussianNCC(sigma)(a, b)) == pytest.approx(1 - float(found.mean()), rel=1e-9)
    weight = torch.rand(1, 1, *shape, dtype=DOUBLE)
    expected = 1 - float((found * weight[0]).sum() / (2 * weight.sum()))
    assert float(GaussianNCC(sigma)(a, b, weight)) == pytest.approx(expected, rel=1e-9)


def test_gaussian_correlation_knows_sign_and_flat_images() -> None:
    a = torch.rand(1, 1, 12, 13, generator=drawn(1), dtype=DOUBLE)
    assert float(GaussianNCC(2.0)(a, 0.3 + 0.5 * a)) == pytest.approx(0, abs=2e-3)
    assert float(GaussianNCC(2.0)(a, 1 - a)) == pytest.approx(2, abs=2e-3)
    flat = torch.zeros_like(a).requires_grad_()
    loss = GaussianNCC()(flat, a)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1) and bool(flat.grad.isfinite().all())
    fixed = a.detach() ** 2
    assert torch.autograd.gradcheck(lambda x: GaussianNCC(1.0)(x, fixed), (a.requires_grad_(),))
    with pytest.raises(InputError):
        GaussianNCC(0)
