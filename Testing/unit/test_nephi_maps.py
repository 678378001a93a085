"""The neural field as a transform like any other: on any frame, in chunks, exported, inverted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.methods.nephi.instance import from_scratch
from DeepRegistrationLib.methods.nephi.maps import MapPair, NeuralTransform
from DeepRegistrationLib.networks.latent_encoder import LatentCode
from DeepRegistrationLib.networks.modulated_siren import ModulatedSiren
from DeepRegistrationLib.transform_files import read_transform_file, write_displacement
from DeepRegistrationLib.transforms import LinearTransform
from DeepRegistrationLib.transforms.export import to_sitk
from torch import Tensor, nn

SIZES = {2: (21, 17), 3: (11, 9, 8)}


def turned(d: int) -> Frame:
    """An oblique, anisotropic frame of odd sizes somewhere in the world."""
    c, s = math.cos(0.4), math.sin(0.4)
    direction = ((c, -s), (s, c)) if d == 2 else ((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))
    return Frame(SIZES[d], (1.2, 1.5, 2.0)[:d], (30.0, -20.0, 10.0)[:d], direction)


def stirred(d: int, pairs: int = 1) -> MapPair:
    """Maps of some pairs that move points by about a tenth of the box."""
    maps = from_scratch(d)
    draw = torch.Generator().manual_seed(1)
    for network in maps.networks:
        nn.init.normal_(network.last.weight, std=0.02, generator=draw)
    code = LatentCode(
        torch.randn(pairs, 32, generator=draw), torch.randn(pairs, 32, *(4, 6, 5)[:d], generator=draw)
    )
    return MapPair(maps.networks, code)


def box_points(frame: Frame, count: int = 200) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    normalised = 2 * torch.rand(count, frame.dimension, dtype=torch.float64, generator=draw) - 1
    matrix = torch.as_tensor(frame.normalised_to_world)
    return normalised @ matrix[:-1, :-1].T + matrix[:-1, -1]


@pytest.mark.parametrize("d", [2, 3])
def test_neither_order_nor_chunks_change_the_answer(d: int) -> None:
    maps = stirred(d, pairs=2)
    points = 2.2 * torch.rand(2, 61, d, generator=torch.Generator().manual_seed(0)) - 1.1
    whole = maps.forward(points)
    assert float((whole - points).detach().norm(dim=-1).mean()) > 0.02
    for chunk in (1, 7, 60, 61, 1000):
        torch.testing.assert_close(maps.forward.chunked(points, chunk), whole, rtol=0, atol=2e-6)
    order = torch.randperm(61, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(maps.forward(points[:, order]), whole[:, order], rtol=0, atol=2e-6)
    alone = MapPair(maps.networks, maps.code.part(1))
    torch.testing.assert_close(alone.forward(points[1:]), whole[1:], rtol=0, atol=2e-6)


@pytest.mark.parametrize("d", [2, 3])
def test_a_lattice_is_read_at_its_voxel_centres(d: int) -> None:
    maps, shape = stirred(d, pairs=2), SIZES[d][::-1]
    found = maps.forward.displacement(shape, chunk=50)
    assert found.shape == (2, *shape, d)
    index = tuple(n - 2 for n in shape)
    centre = torch.tensor([(2 * i + 1) / n - 1 for i, n in zip(index, shape, strict=True)][::-1])
    expected = maps.forward(centre.expand(2, 1, d))[:, 0] - centre
    torch.testing.assert_close(found[(slice(None), *index)], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("d", [2, 3])
def test_world_points_are_those_of_its_box(d: int) -> None:
    """By the frame's origin, spacing and direction, written out."""
    maps, frame = stirred(d), turned(d)
    points = box_points(frame)
    moved = maps.transform(frame).map(points)
    axes, extent = np.array(frame.direction), np.array(frame.size) * np.array(frame.spacing)
    corner = np.array(frame.origin) - axes @ (np.array(frame.spacing) / 2)
    normalised = (points.numpy() - corner) @ axes / extent * 2 - 1
    u = (
        maps.forward(torch.tensor(normalised, dtype=torch.float32)[None])[0] - torch.tensor(normalised)
    ).detach()
    expected = points.numpy() + (u.numpy() * extent / 2) @ axes.T
    assert moved.dtype == torch.float64
    np.testing.assert_allclose(moved, expected, atol=1e-4)


