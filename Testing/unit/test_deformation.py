"""The whole map of a registration: both directions, and that what is written does not fold."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib.deformation import Deformation
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.transforms import LinearTransform

FIXED = {2: Frame.regular((30, 26), 1.5), 3: Frame.regular((20, 18, 16), (1.5, 1.7, 2.0))}
MOVING = {
    2: replace(Frame.regular((26, 30), 1.6), origin=(-15.0, -28.0)),
    3: replace(Frame.regular((17, 20, 15), (1.8, 1.5, 2.2)), origin=(-11.0, -17.0, -12.0)),
}


def linear(d: int, degrees: float, shift: float, stretch: float = 1.0) -> LinearTransform:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.eye(d + 1)
    matrix[:2, :2] = stretch * np.array([[c, -s], [s, c]])
    matrix[:d, d] = [shift, -0.6 * shift, 0.3 * shift][:d]
    return LinearTransform(matrix)


def waves(frame: Frame, amount: float, phase: float) -> Field:
    """A smooth displacement of up to `amount` voxels."""
    grid = frame.grid()
    parts = [torch.sin(1.9 * grid.sum(-1) + phase + k) for k in range(frame.dimension)]
    return Field(amount * torch.stack(parts, -1) * 2 / torch.tensor(frame.size), frame)


def squeezed(frame: Frame, strength: float, turn: float) -> Field:
    """A map that shrinks and turns (radians) what lies about the middle of the box, more and more inwards."""
    points = frame.points()
    width = 0.16 * float(frame.extent.min())
    share = torch.exp(-points.square().sum(-1, keepdim=True) / (2 * width**2))
    c, s = torch.cos(turn * share), torch.sin(turn * share)
    x, y = points[..., :1], points[..., 1:2]
    turned = torch.cat([c * x - s * y, s * x + c * y, points[..., 2:]], -1)
    return Field.from_mm(((1 - strength * share) * turned - points).float(), frame)


def made(d: int, two_sided: bool = True) -> Deformation:
    working = Frame.regular((22, 21, 19)[:d], 1.7)
    towards_fixed = waves(working, -0.7, 0.9) if two_sided else None
    return Deformation(
        linear(d, 7, 1.5, 1.05), linear(d, -5, -1.0, 0.97), waves(working, 0.9, 0.0), towards_fixed
    )


def corner_determinants(field: Field) -> np.ndarray:
    """Determinants of the linearly interpolated map at all corners of all cells, index coordinates."""
    frame = field.frame
    d = frame.dimension
    moved = frame.points().numpy() + field.mm(torch.float64).numpy()
    index = (moved - np.asarray(frame.origin)) @ np.linalg.inv(frame.index_to_world[:d, :d]).T
    found = []
    for corner in product((0, 1), repeat=d):  # array order
        columns = []
        for axis in range(d):
            edge = np.diff(index, axis=axis)
            for other in range(d):
                if other != axis:
                    edge = np.take(
                        edge, range(corner[other], edge.shape[other] - 1 + corner[other]), axis=other
                    )
            columns.append(edge)
        found.append(np.linalg.det(np.stack(columns[::-1], -1)))
    return np.stack(found)


def simpleitk_determinants(field: Field) -> np.ndarray:
    image = sitk.GetImageFromArray(field.mm(torch.float64).numpy(), isVector=True)
    image.SetSpacing(field.frame.spacing)
    return sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("d", [2, 3])
def test_forward_is_its_parts_one_after_the_other(d: int, two_sided: bool) -> None:
    """At points half-way, from where all parts are known without inverting anything."""
    whole = made(d, two_sided)
    random = torch.Generator().manual_seed(0)
    points = 16 * torch.rand(200, d, generator=random, dtype=torch.float64) - 8
    a = points if whole.towards_fixed is None else whole.towards_fixed.map(points)
    fixed, moving = whole.to_fixed.map(a), whole.to_moving.map(whole.towards_moving.map(points))
    assert float((fixed - moving).norm(dim=-1).mean()) > 1
    tolerance = 0.03  # inverting promises a hundredth of a voxel along each axis
    torch.testing.assert_close(whole.forward.map(fixed), moving, rtol=0, atol=tolerance)
    torch.testing.assert_close(whole.inverse.map(moving), fixed, rtol=0, atol=tolerance)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("d", [2, 3])
def test_forward_and_inverse_undo_each_other(d: int, two_sided: bool) -> None:
    whole = made(d, two_sided)
    points = FIXED[d].points().reshape(-1, d)
    there = whole.forward.map(points)
    assert float((there - points).norm(dim=-1).mean()) > 1
    assert float((whole.inverse.map(there) - points).abs().max()) < 0.05
    points = MOVING[d].points().reshape(-1, d)
    assert float((whole.forward.map(whole.inverse.map(points)) - points).abs().max()) < 0.05


@pytest.mark.parametrize("d", [2, 3])
def test_fields_that_do_not_fold_are_written_as_they_are(d: int) -> None:
    whole = made(d)
    frames = FIXED[d], MOVING[d]
    kept, fields = whole.written(frames, repair=True)
    assert kept is whole
    for transform, field, frame in zip((whole.forward, whole.inverse), fields, frames, strict=True):
        assert field.frame == frame
        assert corner_determinants(field).min() > 0.1
        torch.testing.assert_close(
            field.mm(torch.float64), transform.map(frame.points()) - frame.points(), rtol=0, atol=0.05
        )


def swirling(d: int, side: str) -> tuple[Deformation, tuple[Frame, Frame]]:
    """A map without folds on its own fine lattice that turns so much, towards one image, that both of its
    directions fold on a coarser lattice."""
    working = Frame.regular((60,) * d if d == 2 else (40,) * d, 1.0)
    strong, weak = squeezed(working, 0.4, 3.5 if d == 2 else 3.0), waves(working, 0.3, 0.0)
    towards_moving, towards_fixed = (strong, weak) if side == "moving" else (weak, strong)
    coarse = working.with_spacing(2.3)
    whole = Deformation(linear(d, 3, 0.3), linear(d, 4, 0.6), towards_moving, towards_fixed)
    return whole, (coarse, coarse)


@pytest.mark.parametrize("side", ["moving", "fixed"])
@pytest.mark.parametrize("d", [2, 3])
def test_what_folds_on_the_written_lattice_is_repaired(d: int, side: str) -> None:
    whole, frames = swirling(d, side)
    for own in (whole.towards_moving, whole.towards_fixed):
        assert own is not None and corner_determinants(own).min() > 0.1
    untouched, before = whole.written(frames, repair=False)
    assert untouched is whole
    for transform, field in zip((whole.forward, whole.inverse), before, strict=True):
        assert corner_determinants(field).min() < 0
        points = field.frame.points()
        torch.testing.assert_close(field.mm(torch.float64), transform.map(points) - points, rtol=0, atol=0.05)
    repaired, after = whole.written(frames, repair=True)
    for field in after:
        assert corner_determinants(field).min() > 0
        assert simpleitk_determinants(field).min() > 0
    # what is handed back is the map that was repaired, in both directions
    for transform, field in zip((repaired.forward, repaired.inverse), after, strict=True):
        points = field.frame.points()
        torch.testing.assert_close(field.mm(torch.float64), transform.map(points) - points, rtol=0, atol=0.05)
    points = frames[0].points().reshape(-1, d)
    assert float((repaired.inverse.map(repaired.forward.map(points)) - points).abs().max()) < 0.1
    # and far from the folds it is what it was
    far = points[points.norm(dim=-1) > 0.48 * float(frames[0].extent.min())]
    torch.testing.assert_close(repaired.forward.map(far), whole.forward.map(far), rtol=0, atol=0.02)
