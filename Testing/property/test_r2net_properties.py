"""What R2Net's blocks promise, for weights, velocities and sizes drawn by hypothesis."""

from __future__ import annotations

import torch
from DeepRegistrationLib.methods.r2net.flow import LARGEST_STEP, STEPS, LipschitzBlock, ResidualFlow
from DeepRegistrationLib.methods.r2net.network import CONFIGURATIONS, R2Net
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

DOUBLE = torch.float64
QUICK = settings(max_examples=15, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**16)
shapes = st.integers(2, 3).flatmap(lambda d: st.tuples(*[st.integers(1, 9)] * d))


def noise(seed: int, shape: tuple[int, ...], size: float) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return size * torch.randn(1, len(shape), *shape, generator=draw, dtype=DOUBLE)


@QUICK
@given(SEEDS, shapes, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.booleans())
def test_a_strict_block_adds_a_contraction_by_a_half(
    seed: int, shape: tuple[int, ...], size: float, gain: float, close: bool
) -> None:
    """In the Euclidean norm over all voxels and components, whatever the weights."""
    torch.manual_seed(seed)
    block = LipschitzBlock(len(shape), strict=True).double()
    with torch.no_grad():
        for weight in block.parameters():
            weight.mul_(gain)
        a = noise(seed, shape, size)
        b = a + noise(seed + 1, shape, 1e-3) if close else noise(seed + 1, shape, size)
        apart = ((block(a) - a) - (block(b) - b)).norm()
    assert float(apart) <= LARGEST_STEP * float((a - b).norm()) * (1 + 1e-9)


@QUICK
@given(SEEDS, shapes, st.floats(0, 1e3), st.booleans(), st.booleans())
def test_no_component_is_moved_by_more_than_three_and_a_half_voxels(
    seed: int, shape: tuple[int, ...], size: float, shared: bool, strict: bool
) -> None:
    torch.manual_seed(seed)
    flow = ResidualFlow(len(shape), shared, strict).double()
    velocity = noise(seed, shape, size)
    with torch.no_grad():
        assert float((flow(velocity) - velocity).abs().max()) <= STEPS * LARGEST_STEP + 1e-9


@settings(max_examples=8, deadline=None, derandomize=True)
@given(SEEDS, shapes, st.sampled_from(sorted(CONFIGURATIONS)), st.booleans())
def test_any_size_gives_a_finite_map(
    seed: int, shape: tuple[int, ...], configuration: str, shared: bool
) -> None:
    torch.manual_seed(seed)
    network = R2Net.named(configuration, len(shape), shared).eval()
    with torch.no_grad():
        found = network(*torch.rand(2, 1, 1, *shape)).field
    assert found.shape == (1, *shape, len(shape)) and bool(found.isfinite().all())
