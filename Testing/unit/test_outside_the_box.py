"""Beyond the field's lattice the linear part of a map goes on, in files as SimpleITK reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib import cli, register
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.initial import load_transform
from DeepRegistrationLib.io import write_volume
from DeepRegistrationLib.landmarks import Landmarks, read_landmarks, write_landmarks
from DeepRegistrationLib.registration import Registration, warped_volume
from DeepRegistrationLib.transform_files import displacement_from_sitk, read_transform_file
from DeepRegistrationLib.transforms import FieldTransform, LinearTransform
from DeepRegistrationLib.written_map import WrittenMap

FIXED = Frame((14, 12, 11), (2.0, 2.4, 2.8), (-14.0, 12.0, -15.0), ((0.8, 0.6, 0), (0.6, -0.8, 0), (0, 0, 1)))
FLAT = Frame((12, 10), (2.0, 1.5), (3.0, -7.0), ((0.6, -0.8), (0.8, 0.6)))


def linear(d: int) -> LinearTransform:
    """A turn and a shift by 60 mm."""
    c, s = np.cos(0.4), np.sin(0.4)
    matrix = np.eye(d + 1)
    matrix[:2, :2], matrix[0, d] = [[c, -s], [s, c]], 60.0
    return LinearTransform(matrix)


def result(frame: Frame) -> Registration:
    """A map whose residual is about 2 mm, also at the border."""
    outer = linear(frame.dimension)
    points = frame.points()
    residual = torch.stack([1 + torch.sin(points[..., k] / 6 + k) for k in range(frame.dimension)], -1)
    forward = outer.compose(FieldTransform(Field.from_mm(residual, frame)))
    inverse = forward.inverse()
    fields = forward.field(frame), inverse.field(frame)
    image = Volume(torch.rand(1, *frame.shape), frame)
    return Registration(forward, inverse, *fields, warped_volume(image, fields[0], frame), {}, None, outer)


@pytest.mark.parametrize("frame", [FIXED, FLAT], ids=["3-D", "2-D"])
def test_inside_the_field_and_outside_the_linear_part(frame: Frame, tmp_path: Path) -> None:
    made = result(frame)
    made.save(tmp_path)
    inside = frame.points().reshape(-1, frame.dimension)[::7]
    centre = torch.as_tensor(frame.centre.copy())
    outside = centre + (torch.as_tensor(frame.corners()) - centre) * 1.05
    for name, field, outer in (
        ("forward", made.forward_field, linear(frame.dimension)),
        ("inverse", made.inverse_field, linear(frame.dimension).inverse()),
    ):
        path = tmp_path / f"{name}.h5"
        transform, written = sitk.ReadTransform(str(path)), WrittenMap(field, outer)
        for points, expected in ((inside, field.map(inside)), (outside, outer.map(outside))):
            read = torch.tensor([transform.TransformPoint(p) for p in points.tolist()], dtype=torch.float64)
            assert (read - expected).abs().max() < 1e-4
            assert (written.map(points) - read).abs().max() < 1e-4
        # our own readers
        vectors, lattice = displacement_from_sitk(path)
        assert lattice.same_lattice(frame, 1e-6)
        assert np.abs(vectors - field.mm(torch.float64).numpy()).max() < 1e-4
        start = load_transform(path, frame.dimension)
        assert (start.map(inside) - field.map(inside)).abs().max() < 1e-4


def test_a_map_without_linear_part_stays_a_plain_field(tmp_path: Path) -> None:
    field = Field.from_mm(torch.ones(*FIXED.shape, 3), FIXED)
    forward = FieldTransform(field)
    plain = Registration(
        forward,
        forward.inverse(),
        field,
        field,
        Volume(torch.zeros(1, *FIXED.shape), FIXED),
        {},
        None,
        LinearTransform.identity(3),
    )
    plain.save(tmp_path)
    read = read_transform_file(tmp_path / "forward.h5")
    assert isinstance(read, sitk.DisplacementFieldTransform)


def blob(frame: Frame, centre: tuple[float, ...]) -> Volume:
    points = frame.points() - torch.tensor(centre)
    values = torch.exp(-points.square().sum(-1) / 60) + 0.5 * torch.exp(-(points - 9).square().sum(-1) / 20)
    return Volume(100 * values[None].float(), frame)


def test_a_landmark_just_outside_and_a_wider_reference_go_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A moving image 60 mm away: what lies beyond the fixed image's box moves with it all the same."""
    near = Frame.regular((16, 16, 16), 3.0)
    far = Frame(
        near.size,
        near.spacing,
        tuple(o + s for o, s in zip(near.origin, (60.0, 0, 0), strict=True)),
        near.direction,
    )
    fixed, moving = blob(near, (0.0, 0.0, 0.0)), blob(far, (60.0, 0.0, 0.0))
    register(
        fixed,
        moving,
        preset="fast",
        linear="none",
        initial=sitk.TranslationTransform(3, (60.0, 0.0, 0.0)),
        device="cpu",
    ).save(tmp_path / "out")
    outside = torch.tensor([[-25.0, 0.0, 0.0], [0.0, 25.5, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    write_landmarks(Landmarks(outside, ("a", "b", "c")), tmp_path / "points.csv")
    forward = ["apply", "--transform", str(tmp_path / "out" / "forward.h5")]
    assert (
        cli.main([*forward, "--input", str(tmp_path / "points.csv"), "--output", str(tmp_path / "m.csv")])
        == 0
    )
    moved = read_landmarks(tmp_path / "m.csv").points - outside
    assert (moved - torch.tensor([60.0, 0.0, 0.0])).norm(dim=1).max() < 4
    assert "2 of 3 landmarks lie outside the transform's grid" in capsys.readouterr().err
    # a wider reference shows one subject, not a second that has not moved
    wide = Frame.regular((70, 24, 24), 3.0)
    write_volume(moving, tmp_path / "moving.nii.gz")
    write_volume(Volume(torch.zeros(1, *wide.shape), wide), tmp_path / "wide.nii.gz")
    images = ["--input", str(tmp_path / "moving.nii.gz"), "--reference", str(tmp_path / "wide.nii.gz")]
    assert cli.main([*forward, *images, "--output", str(tmp_path / "w.nii.gz")]) == 0
    shown = torch.as_tensor(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "w.nii.gz"))))
    assert not bool((shown[..., 50:] > 1).any()) and bool((shown > 50).any())


