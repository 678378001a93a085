"""The inversion layer: values, iterations, derivative, and what it keeps between the passes."""

from __future__ import annotations

import pytest
import torch
from DeepRegistrationLib.errors import Cancelled
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.interpolation import read_at, voxel_centres
from DeepRegistrationLib.inversion_layer import Inversion, fixed_point, inverse_displacement, solve_inverse
from DeepRegistrationLib.methods.sitreg.extraction import bounded_spline
from DeepRegistrationLib.progress import CancelToken, Reporter
from DeepRegistrationLib.transforms import (
    REPRESENTATIONS,
    Affine,
    FieldTransform,
    NeuralField,
    Representation,
    Rigid,
)
from torch import Tensor

DOUBLE = torch.float64
EXACT = Inversion(tolerance=1e-12, backward_tolerance=1e-13, most=400)


def field(
    shape: tuple[int, ...], rate: int, kind: str, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Two displacements at 0.99 of the bound: control points drawn from all values, or all at the limit."""
    generator = torch.Generator().manual_seed(seed)
    size = (2, len(shape), *(-(-n // rate) for n in shape))
    uniform = torch.rand(size, generator=generator, dtype=dtype) * 2 - 1
    return bounded_spline(1e4 * uniform.sign() if kind == "limit" else uniform.atanh(), rate, shape)


def voxels(shape: tuple[int, ...]) -> Tensor:
    return torch.tensor(shape[::-1]) / 2


def composed(u: Tensor, v: Tensor) -> Tensor:
    """The displacement of (id + u) o (id + v) at the voxels, normalised."""
    points = voxel_centres(u.shape[1:-1], u) + v
    return v + read_at(u.movedim(-1, 1), points).movedim(1, -1)


@pytest.mark.parametrize("kind", ["uniform", "limit"])
@pytest.mark.parametrize("rate", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("shape", [(64, 61), (21, 24, 18)])
def test_at_most_fifteen_iterations_to_a_hundredth_of_a_voxel(
    shape: tuple[int, ...], rate: int, kind: str
) -> None:
    for seed in range(3):
        u = field(shape, rate, kind, seed)
        found = solve_inverse(u)
        assert 2 <= found.iterations <= 15
        assert found.error < 0.01
        assert (composed(u, found.value) * voxels(shape)).abs().max() < 0.01


@pytest.mark.parametrize("shape", [(64, 64), (32, 32, 32)])
@pytest.mark.parametrize("rate", [4, 8, 16])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_stripes_across_the_whole_image_are_the_hardest_and_are_solved(
    shape: tuple[int, ...], rate: int, width: int
) -> None:
    """Some control points up, as many down: slopes at the bound over long ways, in step everywhere."""
    size = [n // rate for n in shape]
    row = sum(torch.meshgrid(*map(torch.arange, size), indexing="ij")) // width % 2
    u = bounded_spline((1e4 * (1 - 2.0 * row)).expand(1, len(shape), *size), rate, shape)
    found = solve_inverse(u)
    assert found.error < 0.01 and found.iterations <= 15
    if rate == 8 and width == 3:
        plain = solve_inverse(u, Inversion(memory=1))
        assert plain.iterations > 2 * found.iterations


@pytest.mark.parametrize("shape", [(24, 20), (10, 13, 9)])
def test_it_is_the_inverse_that_the_engine_finds_point_by_point(shape: tuple[int, ...]) -> None:
    u = field(shape, 2, "uniform", dtype=DOUBLE)
    found = solve_inverse(u, EXACT).value
    for one, other in zip(u, found, strict=True):
        expected, _ = Field(one, Frame.regular(shape[::-1])).inverse(tolerance=1e-11)
        torch.testing.assert_close(other, expected.displacement, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [k for k in REPRESENTATIONS.values() if k not in (Rigid, Affine)])
@pytest.mark.parametrize("size", [(24, 20), (12, 10, 9)])
def test_any_representation_can_be_inverted_and_learned_through_its_inverse(
    kind: type[Representation], size: tuple[int, ...]
) -> None:
    frame = Frame(size, (1.0, 2.0, 1.5)[: len(size)], (5.0,) * len(size), Frame.regular(size).direction)
    wave = torch.sin(3 * frame.grid()) * 2 / torch.tensor(size)  # up to a voxel
    transform = kind.seeded(frame, "cpu", 0)
    if kind is NeuralField:  # fitting takes it long
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in transform.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.005)
    else:
        transform.fit(FieldTransform(Field(wave.float(), frame)))
    u = transform.displacement()
    v = inverse_displacement(u[None])
    assert (u * torch.tensor(size) / 2).norm(dim=-1).mean() > 0.05
    assert (composed(u[None], v) * torch.tensor(size) / 2).abs().max() < 0.01
    v.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in transform.parameters())


def test_a_known_inverse() -> None:
    """x -> 1.25 x about the middle, away from the border, where it ends."""
    grid = voxel_centres((40, 30), torch.zeros(1, dtype=DOUBLE))
    v = inverse_displacement(0.25 * grid[None], EXACT)
    middle = (slice(None), slice(8, 32), slice(6, 24))
    torch.testing.assert_close(v[middle], (-0.2 * grid[None])[middle], rtol=0, atol=1e-10)


def test_nothing_to_invert() -> None:
    found = solve_inverse(torch.zeros(1, 5, 4, 2))
    assert not found.value.any() and found.iterations == 2
    u = torch.zeros(1, 5, 4, 2, requires_grad=True)
    inverse_displacement(u).sum().backward()
    torch.testing.assert_close(u.grad, -torch.ones_like(u))


@pytest.mark.parametrize("shape", [(5, 5), (3, 2, 3)])
def test_gradcheck(shape: tuple[int, ...]) -> None:
    u = field(shape, 1, "uniform", dtype=DOUBLE)[:1].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda u: inverse_displacement(u, EXACT), u, eps=1e-8, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("shape", [(17, 14), (7, 9, 8)])
@pytest.mark.parametrize("rate", [1, 4])
def test_the_derivative_is_that_of_the_unrolled_iteration(shape: tuple[int, ...], rate: int) -> None:
    u = field(shape, rate, "uniform", dtype=DOUBLE).requires_grad_()
    weight = torch.randn(u.shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    v = -u
    for _ in range(120):
        v = -composed(u, v) + v
    (unrolled,) = torch.autograd.grad((v * weight).sum(), u)
    (found,) = torch.autograd.grad((inverse_displacement(u, EXACT) * weight).sum(), u)
    torch.testing.assert_close(found, unrolled, rtol=0, atol=1e-7 * float(unrolled.abs().max()))
    # the tolerances it works with leave less than a hundredth
    (usual,) = torch.autograd.grad((inverse_displacement(u) * weight).sum(), u)
    assert (usual - unrolled).norm() < 0.01 * unrolled.norm()


def test_only_the_displacement_and_its_inverse_are_kept_between_the_passes() -> None:
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    u = field((32, 32), 8, "limit").requires_grad_()
    iterations = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        inverse_displacement(u, watch=lambda: iterations.append(1))
    assert len(iterations) > 5
    field_bytes = u.numel() * 4
    assert 2 * field_bytes <= sum(kept.values()) <= 2 * field_bytes + 64  # and one voxel's size


def test_items_of_a_batch_do_not_depend_on_one_another() -> None:
    u = field((20, 22), 4, "limit", dtype=DOUBLE)
    both = inverse_displacement(u, EXACT)
    torch.testing.assert_close(both[1:], inverse_displacement(u[1:], EXACT), rtol=0, atol=1e-12)


def test_it_stops_when_it_is_asked_to() -> None:
    token = CancelToken()
    report = Reporter(cancel=token)
    count = []

    def watch() -> None:
        count.append(1)
        if len(count) == 3:
            token.cancel()
        report("Inverting", 0.0)

    with pytest.raises(Cancelled):
        inverse_displacement(field((32, 32), 8, "limit"), watch=watch)
    assert len(count) == 3


def test_anderson_solves_a_linear_system_that_plain_iteration_is_slow_for() -> None:
    slow = torch.tensor([[0.95, 0.02], [0.0, -0.9]], dtype=DOUBLE)
    start, right = torch.zeros(3, 2, dtype=DOUBLE), torch.tensor([1.0, 2.0], dtype=DOUBLE)
    error = lambda change, _: change.abs().max()  # noqa: E731
    found = fixed_point(lambda x: x @ slow.T + right, start, error, Inversion(), 1e-9)
    expected = torch.linalg.solve(torch.eye(2, dtype=DOUBLE) - slow, right)
    assert found.iterations < 10
    torch.testing.assert_close(found.value, expected.expand(3, 2), rtol=1e-6, atol=0)
