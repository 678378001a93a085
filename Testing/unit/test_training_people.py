"""Pairs drawn from label maps of people, and folders' images on a lattice of one voxel size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.people.maps import read_people
from DeepRegistrationLib.training.people.scans import Tissues
from DeepRegistrationLib.training.places import affine, bent

SIZE = (30, 36, 32)  # x, y, z
ROLES = {"first": (20, 12, 16), "second": (10, 24, 16)}  # centres (x, y, z) of two structures, voxels


def person(shift: float = 0.0, numbers: tuple[int, int] = (2, 41), outside: int = 507) -> np.ndarray:
    """A ball of 500s with two structures inside, (z, y, x)."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in SIZE[::-1]), indexing="ij")
    labels = np.zeros(SIZE[::-1], np.int16)
    labels[(x - 15) ** 2 + (y - 18) ** 2 + (z - 16) ** 2 < 14**2] = outside
    for number, (cx, cy, cz) in zip(numbers, ROLES.values(), strict=True):
        labels[(x - cx - shift) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < 4.5**2] = number
    return labels


def write(folder: Path, count: int = 4, orientation: str = "LPS", **kind: object) -> Path:
    folder.mkdir(exist_ok=True)
    for k in range(count):
        image = sitk.GetImageFromArray(person(shift=k % 2, **kind))
        sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(folder / f"person_{k}.nii.gz"))
    return folder


def centre(labels: torch.Tensor) -> np.ndarray:
    return labels.nonzero().double().mean(0).numpy()


def test_draws_depend_on_seed_step_and_place_only(tmp_path: Path) -> None:
    spec = f"labels:{write(tmp_path / 'p')}?voxel=2"
    source, again = open_data(spec, 3, (16, 24, 16)), open_data(spec, 3, (16, 24, 16))
    batch = source.batch(2, 1, 5)
    assert batch.fixed.shape == (2, 1, 16, 24, 16) and batch.spacing == (2.0, 2.0, 2.0)
    assert float(batch.fixed.min()) >= 0 and float(batch.fixed.max()) <= 1
    again.batch(1, 9, 2)
    same = again.batch(2, 1, 5)
    assert torch.equal(same.fixed, batch.fixed) and torch.equal(same.moving_labels, batch.moving_labels)
    assert torch.equal(again.batch(1, 1, 5, first=1).moving, batch.moving[1:])
    assert not torch.equal(source.batch(2, 2, 5).fixed, batch.fixed)


