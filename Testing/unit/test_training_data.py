"""Training pairs: generated ones and those of a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.training import Batch
from DeepRegistrationLib.training.data import PairSource, Prefetched, open_data
from DeepRegistrationLib.training.folder_data import FolderPairs


def equal(a: Batch, b: Batch) -> bool:
    pairs = [(getattr(a, n), getattr(b, n)) for n in ("fixed", "moving", "fixed_labels", "moving_labels")]
    return all((x is None) == (y is None) and (x is None or torch.equal(x, y)) for x, y in pairs)


def part(batch: Batch, first: int, last: int) -> Batch:
    tensors = (batch.fixed, batch.moving, batch.fixed_labels, batch.moving_labels)
    return Batch(*(None if t is None else t[first:last] for t in tensors), None, None, batch.spacing)


# --- generated ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "dimension"),
    [
        ("generated:shapes?size=24", 2),
        ("generated:shapes?size=16", 3),
        ("generated:shapes?size=24&hollow=1&pairs=same", 2),
        ("generated:squares?size=24", 2),
        ("generated:squares?size=16&side=4", 3),
    ],
)
def test_draws_depend_on_seed_step_and_place_only(spec: str, dimension: int) -> None:
    source, again = open_data(spec, dimension), open_data(spec, dimension)
    batch = source.batch(4, seed=1, step=5)
    assert batch.fixed.shape == (4, 1, *source.shape) == batch.fixed_labels.shape
    assert len(source.shape) == dimension == len(batch.spacing)
    assert float(batch.fixed.min()) >= 0 and float(batch.fixed.max()) <= 1
    again.batch(3, seed=9, step=2)  # what came before does not matter
    assert equal(again.batch(4, seed=1, step=5), batch)
    assert equal(again.batch(2, 1, 5, first=2), part(batch, 2, 4))  # as a second process would draw it
    for other in (source.batch(4, 2, 5), source.batch(4, 1, 6), source.batch(4, 1, 5, first=4)):
        assert not equal(other, batch)
    held = [source.held_out(k) for k in range(4)]
    assert equal(held[1], again.held_out(1)) and not equal(held[0], held[1])
    assert not any(equal(held[k], part(source.batch(8, s, 0), j, j + 1)) for k in range(2) for s in range(3)
                   for j in range(8))  # fmt: skip


def test_shapes_are_circles_and_triangles_inside_the_image() -> None:
    batch = open_data("generated:shapes?size=96").batch(100, 0, 0)
    labels = batch.fixed_labels[:, 0]
    assert torch.equal(labels > 0, batch.fixed[:, 0] > 0.5)
    area = labels.sum((1, 2))
    # round the way around over area: 12.6 for a circle, 20.8 for an equilateral triangle; of an edge made
    # of pixels, the moment of inertia tells the same without the staircase: 1 / (2 pi) and 1 / (3 sqrt 3)
    grid = torch.stack(torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij"), -1)
    centre = (labels[..., None] * grid).sum((1, 2)) / area[:, None]
    away = (grid - centre[:, None, None]).square().sum(-1)
    inertia = (labels * away).sum((1, 2)) / area**2
    round_ones = inertia < 0.1745
    assert 25 < int(round_ones.sum()) < 75
    assert float(inertia.min()) > 0.157  # nothing is rounder than a circle
    touching = labels[:, 0].sum() + labels[:, -1].sum() + labels[:, :, 0].sum() + labels[:, :, -1].sum()
    assert float(touching) == 0


def test_hollow_shapes_have_dark_insides() -> None:
    batch = open_data("generated:shapes?size=64&hollow=1&edge=1.5").batch(8, 0, 0)
    filled = open_data("generated:shapes?size=64").batch(8, 0, 0)
    assert torch.equal(batch.fixed_labels, filled.fixed_labels)
    inside = batch.fixed_labels.bool() & (filled.fixed > 0.9999)
    assert float(batch.fixed[inside].median()) < 0.05 < 0.95 < float(batch.fixed.max())


def test_three_dimensional_shapes_turn_without_changing_their_volume() -> None:
    from DeepRegistrationLib.training.shapes import _rotations

    turns = _rotations(torch.rand(200, 6, generator=torch.Generator().manual_seed(0)), 3)
    assert torch.allclose(turns @ turns.mT, torch.eye(3).expand(200, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(200), atol=1e-5)
    assert float(turns.mean(0).abs().max()) < 0.15  # no direction is preferred
    flat = _rotations(torch.tensor([[0.25, 0, 0, 0]]), 2)[0]
    assert torch.allclose(flat, torch.tensor([[0.0, -1.0], [1.0, 0.0]]), atol=1e-6)


def test_squares_half_apart() -> None:
    source = open_data("generated:squares")
    assert source.shape == (256, 256)
    batch = source.batch(200, 3, 0)
    assert torch.equal(batch.fixed.sum((1, 2, 3)), torch.full((200,), 32.0 * 32))
    assert torch.equal(batch.moving.unique(), torch.tensor([0.0, 1.0]))
    overlapping = (batch.fixed * batch.moving).sum((1, 2, 3)) > 0
    assert 70 < int(overlapping.sum()) < 130
    held = [source.held_out(k) for k in range(source.held_out_count)]
    shared = [bool((b.fixed * b.moving).any()) for b in held]
    assert shared == [k % 2 == 0 for k in range(len(held))]
    never = open_data("generated:squares?size=64&side=8&apart=1").batch(50, 0, 0)
    assert not bool((never.fixed * never.moving).any())
    assert torch.equal(never.fixed.sum((1, 2, 3)), torch.full((50,), 64.0))


def test_shape_given_by_text_option_or_default() -> None:
    assert open_data("generated:shapes").shape == (64, 64)
    assert open_data("generated:shapes", 3, default=lambda d: [16] * d).shape == (16, 16, 16)
    assert open_data("generated:shapes?size=40", default=lambda d: [16] * d).shape == (40, 40)
    assert open_data("generated:shapes", None, (16, 24, 32)).shape == (16, 24, 32)


@pytest.mark.parametrize(
    ("spec", "dimension", "shape", "what"),
    [
        ("generated:heads", None, None, "no generated data 'heads'"),
        ("generated:", None, None, "shapes, squares"),
        ("generated:shapes?colour=red", None, None, "no option 'colour'"),
        ("generated:shapes?size=large", None, None, "'large' is not a value"),
        ("generated:shapes?size", None, None, "name=value"),
        ("generated:shapes?size=4", None, None, "at least 8"),
        ("generated:shapes?size=64", None, (32, 32), "once"),
        ("generated:shapes?pairs=odd", None, None, "'odd'"),
        ("generated:shapes?hollow=yes", None, None, "'yes'"),
        ("generated:shapes?edge=0", None, None, "edge"),
        ("generated:squares?side=200", None, None, "side"),
        ("generated:squares?apart=2", None, None, "0 to 1"),
        ("generated:shapes", 4, None, "2-D and 3-D"),
        ("generated:shapes", 3, (32, 32), "3 numbers"),
        ("generated:shapes", None, (32,), "two or three"),
        ("/no/such/folder", None, None, "does not exist"),
    ],
)
def test_texts_that_are_not_understood(
    spec: str, dimension: int | None, shape: tuple[int, ...] | None, what: str
) -> None:
    with pytest.raises(InputError, match=what):
        open_data(spec, dimension, shape)


# --- folders --------------------------------------------------------------------------------------


def image(number: int, size: tuple[int, ...] = (20, 16), spacing: float = 2.0) -> sitk.Image:
    """A disc whose place tells the number."""
    axes = np.meshgrid(*[np.arange(n) for n in reversed(size)], indexing="ij")
    distance = (
        sum((x - n / 2 - 0.7 * number - 1) ** 2 for x, n in zip(axes, reversed(size), strict=True)) ** 0.5
    )
    result = sitk.GetImageFromArray((1000 / (1 + np.exp(2 * (distance - 4)))).astype(np.float32))
    result.SetSpacing([spacing] * len(size))
    return result


def write(folder: Path, count: int, labels: bool = True, suffix: str = ".nii.gz", **kind: object) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for k in range(count):
        made = image(k, **kind)
        sitk.WriteImage(made, str(folder / "images" / f"sub.{k:02d}{suffix}"))
        if labels:
            sitk.WriteImage(sitk.Cast(made > 500, sitk.sitkUInt8) * (3 + k % 2),
                            str(folder / "labels" / f"sub.{k:02d}.nrrd"))  # fmt: skip
    if not labels:
        (folder / "labels").rmdir()
    return folder


def table(folder: Path, text: str) -> Path:
    (folder / "pairs.csv").write_text(text, encoding="utf-8")
    return folder


def test_single_images_make_pairs(tmp_path: Path) -> None:
    source = open_data(str(write(tmp_path, 5, suffix=".mha")))
    assert (source.dimension, source.shape, source.held_out_count) == (2, (16, 20), 0)
    batch = source.batch(16, 0, 0)
    assert batch.fixed.shape == (16, 1, 16, 20) and batch.spacing == (2.0, 2.0)
    assert float(batch.fixed.min()) >= 0 and float(batch.fixed.max()) == 1
    assert not any(torch.equal(f, m) for f, m in zip(batch.fixed, batch.moving, strict=True))
    assert equal(open_data(str(tmp_path)).batch(16, 0, 0), batch)


def test_labels_are_those_both_images_have(tmp_path: Path) -> None:
    source = open_data(str(write(tmp_path, 6)))
    for step in range(6):
        batch = source.batch(1, 0, step)
        if batch.fixed_labels is None:  # one image has label 3, the other label 4
            continue
        assert batch.fixed_labels.shape == (1, 1, 16, 20)
        clear = (batch.fixed - 0.5).abs() > 0.01
        assert torch.equal((batch.fixed_labels > 0)[clear], (batch.fixed > 0.5)[clear])
    many = source.batch(24, 0, 0)
    assert many.fixed_labels.shape[1] == 2  # labels 3 and 4
    per_pair = many.fixed_labels.flatten(2).any(2).sum(1), many.moving_labels.flatten(2).any(2).sum(1)
    assert torch.equal(*per_pair) and set(per_pair[0].tolist()) == {0, 1}
    unlabelled = open_data(str(write(tmp_path / "more", 3, labels=False)))
    assert unlabelled.batch(2, 0, 0).fixed_labels is None


def test_images_are_cut_to_the_working_lattice(tmp_path: Path) -> None:
    source = open_data(str(write(tmp_path, 3)), shape=(8, 10))
    batch = source.batch(2, 0, 0)
    assert batch.fixed.shape == (2, 1, 8, 10) and batch.spacing == (4.0, 4.0)
    three = open_data(str(write(tmp_path / "three", 3, size=(12, 14, 10))), default=lambda d: [8] * d)
    assert three.batch(2, 0, 0).fixed.shape == (2, 1, 8, 8, 8)


def test_a_tenth_is_kept_for_validation_and_never_trained_on(tmp_path: Path) -> None:
    source = open_data(str(write(tmp_path, 21)))
    assert isinstance(source, FolderPairs)
    kept = {pair.fixed.image.name for pair in source._held_out}
    assert source.held_out_count == 2 and kept == {"sub.09.nii.gz", "sub.19.nii.gz"}
    assert kept.isdisjoint({item.image.name for item in source._items}) and len(source._items) == 19
    assert source.held_out(0).fixed.shape == (1, 1, 16, 20)


def test_listed_pairs(tmp_path: Path) -> None:
    write(tmp_path, 4)
    for k in range(4):
        rows = [f"{x},{y}\n" for x, y in ((2.0 * k, 4.0), (10.0, 12.0), (30.0, 20.0))[: 3 - k % 2]]
        (tmp_path / f"{k}.csv").write_text("x,y\n" + "".join(rows), encoding="utf-8")
    row = "images/sub.{0:02d}.nii.gz,images/sub.{1:02d}.nii.gz,{0}.csv,{1}.csv,{2}\n"
    text = "fixed,moving,fixed_landmarks,moving_landmarks,use\n"
    table(tmp_path, text + row.format(0, 2, "") + row.format(1, 3, "train") + row.format(2, 0, "validation"))
    source = open_data(str(tmp_path))
    assert source.held_out_count == 1
    held = source.held_out(0)
    assert held.fixed_labels is None and held.fixed_landmarks.shape == (1, 3, 2)
    # the first voxel's centre is at 1 / n - 1, and a voxel is 2 / n, of 20 x 16 voxels of 2 mm
    expected = torch.tensor([[(2 * x / 2 + 1) / 20 - 1, (2 * y / 2 + 1) / 16 - 1]
                             for x, y in ((4.0, 4.0), (10.0, 12.0), (30.0, 20.0))])  # fmt: skip
    assert torch.allclose(held.fixed_landmarks[0], expected, atol=1e-6)
    mixed = source.batch(12, 0, 0)  # pairs with three landmarks and with two
    assert mixed.fixed_landmarks.shape == (12, 2, 2)
    assert source.notes == ()


def test_landmarks_of_listed_pairs_are_paired_by_name_and_the_others_named(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (tmp_path / "f.csv").write_text("label,x,y\nA,1,2\nB,3,4\nC,5,6\n")
    (tmp_path / "m.csv").write_text("label,x,y\nB,4,4\nC,6,6\nD,9,9\n")
    row = "images/sub.00.nii.gz,images/sub.01.nii.gz,f.csv,m.csv\n"
    table(tmp_path, "fixed,moving,fixed_landmarks,moving_landmarks\n" + row)
    source = open_data(str(tmp_path))
    batch = source.batch(1, 0, 0)
    shift = (batch.moving_landmarks - batch.fixed_landmarks)[0]
    assert torch.allclose(shift, torch.tensor([[1 / 20, 0.0]] * 2), atol=1e-6)  # 1 mm of 40
    assert len(source.notes) == 1 and "f.csv and m.csv: Landmarks that are not used: A" in source.notes[0]
    (tmp_path / "m.csv").write_text("label,x,y\nD,4,4\n")
    with pytest.raises(InputError, match="no names that both lists share"):
        open_data(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("fixed,moving\n", "lists no pairs"),
        ("a,b\n1,2\n", "columns fixed and moving"),
        ("fixed,moving,colour\nimages/sub.00.nii.gz,images/sub.01.nii.gz,red\n", "may have"),
        ("fixed,moving\nimages/sub.00.nii.gz,images/none.nii.gz\n", "line 2.*does not exist"),
        ("fixed,moving\nimages/sub.00.nii.gz,\n", "line 2"),
        ("fixed,moving,fixed_labels\nimages/sub.00.nii.gz,images/sub.01.nii.gz,labels/sub.00.nrrd\n", "both"),
        ("fixed,moving,use\nimages/sub.00.nii.gz,images/sub.01.nii.gz,test\n", "'test'"),
        ("fixed,moving,use\nimages/sub.00.nii.gz,images/sub.01.nii.gz,validation\n", "no pairs to train"),
        ("fixed,moving\n\xff", "line 2"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, text: str, what: str) -> None:
    table(write(tmp_path, 2), text)
    with pytest.raises(InputError, match=what):
        open_data(str(tmp_path))


def _empty(folder: Path) -> None:
    (folder / "images").mkdir()


def _one(folder: Path) -> None:
    write(folder, 1)


def _label_missing(folder: Path) -> None:
    write(folder, 3)
    (folder / "labels" / "sub.01.nrrd").unlink()


def _mixed(folder: Path) -> None:
    write(folder, 2)
    sitk.WriteImage(image(1, (8, 8, 8)), str(folder / "images" / "volume.nii.gz"))


def _mixed_unlabelled(folder: Path) -> None:
    write(folder, 2, labels=False)
    sitk.WriteImage(image(1, (8, 8, 8)), str(folder / "images" / "volume.nii.gz"))


def _unreadable(folder: Path) -> None:
    write(folder, 2, labels=False)
    (folder / "images" / "broken.nii.gz").write_bytes(b"not an image at all")


def _twice(folder: Path) -> None:
    write(folder, 2, labels=False)
    sitk.WriteImage(image(1), str(folder / "images" / "sub.00.mha"))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda folder: None, "no training data"),
        (_empty, "no training data"),
        (_one, "one image"),
        (_label_missing, "no label map for sub.01"),
        (_mixed, "no label map for volume"),
        (_mixed_unlabelled, "3-D image, but sub.00.nii.gz is 2-D"),
        (_unreadable, "broken.nii.gz is incomplete"),
        (_twice, "two images of one name"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, make: Callable[[Path], None], what: str) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=what):
        open_data(str(tmp_path))


def test_wrong_dimension_and_shape(tmp_path: Path) -> None:
    write(tmp_path, 2)
    with pytest.raises(InputError, match="2-D image; 3-D ones"):
        open_data(str(tmp_path), 3)
    with pytest.raises(InputError, match="as many numbers"):
        open_data(str(tmp_path), None, (8, 8, 8))


def test_an_image_found_bad_when_it_is_drawn(tmp_path: Path) -> None:
    write(tmp_path, 2, labels=False)
    path = tmp_path / "images" / "sub.01.nii.gz"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(InputError, match=r"sub\.01"):
        open_data(str(tmp_path)).batch(1, 0, 0)


def test_the_cache_is_bounded_and_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, 6)
    large, small = FolderPairs(str(tmp_path), None, None), FolderPairs(str(tmp_path), None, None, None, 5000)
    for step in range(8):
        assert equal(large.batch(2, 0, step), small.batch(2, 0, step))
    assert len(large._cache._kept) == 6
    assert small._cache._held == sum(p.bytes for p in small._cache._kept.values()) <= 5000


# --- ahead of time --------------------------------------------------------------------------------


def test_prefetched_batches_are_in_order_and_errors_arrive() -> None:
    source: PairSource = open_data("generated:squares?size=16&side=2")

    def draw(step: int) -> Batch:
        if step == 5:
            raise InputError("step five")
        return source.batch(2, 0, step)

    with Prefetched(draw, 1, 9) as batches:
        for step in range(1, 5):
            assert equal(batches.take(), source.batch(2, 0, step))
        with pytest.raises(InputError, match="step five"):
            batches.take()
    with Prefetched(draw, 3, 4) as batches:
        assert equal(batches.take(), source.batch(2, 0, 3))
