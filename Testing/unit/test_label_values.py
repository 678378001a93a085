"""Labels of any size: the Allen atlas counts to 614454277, float32 exactly to 2^24, int32 to 2^31."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batch_support import blobs
from DeepRegistrationLib import cli, register
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.inputs import load_inputs
from DeepRegistrationLib.io import read_labels, read_volume
from DeepRegistrationLib.label_values import LabelReader, whole_labels
from DeepRegistrationLib.template.average import Source, averaged
from DeepRegistrationLib.training.folder_data import FolderPairs
from DeepRegistrationLib.transforms import LinearTransform
from DeepRegistrationLib.worker.data import prompt_of

LARGE = (2**24 + 1, 614454277, 2**31 - 1, 2**31, 2**40 + 1, -(2**31) - 1)
FAST = {"preset": "fast", "representation": "free-form", "linear": "rigid", "device": "cpu", "threads": 1}


def large_labels(path: Path, value: int, shift: float = 0.0) -> Path:
    """Of `blobs`, its labels 1 and 2 as `value - 1` and `value`."""
    blobs(path, shift, labels=True)
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image).astype(np.int64)
    large = sitk.GetImageFromArray(np.where(array > 0, array + value - 2, 0))
    large.CopyInformation(image)
    path = path.with_name(path.name.replace(".nii.gz", ".nrrd"))
    sitk.WriteImage(large, str(path))
    return path


@pytest.fixture(params=LARGE)
def value(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def pair(tmp_path: Path, value: int) -> dict[str, Path]:
    images = {"fixed": blobs(tmp_path / "f.nii.gz"), "moving": blobs(tmp_path / "m.nii.gz", 2)}
    labels = {
        "fixed_labels": large_labels(tmp_path / "fl.nii.gz", value),
        "moving_labels": large_labels(tmp_path / "ml.nii.gz", value, 2),
    }
    return images | labels


@pytest.mark.parametrize("value", LARGE[1::2], indirect=True)
def test_quality_and_evaluate_agree_on_the_overlap(
    pair: dict[str, Path], value: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = register(**pair, **FAST)
    result.save(tmp_path / "out")
    told = result.quality["labels"]["after"]["dice"]
    assert set(told) == {str(value - 1), str(value)} and min(told.values()) > 0.97
    before = result.quality["labels"]["before"]["dice"]
    assert 0.5 < before[str(value)] < told[str(value)]
    capsys.readouterr()
    arguments = [f"--{key.replace('_', '-')}={path}" for key, path in pair.items()]
    transforms = ["--transform", str(tmp_path / "out" / "forward.h5"), "--json"]
    assert cli.main(["evaluate", *transforms, *arguments]) == 0
    measured = json.loads(capsys.readouterr().out)["labels"]
    for when in ("before", "after"):
        assert measured[when]["dice"] == pytest.approx(result.quality["labels"][when]["dice"], abs=0.01)


def test_labels_on_another_grid_keep_their_values(pair: dict[str, Path], value: int, tmp_path: Path) -> None:
    coarse = sitk.ReadImage(str(pair["fixed_labels"]))[::2, ::2]
    sitk.WriteImage(coarse, str(tmp_path / "coarse.nrrd"))
    given = load_inputs(**{**pair, "fixed_labels": tmp_path / "coarse.nrrd"})
    assert given.label_values == (value - 1, value)
    assert given.fixed_labels is not None
    assert set(given.fixed_labels.data.unique().tolist()) == {0, value - 1, value}


def test_a_template_keeps_values(pair: dict[str, Path], value: int) -> None:
    source = Source("a", pair["fixed"], pair["fixed_labels"])
    frame = read_volume(pair["fixed"]).frame
    average = averaged([source, source], lambda index: LinearTransform.identity(2), frame)
    assert average.labels is not None and average.numbers.dice == 1.0
    assert torch.equal(average.labels.data.long(), read_labels(pair["fixed_labels"]).data.long())


def test_labels_from_slicer_keep_values(value: int) -> None:
    frame = {"size": [2, 1, 1], "spacing": [1, 1, 1], "origin": [0, 0, 0], "direction": np.eye(3).tolist()}
    arrays = {"fixed_labels": np.array([[[0, value]]], np.int64)}
    labels = prompt_of("fixed_labels", {"frames": {"fixed_labels": frame}}, arrays)
    assert labels is not None and labels.data.flatten().tolist() == [0, value]


def test_labels_for_training_keep_values(pair: dict[str, Path], value: int, tmp_path: Path) -> None:
    names = ("fixed", "moving", "fixed_labels", "moving_labels")
    rows = [",".join(names), ",".join(str(pair[name]) for name in names)]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    batch = FolderPairs(str(tmp_path), 2, (40, 40)).batch(1, seed=0, step=0)
    assert batch.fixed_labels is not None and batch.fixed_labels.shape[1] == 2  # a channel a label


def test_readers_and_whole_numbers() -> None:
    frame = Frame.regular((5, 4), 1.0)
    for values in ([2**53 + 1, -(2**62)], [2**24, -1], [7, 3]):
        data = torch.tensor(values).repeat(10).view(1, 4, 5)
        read = LabelReader(data)
        assert torch.equal(read(frame.grid().float()), data) and read(frame.grid()).dtype == torch.int64
        assert read(frame.grid() + 3).count_nonzero() == 0
        assert torch.equal(read(frame.grid() + 3, "border"), data[:, -1:, -1:].expand(1, 4, 5))
    assert whole_labels(torch.tensor([2**31 - 1])).dtype == torch.int32
    assert whole_labels(torch.tensor([1.0, 2.0**31])).tolist() == [1, 2**31]
    assert Volume(whole_labels(torch.ones(1, 4, 5, dtype=torch.uint8)), frame).data.dtype == torch.int32
