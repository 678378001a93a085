"""Every way to use a result says the same: files in SimpleITK, `apply`, the warped image, the maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib import cli, register
from DeepRegistrationLib.frame import Frame, Volume, apply_matrix
from DeepRegistrationLib.io import volume_to_sitk, write_volume
from DeepRegistrationLib.landmarks import Landmarks, read_landmarks, write_landmarks
from DeepRegistrationLib.registration import Registration


def _turned(size: tuple, spacing: tuple, centre: tuple, axis: tuple, degrees: float, flip: int = -1) -> Frame:
    """A lattice turned about `axis`, its box's middle at `centre`; one axis may be reversed."""
    direction = np.asarray(sitk.VersorTransform(axis, np.radians(degrees)).GetMatrix()).reshape(3, 3)
    if flip >= 0:
        direction[:, flip] *= -1
    origin = np.asarray(centre) - direction @ ((np.asarray(size) - 1) / 2 * np.asarray(spacing))
    return Frame(size, spacing, tuple(origin.tolist()), tuple(map(tuple, direction.tolist())))


LATTICES = {
    "oblique": (
        _turned((26, 24, 20), (2.0, 2.3, 2.9), (5.0, -3.0, 8.0), (0.3, 1.0, 0.2), 17),
        _turned((30, 22, 26), (1.7, 2.6, 2.2), (8.0, 1.0, 5.0), (1.0, -0.2, 0.6), -23),
    ),
    "left-handed, thick slices": (
        _turned((40, 36, 9), (1.4, 1.5, 6.0), (-100.0, 60.0, 900.0), (0.0, 0.4, 1.0), 12, flip=1),
        _turned((22, 26, 24), (2.6, 2.2, 2.2), (-96.0, 63.0, 897.0), (1.0, 0.3, 0.0), 31, flip=2),
    ),
    "flat": (
        Frame((40, 34), (1.4, 1.7), (-22.0, 28.0), ((0.96, 0.28), (0.28, -0.96))),
        Frame((36, 44), (1.8, 1.3), (-29.0, -30.0), ((0.98, -0.198997487), (0.198997487, 0.98))),
    ),
}


def _picture(frame: Frame, middle: np.ndarray, bent: bool) -> Volume:
    """A textured ball about `middle`; the bent one is its image through a smooth map of a few mm."""
    d = frame.dimension
    p = frame.points() - torch.from_numpy(middle)
    if bent:
        p = p - torch.stack([2 + 1.5 * torch.sin(p[..., k - 1] / 9) for k in range(d)], -1)
    ball = torch.sigmoid(1.2 * (17 - p.norm(dim=-1)))
    waves = sum(torch.sin(p[..., k] / 2.2 + torch.cos(p[..., k - 1] / 4)) for k in range(d))
    return Volume((900 * ball * (1 + 0.25 * waves) - 200)[None].float(), frame)


@dataclass(frozen=True)
class Case:
    """One registration, and the folder its files are in."""

    fixed: Volume
    moving: Volume
    result: Registration
    folder: Path


