"""NePhi's derivatives against central differences, and the twice differentiable reading of its code."""

from __future__ import annotations

import pytest
import torch
from DeepRegistrationLib.interpolation import gather_sample
from DeepRegistrationLib.methods.nephi.instance import from_scratch
from DeepRegistrationLib.methods.nephi.loss import entry_gradient
from DeepRegistrationLib.methods.nephi.maps import MapPair
from DeepRegistrationLib.networks.latent_encoder import LatentCode
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn


def pair(d: int, seed: int, size: float = 0.01) -> MapPair:
    """Maps in float64 that move points, with a code that varies from cell to cell."""
    draw = torch.Generator().manual_seed(seed)
    maps = from_scratch(d, seed=seed)
    shape = (6, 5, 7)[:d]
    code = LatentCode(maps.code.whole.double(), torch.randn(1, 32, *shape, generator=draw).double() / 32**0.5)
    for network in maps.networks:
        nn.init.normal_(network.last.weight, std=size, generator=draw)
    return MapPair(maps.networks.double(), code)


def off_faces(points: Tensor, shape: tuple[int, ...], margin: float) -> Tensor:
    """Which points (N, d) keep away from where the code has kinks: cell centres along any axis."""
    size = torch.tensor(shape[::-1], dtype=points.dtype)
    index = ((points + 1) * size - 1) / 2
    return ((index - index.round()).abs() > margin).all(-1)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.sampled_from([2, 3]))
def test_the_jacobian_of_the_composed_maps_is_that_of_central_differences(seed: int, d: int) -> None:
    """Through the networks and through the code they read."""
    maps = pair(d, seed)
    forward, backward = maps.forward.twice_differentiable(), maps.backward.twice_differentiable()
    points = 1.8 * torch.rand(1, 40, d, generator=torch.Generator().manual_seed(seed)).double() - 0.9
    step, shape = 1e-6, tuple(maps.code.grid.shape[2:])
    with torch.no_grad():
        keep = off_faces(points[0], shape, 1e-4) & off_faces(backward(points)[0], shape, 1e-4)
    points = points[:, keep].requires_grad_()
    composed = forward(backward(points))
    exact = torch.stack(
        [torch.autograd.grad(c.sum(), points, retain_graph=True)[0] for c in composed.unbind(-1)], -2
    )
    columns = []
    with torch.no_grad():
        for axis in range(d):
            offset = step * torch.eye(d, dtype=torch.float64)[axis]
            columns.append(
                (forward(backward(points + offset)) - forward(backward(points - offset))) / (2 * step)
            )
    numeric = torch.stack(columns, -1)
    moved = exact - torch.eye(d)
    assert float(moved.abs().max()) > 0.05
    assert float((exact - numeric).abs().max()) < 1e-3 * max(1.0, float(moved.abs().max()))


def test_without_the_code_the_jacobian_would_be_another() -> None:
    """That the code's own slope is part of it."""
    maps = pair(2, 3)
    flat = MapPair(maps.networks, LatentCode(maps.code.whole, maps.code.grid.mean((2, 3), keepdim=True)))
    points = torch.rand(1, 30, 2, generator=torch.Generator().manual_seed(0)).double() - 0.5
    values = [
        float(
            entry_gradient(
                m.forward.twice_differentiable(), m.backward.twice_differentiable(), points
            ).detach()
        )
        for m in (maps, flat)
    ]
    assert abs(values[0] - values[1]) > 0.01 * values[0]


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 4)])
def test_the_reading_of_the_code_can_be_differentiated_twice(shape: tuple[int, ...]) -> None:
    draw, d = torch.Generator().manual_seed(0), len(shape)
    grid = torch.randn(1, 2, *shape, generator=draw, dtype=torch.float64, requires_grad=True)
    points = 1.6 * torch.rand(12, d, generator=draw, dtype=torch.float64) - 0.8
    points = points[off_faces(points, shape, 0.02)][:5].requires_grad_()
    assert len(points) >= 3
    assert torch.autograd.gradcheck(gather_sample, (grid, points))
    assert torch.autograd.gradgradcheck(gather_sample, (grid, points))


@pytest.mark.parametrize("d", [2, 3])
def test_the_regularity_has_the_gradient_of_finite_differences(d: int) -> None:
    """In the weights and in the code: a derivative of a derivative."""
    maps = pair(d, 5)
    points = torch.rand(1, 6, d, generator=torch.Generator().manual_seed(1)).double() - 0.5
    weight = maps.networks[0].modulator[1].weight
    grid = maps.code.grid.clone()

    def value(shift_weight: Tensor | float, grid: Tensor) -> Tensor:
        before = weight.data.clone()
        weight.data += shift_weight
        code = LatentCode(maps.code.whole, grid)
        changed = MapPair(maps.networks, code)
        found = entry_gradient(
            changed.forward.twice_differentiable(), changed.backward.twice_differentiable(), points
        )
        weight.data = before
        return found

    weight.requires_grad_()
    grid.requires_grad_()
    code = LatentCode(maps.code.whole, grid)
    changed = MapPair(maps.networks, code)
    total = entry_gradient(
        changed.forward.twice_differentiable(), changed.backward.twice_differentiable(), points
    )
    of_weight, of_grid = torch.autograd.grad(total, [weight, grid])
    draw, step = torch.Generator().manual_seed(2), 1e-5
    along = torch.randn(weight.shape, generator=draw).double()
    numeric = (value(step * along, grid.detach()) - value(-step * along, grid.detach())) / (2 * step)
    assert float((of_weight * along).sum()) == pytest.approx(float(numeric.detach()), rel=1e-3)
    along = torch.randn(grid.shape, generator=draw).double()
    numeric = (value(0.0, grid.detach() + step * along) - value(0.0, grid.detach() - step * along)) / (
        2 * step
    )
    assert float((of_grid * along).sum()) == pytest.approx(float(numeric.detach()), rel=1e-3)
