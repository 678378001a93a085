"""What SITReg promises by construction, for sizes and untrained networks drawn by hypothesis."""

from __future__ import annotations

import torch
from DeepRegistrationLib.interpolation import voxel_centres
from DeepRegistrationLib.inversion_layer import solve_inverse
from DeepRegistrationLib.jacobian import determinant_slabs
from DeepRegistrationLib.methods.sitreg.extraction import bounded_spline
from DeepRegistrationLib.methods.sitreg.network import Configuration, SitRegNetwork
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

QUICK = settings(max_examples=15, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**16)
DOUBLE = torch.float64
shapes = st.one_of(st.tuples(st.integers(3, 30), st.integers(3, 30)), st.tuples(*[st.integers(2, 12)] * 3))
spacings = st.tuples(*[st.floats(0.3, 4.0)] * 3)


def network(seed: int, d: int, affine: bool, gain: float) -> SitRegNetwork:
    """Random weights; a large gain drives the control points to their bound."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        result = SitRegNetwork(Configuration((4, 6, 6), (6, 8, 8), affine=affine), d).double()
    with torch.no_grad():
        for extraction in result.extractions:
            extraction.last.weight.mul_(gain)
    return result.requires_grad_(False)


def images(seed: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 1, 1, *shape, generator=generator, dtype=DOUBLE)


@QUICK
@given(SEEDS, shapes, spacings, st.booleans(), st.booleans(), st.sampled_from([1.0, 50.0]))
def test_exchanging_the_images_exchanges_the_maps(
    seed: int,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    affine: bool,
    complete: bool,
    gain: float,
) -> None:
    d, (one, other) = len(shape), images(seed, shape)
    net = network(seed, d, affine, gain)
    there, back = net(one, other, spacing[:d], complete).directions()
    again = net(other, one, spacing[:d], complete).directions()
    for found, expected in zip(again, (back, there), strict=True):
        torch.testing.assert_close(found.displacement(shape), expected.displacement(shape), rtol=0, atol=1e-9)


@QUICK
@given(SEEDS, shapes, st.booleans(), st.sampled_from([1.0, 5.0]))
def test_complete_maps_undo_one_another_and_do_not_fold(
    seed: int, shape: tuple[int, ...], affine: bool, gain: float
) -> None:
    d, (one, other) = len(shape), images(seed, shape)
    there, back = network(seed, d, affine, gain)(one, other, complete=True).directions()
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(1, 200, d, generator=generator, dtype=DOUBLE) * 2 - 1
    voxel = 2 / torch.tensor(shape[::-1], dtype=DOUBLE)
    for a, b in ((there, back), (back, there)):
        assert ((a(b(points)) - points) / voxel).abs().max() < 0.01
        columns = []
        for axis in range(d):
            step = torch.zeros(d, dtype=DOUBLE)
            step[axis] = 1e-7 * voxel[axis]
            columns.append((a(points + step) - a(points)) / voxel / 1e-7)
        assert torch.linalg.det(torch.stack(columns, -1)).min() > 0


@QUICK
@given(SEEDS, shapes, st.sampled_from([1, 2, 4]), st.sampled_from([0.5, 3.0, 1e4]))
def test_every_levels_displacement_is_invertible_and_has_no_folds(
    seed: int, shape: tuple[int, ...], rate: int, strength: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = (1, len(shape), *(-(-n // rate) for n in shape))
    u = bounded_spline(strength * torch.randn(size, generator=generator, dtype=DOUBLE), rate, shape)
    assert min(float(slab.smallest.min()) for slab in determinant_slabs(u[0])) > 0
    found = solve_inverse(u)
    assert found.error < 0.01 and found.iterations <= 30
    assert (voxel_centres(shape, u) + found.value).isfinite().all()
