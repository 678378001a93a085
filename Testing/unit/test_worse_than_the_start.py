"""A run whose result is less like the fixed image than its start was says so, whatever led it astray."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib import cli, register
from DeepRegistrationLib.demo.pair import demo_pair
from DeepRegistrationLib.frame import Volume
from DeepRegistrationLib.io import write_volume
from DeepRegistrationLib.registration import Registration
from DeepRegistrationLib.transforms import LinearTransform
from DeepRegistrationLib.verdict import BAD, verdict

SHIFT = torch.tensor([18.0, 0.0, 0.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def fixed() -> Volume:
    return demo_pair(spacing=8.0).fixed


@pytest.fixture(scope="module")
def away(fixed: Volume) -> Volume:
    """The same image, 18 mm to the left."""
    frame = fixed.frame
    moved = tuple(float(o + s) for o, s in zip(frame.origin, SHIFT, strict=True))
    return Volume(fixed.data, type(frame)(frame.size, frame.spacing, moved, frame.direction))


def shifted(by: float) -> LinearTransform:
    return LinearTransform.from_parts(torch.eye(3, dtype=torch.float64), by * SHIFT)


def less_alike(result: Registration) -> bool:
    found = [s.text for s in verdict(result.quality) if s.level == BAD and "less alike" in s.text]
    assert (result.quality["verdict"]["level"] == BAD) >= bool(found)
    return bool(found)


def test_landmarks_that_lead_astray(fixed: Volume) -> None:
    """The images are alike from the start; pairs that are shifted by one pull them apart."""
    points = torch.tensor([[0.0, 0, 0], [40, 0, 0], [0, 40, 0], [0, 0, 40], [-40, 0, 0], [0, -40, 0]])
    pairs = {"fixed_landmarks": points[:-1], "moving_landmarks": points[:-1] + SHIFT}
    assert less_alike(register(fixed, fixed, preset="fast", method="classical", linear="rigid", **pairs,
                               landmark_weight=50))  # fmt: skip


def test_a_start_that_the_run_does_not_make_good(fixed: Volume) -> None:
    nothing = {"preset": "fast", "method": "classical", "linear": "none"}
    assert less_alike(register(fixed, fixed, representation="free-form", initial=shifted(4.0), **nothing))


def test_a_start_that_was_better_than_the_result(fixed: Volume, away: Volume) -> None:
    nothing = {"preset": "fast", "method": "classical", "representation": "rigid", "linear": "none"}
    good = register(fixed, away, initial=shifted(1.0), **nothing)
    assert good.quality["similarity"]["start"]["ncc"] == pytest.approx(1, abs=1e-3)
    assert not less_alike(good)
    worse = json.loads(json.dumps(good.quality))
    worse["similarity"]["after"]["ncc"] = 0.5 * (1 + worse["similarity"]["before"]["ncc"])
    assert any("than by the initial transform alone" in s.text for s in verdict(worse))


def test_evaluate_of_a_transform_the_wrong_way_round(
    fixed: Volume, away: Volume, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, volume in (("fixed", fixed), ("moving", away)):
        write_volume(volume, tmp_path / f"{name}.nii.gz")
    images = ["--fixed", str(tmp_path / "fixed.nii.gz"), "--moving", str(tmp_path / "moving.nii.gz")]
    for sign, bad in ((1, False), (-1, True)):
        path = tmp_path / "t.tfm"
        sitk.WriteTransform(sitk.TranslationTransform(3, (sign * np.asarray(SHIFT)).tolist()), str(path))
        assert cli.main(["evaluate", *images, "--transform", str(path)]) == 0
        assert ("do not use: The images are less alike" in capsys.readouterr().err) == bad
