"""Templates: the mean shape of affine maps, the mean deformation taken out, all of it on small pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batch_support import blobs
from DeepRegistrationLib import cli
from DeepRegistrationLib.errors import Cancelled, InputError, RegistrationError
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.initial import load_transform
from DeepRegistrationLib.io import read_volume, write_volume
from DeepRegistrationLib.progress import CancelToken
from DeepRegistrationLib.template.affine import centred, mean_stretch
from DeepRegistrationLib.template.average import (
    Numbers,
    Source,
    averaged,
    mean_deformation,
    sharpness,
    unbiased,
)
from DeepRegistrationLib.template.build import STATE, Work, build_template
from DeepRegistrationLib.transforms import FieldTransform, LinearTransform

FAST = {"preset": "fast", "representation": "free-form", "device": "cpu"}


def linear(rows: list[list[float]], shift: tuple[float, ...]) -> LinearTransform:
    return LinearTransform.from_parts(
        torch.tensor(rows, dtype=torch.float64), torch.tensor(shift, dtype=torch.float64)
    )


def turned(angle: float, stretch: np.ndarray) -> LinearTransform:
    c, s = np.cos(angle), np.sin(angle)
    return linear((np.array([[c, -s], [s, c]]) @ stretch).tolist(), (3.0, -2.0))


def test_the_mean_stretch_is_the_geometric_mean_whatever_the_rotation() -> None:
    maps = [turned(0.4, np.diag([2.0, 1.0])), turned(-1.0, np.diag([0.5, 4.0])), turned(0.0, np.eye(2))]
    assert np.allclose(mean_stretch(maps), np.diag([1.0, 4.0 ** (1 / 3)]))
    shear = np.array([[1.3, 0.2], [0.2, 0.9]])
    assert np.allclose(mean_stretch([turned(0.3, shear)] * 3), shear)
    inverse = turned(0.7, np.linalg.inv(shear))
    assert np.allclose(mean_stretch([turned(0.3, shear), inverse]), np.eye(2))


def test_centred_maps_have_no_stretch_left_and_keep_the_centre() -> None:
    frame = Frame((40, 20), (1.0, 2.0), (5.0, -7.0), ((1.0, 0.0), (0.0, 1.0)))
    maps = [turned(a, np.diag(d)) for a, d in ((0.2, [1.5, 1.0]), (0.1, [1.2, 0.8]), (0.0, [1.0, 1.0]))]
    moved, box = centred(maps, frame)
    assert np.allclose(mean_stretch(moved), np.eye(2))
    assert np.allclose(box.centre, frame.centre) and box.spacing == frame.spacing
    stretch = np.diag(mean_stretch(maps))
    assert box.size == tuple(int(np.ceil(n * s - 1e-6)) for n, s in zip(frame.size, stretch, strict=True))
    centre = torch.from_numpy(frame.centre)
    for before, after in zip(maps, moved, strict=True):
        assert torch.allclose(before.map(centre), after.map(centre))


def wave(frame: Frame, size: float, phase: float) -> FieldTransform:
    points = frame.points(dtype=torch.float32)
    bend = size * torch.sin(points.flip(-1) / 6 + phase)
    return FieldTransform(Field.from_mm(bend, frame))


def test_after_taking_it_out_the_mean_deformation_is_the_identity() -> None:
    frame = Frame.regular((48, 48))
    affine = [turned(0.3, np.diag([1.2, 0.9])), turned(-0.2, np.eye(2)), turned(0.0, np.diag([0.9, 1.1]))]
    waves = [wave(frame, size, phase) for size, phase in ((2.0, 0.0), (1.0, 0.5), (1.5, 1.0))]
    maps = [a.compose(w) for a, w in zip(affine, waves, strict=True)]
    template = Volume(torch.ones(1, 48, 48), frame)
    before = mean_deformation(maps.__getitem__, affine, frame).mm()
    expected = sum(w.stored.mm() for w in waves) / 3
    assert torch.allclose(before, expected, atol=1e-4)
    after, shift = unbiased(maps.__getitem__, affine, template)
    assert shift == pytest.approx(float(expected.norm(dim=-1).mean()), rel=1e-4)
    left = mean_deformation(after, affine, frame).mm()[4:-4, 4:-4]
    # the mean is taken out to a hundredth of a voxel (of the inversion), and linear interpolation
    assert float(left.norm(dim=-1).max()) < 0.05 < 0.05 * float(before.norm(dim=-1).max()) * 20


def test_an_average_of_shifted_images_is_the_image(tmp_path: Path) -> None:
    shifts = (0.0, 3.0, -2.0)
    sources = [
        Source(f"i{k}", blobs(tmp_path / f"i{k}.nii.gz", s), blobs(tmp_path / f"l{k}.nii.gz", s, labels=True))
        for k, s in enumerate(shifts)
    ]
    maps = [linear(np.eye(2).tolist(), (s, 0.0)) for s in shifts]
    frame = read_volume(sources[0].image).frame
    good = averaged(sources, maps.__getitem__, frame)
    bad = averaged(sources, lambda index: maps[0], frame)
    one = read_volume(sources[0].image).data
    inner = (slice(None), slice(4, -4), slice(4, -4))
    values = one.flatten().double().numpy()
    low, high = np.percentile(values, (0.1, 99.8))
    assert float((good.image.data - ((one - low) / (high - low)).clamp(0, 1))[inner].abs().max()) < 0.01
    assert good.labels is not None and good.numbers.dice is not None and bad.numbers.dice is not None
    assert good.numbers.similarity > 0.999 and good.numbers.dice > 0.99
    assert bad.numbers.similarity < 0.99 and bad.numbers.dice < 0.9
    assert bad.numbers.sharpness < good.numbers.sharpness
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(sources[0].labels)))
    assert np.array_equal(good.labels.data[0].numpy(), truth)


def test_the_vote_leaves_out_the_image_that_is_measured(tmp_path: Path) -> None:
    sources = []
    for k in range(2):  # two label images that do not overlap: each is all the other's vote
        array = np.zeros((8, 8), np.uint8)
        array[:, 4 * k : 4 * k + 4] = 1
        path = tmp_path / f"{k}.nii.gz"
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
        sources.append(Source(str(k), path, path))
    average = averaged(
        sources, lambda index: LinearTransform.identity(2), read_volume(sources[0].image).frame
    )
    assert average.numbers.dice == 0.0 and average.numbers.similarity == pytest.approx(-1.0)


@pytest.mark.parametrize("label", [614454277, 3_000_000_019])
def test_large_label_numbers_are_kept(tmp_path: Path, label: int) -> None:
    """As the Allen atlas has; single precision would write 614454272."""
    array = np.zeros((8, 8), np.int64)
    array[2:6, 3:7], array[0, 0] = label, label + 1
    image, labels = tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray((array > 0).astype(np.float32)), str(image))
    sitk.WriteImage(sitk.GetImageFromArray(array), str(labels))
    sources = [Source("a", image, labels), Source("b", image, labels)]
    average = averaged(sources, lambda index: LinearTransform.identity(2), read_volume(image).frame)
    assert average.labels is not None and average.numbers.dice == 1
    assert np.array_equal(average.labels.data[0].numpy(), array)


def test_sharpness_is_the_slope_per_mm() -> None:
    frame = Frame.regular((20, 10), (0.5, 2.0))
    ramp = (0.3 * frame.points()[..., 0] + 0.4 * frame.points()[..., 1]).float()
    assert sharpness(Volume(ramp[None], frame)) == pytest.approx(0.5, rel=1e-4)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder = tmp_path_factory.mktemp("images")
    shapes = ((0.0, 0.85, 0.0), (2.0, 1.1, 2.0), (-2.0, 1.0, -2.0))  # bent as no affine map is
    return [
        Source(
            f"s{k}",
            blobs(folder / f"s{k}.nii.gz", shift, scale, bend=bend),
            blobs(folder / f"l{k}.nii.gz", shift, scale, bend=bend, labels=True),
        )
        for k, (shift, scale, bend) in enumerate(shapes)
    ]


@pytest.fixture(scope="module")
def built(sources: list[Source], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Numbers]]:
    """A template of one iteration; cancelled once on the way and resumed."""
    folder, token = tmp_path_factory.mktemp("template"), CancelToken()
    with pytest.raises(Cancelled):
        build_template(
            sources, folder, 1, FAST, Work(1), cancel=token, counted=lambda iteration, numbers: token.cancel()
        )
    assert (folder / "template-0.nii.gz").exists() and not (folder / "template-1.nii.gz").exists()
    return folder, build_template(sources, folder, 1, FAST, Work(1), resume=True)


def test_iterations_are_better_than_the_affine_mean(built: tuple[Path, list[Numbers]]) -> None:
    affine, first = built[1]
    assert first.similarity > affine.similarity and first.similarity > 0.99
    assert affine.dice is not None and first.dice is not None and first.dice > affine.dice > 0.8


def test_what_a_template_leaves(built: tuple[Path, list[Numbers]], sources: list[Source]) -> None:
    folder, numbers = built
    names = {f"template-{k}{end}.nii.gz" for k in (0, 1) for end in ("", "_labels")}
    assert {p.name for p in folder.iterdir()} == {*names, STATE, ".lock", "affine", "maps", "iteration-1"}
    assert {p.name for p in (folder / "iteration-1").iterdir()} == {".lock", "summary.csv", "summary.html"}
    assert len(json.loads((folder / STATE).read_text())["iterations"]) == 2
    last = read_volume(folder / "template-1.nii.gz")
    again = averaged(
        sources, lambda k: load_transform(folder / "maps" / f"{sources[k].name}.h5", 2), last.frame
    )
    assert torch.allclose(again.image.data, last.data, atol=2e-3)  # the maps that are left make the template
    assert again.numbers.dice == pytest.approx(numbers[1].dice, abs=0.01)


def test_a_template_is_not_overwritten_nor_taken_for_another(
    built: tuple[Path, list[Numbers]], sources: list[Source]
) -> None:
    with pytest.raises(InputError, match="go on with --resume"):
        build_template(sources, built[0], 1, FAST)
    with pytest.raises(InputError, match="made from other images or options"):
        build_template(sources, built[0], 1, {**FAST, "preset": "balanced"}, resume=True)
    counted: list[int] = []
    numbers = build_template(sources, built[0], 1, FAST, resume=True, counted=lambda k, n: counted.append(k))
    assert numbers == built[1] and counted == [0, 1]


def test_resuming_makes_an_average_again_that_is_lost(
    built: tuple[Path, list[Numbers]], sources: list[Source], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(built[0], tmp_path / "template"))
    (folder / "template-1.nii.gz").write_bytes(b"")
    numbers = build_template(sources, folder, 1, FAST, Work(1), resume=True)
    assert numbers == built[1]
    before, after = (read_volume(path / "template-1.nii.gz").data for path in (built[0], folder))
    assert torch.equal(before, after)


def test_what_cannot_become_a_template(sources: list[Source], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least two images"):
        build_template(sources[:1], tmp_path / "t")
    with pytest.raises(InputError, match="for all images, or for none"):
        build_template([sources[0], Source("x", sources[1].image)], tmp_path / "t")
    with pytest.raises(InputError, match="does not exist"):
        build_template([sources[0], Source("x", tmp_path / "gone.nii.gz", sources[0].labels)], tmp_path / "t")
    assert not (tmp_path / "t").exists()
    flat = tmp_path / "flat.nii.gz"
    write_volume(Volume(torch.ones(1, 40, 40), read_volume(sources[0].image).frame), flat)
    with pytest.raises(RegistrationError, match=r"1 of 1 images could not be registered \(flat\)"):
        build_template(
            [Source("s0", sources[0].image), Source("flat", flat)], tmp_path / "t", 1, FAST, Work(1)
        )


def test_the_command_matches_labels_to_images(
    sources: list[Source], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sources[0].image.parent
    arguments = ["template", str(folder / "s*.nii.gz"), "--out", str(tmp_path / "t"), "--iterations", "0"]
    options = ["--preset", "fast", "--workers", "1", "--device", "cpu"]
    assert cli.main([*arguments, "--labels", str(folder / "l0.nii.gz"), *options]) == 2
    assert "needs a star" in capsys.readouterr().err
    assert cli.main([*arguments, "--labels", str(folder / "l*.nii.gz"), *options]) == 0
    text = capsys.readouterr().out
    assert "0 (affine)" in text and "The template is" in text
