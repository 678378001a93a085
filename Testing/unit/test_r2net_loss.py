"""R2Net's loss: the variational terms against distributions and matrices, the folds against known maps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from DeepRegistrationLib.interpolation import voxel_centres
from DeepRegistrationLib.methods.maps import FieldMap
from DeepRegistrationLib.methods.r2net.loss import PairLoss, smooth_prior, standard_prior
from DeepRegistrationLib.methods.r2net.network import CONFIGURATIONS, InitialVelocity, R2Net
from DeepRegistrationLib.training.base import Batch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

DOUBLE = torch.float64


def velocity(d: int, shape: tuple[int, ...], seed: int = 0) -> InitialVelocity:
    draw = torch.Generator().manual_seed(seed)
    mean, spread = (torch.randn(2, d, *shape, generator=draw, dtype=DOUBLE) for _ in range(2))
    return InitialVelocity(mean.requires_grad_(), spread.requires_grad_())


def batch(count: int = 2, shape: tuple[int, ...] = (12, 10), seed: int = 0) -> Batch:
    images = torch.rand(2, count, 1, *shape, generator=torch.Generator().manual_seed(seed))
    return Batch(images[0], images[1], None, None, None, None, (1.0,) * len(shape))


def linear(matrix: Tensor, shape: tuple[int, ...]) -> FieldMap:
    """The map x -> A x of normalised coordinates."""
    grid = voxel_centres(shape, matrix)
    return FieldMap((grid @ matrix.T - grid)[None])


def loss_of(found: FieldMap, given: Batch) -> dict[str, Tensor]:
    """The loss of a network that gives this map, whatever it sees."""
    still = InitialVelocity(torch.zeros(1, found.field.shape[-1], *found.field.shape[1:-1]), None)
    network = SimpleNamespace(initial=lambda *_: still, displaced=lambda _: found)
    return PairLoss(1.0, 2.0, 1.0, 1.0)(network, given)


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 2)])
def test_the_standard_prior_is_the_divergence_as_the_paper_writes_it(shape: tuple[int, ...]) -> None:
    d = len(shape)
    initial = velocity(d, shape)
    mean, spread = initial
    expected = kl_divergence(Normal(torch.zeros_like(mean), 1.0), Normal(mean, (spread / 2).exp()))
    torch.testing.assert_close(standard_prior(initial), expected.sum(1).mean())
    torch.testing.assert_close(standard_prior(InitialVelocity(mean, None)), mean.square().sum(1).mean() / 2)
    assert torch.autograd.gradcheck(lambda *terms: standard_prior(InitialVelocity(*terms)), tuple(initial))


@pytest.mark.parametrize("shape", [(5, 4), (3, 1, 4)])
def test_the_smooth_prior_against_the_matrix_of_the_lattice(shape: tuple[int, ...]) -> None:
    """trace(lambda L Sigma) - log det Sigma exactly; the squared differences as means over each axis."""
    d, smoothness = len(shape), 7.0
    initial = velocity(d, shape)
    count = int(torch.tensor(shape).prod())
    index = torch.arange(count).view(shape)
    trace, rough = 0.0, 0.0
    for axis, n in enumerate(shape):
        if n == 1:
            continue
        pairs = torch.stack([index.narrow(axis, 0, n - 1), index.narrow(axis, 1, n - 1)]).flatten(1)
        laplacian = torch.zeros(count, count, dtype=DOUBLE)
        for a, b in pairs.T.tolist():
            laplacian[[a, b], [a, b]] += 1
            laplacian[a, b] -= 1
            laplacian[b, a] -= 1
        flat_mean, flat_spread = (t.flatten(2) for t in initial)
        trace = trace + (laplacian.diagonal() * flat_spread.exp()).sum() / (2 * count)
        energy = torch.einsum("bci,ij,bcj->", flat_mean, laplacian, flat_mean)
        rough = rough + energy / (2 * pairs.shape[1])
    expected = (smoothness * trace - initial.log_variance.sum() / (2 * count)) / 2
    expected = expected + smoothness / (4 * d) * rough
    torch.testing.assert_close(smooth_prior(initial, smoothness), expected)
    assert torch.autograd.gradcheck(lambda *t: smooth_prior(InitialVelocity(*t), smoothness), tuple(initial))


def test_a_constant_velocity_is_smooth() -> None:
    for shape in ((4, 5), (1, 1)):
        assert float(smooth_prior(InitialVelocity(torch.full((1, 2, *shape), 3.0), None), 5.0)) == 0


@pytest.mark.parametrize("d", [2, 3])
def test_folds_of_known_maps(d: int) -> None:
    """The determinant is that of the map: 1 for the identity, -1 for a reflection, and linear maps' own."""
    shape = (7, 6, 5)[:d]
    given = batch(1, shape)
    eye = torch.eye(d)
    assert float(loss_of(linear(eye, shape), given)["folds"]) == 0
    for axis in range(d):
        reflection = eye.clone()
        reflection[axis, axis] = -1
        assert float(loss_of(linear(reflection, shape), given)["folds"]) == pytest.approx(1, abs=1e-5)
        for slope, expected in ((-0.5, 0.0), (-0.9, 0.0), (-1.5, 0.5), (1.0, 0.0)):
            stretch = eye.clone()
            stretch[axis, axis] = 1 + slope
            assert float(loss_of(linear(stretch, shape), given)["folds"]) == pytest.approx(expected, abs=1e-5)
    for seed in range(8):
        matrix = torch.randn(d, d, generator=torch.Generator().manual_seed(seed))
        expected = max(0.0, -float(torch.linalg.det(matrix)))
        assert float(loss_of(linear(matrix, shape), given)["folds"]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5)])
