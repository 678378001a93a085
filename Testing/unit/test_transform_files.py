"""Transform files: the same numbers at the same places, for us and for SimpleITK alone."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib.errors import InputError, OutputError
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.transform_files import (
    displacement_from_sitk,
    read_transform_file,
    write_displacement,
    write_linear,
    write_transform,
)
from DeepRegistrationLib.transform_parts import linear_matrix, linear_to_sitk

ROTATION = np.asarray(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.4, 0.7).GetMatrix()).reshape(3, 3)
OBLIQUE = Frame((7, 6, 9), (0.5, 1.25, 3.0), (-12.0, 30.5, 7.0), tuple(map(tuple, ROTATION.tolist())))
LEFT = Frame(
    (5, 6, 7), (2.0, 0.7, 1.1), (5.0, -60.0, 100.0), tuple(map(tuple, (ROTATION * [1, 1, -1]).tolist()))
)
FLAT = Frame((6, 9), (0.5, 2.0), (3.0, -4.0), ((0.6, -0.8), (0.8, 0.6)))
FRAMES = {"oblique": OBLIQUE, "left-handed": LEFT, "2-D": FLAT}
EXTENSIONS = (".h5", ".nii.gz", ".nii", ".nrrd", ".mha")


def _field(frame: Frame) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(*frame.shape, frame.dimension)).astype(np.float32) * 10


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_displacements_come_back_exactly(tmp_path: Path, frame: Frame, extension: str, kind) -> None:
    field = _field(frame)
    path = tmp_path / f"forward{extension}"
    write_displacement(kind(field), frame, path)
    assert os.listdir(tmp_path) == [path.name]
    transform = read_transform_file(path)
    assert isinstance(transform, sitk.DisplacementFieldTransform)
    got, lattice = displacement_from_sitk(path)
    np.testing.assert_array_equal(got, field)
    assert lattice.size == frame.size
    np.testing.assert_allclose(lattice.points(), frame.points(), atol=1e-4)
    # a voxel centre goes where its own vector says
    index = tuple(n // 2 for n in frame.shape)
    point = frame.points()[index].numpy()
    np.testing.assert_allclose(transform.TransformPoint(point.tolist()), point + field[index], atol=2e-3)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_simpleitk_alone_reads_the_same(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"forward{extension}"
    write_displacement(_field(OBLIQUE), OBLIQUE, path)
    if extension == ".h5":
        transform = sitk.DisplacementFieldTransform(sitk.ReadTransform(str(path)))
        image = transform.GetDisplacementField()
    else:
        image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), _field(OBLIQUE))


def test_nifti_stores_displacements_in_ras_under_their_own_intent(tmp_path: Path) -> None:
    """What 3D Slicer needs: intent 1006 and RAS vectors; with 1007 it takes the field wrongly."""
    write_displacement(_field(OBLIQUE), OBLIQUE, tmp_path / "f.nii.gz")
    content = gzip.decompress((tmp_path / "f.nii.gz").read_bytes())
    assert struct.unpack_from("=8h", content, 40)[:6] == (5, 7, 6, 9, 1, 3)
    assert struct.unpack_from("=h", content, 68) == (1006,)
    stored = np.frombuffer(content, np.float32, offset=352).reshape(3, *OBLIQUE.shape)
    np.testing.assert_array_equal(np.moveaxis(stored, 0, -1), _field(OBLIQUE) * [-1, -1, 1])
    write_displacement(_field(OBLIQUE), OBLIQUE, tmp_path / "f.nii")
    assert (tmp_path / "f.nii").read_bytes() == content


def test_plain_vector_nifti_is_lps(tmp_path: Path) -> None:
    """Fields of ITK and ANTs have intent 1007 and LPS vectors."""
    image = sitk.GetImageFromArray(_field(OBLIQUE), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "f.nii.gz"))
    np.testing.assert_array_equal(displacement_from_sitk(tmp_path / "f.nii.gz")[0], _field(OBLIQUE))


def test_resampling_with_the_file_moves_the_image(tmp_path: Path) -> None:
    """Pull-back: a constant displacement of +2 voxels brings the value from two voxels further."""
    frame = Frame((8, 7, 6), (2.0, 1.5, 1.0), (3.0, 2.0, 1.0), OBLIQUE.direction)
    values = np.random.default_rng(1).normal(size=frame.shape).astype(np.float32)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(frame.spacing)
    image.SetOrigin(frame.origin)
    image.SetDirection(np.ravel(frame.direction).tolist())
    step = np.asarray(frame.direction) @ [2 * 2.0, 0, 0]
    write_displacement(np.broadcast_to(step, (*frame.shape, 3)), frame, tmp_path / "f.h5")
    moved = sitk.Resample(image, image, sitk.ReadTransform(str(tmp_path / "f.h5")), sitk.sitkLinear)
    np.testing.assert_allclose(sitk.GetArrayFromImage(moved)[..., :-3], values[..., 2:-1], atol=1e-4)


def test_double_precision_is_kept_in_h5(tmp_path: Path) -> None:
    field = np.random.default_rng(0).normal(size=(*OBLIQUE.shape, 3))
    write_displacement(field, OBLIQUE, tmp_path / "f.h5")
    got, lattice = displacement_from_sitk(tmp_path / "f.h5")
    np.testing.assert_array_equal(got, field)
    assert lattice == OBLIQUE


def test_the_callers_array_is_left_alone(tmp_path: Path) -> None:
    field = _field(OBLIQUE)
    tensor = torch.from_numpy(field)
    for extension in EXTENSIONS:
        write_displacement(tensor, OBLIQUE, tmp_path / f"f{extension}")
    np.testing.assert_array_equal(field, _field(OBLIQUE))


def test_single_slice_field(tmp_path: Path) -> None:
    frame = Frame((6, 5, 1), (0.8, 0.9, 6.0), (1.0, 2.0, 3.0), OBLIQUE.direction)
    for extension in (".h5", ".nrrd", ".mha"):
        write_displacement(_field(frame), frame, tmp_path / f"f{extension}")
        np.testing.assert_array_equal(displacement_from_sitk(tmp_path / f"f{extension}")[0], _field(frame))
    with pytest.raises(OutputError, match="one slice"):
        write_displacement(_field(frame), frame, tmp_path / "f.nii.gz")


# --- linear transforms -------------------------------------------------------------------------------


def _linear_transforms() -> dict[str, sitk.Transform]:
    euler = sitk.Euler3DTransform((10.0, -20.0, 30.0), 0.3, -0.2, 0.9, (4.0, 5.0, -6.0))
    versor = sitk.VersorRigid3DTransform((0.1, 0.2, 0.3, 0.9), (1.0, 2.0, 3.0), (7.0, 8.0, 9.0))
    similarity = sitk.Similarity3DTransform(1.2, (0.1, 0.2, 0.3, 0.9), (1.0, 2.0, 3.0), (7.0, 8.0, 9.0))
    affine = sitk.AffineTransform((1.1, 0.2, 0, -0.1, 0.9, 0.3, 0, 0.05, 1.2), (5, 6, 7), (100, 0, -50))
    return {
        "identity": sitk.Transform(3, sitk.sitkIdentity),
        "translation": sitk.TranslationTransform(3, (3.0, -4.0, 5.0)),
        "euler": euler,
        "versor": versor,
        "similarity": similarity,
        "scale": sitk.ScaleTransform(3, (1.1, 0.9, 1.3)),
        "affine": affine,
        "chain": sitk.CompositeTransform([euler, affine, versor]),
        "2-D": sitk.Euler2DTransform((3.0, 4.0), 0.4, (5.0, 6.0)),
        "2-D similarity": sitk.Similarity2DTransform(1.3, 0.4, (5.0, 6.0), (1.0, 2.0)),
    }


@pytest.mark.parametrize("extension", [".h5", ".tfm", ".txt"])
@pytest.mark.parametrize("name", _linear_transforms())
def test_linear_transforms_and_their_files(tmp_path: Path, name: str, extension: str) -> None:
    transform = _linear_transforms()[name]
    d = transform.GetDimension()
    matrix = linear_matrix(transform)
    assert matrix is not None and matrix.shape == (d + 1, d + 1)
    points = np.random.default_rng(0).normal(size=(10, d)) * 100
    expected = np.array([transform.TransformPoint(p.tolist()) for p in points])
    np.testing.assert_allclose(points @ matrix[:d, :d].T + matrix[:d, d], expected, atol=1e-9)
    np.testing.assert_array_equal(matrix[d], np.eye(d + 1)[d])
    write_transform(transform, tmp_path / f"own{extension}")
    write_linear(matrix, tmp_path / f"affine{extension}")
    for stem in ("own", "affine"):
        again = read_transform_file(tmp_path / f"{stem}{extension}")
        got = np.array([again.TransformPoint(p.tolist()) for p in points])
        np.testing.assert_allclose(got, expected, atol=1e-9)
    back = linear_matrix(sitk.ReadTransform(str(tmp_path / f"affine{extension}")))
    np.testing.assert_allclose(back, matrix, atol=1e-12, rtol=1e-12)


def test_other_transforms_have_no_matrix() -> None:
    field = sitk.DisplacementFieldTransform(sitk.Image([4, 4, 4], sitk.sitkVectorFloat64, 3))
    spline = sitk.BSplineTransform(3, 3)
    chain = sitk.CompositeTransform([sitk.TranslationTransform(3, (1, 2, 3)), field])
    assert linear_matrix(field) is None and linear_matrix(spline) is None and linear_matrix(chain) is None


@pytest.mark.parametrize("matrix", [np.eye(5), np.eye(2), np.zeros((3, 4)), np.full((4, 4), np.nan)])
def test_matrices_that_are_none(matrix: np.ndarray) -> None:
    with pytest.raises(InputError):
        linear_to_sitk(matrix)


# --- sampling transforms on a frame ------------------------------------------------------------------


def test_any_transform_is_sampled_on_a_frame() -> None:
    transform = _linear_transforms()["chain"]
    got, lattice = displacement_from_sitk(transform, LEFT)
    points = LEFT.points().reshape(-1, 3).tolist()
    expected = np.array([transform.TransformPoint(p) for p in points]) - points
    np.testing.assert_allclose(got.reshape(-1, 3), expected, atol=1e-9)
    assert lattice == LEFT
    with pytest.raises(InputError, match="on which image grid"):
        displacement_from_sitk(transform)
    with pytest.raises(InputError, match="3-D transform cannot be used with a 2-D"):
        displacement_from_sitk(transform, FLAT)


def test_displacement_on_another_lattice_is_interpolated_and_zero_outside(tmp_path: Path) -> None:
    frame = Frame.regular((8, 8, 8), 2.0)
    ramp = frame.points().numpy() * 0.25  # linear, so that interpolation is exact
    write_displacement(ramp, frame, tmp_path / "f.h5")
    inner = Frame((4, 5, 6), (1.0, 1.1, 0.9), (-2.0, -2.0, -2.0), OBLIQUE.direction)
    got, _ = displacement_from_sitk(tmp_path / "f.h5", inner)
    np.testing.assert_allclose(got, inner.points().numpy() * 0.25, atol=1e-9)
    far = Frame((2, 2, 2), (1.0, 1.0, 1.0), (100.0, 0.0, 0.0), inner.direction)
    assert not displacement_from_sitk(tmp_path / "f.h5", far)[0].any()


def test_composite_of_one_is_taken_out() -> None:
    field = sitk.DisplacementFieldTransform(
        sitk.GetImageFromArray(_field(OBLIQUE).astype(float), isVector=True)
    )
    chain = sitk.CompositeTransform([sitk.CompositeTransform([field])])
    np.testing.assert_array_equal(displacement_from_sitk(chain)[0], _field(OBLIQUE))


def test_write_transform_chooses_the_format(tmp_path: Path) -> None:
    field = sitk.DisplacementFieldTransform(
        sitk.GetImageFromArray(_field(OBLIQUE).astype(float), isVector=True)
    )
    for extension in EXTENSIONS:
        write_transform(field, tmp_path / f"f{extension}")
        np.testing.assert_array_equal(displacement_from_sitk(tmp_path / f"f{extension}")[0], _field(OBLIQUE))
    spline = sitk.BSplineTransformInitializer(sitk.Image([9, 9, 9], sitk.sitkFloat32), [3, 3, 3])
    spline.SetParameters(np.random.default_rng(0).normal(size=len(spline.GetParameters())).tolist())
    for extension in (".h5", ".tfm"):
        write_transform(spline, tmp_path / f"s{extension}")
        again = read_transform_file(tmp_path / f"s{extension}")
        assert again.TransformPoint((4.2, 3.1, 5.0)) == pytest.approx(spline.TransformPoint((4.2, 3.1, 5.0)))
    with pytest.raises(OutputError, match="this transform is saved as"):
        write_transform(spline, tmp_path / "s.nii.gz")
    with pytest.raises(OutputError, match="deformations are saved as"):
        write_transform(field, tmp_path / "f.tfm")


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [*EXTENSIONS, ".tfm", ".mat"])
@pytest.mark.parametrize("content", ["text", "noise", "empty", "missing"])
def test_files_that_are_no_transforms(
    tmp_path: Path, extension: str, content: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"broken{extension}"
    bodies = {"text": b"hello\n" * 300, "noise": np.random.default_rng(0).bytes(3000), "empty": b""}
    if content in bodies:
        path.write_bytes(bodies[content])
    with pytest.raises(InputError) as caught:
        read_transform_file(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_truncated_fields(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"cut{extension}"
    frame = Frame.regular((20, 20, 20))
    write_displacement(_field(frame), frame, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(InputError, match=r"damaged|incomplete"):
        read_transform_file(path)


def test_images_that_are_no_fields(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sitk.WriteImage(sitk.GetImageFromArray(rng.normal(size=(4, 5, 6))), str(tmp_path / "scalar.nrrd"))
    sitk.WriteImage(
        sitk.GetImageFromArray(rng.normal(size=(4, 5, 6, 2)), isVector=True), str(tmp_path / "two.nrrd")
    )
    for name in ("scalar.nrrd", "two.nrrd"):
        with pytest.raises(InputError, match="not a displacement field"):
            read_transform_file(tmp_path / name)
    field = _field(OBLIQUE)
    field[0, 0, 0, 0] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(field, isVector=True), str(tmp_path / "nan.nrrd"))
    with pytest.raises(InputError, match="not finite"):
        read_transform_file(tmp_path / "nan.nrrd")
    with pytest.raises(InputError, match="folder"):
        read_transform_file(tmp_path)


def test_fields_that_are_not_written(tmp_path: Path) -> None:
    field = _field(OBLIQUE)
    with pytest.raises(InputError, match="same size"):
        write_displacement(field, LEFT, tmp_path / "f.h5")
    with pytest.raises(InputError, match="same size"):
        write_displacement(field[..., :2], OBLIQUE, tmp_path / "f.h5")
    with pytest.raises(OutputError, match="saved as"):
        write_displacement(field, OBLIQUE, tmp_path / "f.tfm")
    with pytest.raises(OutputError, match="does not exist"):
        write_displacement(field, OBLIQUE, tmp_path / "nowhere" / "f.nii.gz")
    field[0, 0, 0, 0] = np.inf
    with pytest.raises(InputError, match="not finite"):
        write_displacement(field, OBLIQUE, tmp_path / "f.h5")
    assert os.listdir(tmp_path) == []