def test_a_channel_holds_one_structure_and_sides_of_freesurfers_count_as_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "p")
    plain = open_data(f"labels:{folder}?strength=0&affine=0", 3, (32, 40, 32))
    merged = open_data(f"labels:{folder}?numbers=freesurfer&strength=0&affine=0", 3, (32, 40, 32))
    assert list(plain.structures) == [2, 41, 507] and list(merged.structures) == [2]
    labels = merged.batch(1, 0, 0).fixed_labels[0, 0]
    volume = sum(int((person() == n).sum()) for n in (2, 41))
    assert float(labels.sum()) == pytest.approx(volume, rel=0.05)
    assert set(labels.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR", "ASL"])
def test_people_lie_alike_however_their_files_are_oriented(tmp_path: Path, orientation: str) -> None:
    folder = write(tmp_path / "p", 2, orientation)
    source = open_data(f"labels:{folder}?strength=0&affine=0", 3, (40, 40, 40))
    first, second = (source.batch(1, 0, 0).fixed_labels[0, k] for k in (0, 1))
    apart = centre(second) - centre(first)  # z, y, x
    wanted = np.subtract(ROLES["second"], ROLES["first"])[::-1]
    assert np.abs(apart - wanted).max() < 1


def test_an_undeformed_pair_overlaps_and_a_deformed_one_less(tmp_path: Path) -> None:
    folder = write(tmp_path / "p")

    def overlap(options: str) -> float:
        batch = open_data(f"labels:{folder}?{options}", 3, (32, 40, 32)).batch(4, 0, 0)
        a, b = batch.fixed_labels[:, :2], batch.moving_labels[:, :2]
        return float(2 * (a * b).sum() / (a + b).sum())

    assert overlap("strength=0&affine=0") > 0.8 > overlap("strength=2&affine=2") > 0.05


def test_contrasts_are_of_one_kind_or_two(tmp_path: Path) -> None:
    folder = write(tmp_path / "p")

    def likeness(contrast: str) -> float:
        spec = f"labels:{folder}?contrast={contrast}&strength=0&affine=0"
        batch = open_data(spec, 3, (32, 40, 32)).batch(6, 0, 0)
        body = (batch.fixed_labels.sum(1) * batch.moving_labels.sum(1)).flatten(1) > 0
        rows = zip(batch.fixed.flatten(1), batch.moving.flatten(1), body, strict=True)
        return float(np.mean([np.corrcoef(a[m].numpy(), b[m].numpy())[0, 1] for a, b, m in rows]))

    assert likeness("same") > likeness("different") + 0.2


def test_common_contrasts_know_the_tissues() -> None:
    numbers = np.array([0, 2, 3, 4, 41, 507])
    tissues, fluid_darkest = Tissues(numbers, True), 0
    for seed in range(200):
        values = tissues.contrast(np.random.default_rng(seed)).values
        assert values[1] == values[4]  # two sides of one structure
        fluid_darkest += values[3] < min(values[1], values[2])
    assert 0.4 < fluid_darkest / 200 < 0.75  # most are T1, the rest are anything


def test_images_of_one_common_contrast_alone() -> None:
    tissues = Tissues(np.array([0, 2, 3, 4]), True, "t1")
    drawn = np.stack([tissues.contrast(np.random.default_rng(k)).values for k in range(50)])
    assert (drawn[:, 3] < drawn[:, 2]).all() and (drawn[:, 2] < drawn[:, 1]).mean() > 0.95


def test_what_is_stripped_is_black(tmp_path: Path) -> None:
    source = open_data(
        f"labels:{write(tmp_path / 'p')}?numbers=freesurfer&strength=0&affine=0", 3, (32, 40, 32)
    )
    tissues = Tissues(np.array([0, 2, 24, 507]), True)
    drawn = [tissues.stripped(np.random.default_rng(k)) for k in range(100)]
    assert {tuple(v.tolist()) for v in drawn} == {
        (False, False, False, False),
        (False, False, False, True),
        (False, False, True, True),
    }
    assert source.held_out_count == 0


def test_people_kept_for_validation_are_not_trained_on(tmp_path: Path) -> None:
    folder = write(tmp_path / "p", 4, numbers=(1, 2), outside=3)
    odd = sitk.GetImageFromArray(np.where(person(0, (1, 2), 3) == 3, 4, person(0, (1, 2), 3)))
    for k in (8, 9):
        sitk.WriteImage(odd, str(folder / f"person_{k}.nii.gz"))
    source = open_data(f"labels:{folder}?held_out=2", 3, (24, 24, 24))
    assert source.held_out_count == 2
    assert [p.name for p in source._kept] == ["person_8.nii.gz", "person_9.nii.gz"]
    assert torch.equal(source.held_out(1).fixed, source.held_out(1).fixed)


def test_large_numbers_and_spacings_are_read(tmp_path: Path) -> None:
    labels = person().astype(np.float64)
    labels[labels == 41] = 30_000_001
    for k in range(2):
        image = sitk.GetImageFromArray(labels.astype(np.int32))
        image.SetSpacing((1.0, 1.5, 2.0))
        sitk.WriteImage(image, str(tmp_path / f"{k}.nrrd"))
    people, numbers = read_people(sorted(tmp_path.glob("*.nrrd")), lambda number: number < 500)
    assert numbers.tolist()[:2] == [0, 2] and len(numbers) == 4
    assert people[0].spacing.tolist() == [1.0, 1.5, 2.0]
    ball = 4.5 / np.sqrt(5)  # deviation of a ball along an axis
    assert people[0].spread / people[0].spacing == pytest.approx([ball] * 3, rel=0.1)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("voxel=0", "voxel"),
        ("strength=9", "strength"),
        ("held_out=1", "people"),
        ("held_out=4", "people"),
        ("numbers=odd", "numbers"),
        ("image=t1", "freesurfer"),
        ("colour=1", "option"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, query: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        open_data(f"labels:{write(tmp_path / 'p')}?{query}", 3, (16, 16, 16))


def test_folders_without_people_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_data(f"labels:{tmp_path / 'none'}")
    with pytest.raises(InputError, match="two at least"):
        open_data(f"labels:{write(tmp_path / 'p', 1)}")


def test_places_are_of_the_size_that_is_asked_for() -> None:
    grid = bent(np.random.default_rng(0), (10, 12, 14), 2.0, 0.0)
    assert grid[0, 0, 0].tolist() == pytest.approx([2.0 * (k - 6.5) for k in range(14)])
    assert grid[2, :, 0, 0].tolist() == pytest.approx([2.0 * (k - 4.5) for k in range(10)])
    matrix, shift = affine(np.random.default_rng(0), (10, 12, 14), 2.0, 0.0)
    assert np.array_equal(matrix, np.eye(3)) and not shift.any()
    moved = bent(np.random.default_rng(0), (24, 24, 24), 2.0, 1.0) - bent(
        np.random.default_rng(0), (24, 24, 24), 2.0, 0.0
    )
    assert 0.2 < float(moved.std()) < 2.5


# --- a folder's images at one voxel size ----------------------------------------------------------


def write_images(folder: Path, orientation: str = "LPS", spacing: float = 1.0) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for k in range(3):
        labels = sitk.GetImageFromArray((person(k % 2, outside=3) % 50).astype(np.float32))
        labels.SetSpacing((spacing,) * 3)
        labels = sitk.DICOMOrient(labels, orientation)
        sitk.WriteImage(sitk.Cast(labels, sitk.sitkUInt8), str(folder / "labels" / f"{k}.nrrd"))
        sitk.WriteImage(labels, str(folder / "images" / f"{k}.nrrd"))
    return folder


@pytest.mark.parametrize("orientation", ["LPS", "RAI", "PSL"])
def test_images_lie_in_the_middle_of_a_lattice_of_one_voxel_size(tmp_path: Path, orientation: str) -> None:
    source = open_data(f"{write_images(tmp_path / 'f', orientation)}?voxel=1", 3, (40, 40, 40))
    batch = source.batch(1, 0, 0)
    assert source.voxel_mm == 1.0 and source.axes == "lps" and batch.spacing == (1.0, 1.0, 1.0)
    first, second = (batch.fixed_labels[0, k] for k in (0, 2))
    apart = centre(second) - centre(first)
    assert np.abs(apart - np.subtract(ROLES["second"], ROLES["first"])[::-1]).max() < 0.5
    outside = np.ones((40, 40, 40), bool)
    outside[4:36, 2:38, 5:35] = False  # the image's 32 x 36 x 30 voxels (z, y, x)
    assert not batch.fixed[0, 0].numpy()[outside].any() and batch.fixed[0, 0].numpy()[~outside].any()


def test_coarse_voxels_show_the_same_part(tmp_path: Path) -> None:
    source = open_data(f"{write_images(tmp_path / 'f')}?voxel=2", 3, (20, 20, 20))
    labels = source.batch(1, 0, 0).fixed_labels[0, 0]
    assert float(labels.sum()) * 8 == pytest.approx(float((person() == 2).sum()), rel=0.15)


def test_images_are_varied_in_training_alone(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "f")
    still, varied = (open_data(f"{folder}?voxel=1{more}", 3, (40, 40, 40)) for more in ("", "&vary=1"))
    a, b = still.batch(1, 0, 0), varied.batch(1, 0, 0)
    assert not torch.equal(a.fixed, b.fixed) and not torch.equal(a.fixed_labels, b.fixed_labels)
    overlap = 2 * (a.fixed_labels * b.fixed_labels).sum() / (a.fixed_labels + b.fixed_labels).sum()
    assert 0.2 < float(overlap) < 0.98
    assert torch.equal(b.fixed, varied.batch(1, 0, 0).fixed)


@pytest.mark.parametrize("query", ["voxel=-1", "vary=1", "voxel=1&vary=9"])
def test_folder_options_that_cannot_be_used_are_said(tmp_path: Path, query: str) -> None:
    with pytest.raises(InputError, match=r"voxel|vary"):
        open_data(f"{write_images(tmp_path / 'f')}?{query}", 3, (16, 16, 16))
