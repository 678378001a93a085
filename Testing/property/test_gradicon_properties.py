"""What GradICON's penalty and its steps promise, for maps and sizes drawn by hypothesis."""

from __future__ import annotations

import pytest
import torch
from DeepRegistrationLib.methods.gradicon.inverse_consistency import InverseConsistency
from DeepRegistrationLib.methods.gradicon.predictor import Predictor
from DeepRegistrationLib.methods.maps import ComposedMap, FieldMap, voxel_centres
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

DOUBLE = torch.float64
QUICK = settings(max_examples=15, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**16)
shapes = st.integers(2, 3).flatmap(lambda d: st.tuples(*[st.integers(1, 11)] * d))


def linear_field(matrix: Tensor, shape: tuple[int, ...]) -> FieldMap:
    """x -> A x inside the outermost voxel centres of a lattice."""
    grid = voxel_centres(shape, matrix)
    return FieldMap((grid @ matrix.T - grid)[None])


@QUICK
@given(SEEDS, st.integers(2, 3), st.sampled_from(["difference", "autograd"]))
def test_sampled_affine_inverses_cost_nothing(seed: int, d: int, derivative: str) -> None:
    """Fields of an affine map and of its inverse, looked at where neither has ended."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.eye(d, dtype=DOUBLE) + 0.15 * (torch.rand(d, d, generator=generator, dtype=DOUBLE) - 0.5)
    maps = linear_field(matrix, (12,) * d), linear_field(torch.linalg.inv(matrix), (12,) * d)
    points = torch.rand(1, 40, d, generator=generator, dtype=DOUBLE) - 0.5
    penalty = InverseConsistency(derivative=derivative, both_orders=True)
    assert float(penalty.at(*maps, points).detach()) < 1e-6


@QUICK
@given(SEEDS, st.integers(2, 3))
def test_the_penalty_ignores_what_is_added_to_a_map_from_outside(seed: int, d: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    fields = 0.1 * torch.randn(2, 1, *(5,) * d, d, generator=generator, dtype=DOUBLE)
    shift = torch.randn(d, generator=generator, dtype=DOUBLE)
    forward, backward = FieldMap(fields[0]), FieldMap(fields[1])
    pushed = FieldMap(fields[0] + shift)
    points = torch.rand(1, 40, d, generator=generator, dtype=DOUBLE) * 2 - 1
    for derivative in ("difference", "autograd"):
        penalty = InverseConsistency(derivative=derivative)
        before = float(penalty.at(forward, backward, points).detach())
        after = float(penalty.at(pushed, backward, points).detach())
        assert after == pytest.approx(before, rel=1e-6)


@QUICK
@given(SEEDS, shapes)
def test_composition_is_associative(seed: int, shape: tuple[int, ...]) -> None:
    d = len(shape)
    generator = torch.Generator().manual_seed(seed)
    a, b, c = (FieldMap(0.3 * torch.randn(2, *shape, d, generator=generator, dtype=DOUBLE)) for _ in "abc")
    points = torch.rand(2, 20, d, generator=generator, dtype=DOUBLE) * 2.4 - 1.2
    torch.testing.assert_close(
        ComposedMap(ComposedMap(a, b), c)(points), ComposedMap(a, ComposedMap(b, c))(points)
    )


@settings(max_examples=8, deadline=None, derandomize=True)
@given(SEEDS, shapes, st.integers(1, 4))
def test_a_fresh_predictor_is_the_identity_at_any_size(seed: int, shape: tuple[int, ...], count: int) -> None:
    torch.manual_seed(seed)
    found = Predictor("small", len(shape), count).eval()(*torch.rand(2, 1, 1, *shape))
    points = torch.rand(1, 30, len(shape)) * 2 - 1
    torch.testing.assert_close(found(points), points, rtol=0, atol=1e-6)
    assert found.displacement(shape).abs().max() < 1e-6