def test_a_fold_between_neighbours_is_seen(shape: tuple[int, ...]) -> None:
    """Along x a saw-tooth of t voxels: slopes of t and -t in turn, which a central difference takes for none.

    Cells have the determinants 1 + 2t and 1 - 2t in turn.
    """
    d, cells = len(shape), shape[-1] - 1
    for t, deep in ((0.4, 0.0), (2.0, 3.0)):
        u = torch.zeros(1, *shape, d)
        u[..., 0] = (torch.arange(cells + 1) % 2 * 2 - 1) * t * 2 / shape[-1]
        found = float(loss_of(FieldMap(u), batch(1, shape))["folds"])
        assert found == pytest.approx(deep * (cells // 2) / cells)


FOLDED = [((5, 4), 3.0), ((3, 4, 3), 3.0), ((3, 1, 4), 3.0), ((5, 4), 0.1)]


@pytest.mark.parametrize(("shape", "size"), FOLDED)
def test_the_derivative_of_the_folds_against_finite_differences(shape: tuple[int, ...], size: float) -> None:
    """Double precision, velocities of some voxels through the blocks; with folds, and without any."""
    torch.manual_seed(0)
    d = len(shape)
    network = R2Net.named("strict", d, True).double().eval()
    given = batch(1, shape)
    first = size * torch.randn(1, d, *shape, dtype=DOUBLE)

    def folds(velocity: Tensor) -> Tensor:
        fixed = SimpleNamespace(
            initial=lambda *_: InitialVelocity(velocity, None), displaced=network.displaced
        )
        return PairLoss(1.0, 0.0, 0.0, 1.0)(fixed, given)["folds"]

    value = folds(first.requires_grad_())
    value.backward()
    assert bool(value > 0) == bool(first.grad.any()) == (size > 1)
    assert torch.autograd.gradcheck(folds, (first,))


@pytest.mark.parametrize("smoothness", [None, 10.0])
def test_the_derivative_of_the_whole_loss_against_finite_differences(smoothness: float | None) -> None:
    """Mean and variance of the velocity; what is drawn is drawn the same each time."""
    torch.manual_seed(0)
    network = R2Net.named("strict", 2, False).double().eval()
    given = batch(1, (5, 4))
    measure = PairLoss(0.5, 2.0, 1.0, 3.0, smoothness, samples=2)

    def loss(mean: Tensor, spread: Tensor) -> Tensor:
        torch.manual_seed(1)
        initial = InitialVelocity(mean, spread)
        fixed = SimpleNamespace(initial=lambda *_: initial, displaced=network.displaced)
        terms = measure(fixed, given)
        assert all(float(terms[name].detach()) > 0 for name in ("similarity", "folds"))
        return terms["loss"]

    mean, spread = (torch.randn(1, 2, 5, 4, dtype=DOUBLE, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(loss, (mean, spread))


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 3)])
def test_the_folds_are_half_of_the_determinants_absolute_value_less_itself(shape: tuple[int, ...]) -> None:
    """The published form, with determinants by numpy of one-sided differences at every cell's corners."""
    d = len(shape)
    size = np.array(shape[::-1])
    u = 0.8 * torch.randn(1, *shape, d, generator=torch.Generator().manual_seed(4))
    voxels = u[0].double().numpy() * size / 2
    values = []
    for cell in np.ndindex(*(n - 1 for n in shape)):
        corners = []
        for corner in np.ndindex(*(2,) * d):
            jacobian = np.eye(d)
            for axis in range(d):  # x, y, z: the last array axis first
                ends = []
                for side in (0, 1):
                    at = [c + k for c, k in zip(cell, corner, strict=True)]
                    at[d - 1 - axis] = cell[d - 1 - axis] + side
                    ends.append(voxels[tuple(at)])
                jacobian[:, axis] += ends[1] - ends[0]
            corners.append(np.linalg.det(jacobian))
        values.append((abs(min(corners)) - min(corners)) / 2)
    assert np.mean(values) > 0.05
    found = float(loss_of(FieldMap(u), batch(1, shape))["folds"])
    assert found == pytest.approx(np.mean(values), rel=1e-4)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    torch.manual_seed(0)
    network, given = R2Net.named("paper", 2, True).eval(), batch(3)
    torch.manual_seed(1)
    terms = PairLoss(0.5, 3.0, 0.25, 7.0)(network, given)
    expected = 3 / (2 * 0.25) * terms["similarity"] + 0.25 * terms["prior"] + 7 * terms["folds"]
    torch.testing.assert_close(terms["loss"], expected)
    torch.manual_seed(1)  # the same draw, term by term
    initial = network.initial(given.moving, given.fixed)
    found = network.displaced(initial.drawn(1))
    warped = torch.nn.functional.grid_sample(
        given.moving, found.on_grid((12, 10)), padding_mode="border", align_corners=False
    )
    torch.testing.assert_close(terms["similarity"], (warped - given.fixed).square().mean())
    torch.testing.assert_close(terms["prior"], standard_prior(initial))


def test_several_samples_are_averaged() -> None:
    torch.manual_seed(0)
    network, given = R2Net.named("paper", 2, True).eval(), batch(2)
    torch.manual_seed(1)
    many = PairLoss(1.0, 2.0, 0.0, 0.0, samples=4)(network, given)["similarity"]
    torch.manual_seed(1)
    drawn = network.initial(given.moving, given.fixed).drawn(4)
    expected = 0.0
    for k in range(8):
        there = network.displaced(drawn[k : k + 1]).on_grid((12, 10))
        image, target = given.moving[k // 4][None], given.fixed[k // 4]
        warped = torch.nn.functional.grid_sample(image, there, padding_mode="border", align_corners=False)[0]
        expected = expected + (warped - target).square().mean() / 8
    torch.testing.assert_close(many, expected)


def test_the_constants_are_the_configurations() -> None:
    paper = PairLoss.of(CONFIGURATIONS["paper"])
    assert (paper.similarity, paper.prior, paper.folds) == (2.0, 1.0, 1.0)
    assert paper.smoothness is None and CONFIGURATIONS["paper"].rate == 1e-4
    small = CONFIGURATIONS["small"]
    assert PairLoss.of(small).smoothness == small.smoothness and small.strict
    assert not CONFIGURATIONS["paper"].strict and CONFIGURATIONS["strict"].strict
