"""Half-way between two images: roots of linear maps, the lattice there, and the halves of a deformation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.half_way import HalfWay, Halves, half_displacement, half_way_frame, square_root
from DeepRegistrationLib.transforms import REPRESENTATIONS, LinearTransform
from torch import Tensor

AXES = {2: ((1.0, 0.0, 0.0),), 3: ((0.0, 0.0, 1.0), (0.3, 1.0, -0.4))}


def turn(d: int, degrees: float, axis: tuple[float, ...] = (0.0, 0.0, 1.0)) -> np.ndarray:
    """A rotation (d, d), by SimpleITK in 3-D."""
    if d == 3:
        return np.asarray(sitk.VersorTransform(axis, math.radians(degrees)).GetMatrix()).reshape(3, 3)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s], [s, c]])


def linear(part: np.ndarray, shift: float = 20.0) -> LinearTransform:
    d = len(part)
    return LinearTransform.from_parts(
        torch.from_numpy(part), torch.tensor([shift, -0.7 * shift, 0.4 * shift][:d], dtype=torch.float64)
    )


def sheared(d: int) -> np.ndarray:
    stretch = np.diag([1.2, 0.8, 1.1][:d])
    stretch[0, 1] = 0.25
    return turn(d, 35, AXES[3][1]) @ stretch


def turned_frame(size: tuple, spacing: tuple, centre: tuple, degrees: float, columns: tuple) -> Frame:
    """An oblique lattice about a centre; `columns` are signed numbers of its axes, from 1."""
    d = len(size)
    axes = turn(d, degrees, AXES[3][1])
    direction = np.stack([np.sign(c) * axes[:, abs(c) - 1] for c in columns], 1)
    origin = np.asarray(centre) - direction @ ((np.asarray(size) - 1) / 2 * np.asarray(spacing))
    return Frame(size, spacing, tuple(origin.tolist()), tuple(map(tuple, direction.tolist())))


MAPS = {
    **{
        f"rigid {angle}, {d}-D": (d, turn(d, angle, AXES[3][1]))
        for d in (2, 3)
        for angle in (0, 12, 100, 165)
    },
    **{f"affine, {d}-D": (d, sheared(d)) for d in (2, 3)},
}


@pytest.mark.parametrize("name", MAPS)
def test_the_square_root_squares_to_the_map(name: str) -> None:
    whole = linear(MAPS[name][1])
    root = square_root(whole)
    assert root is not None
    torch.testing.assert_close(root.matrix @ root.matrix, whole.matrix, rtol=0, atol=1e-10)
    # the principal one: it turns by half, and not the other way round
    angles = [torch.linalg.eigvals(m.matrix[:-1, :-1]).angle().abs().max() for m in (root, whole)]
    torch.testing.assert_close(2 * angles[0], angles[1], rtol=0, atol=1e-7)
    if name.startswith("rigid"):
        part = root.matrix[:-1, :-1]
        torch.testing.assert_close(part @ part.T, torch.eye(len(part)).double(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("d", [2, 3])
def test_there_is_no_half_of_half_a_turn_nor_of_a_mirror(d: int) -> None:
    assert square_root(linear(turn(d, 178, AXES[3][1]))) is None
    assert square_root(linear(np.diag([-1.0, 1.0, 1.0][:d]))) is None


@pytest.mark.parametrize("name", MAPS)
def test_exchanging_the_images_exchanges_the_ways(name: str) -> None:
    d, part = MAPS[name]
    whole = linear(part)
    frames = Frame.regular((9, 8, 7)[:d]), Frame.regular((5, 6, 7)[:d], 2.0)
    there, back = Halves.of(whole, *frames), Halves.of(whole.inverse(), *frames[::-1])
    for one, other in ((there.to_fixed, back.to_moving), (there.to_moving, back.to_fixed)):
        torch.testing.assert_close(one.matrix, other.matrix, rtol=0, atol=1e-9)
    reached = there.to_moving.matrix @ torch.linalg.inv(there.to_fixed.matrix)
    torch.testing.assert_close(reached, whole.matrix, rtol=0, atol=1e-9)


@pytest.mark.parametrize("part", [turn(3, 179, AXES[3][1]), np.diag([1.0, 1.0, -1.0])])
def test_without_a_root_the_frame_is_that_of_the_image_nearer_to_the_worlds_axes(part: np.ndarray) -> None:
    whole = linear(part)
    straight = Frame.regular((9, 8, 7))
    oblique = turned_frame((9, 8, 7), (1.0, 1.0, 1.0), (0, 0, 0), 25, (1, 2, 3))
    there, back = Halves.of(whole, straight, oblique), Halves.of(whole.inverse(), oblique, straight)
    identity = torch.eye(4, dtype=torch.float64)
    assert torch.equal(there.to_fixed.matrix, identity) and torch.equal(there.to_moving.matrix, whole.matrix)
    assert torch.equal(back.to_moving.matrix, identity)
    torch.testing.assert_close(back.to_fixed.matrix, whole.matrix, rtol=0, atol=1e-12)


PAIRS = {
    "permuted": (
        turned_frame((20, 30, 24), (2.0, 1.0, 1.5), (3, -2, 1), 0, (3, -1, 2)),
        turned_frame((26, 22, 28), (1.2, 1.8, 1.1), (1, 1, 0), 0, (1, 2, 3)),
    ),
    "oblique": (
        turned_frame((20, 30, 24), (2.0, 1.0, 1.5), (3, -2, 1), 17, (1, 2, 3)),
        turned_frame((26, 22, 28), (1.2, 1.8, 1.1), (1, 1, 0), -21, (2, -3, 1)),
    ),
    "left-handed, thick": (
        turned_frame((40, 36, 8), (0.9, 0.8, 5.0), (3, -2, 1), 9, (1, -2, 3)),
        turned_frame((26, 22, 28), (1.2, 1.8, 1.1), (1, 1, 0), -5, (1, 2, 3)),
    ),
    "flat": (
        turned_frame((20, 30), (2.0, 1.0), (3, -2), 14, (2, 1)),
        turned_frame((26, 22), (1.2, 1.8), (1, 1), -6, (1, -2)),
    ),
}


def around(frame: Frame, part: np.ndarray) -> LinearTransform:
    """A linear map that turns about the middle of a frame."""
    middle = torch.from_numpy(frame.centre.copy())
    matrix = torch.from_numpy(part)
    return LinearTransform.from_parts(matrix, middle - matrix @ middle + 1.5)


def overlap(frames: tuple[Frame, Frame], halves: Halves, points: Tensor) -> Tensor:
    """Which half-way points lead into both images."""
    return frames[0].contains(halves.to_fixed.map(points)) & frames[1].contains(halves.to_moving.map(points))


@pytest.mark.parametrize("name", PAIRS)
def test_exchanging_the_images_gives_the_same_lattice(name: str) -> None:
    frames = PAIRS[name]
    whole = around(frames[0], turn(frames[0].dimension, 13, AXES[3][1]))
    there = half_way_frame(Halves.of(whole, *frames), frames, frames)
    back = half_way_frame(Halves.of(whole.inverse(), *frames[::-1]), frames[::-1], frames[::-1])
    assert there.size == back.size
    assert np.allclose(there.corners(), back.corners(), rtol=0, atol=1e-6)
    direction = np.asarray(there.direction)
    assert np.allclose(direction.T @ direction, np.eye(len(direction)), atol=1e-9)
    # in the world's order, and the axes of neither image alone
    assert (np.abs(direction).argmax(0) == np.arange(len(direction))).all() and (np.diag(direction) > 0).all()
    least, most = min(map(min, (f.spacing for f in frames))), max(map(max, (f.spacing for f in frames)))
    assert least - 1e-6 <= min(there.spacing) and max(there.spacing) <= most + 1e-6


@pytest.mark.parametrize("name", PAIRS)
def test_the_box_holds_all_that_leads_into_both_images(name: str) -> None:
    frames = PAIRS[name]
    halves = Halves.of(around(frames[0], turn(frames[0].dimension, 13, AXES[3][1])), *frames)
    frame = half_way_frame(halves, frames, frames)
    random = torch.Generator().manual_seed(0)
    points = 4 * torch.rand(20000, frame.dimension, generator=random, dtype=torch.float64) - 2
    half = torch.from_numpy(frame.extent.copy()) / 2
    world = torch.from_numpy(frame.centre.copy()) + (points * half) @ torch.tensor(frame.direction).double().T
    inside = points[overlap(frames, halves, world)]
    assert len(inside) > 500 and float(inside.abs().max()) <= 1 + 1e-6


def test_of_parallel_boxes_it_is_the_overlap_and_of_subjects_what_either_holds() -> None:
    one = Frame.regular((40, 30, 20), (1.0, 1.0, 2.0))
    other = replace(Frame.regular((30, 40, 20), (1.0, 1.0, 2.0)), origin=(-5.0, -20.0, -14.0))
    halves = Halves.of(LinearTransform.identity(3), one, other)
    found = half_way_frame(halves, (one, other), (one, other)).corners()
    corners = [f.corners() for f in (one, other)]
    assert np.allclose(found.min(0), np.maximum(*(c.min(0) for c in corners)), atol=1.01)
    assert np.allclose(found.max(0), np.minimum(*(c.max(0) for c in corners)), atol=1.01)
    subjects = [replace(one, size=(8, 30, 20), origin=(x, *one.origin[1:])) for x in (0.5, 3.5)]
    narrow = half_way_frame(halves, (one, other), (subjects[0], subjects[1])).corners()
    assert np.allclose([narrow[:, 0].min(), narrow[:, 0].max()], [0, 11], atol=1.01)


@pytest.mark.parametrize(
    "frame",
    [
        Frame.regular((21, 18, 9), (1.0, 1.2, 3.0)),
        replace(Frame.regular((21, 18), 0.7), origin=(3.0, 100.0)),
        Frame((12, 10, 8), (1.0, 2.0, 1.5), (5.0, 6.0, 7.0), ((-1.0, 0, 0), (0, -1.0, 0), (0, 0, 1.0))),
    ],
    ids=["thick", "flat", "turned"],
)
def test_equal_lattices_keep_their_voxels(frame: Frame) -> None:
    halves = Halves.of(LinearTransform.identity(frame.dimension), frame, frame)
    found = half_way_frame(halves, (frame, frame), (frame, frame))
    assert found.size == frame.size and found.spacing == pytest.approx(frame.spacing, abs=1e-12)
    difference = np.abs(np.sort(found.corners(), 0) - np.sort(frame.corners(), 0)).max()
    assert difference < 1e-9
    part = replace(frame, size=tuple(n - 4 for n in frame.size))
    inner = half_way_frame(halves, (frame, frame), (part, part))
    index = (np.asarray(inner.origin) - frame.origin) @ np.asarray(frame.direction) / frame.spacing
    assert np.allclose(index, np.round(index), atol=1e-6)
    assert inner.size == part.size


def waves(frame: Frame, amount: float, phase: float) -> Tensor:
    """A smooth displacement of up to `amount` voxels, normalised units of `frame`, float64."""
    grid = frame.grid(dtype=torch.float64)
    parts = [torch.sin(1.7 * grid.sum(-1) + phase + k) for k in range(frame.dimension)]
    return amount * torch.stack(parts, -1) * 2 / torch.tensor(frame.size)


def undone(field: Field, points: Tensor, sign: float = 1.0) -> Tensor:
    """Where x + sign * u(x) has normalised points come from, by plain iteration."""
    found = points.clone()
    for _ in range(200):
        found = points - sign * field.at(found)
    return found


@pytest.mark.parametrize("size", [(30, 26), (18, 16, 14)], ids=["2-D", "3-D"])
def test_a_pair_of_maps_is_two_halves_of_one_displacement(size: tuple[int, ...]) -> None:
    frame = Frame.regular(size, 1.5)
    b, a = Field(waves(frame, 1.6, 0.0), frame), Field(waves(frame, -0.9, 1.1), frame)
    w = half_displacement(b.displacement, a.displacement, frame)
    random = torch.Generator().manual_seed(1)
    points = 1.2 * torch.rand(500, len(size), generator=random, dtype=torch.float64) - 0.6
    before = undone(a, points)
    expected = before + b.at(before)
    half = Field(w, frame)
    middle = undone(half, points, -1.0)
    voxel = 2 / torch.tensor(size)
    assert float(((expected - points) / voxel).norm(dim=-1).mean()) > 1
    # both are read between voxels, of lattices that do not lie on one another
    assert float(((middle + half.at(middle) - expected) / voxel).abs().max()) < 0.08
    torch.testing.assert_close(
        half_displacement(a.displacement, b.displacement, frame), -w, rtol=0, atol=1e-12
    )


def test_of_opposite_maps_it_is_the_one() -> None:
    frame = Frame.regular((12, 10, 9))
    u = waves(frame, 1.0, 0.3)
    assert torch.equal(half_displacement(u, -u, frame), u)


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_a_step_moves_both_maps_and_a_step_back_exchanges_them(name: str) -> None:
    """One step along a direction from the identity, and one against it."""
    frame = Frame.regular((16, 14, 12), (1.0, 1.2, 1.4))
    pairs = []
    for sign in (1, -1):
        model = HalfWay(REPRESENTATIONS[name].half_way(frame, "cpu", 5))
        random = torch.Generator().manual_seed(2)
        directions = [sign * torch.randn(p.shape, generator=random).to(p) for p in model.parameters()]
        if name == "neural-field":  # of its weights, only those of the last layer have a sign
            directions = [d * (k >= len(directions) - 2) for k, d in enumerate(directions)]
        model.step(directions, 0.1)
        pairs.append([u.detach() for u in model.displacement()])
    (b, a), (other_b, other_a) = pairs
    assert float(b.abs().max()) > 1e-5
    torch.testing.assert_close(b, other_a, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(a, other_b, rtol=1e-4, atol=1e-6)
    # opposite to the first order
    assert float((a + b).norm()) < 0.2 * float(b.norm())