@pytest.fixture(
    scope="module",
    params=[
        ("oblique", "diffeomorphic", "affine"),
        ("oblique", "b-spline", "none"),
        ("oblique", "rigid", "rigid"),
        ("left-handed, thick slices", "diffeomorphic", "rigid"),
        ("left-handed, thick slices", "stationary-velocity", "affine"),
        ("flat", "diffeomorphic", "affine"),
    ],
    ids=lambda p: "-".join(p).replace(" ", ""),
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    lattices, representation, linear = request.param
    fixed_frame, moving_frame = LATTICES[lattices]
    middle = fixed_frame.centre
    fixed, moving = _picture(fixed_frame, middle, False), _picture(moving_frame, middle, True)
    folder = tmp_path_factory.mktemp("agreement")
    for name, volume in (("fixed", fixed), ("moving", moving)):
        write_volume(volume, folder / f"{name}.nrrd")
    result = register(
        folder / "fixed.nrrd",
        folder / "moving.nrrd",
        representation=representation,
        linear=linear,
        preset="fast",
        device="cpu",
    )
    result.save(folder / "out")
    return Case(fixed, moving, result, folder)


def _in_simpleitk(case: Case, name: str = "forward") -> sitk.Transform:
    return sitk.ReadTransform(str(case.folder / "out" / f"{name}.h5"))


def _inside(case: Case) -> np.ndarray:
    """Fixed voxels whose partners lie well inside the moving image."""
    points = case.fixed.frame.points()
    there = case.result.forward_field.map(points)
    return (apply_matrix(case.moving.frame.world_to_normalised, there).abs() < 0.999).all(-1).numpy()


def test_the_run_was_a_real_one(case: Case) -> None:
    similarity = case.result.quality["similarity"]
    assert similarity["after"]["ncc"] > similarity["before"]["ncc"] + 0.02
    moved = case.result.forward_field.magnitude_mm()
    assert float(moved.max()) > 2.0 and float(moved.std()) > 0.05


def test_warped_image_apply_and_simpleitk_show_one_image(case: Case) -> None:
    resampled = sitk.Resample(
        volume_to_sitk(case.moving), volume_to_sitk(case.fixed), _in_simpleitk(case), sitk.sitkLinear, -1e9
    )
    expected, inside = sitk.GetArrayFromImage(resampled), _inside(case)
    assert inside.mean() > 0.5 and (expected[inside] > -1e8).all()
    warped = sitk.ReadImage(str(case.folder / "out" / "warped.nii.gz"))
    out = case.folder / "applied.nrrd"
    options = ["--transform", "out/forward.h5", "--input", "moving.nrrd", "--reference", "fixed.nrrd"]
    paths = [str(case.folder / o) if "." in o else o for o in options]
    assert cli.main(["apply", *paths, "--output", str(out)]) == 0
    tolerance = 1e-3 * float(np.ptp(expected[inside]))
    for image in (warped, sitk.ReadImage(str(out))):
        assert image.GetSize() == case.fixed.frame.size
        assert np.allclose(image.GetOrigin(), case.fixed.frame.origin, atol=1e-3)
        shown = sitk.GetArrayFromImage(image)
        assert np.abs(shown - expected)[inside].max() < tolerance
    assert np.abs(expected - sitk.GetArrayFromImage(volume_to_sitk(case.moving)).mean())[inside].max() > 100


@pytest.mark.parametrize("way", ["forward", "inverse"])
def test_landmarks_go_where_the_maps_say(case: Case, way: str) -> None:
    """To a thousandth of a millimetre, between the lattice's points too, all over the field's box."""
    field = getattr(case.result, f"{way}_field")
    generator = torch.Generator().manual_seed(0)
    size, d = torch.tensor(field.frame.size), field.frame.dimension
    index = torch.rand(200, d, generator=generator, dtype=torch.float64) * (size - 1)
    points = apply_matrix(field.frame.index_to_world, index)
    transform = _in_simpleitk(case, way)
    expected = np.array([transform.TransformPoint(p) for p in points.tolist()])
    assert np.abs(field.map(points).numpy() - expected).max() < 1e-3
    written = dict(zip(("forward", "inverse"), case.result.written, strict=True))[way]
    assert np.abs(written.map(points).numpy() - expected).max() < 1e-3
    # solved for at each point, to a hundredth of a voxel, and stored at the lattice's
    lattice = field.frame.points().reshape(-1, d)[::7]
    stored = np.array([transform.TransformPoint(p) for p in lattice.tolist()])
    tolerance = 0.02 * max(case.fixed.frame.spacing)
    assert np.abs(getattr(case.result, way).map(lattice).numpy() - stored).max() < tolerance


def test_apply_carries_landmark_files(case: Case) -> None:
    d = case.fixed.frame.dimension
    index = torch.tensor([[0.3, 0.4, 0.6], [0.55, 0.5, 0.45], [0.7, 0.35, 0.5]], dtype=torch.float64)[:, :d]
    points = apply_matrix(case.fixed.frame.index_to_world, index * torch.tensor(case.fixed.frame.size))
    suffix = "csv" if d == 2 else "mrk.json"
    paths = [case.folder / f"{name}.{suffix}" for name in ("points", "mapped")]
    write_landmarks(Landmarks(points, ("a", "b", "c")), paths[0])
    options = ["--transform", str(case.folder / "out" / "forward.h5"), "--input", str(paths[0])]
    assert cli.main(["apply", *options, "--output", str(paths[1])]) == 0
    mapped = read_landmarks(paths[1])
    assert mapped.labels == ("a", "b", "c")
    assert float((mapped.points - case.result.written[0].map(points)).abs().max()) < 1e-3


def test_inverse_file_undoes_the_forward_file(case: Case) -> None:
    d = case.fixed.frame.dimension
    points = case.fixed.frame.points().reshape(-1, d)[_inside(case).reshape(-1)]
    near = points[(points - torch.from_numpy(case.fixed.frame.centre.copy())).norm(dim=-1) < 14]
    there, back = _in_simpleitk(case), _in_simpleitk(case, "inverse")
    distance = [
        np.linalg.norm(np.subtract(back.TransformPoint(there.TransformPoint(p)), p)) for p in near.tolist()
    ]
    # both are linear between lattice points that lie elsewhere
    voxel = max(case.fixed.frame.spacing + case.moving.frame.spacing)
    assert np.mean(distance) < 0.2 * voxel and np.max(distance) < 0.6 * voxel


def test_coarse_output_fields_agree_with_their_files(case: Case, tmp_path: Path) -> None:
    """With an output spacing, and where the finest scale is coarser than the image."""
    result = register(
        volume_to_sitk(case.fixed),
        volume_to_sitk(case.moving),
        representation=case.result.quality["parameters"]["representation"],
        preset="fast",
        device="cpu",
        output_spacing=4.3,
    )
    result.save(tmp_path)
    transform = sitk.ReadTransform(str(tmp_path / "forward.h5"))
    frame = result.forward_field.frame
    resampled = sitk.Resample(
        volume_to_sitk(case.moving), volume_to_sitk(case.fixed), transform, sitk.sitkLinear, -1e9
    )
    expected = sitk.GetArrayFromImage(resampled)
    there = result.written[0].map(case.fixed.frame.points())
    inside = (apply_matrix(case.moving.frame.world_to_normalised, there).abs() < 0.999).all(-1)
    inside = (inside & frame.contains(case.fixed.frame.points())).numpy()
    difference = np.abs(result.warped.data[0].numpy() - expected)[inside]
    assert inside.mean() > 0.4 and difference.max() < 1e-3 * float(np.ptp(expected[inside]))