@pytest.mark.parametrize("d", [2, 3])
def test_every_frame_of_the_world_sees_the_same_map(d: int) -> None:
    """Finer, coarser, turned and partly outside."""
    found = stirred(d).transform(turned(d))
    same = stirred(d).transform(turned(d).resized(tuple(3 * n + 1 for n in SIZES[d])))
    straight = replace(Frame.regular((9, 12, 5)[:d], 2.0), origin=(25.0, -22.0, 4.0)[:d])
    others = [turned(d).resized((7,) * d), straight]
    for frame in others:
        points = frame.points()
        seen = found.field(frame)
        torch.testing.assert_close(points + seen.mm(torch.float64), found.map(points), rtol=0, atol=1e-4)
        torch.testing.assert_close(same.map(points), found.map(points), rtol=0, atol=1e-4)


@pytest.mark.parametrize("d", [2, 3])
def test_the_inverse_is_the_partner_network(d: int) -> None:
    maps, frame = stirred(d), turned(d)
    found, points = maps.transform(frame), box_points(frame)
    partner = NeuralTransform(maps.backward, maps.forward, frame)
    assert torch.equal(found.inverse().map(points), partner.map(points))
    assert torch.equal(found.inverse().inverse().map(points), found.map(points))
    assert not torch.allclose(found.inverse().map(points), found.map(points))


def test_partners_that_undo_each_other_give_an_exact_inverse() -> None:
    maps, frame = from_scratch(2), turned(2)
    with torch.no_grad():
        for network, sign in zip(maps.networks, (1.0, -1.0), strict=True):
            network.last.bias.copy_(sign * torch.tensor([0.1, -0.2]))
    found, points = maps.transform(frame), box_points(frame)
    torch.testing.assert_close(found.inverse().map(found.map(points)), points, rtol=0, atol=1e-5)
    assert float((found.map(points) - points).norm(dim=-1).min()) > 1


def test_it_composes_with_linear_maps() -> None:
    maps, frame = stirred(3), turned(3)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.tensor([5.0, -7.0, 2.0])
    linear, found, points = LinearTransform(matrix), maps.transform(frame), box_points(frame)
    both = linear.compose(found)
    torch.testing.assert_close(both.map(points), found.map(points) + matrix[:3, 3])
    torch.testing.assert_close(both.inverse().map(points), found.inverse().map(points - matrix[:3, 3]))


@pytest.mark.parametrize("d", [2, 3])
def test_it_is_exported_for_other_programs(d: int, tmp_path: Path) -> None:
    """As SimpleITK reads it, in memory and from a file, on the frame asked for."""
    found, frame = stirred(d).transform(turned(d)), turned(d).resized((13, 10, 9)[:d])
    field = found.field(frame)
    write_displacement(field.mm(), frame, tmp_path / "map.h5")
    points = frame.points()[(slice(1, -1),) * d].reshape(-1, d)
    expected = found.map(points).numpy()
    for exported in (to_sitk(found, frame), read_transform_file(tmp_path / "map.h5")):
        assert isinstance(exported, sitk.Transform)
        np.testing.assert_allclose([exported.TransformPoint(p) for p in points.tolist()], expected, atol=1e-3)


def test_a_large_frame_is_read_a_chunk_at_a_time() -> None:
    maps, calls = stirred(3), []
    found = NeuralTransform(maps.forward, maps.backward, turned(3), chunk=100)
    hook = maps.networks[0].register_forward_pre_hook(lambda _, given: calls.append(given[0].shape[1]))
    try:
        field = found.field(Frame.regular((15, 14, 13)))
    finally:
        hook.remove()
    assert max(calls) == 100 and sum(calls) == 15 * 14 * 13
    assert not field.displacement.requires_grad


@pytest.mark.parametrize("d", [2, 3])
def test_points_keep_their_precision(d: int) -> None:
    """Far from the world's origin, where float32 would lose the last digits of a point."""
    frame = replace(Frame.regular((11,) * d), origin=(1e5,) * d)
    fresh, points = from_scratch(d).transform(frame), box_points(frame)
    torch.testing.assert_close(fresh.map(points), points, rtol=0, atol=1e-9)
    assert fresh.map(points.float()).dtype == torch.float32


def test_networks_of_several_pairs_share_weights_but_not_codes() -> None:
    maps = stirred(2, pairs=3)
    points = torch.rand(1, 20, 2).expand(3, -1, -1)
    a, b, c = maps.forward(points).detach()
    assert not torch.allclose(a, b) and not torch.allclose(b, c)
    assert isinstance(maps.forward.network, ModulatedSiren)
