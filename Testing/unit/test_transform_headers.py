"""Vector images and transforms of other programs: converted, or refused in a sentence, by what they say."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegistrationLib import cli
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.io import set_frame
from DeepRegistrationLib.transform_files import (
    displacement_from_sitk,
    read_transform_file,
    write_displacement,
)

DIRECTION = np.asarray(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.4, 0.7).GetMatrix()).reshape(3, 3)
FRAME = Frame((7, 6, 5), (2.0, 1.25, 3.0), (-12.0, 30.5, 7.0), tuple(map(tuple, DIRECTION.tolist())))
FIELD = np.random.default_rng(0).normal(size=(*FRAME.shape, 3)) * 4
RAS = np.array([-1.0, -1.0, 1.0])


def nifti(
    path: Path, vectors: np.ndarray, code: int, name: str = "", p1: float = 0.0, words: str = ""
) -> Path:
    """Vectors under a header of another program."""
    image = set_frame(sitk.GetImageFromArray(vectors.astype(np.float32), isVector=True), FRAME)
    sitk.WriteImage(image, str(path))
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 56, p1)
    struct.pack_into("<h", content, 68, code)
    content[148:228] = words.encode().ljust(80, b"\0")
    content[328:344] = name.encode().ljust(16, b"\0")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "header",
    [
        {"code": 1007, "name": "NREG_TRANS"},
        {"code": 1007, "name": "Mapping", "words": "Deformation field"},
        {"code": 0, "words": "Deformation"},
    ],
    ids=["NiftyReg", "SPM", "SPM without intent"],
)
def test_positions_become_displacements(tmp_path: Path, header: dict) -> None:
    positions = (FRAME.points().numpy() + FIELD) * RAS
    got, frame = displacement_from_sitk(nifti(tmp_path / "y.nii", positions, **header))
    assert frame.same_lattice(FRAME)
    np.testing.assert_allclose(got, FIELD, atol=1e-4)


def test_displacements_of_nifty_reg_are_ras(tmp_path: Path) -> None:
    path = nifti(tmp_path / "d.nii", FIELD * RAS, 1007, "NREG_TRANS", 1.0)
    np.testing.assert_allclose(displacement_from_sitk(path)[0], FIELD, atol=1e-5)


@pytest.mark.parametrize("p1", [2.0, 3.0, 4.0, 5.0, 6.0])
def test_other_files_of_nifty_reg_are_refused(tmp_path: Path, p1: float) -> None:
    with pytest.raises(InputError, match=r"NiftyReg.*reg_transform -def"):
        read_transform_file(nifti(tmp_path / "c.nii", FIELD, 1007, "NREG_TRANS", p1))


@pytest.mark.parametrize("words", ["Flow Field", "Velocity"])
def test_velocities_of_spm_are_refused(tmp_path: Path, words: str) -> None:
    with pytest.raises(InputError, match=r"velocity of SPM.*y_"):
        read_transform_file(nifti(tmp_path / "u.nii", FIELD, 1007, words=words))


def test_warps_of_fsl_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="warp of FSL"):
        read_transform_file(nifti(tmp_path / "w.nii", FIELD, 2006))


def test_a_colour_picture_is_no_transform(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (*FRAME.shape, 3))
    for dtype in (np.uint8, np.int16):
        image = set_frame(sitk.GetImageFromArray(colours.astype(dtype), isVector=True), FRAME)
        for name in ("photo.nrrd", "photo.mha", "photo.nii"):
            sitk.WriteImage(image, str(tmp_path / name))
            with pytest.raises(InputError, match="colour picture"):
                read_transform_file(tmp_path / name)
    write_displacement(FIELD, FRAME, tmp_path / "f.nrrd")
    content = (tmp_path / "f.nrrd").read_bytes()
    coloured = re.sub(rb"kinds: vector", b"kinds: RGB-color", content)
    assert coloured != content
    (tmp_path / "f.nrrd").write_bytes(coloured)
    with pytest.raises(InputError, match="colour picture"):
        read_transform_file(tmp_path / "f.nrrd")


def _typed_nrrd(path: Path, way: str) -> Path:
    image = set_frame(sitk.GetImageFromArray(FIELD, isVector=True), FRAME)
    image.SetMetaData("displacement field type", way)
    sitk.WriteImage(image, str(path))
    return path


def test_slicers_grids_to_parent_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _typed_nrrd(tmp_path / "to.nrrd", "modeling")
    assert b"displacement field type:=modeling" in path.read_bytes()
    with pytest.raises(InputError, match=r"to parent.*module Transforms, section Convert"):
        read_transform_file(path)
    image = set_frame(sitk.GetImageFromArray(FIELD[..., 0].astype(np.float32)), FRAME)
    sitk.WriteImage(image, str(tmp_path / "image.nrrd"))
    given, output = str(tmp_path / "image.nrrd"), tmp_path / "o.nrrd"
    arguments = [*("--input", given), *("--reference", given), *("--output", str(output))]
    assert cli.main(["apply", "--transform", str(path), *arguments]) == 2
    assert "to parent" in capsys.readouterr().err and not output.exists()
    # from parent is as ever
    np.testing.assert_allclose(
        displacement_from_sitk(_typed_nrrd(tmp_path / "from.nrrd", "resampling"))[0], FIELD
    )
    with pytest.raises(InputError, match="unknown type: sideways"):
        read_transform_file(_typed_nrrd(tmp_path / "x.nrrd", "sideways"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("InverseBSplineTransform_double_3_3", "to parent, as Slicer calls it"),
        ("ThinPlateSplineKernelTransform_double_3_3", "a ThinPlateSplineKernelTransform, a kind"),
    ],
)
def test_classes_that_simpleitk_has_not(tmp_path: Path, name: str, words: str) -> None:
    path = tmp_path / "t.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 2.0, 3.0)), str(path))
    path.write_text(path.read_text().replace("TranslationTransform_double_3_3", name))
    with pytest.raises(InputError, match=rf"{words}.*section Convert"):
        read_transform_file(path)


def test_slicers_class_in_an_h5_file(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    write_displacement(FIELD, FRAME, path)
    content = path.read_bytes()
    # of the same length, so that the file stays whole
    other = content.replace(b"DisplacementFieldTransform_double", b"InverseDisplacementFieldTr_double")
    assert other != content
    path.write_bytes(other)
    with pytest.raises(InputError, match="to parent, as Slicer calls it"):
        read_transform_file(path)