def test_apply_says_so_where_a_plain_field_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from DeepRegistrationLib.transform_files import write_displacement

    frame, wide = Frame.regular((8, 8, 8), 3.0), Frame.regular((16, 8, 8), 3.0)
    write_displacement(torch.ones(*frame.shape, 3), frame, tmp_path / "f.h5")
    write_volume(blob(wide, (0.0, 0.0, 0.0)), tmp_path / "i.nii.gz")
    arguments = ["apply", "--transform", str(tmp_path / "f.h5"), "--input", str(tmp_path / "i.nii.gz")]
    arguments += ["--reference", str(tmp_path / "i.nii.gz"), "--output", str(tmp_path / "o.nii.gz")]
    assert cli.main(arguments) == 0
    assert "About 50 % of the reference's voxels lie outside" in capsys.readouterr().err


@pytest.mark.parametrize("representation", ["rigid", "affine"])
def test_matrices_that_undo_each_other_are_said_to_in_the_outermost_half_of_voxels_too(
    representation: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Thick slices and a turn: at the border's displacement alone it would be millimetres."""
    fixed = Frame.regular((24, 20, 6), (2.0, 2.0, 8.0))
    points = fixed.points() - torch.as_tensor(fixed.centre.copy())
    turn, images = linear(3), []
    for place in (points, turn.map(points) - torch.tensor([60.0, 0.0, 0.0])):
        soft = torch.exp(-(place / torch.tensor([9.0, 5.0, 12.0])).square().sum(-1))
        images.append(Volume((soft + torch.exp(-(place - 8).square().sum(-1) / 40))[None].float(), fixed))
    made = register(*images, representation=representation, preset="fast", device="cpu", threads=1)
    made.save(tmp_path)
    assert float((made.forward.matrix[:3, :3] - torch.eye(3)).abs().max()) > 0.2
    for name, image in zip(("fixed", "moving"), images, strict=True):
        write_volume(image, tmp_path / f"{name}.nrrd")
    arguments = ["--transform", "forward.h5", "--inverse", "inverse.h5", "--fixed", "fixed.nrrd"]
    paths = [a if a.startswith("--") else str(tmp_path / a) for a in (*arguments, "--moving", "moving.nrrd")]
    assert cli.main(["evaluate", *paths, "--json"]) == 0
    for numbers in (made.quality, json.loads(capsys.readouterr().out)):
        for space in (numbers, numbers["moving_space"]):
            assert space["inverse_consistency"]["max_mm"] < 1e-3
            assert space["inverse_consistency"]["covered_percent"] > 20
