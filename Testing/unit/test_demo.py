"""The demo pair is what it says: its truth maps landmarks, labels and images, and does not fold."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib.cli import main
from DeepRegistrationLib.commands.demo import PAIR_FILES, RECORD
from DeepRegistrationLib.demo.anatomy import Anatomy
from DeepRegistrationLib.demo.font import text_mask
from DeepRegistrationLib.demo.label_names import LABEL_NAMES
from DeepRegistrationLib.demo.pair import DemoPair, demo_pair
from DeepRegistrationLib.demo.picture import write_picture
from DeepRegistrationLib.errors import InputError, OutputError
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume


@pytest.fixture(scope="module")
def pair() -> DemoPair:
    return demo_pair(seed=0)


def itk(volume: Volume, data: np.ndarray | None = None) -> sitk.Image:
    frame = volume.frame
    image = sitk.GetImageFromArray(volume.data[0].numpy() if data is None else data)
    image.SetSpacing(frame.spacing)
    image.SetOrigin(frame.origin)
    image.SetDirection(np.asarray(frame.direction).ravel().tolist())
    return image


def through_truth(pair: DemoPair, image: sitk.Image, nearest: bool = False) -> np.ndarray:
    """Resample a moving image on the fixed lattice through the truth, by SimpleITK alone."""
    field = pair.truth.field(pair.fixed.frame).mm(torch.float64).numpy()
    vectors = sitk.GetImageFromArray(field, isVector=True)
    vectors.CopyInformation(itk(pair.fixed))
    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    transform = sitk.DisplacementFieldTransform(vectors)
    return sitk.GetArrayFromImage(sitk.Resample(image, itk(pair.fixed), transform, interpolator, 0.0))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_the_pair_is_a_real_problem(pair: DemoPair) -> None:
    assert pair.fixed.frame.size == (96, 112, 96)
    assert not pair.fixed.frame.same_lattice(pair.moving.frame)
    assert pair.moving.frame.spacing != pair.fixed.frame.spacing
    assert abs(pair.moving.frame.direction[0][1]) > 0.05
    distance = (pair.fixed_landmarks - pair.moving_landmarks).norm(dim=-1)
    assert distance.mean() > 4 and distance.max() > 8
    assert len(pair.landmark_names) == len(distance) >= 12


def test_same_seed_same_pair() -> None:
    first, again, other = (demo_pair(seed, spacing=6.0) for seed in (3, 3, 4))
    assert torch.equal(first.fixed.data, again.fixed.data)
    assert torch.equal(first.moving.data, again.moving.data)
    assert not torch.equal(first.fixed.data, other.fixed.data)


def test_truth_maps_landmarks_and_does_not_fold(pair: DemoPair) -> None:
    assert torch.allclose(pair.truth.map(pair.fixed_landmarks), pair.moving_landmarks)
    determinant = pair.truth.field(pair.fixed.frame).jacobian_determinant(strict=True)
    assert 0.2 < float(determinant.min()) < 0.9 and float(determinant.max()) < 4
    back = pair.truth.inverse().map(pair.moving_landmarks)
    assert float((back - pair.fixed_landmarks).norm(dim=-1).max()) < 0.1


def test_landmarks_lie_on_what_they_are_named_after(pair: DemoPair) -> None:
    for volume, landmarks in (
        (pair.fixed_labels, pair.fixed_landmarks),
        (pair.moving_labels, pair.moving_landmarks),
    ):
        labels = itk(volume)
        found = {
            name: labels.GetPixel(labels.TransformPhysicalPointToIndex(point))
            for name, point in zip(pair.landmark_names, landmarks.tolist(), strict=True)
        }
        expected = {"left eye": "eyes", "right eye": "eyes", "fourth ventricle": "ventricles"}
        expected |= {f"{side} caudate head": "caudate" for side in ("left", "right")}
        for name, structure in expected.items():
            assert LABEL_NAMES[found[name]] == structure


def test_truth_carries_labels(pair: DemoPair) -> None:
    fixed, moving = pair.fixed_labels.data[0].numpy(), pair.moving_labels.data[0].numpy()
    assert set(np.unique(fixed)) == set(np.unique(moving)) == {0, *LABEL_NAMES}
    before = sitk.GetArrayFromImage(
        sitk.Resample(itk(pair.moving_labels), itk(pair.fixed), sitk.Transform(3, sitk.sitkIdentity),
                      sitk.sitkNearestNeighbor)
    )  # fmt: skip
    for label, name in LABEL_NAMES.items():
        inside = through_truth(pair, itk(pair.moving_labels, (moving == label).astype(np.float32)))
        after = dice(inside > 0.5, fixed == label)
        assert after > {"cortex": 0.82, "caudate": 0.88, "hippocampus": 0.88}.get(name, 0.92)
        assert after > dice(before == label, fixed == label) + 0.1
        if name in ("white matter", "cerebellum", "brain stem", "eyes"):
            assert after > 0.95


def test_truth_carries_the_image(pair: DemoPair) -> None:
    fixed = pair.fixed.data[0].numpy()
    head = pair.fixed_labels.data[0].numpy() > 0
    warped = through_truth(pair, itk(pair.moving))
    unwarped = sitk.GetArrayFromImage(sitk.Resample(itk(pair.moving), itk(pair.fixed)))
    before, after = (np.corrcoef(fixed[head], image[head])[0, 1] for image in (unwarped, warped))
    assert after > 0.9 and before < 0.6
    assert after < 0.9999  # its own noise and shading, not a copy


def test_contrasts() -> None:
    points = Frame.regular((24, 28, 24), 8.0).points()
    t1, t2 = (Anatomy(torch.Generator().manual_seed(0)).render(points, c) for c in ("t1", "t2"))
    assert torch.equal(t1.labels, t2.labels)
    fluid, white = t1.labels == 4, t1.labels == 3
    assert t1.intensity[fluid].mean() < t1.intensity[white].mean()
    assert t2.intensity[fluid].mean() > t2.intensity[white].mean()
    with pytest.raises(InputError):
        Anatomy(torch.Generator()).render(points, "ct")


@pytest.fixture
def small() -> tuple[Volume, Volume, Field]:
    frame = Frame.regular((20, 24, 18), (2.0, 2.0, 3.0))
    points = frame.points(dtype=torch.float32)
    bright = Volume((points[..., :1].movedim(-1, 0) > 0).float() * 100, frame)  # bright on the patient's left
    bend = torch.stack([4 * torch.sin(points[..., 0] / 6), 0 * points[..., 1], 0 * points[..., 2]], -1)
    return bright, Volume(100 - bright.data, frame), Field.from_mm(bend, frame)


def pixels(path: object) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(float)


def test_picture_shows_what_it_says(tmp_path, small) -> None:
    bright, dark, field = small
    write_picture(tmp_path / "a.png", bright, dark, bright, field, note="a note 1.5 mm", cell_pixels=100)
    page = pixels(tmp_path / "a.png")
    # the box is 40 x 48 x 54 mm: the cells are 100 pixels for 54 mm
    width, axial_height, side_height = 89, 89, 100
    assert page.shape == (34 + axial_height + 2 * side_height + 3 * 8 + 34, 8 + 8 * (width + 8) + 74, 3)
    left = 8 + (width - 74) // 2
    axial = page[34 + 30 : 34 + 60]
    cell = axial[:, left + 4 : left + 70].mean((0, 2))
    assert cell[:20].mean() < 60 < 180 < cell[-20:].mean()  # the patient's left is on the picture's right
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_picture_in_two_dimensions(tmp_path) -> None:
    frame = Frame.regular((40, 30), 1.0)
    image = Volume(torch.rand(1, 30, 40, generator=torch.Generator().manual_seed(0)), frame)
    write_picture(tmp_path / "flat.png", image, image, image, Field.identity(frame), cell_pixels=120)
    page = pixels(tmp_path / "flat.png")
    assert page.shape == (34 + 90 + 8 + 34, 8 + 8 * 128 + 74, 3)
    assert page[40:120].std() > 20


def test_picture_marks_folds(tmp_path, small) -> None:
    bright, _, field = small
    magenta = []
    for scale in (1.0, 4.0):
        scaled = Field(field.displacement * scale, field.frame)
        write_picture(tmp_path / "f.png", bright, bright, bright, scaled)
        page = pixels(tmp_path / "f.png")
        magenta.append(int(((page[..., 0] > 120) & (page[..., 1] < 20) & (page[..., 2] > 120)).sum()))
    assert magenta[0] == 0 and magenta[1] > 500


def test_picture_errors(tmp_path, small) -> None:
    bright, dark, field = small
    flat = Frame.regular((4, 4))
    with pytest.raises(InputError):
        write_picture(tmp_path / "a.png", bright, dark, bright, Field.identity(flat))
    with pytest.raises(OutputError):
        write_picture(tmp_path / "missing" / "a.png", bright, dark, bright, field)
    assert not list(tmp_path.iterdir())


def test_letters_are_different_and_legible() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    shapes = {text_mask(letter, 1).tobytes() for letter in alphabet}
    assert len(shapes) == len(alphabet)
    assert text_mask("ab 1", 2).shape == (14, 2 * (4 * 6 - 1))
    assert not text_mask(" ").any() and text_mask("").shape == (14, 0)


def test_the_pair_alone_can_be_written(tmp_path) -> None:
    folder = tmp_path / "pair"
    assert main(["demo", "--pair-only", "--out", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted((*PAIR_FILES, RECORD))
    moving = sitk.ReadImage(str(folder / "moving.nii.gz"))
    assert moving.GetSize() == sitk.ReadImage(str(folder / "moving_labels.nii.gz")).GetSize()
