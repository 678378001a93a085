"""Where a file's voxels lie: shears, rounding, units, and files that say nothing or two things."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib import cli, io, register
from DeepRegistrationLib.errors import InputError, OutputError
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.geometry_checks import geometry_cautions, is_sheared, nearest_frame
from DeepRegistrationLib.inputs import load_inputs
from DeepRegistrationLib.transform_files import read_transform_file, write_displacement

TURN = np.asarray(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.4, 0.7).GetMatrix()).reshape(3, 3)
FRAME = Frame((12, 11, 10), (1.0, 1.5, 2.0), (5.0, -6.0, 7.0), tuple(map(tuple, TURN.tolist())))
TILT = np.array([[1, 0, 0.0], [0, 1, np.sin(0.3)], [0, 0, np.cos(0.3)]])  # of a gantry
SHEARED = Frame(FRAME.size, FRAME.spacing, FRAME.origin, tuple(map(tuple, TILT.tolist())))
FLIP = np.diag([-1.0, -1.0, 1.0])


def _volume(frame: Frame = FRAME) -> Volume:
    values = torch.rand(1, *frame.shape, generator=torch.Generator().manual_seed(0))
    return Volume(values, frame)


def _nifti(path: Path, sform: np.ndarray | None, qform: bool, units: int | None = None) -> Path:
    """An image on FRAME whose header has another sform (RAS, from indices), and perhaps no qform."""
    io.write_volume(_volume(), path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<2h", content, 252, int(qform), int(sform is not None))
    if sform is not None:
        struct.pack_into("<12f", content, 280, *sform[:3].ravel())
    if units is not None:
        content[123] = units
    path.write_bytes(content)
    return path


def _rows(frame: Frame) -> np.ndarray:
    """The sform of a frame."""
    return FLIP @ frame.index_to_world[:3]


def test_nearest_frames() -> None:
    assert not is_sheared(FRAME) and is_sheared(SHEARED)
    assert nearest_frame(FRAME).same_lattice(FRAME, 1e-9)
    mirrored = Frame(FRAME.size, FRAME.spacing, FRAME.origin, tuple(map(tuple, (TURN * [1, 1, -1]).tolist())))
    assert nearest_frame(mirrored).same_lattice(mirrored, 1e-9)


@pytest.mark.parametrize("qform", [False, True])
def test_rounding_of_a_sform_is_mended(tmp_path: Path, qform: bool) -> None:
    noise = np.random.default_rng(0).normal(size=(3, 4)) * 1e-4 * [1, 1, 1, 0]
    path = _nifti(tmp_path / "a.nii", _rows(FRAME) + noise, qform)
    for frame in (io.read_volume(path).frame, io.read_frame(path), io.read_mask(path).frame):
        assert np.abs(frame.corners() - FRAME.corners()).max() < 0.02


def test_a_shear_is_refused_or_told(tmp_path: Path) -> None:
    """Without a qform there is no other frame; with one it is used, as ITK and Slicer do, and said."""
    path = _nifti(tmp_path / "a.nii", _rows(SHEARED), False)
    for read in (io.read_volume, io.read_frame, io.read_labels):
        with pytest.raises(InputError, match="sheared geometry"):
            read(path)
    both = _nifti(tmp_path / "b.nii", _rows(SHEARED), True)
    assert io.read_volume(both).frame.same_lattice(FRAME)
    (told,) = geometry_cautions(both, "fixed")
    assert "fixed image places it twice" in told and "its qform is used" in told
    assert load_inputs(both, _volume()).warnings == [told]


def test_a_field_with_a_shear_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.nii"
    write_displacement(np.zeros((*FRAME.shape, 3)), FRAME, path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<2h12f", content, 252, 0, 1, *[0.0] * 12)
    struct.pack_into("<12f", content, 280, *_rows(SHEARED).ravel())
    path.write_bytes(content)
    with pytest.raises(InputError, match="sheared geometry"):
        read_transform_file(path)


def test_frames_that_differ_are_told_and_others_not(tmp_path: Path) -> None:
    away = _rows(FRAME)
    away[0, 3] += 30
    (told,) = geometry_cautions(_nifti(tmp_path / "a.nii", away, True), "moving")
    assert "moving image places it twice, up to 30 mm apart: its sform is used" in told
    assert np.allclose(io.read_volume(tmp_path / "a.nii").frame.origin, FLIP @ away[:, 3], atol=1e-4)
    assert geometry_cautions(_nifti(tmp_path / "b.nii", _rows(FRAME), True), "moving") == []
    assert geometry_cautions(_nifti(tmp_path / "c.nii", _rows(FRAME), False), "moving") == []
    assert geometry_cautions(_nifti(tmp_path / "d.nii", None, True), "moving") == []


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_does_not_get_a_sheared_frame(tmp_path: Path, name: str) -> None:
    """ITK would write the nearest one, 3 mm away at the far corner here."""
    path = tmp_path / name
    with pytest.raises(OutputError, match="does not hold a sheared geometry"):
        io.write_volume(_volume(SHEARED), path)
    with pytest.raises(OutputError, match="does not hold a sheared geometry"):
        write_displacement(np.zeros((*SHEARED.shape, 3)), SHEARED, path)
    assert list(tmp_path.iterdir()) == []
    for other in ("a.nrrd", "a.mha"):
        io.write_volume(_volume(SHEARED), tmp_path / other)
        assert io.read_volume(tmp_path / other).frame.same_lattice(SHEARED)


def test_commands_with_a_sheared_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tilted = tmp_path / "tilted.nrrd"
    io.write_volume(_volume(SHEARED), tilted)
    sitk.WriteTransform(sitk.TranslationTransform(3), str(tmp_path / "t.tfm"))
    arguments = ["apply", "--transform", str(tmp_path / "t.tfm"), "--input", str(tilted)]
    arguments += ["--reference", str(tilted), "--output", str(tmp_path / "o.nii.gz")]
    assert cli.main(arguments) == 1
    assert "choose .nrrd or .mha" in capsys.readouterr().err
    with pytest.raises(InputError, match="fixed image has a sheared geometry"):
        register(tilted, _volume())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.tfm", "tilted.nrrd"]


def test_a_metaimage_whose_matrix_holds_the_spacing(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    io.write_volume(_volume(), path)
    content = path.read_bytes()
    held = (TURN * FRAME.spacing).T.ravel()
    path.write_bytes(
        re.sub(
            rb"TransformMatrix = .*", b"TransformMatrix = " + b" ".join(b"%.9f" % n for n in held), content
        )
    )
    for read in (io.read_volume, io.read_frame):
        with pytest.raises(InputError, match=r"1, 1\.5, 2: does it hold the spacing"):
            read(path)


def _nrrd(path: Path, field: bytes) -> Path:
    io.write_volume(_volume(), path)
    header, _, data = path.read_bytes().partition(b"\n\n")
    path.write_bytes(header + b"\n" + field + b"\n\n" + data)
    return path


@pytest.mark.parametrize(
    ("units", "factor"),
    [('"um" "um" "um"', 1e-3), ('"µm" "µm" "µm"', 1e-3), ('"m" "m" "m"', 1000), ('"mm" "mm" "mm"', 1),
     ('"cm" "cm" "cm"', 10), ('"" "" ""', 1), ('"voxel" "voxel" "voxel"', 1)],
)  # fmt: skip
def test_units_of_nrrd(tmp_path: Path, units: str, factor: float) -> None:
    path = _nrrd(tmp_path / "a.nrrd", f"space units: {units}".encode())
    for frame in (io.read_volume(path).frame, io.read_frame(path)):
        assert np.allclose(frame.spacing, np.multiply(factor, FRAME.spacing), rtol=1e-6)
        assert np.allclose(frame.origin, np.multiply(factor, FRAME.origin), rtol=1e-6)


def test_units_that_differ_or_belong_to_a_field(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="different units"):
        io.read_volume(_nrrd(tmp_path / "a.nrrd", b'space units: "mm" "mm" "m"'))
    write_displacement(np.zeros((*FRAME.shape, 3)), FRAME, tmp_path / "f.nrrd")
    header, _, data = (tmp_path / "f.nrrd").read_bytes().partition(b"\n\n")
    (tmp_path / "f.nrrd").write_bytes(header + b'\nspace units: "um" "um" "um"\n\n' + data)
    with pytest.raises(InputError, match="not in millimetres"):
        read_transform_file(tmp_path / "f.nrrd")


@pytest.mark.parametrize(("code", "factor"), [(1, 1000), (2, 1), (3, 1e-3)])
def test_units_of_nifti(tmp_path: Path, code: int, factor: float) -> None:
    path = _nifti(tmp_path / "a.nii", _rows(FRAME), True, code)
    assert np.allclose(io.read_volume(path).frame.spacing, np.multiply(factor, FRAME.spacing), rtol=1e-5)
    assert geometry_cautions(path, "fixed") == []


def test_files_that_say_nothing_of_their_orientation(tmp_path: Path) -> None:
    silent = [_nifti(tmp_path / "a.nii", None, False)]
    for name, fields in (
        ("a.nrrd", rb"space( directions| origin)?: .*\n"),
        ("a.mha", rb"(TransformMatrix|Offset|CenterOfRotation|AnatomicalOrientation) = .*\n"),
    ):
        path = tmp_path / name
        io.write_volume(_volume(), path)
        assert geometry_cautions(path, "fixed") == []
        path.write_bytes(re.sub(fields, b"", path.read_bytes()))
        silent.append(path)
    sitk.WriteImage(
        sitk.GetImageFromArray(np.random.rand(5, 6, 7).astype(np.float32)), str(tmp_path / "a.tif")
    )
    silent.append(tmp_path / "a.tif")
    for path in silent:
        (told,) = geometry_cautions(path, "fixed")
        assert "fixed image says nothing of its orientation" in told
    assert load_inputs(silent[0], silent[1]).warnings[0] == told
    # a picture has none to say
    flat = tmp_path / "flat.png"
    sitk.WriteImage(sitk.GetImageFromArray(np.eye(8, dtype=np.uint8)), str(flat))
    assert geometry_cautions(flat, "fixed") == []
