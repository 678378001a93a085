"""Quality in both images' spaces, of the files as they are written, against SimpleITK."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib import cli, register
from DeepRegistrationLib.demo.pair import DemoPair, demo_pair
from DeepRegistrationLib.io import volume_to_sitk
from DeepRegistrationLib.registration import Registration
from DeepRegistrationLib.transforms import LinearTransform

SHIFT = (6.0, -4.0, 3.0)


@pytest.fixture(scope="module")
def made() -> tuple[DemoPair, Registration]:
    """A coarse pair of heads, the fixed one on a lattice of its own, turned and shifted before."""
    pair = demo_pair(spacing=8.0)
    turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.05, -0.04, 0.3, SHIFT)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.reshape(turn.GetMatrix(), (3, 3)), SHIFT
    result = register(
        pair.fixed,
        pair.moving,
        preset="fast",
        linear="none",
        initial=LinearTransform(matrix),
        fixed_landmarks=pair.fixed_landmarks,
        moving_landmarks=pair.moving_landmarks,
        fixed_labels=pair.fixed_labels,
        moving_labels=pair.moving_labels,
        device="cpu",
    )
    return pair, result


@pytest.fixture(scope="module")
def files(made: tuple[DemoPair, Registration], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    made[1].save(folder)
    return folder


def test_the_moving_images_space_is_measured_as_simpleitk_measures_the_inverse_file(
    made: tuple[DemoPair, Registration], files: Path
) -> None:
    pair, result = made
    there, inverse = result.quality["moving_space"], sitk.ReadTransform(str(files / "inverse.h5"))
    fixed, moving = volume_to_sitk(pair.fixed), volume_to_sitk(pair.moving)
    brought = sitk.GetArrayFromImage(sitk.Resample(fixed, moving, inverse, sitk.sitkLinear))
    ncc = np.corrcoef(brought.ravel(), sitk.GetArrayFromImage(moving).ravel())[0, 1]
    assert there["similarity"]["after"]["ncc"] == pytest.approx(ncc, abs=2e-3)
    labels = [sitk.Cast(volume_to_sitk(v), sitk.sitkUInt8) for v in (pair.fixed_labels, pair.moving_labels)]
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(sitk.Resample(labels[0], labels[1], inverse, sitk.sitkNearestNeighbor), labels[1])
    for value, found in there["labels"]["after"]["dice"].items():
        assert found == pytest.approx(overlap.GetDiceCoefficient(int(value)), abs=0.01)
    errors = [
        np.linalg.norm(np.subtract(inverse.TransformPoint(m), f))
        for f, m in zip(pair.fixed_landmarks.tolist(), pair.moving_landmarks.tolist(), strict=True)
    ]
    assert there["landmarks"]["fitted"]["after"]["mean_mm"] == pytest.approx(np.mean(errors), abs=1e-3)
    field = sitk.TransformToDisplacementField(
        inverse,
        sitk.sitkVectorFloat64,
        moving.GetSize(),
        moving.GetOrigin(),
        moving.GetSpacing(),
        moving.GetDirection(),
    )
    determinant = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))
    inner = determinant[1:-1, 1:-1, 1:-1]
    assert there["regularity"]["determinant_min"] <= inner.min() + 0.01
    assert there["regularity"]["log_determinant_sd"] == pytest.approx(np.log(inner).std(), rel=0.2)


def test_inverse_consistency_is_that_of_the_files_at_every_voxel(
    made: tuple[DemoPair, Registration], files: Path
) -> None:
    pair, result = made
    maps = [sitk.ReadTransform(str(files / f"{name}.h5")) for name in ("forward", "inverse")]
    for numbers, frame, other, (first, second) in (
        (result.quality, pair.fixed.frame, pair.moving.frame, maps),
        (result.quality["moving_space"], pair.moving.frame, pair.fixed.frame, maps[::-1]),
    ):
        points = frame.points().reshape(-1, 3)
        there = torch.tensor([first.TransformPoint(p) for p in points.tolist()], dtype=torch.float64)
        inside = other.contains(there)
        back = torch.tensor([second.TransformPoint(p) for p in there[inside].tolist()], dtype=torch.float64)
        errors = (back - points[inside]).norm(dim=1)
        found = numbers["inverse_consistency"]
        assert found["mean_mm"] == pytest.approx(float(errors.mean()), abs=1e-3)
        assert found["max_mm"] == pytest.approx(float(errors.max()), abs=0.02)
        assert found["covered_percent"] == pytest.approx(100 * float(inside.double().mean()), abs=0.05)


def test_exchanging_the_images_exchanges_what_was_measured_before() -> None:
    pair = demo_pair(spacing=12.0)
    options: dict[str, Any] = {"preset": "fast", "device": "cpu"}
    labels = pair.fixed_labels, pair.moving_labels
    one = register(
        pair.fixed, pair.moving, fixed_labels=labels[0], moving_labels=labels[1], **options
    ).quality
    other = register(
        pair.moving, pair.fixed, fixed_labels=labels[1], moving_labels=labels[0], **options
    ).quality
    for kind in ("similarity", "labels"):
        assert one[kind]["before"] == other["moving_space"][kind]["before"]
        assert one["moving_space"][kind]["before"] == other[kind]["before"]


@pytest.mark.parametrize("given", [True, False])
def test_evaluate_measures_the_inverse_given_or_computed(
    given: bool,
    made: tuple[DemoPair, Registration],
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pair, result = made
    arguments = ["evaluate", "--transform", str(files / "forward.h5"), "--json"]
    for name in ("fixed", "moving"):
        path = tmp_path / f"{name}.nii.gz"
        sitk.WriteImage(volume_to_sitk(getattr(pair, name)), str(path))
        arguments += [f"--{name}", str(path)]
    arguments += ["--inverse", str(files / "inverse.h5")] if given else []
    assert cli.main(arguments) == 0
    numbers, written = json.loads(capsys.readouterr().out), result.quality
    there = numbers["moving_space"]
    assert there["similarity"]["after"]["ncc"] == pytest.approx(
        written["moving_space"]["similarity"]["after"]["ncc"], abs=3e-3
    )
    if given:
        assert there["inverse_consistency"] == pytest.approx(
            written["moving_space"]["inverse_consistency"], abs=1e-3
        )
    else:  # solved for to a hundredth of a voxel, not read from a file
        assert there["inverse_consistency"]["mean_mm"] < 0.2
    assert numbers["verdict"]["level"] in ("good", "look")


def test_the_file_holds_the_verdict(files: Path) -> None:
    written = json.loads((files / "quality.json").read_text())["verdict"]
    assert written["level"] in ("good", "look") and any("folding" in s for s in written["sentences"])


def test_equal_images_are_good_whatever_the_weights_thought(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEEPREGISTRATION_WEIGHTS")  # those that come with the program
    pair = demo_pair(spacing=10.0)
    quality = register(pair.fixed, pair.fixed, preset="fast", method="sitreg", device="cpu").quality
    assert quality["warnings"] == [] and quality["verdict"]["level"] == "good"


def test_a_result_worse_than_no_registration_is_not_to_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A start that leads astray, and a preset that makes nothing of it: said even when asked to be quiet."""
    pair = demo_pair(spacing=12.0)
    arguments = ["register", "--out", str(tmp_path / "out"), "--quiet", "--device", "cpu"]
    arguments += ["--preset", "prediction", "--method", "classical", "--linear", "none"]
    for name in ("fixed", "moving"):
        sitk.WriteImage(volume_to_sitk(getattr(pair, name)), str(tmp_path / f"{name}.nii.gz"))
        arguments += [f"--{name}", str(tmp_path / f"{name}.nii.gz")]
    sitk.WriteTransform(sitk.TranslationTransform(3, (70.0, 60.0, 0.0)), str(tmp_path / "start.tfm"))
    assert cli.main([*arguments, "--initial", str(tmp_path / "start.tfm")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("deepregistration: do not use: The images are less alike than before")
    assert any("makes the images less alike than they are without it" in line for line in lines)
    assert not any(line.startswith("deepregistration: good: ") for line in lines)
    assert json.loads((tmp_path / "out" / "quality.json").read_text())["verdict"]["level"] == "do not use"
