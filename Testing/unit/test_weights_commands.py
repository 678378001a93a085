"""Trained weights on the command line: from `train` to `register`, and in the list of methods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib import cli, weights
from DeepRegistrationLib.training import TASKS, validate
from DeepRegistrationLib.training.checkpoint import load_checkpoint
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.loop import train
from DeepRegistrationLib.training.options import TrainingOptions
from DeepRegistrationLib.weights import load_weights, save_weights

LEARNED = ("dio", "gradicon", "sitreg", "nephi", "svf-r2net", "nsvf-r2net")


@pytest.fixture(scope="module", autouse=True)
def few_held_out_pairs() -> Iterator[None]:
    """Validation is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validate, "_PAIRS", {2: 1, 3: 1})
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair of shapes with labels, as files, and the weights of a training of two steps."""
    out = tmp_path_factory.mktemp("shapes")
    batch = open_data("generated:shapes?size=32").batch(1, 0, 0)
    for name, image, labels in (
        ("fixed", batch.fixed, batch.fixed_labels),
        ("moving", batch.moving, batch.moving_labels),
    ):
        sitk.WriteImage(sitk.GetImageFromArray(image[0, 0].numpy()), str(out / f"{name}.nii.gz"))
        sitk.WriteImage(
            sitk.GetImageFromArray(labels[0, 0].numpy().astype("uint8")), str(out / f"{name}_labels.nrrd")
        )
    for method in LEARNED:
        arguments = ["train", "--method", method, "--config", "small", "--out", str(out / method)]
        arguments += ["--data", "generated:shapes?size=32", "--steps", "2", "--device", "cpu", "--quiet"]
        assert cli.main(arguments) == 0
    return out


def register(folder: Path, out: Path, method: str, *more: str) -> int:
    images = ["--fixed", str(folder / "fixed.nii.gz"), "--moving", str(folder / "moving.nii.gz")]
    options = ["--method", method, "--preset", "fast", "--device", "cpu", "--quiet"]
    return cli.main(["register", *images, "--out", str(out), *options, *more])


def test_tasks_are_those_of_their_names() -> None:
    assert {name: task.method for name, task in TASKS.items()} == {name: name for name in LEARNED}
    for task in TASKS.values():
        assert {"small", "paper"} <= set(task.configurations)
        for configuration in task.configurations:
            stages = task.stages(configuration)
            assert sum(stage.share for stage in stages) == pytest.approx(1)
            assert task.steps(configuration) >= len(stages)
            for dimension in (2, 3):
                shape = task.convention(configuration, dimension)["shape"]
                assert len(shape) == dimension and min(shape) >= 8


@pytest.mark.parametrize("method", LEARNED)
def test_a_method_resumes_with_the_same_bits(tmp_path: Path, method: str) -> None:
    data = {"method": method, "configuration": "small", "data": "generated:shapes", "shape": (24, 24)}
    train(TrainingOptions(tmp_path / "a", **data, steps=4, device="cpu"))
    with pytest.MonkeyPatch.context() as patch:
        from DeepRegistrationLib.training.loop import _STOP, _Run

        wish = _Run._wish
        patch.setattr(_Run, "_wish", lambda self: _STOP if self.learner.step == 2 else wish(self))
        assert train(TrainingOptions(tmp_path / "b", **data, steps=4, device="cpu")).step == 2
    train(TrainingOptions(tmp_path / "b", resume=True, device="cpu"))
    a, b = (load_checkpoint(tmp_path / name) for name in "ab")
    assert a.step == b.step == 4
    assert all(torch.equal(b.network[name], tensor) for name, tensor in a.network.items())


@pytest.mark.parametrize("method", LEARNED)
def test_trained_weights_are_used(
    folder: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # two steps of training may not help yet
    monkeypatch.setattr("DeepRegistrationLib.methods.predicting.improves", lambda *_: True)
    trained = folder / method / "weights.pt"
    assert register(folder, tmp_path / "with", method, "--weights", str(trained)) == 0
    told = json.loads((tmp_path / "with" / "quality.json").read_text())
    assert told["parameters"]["weights"] == str(trained)
    loaded = load_weights(trained)
    other = {name: t + 0.2 if t.is_floating_point() else t for name, t in loaded.state.items()}
    save_weights(tmp_path / "other.pt", method, "small", 2, other, loaded.convention, {})
    assert register(folder, tmp_path / "changed", method, "--weights", str(tmp_path / "other.pt")) == 0
    maps = [sitk.ReadTransform(str(tmp_path / name / "forward.h5")) for name in ("with", "changed")]
    points = [(4.0 + 3 * k, 20.0 - k) for k in range(6)]
    there = [[m.TransformPoint(p) for p in points] for m in maps]
    assert there[0] != there[1]


def test_features_are_written(folder: Path, tmp_path: Path) -> None:
    trained = str(folder / "dio" / "weights.pt")
    assert register(folder, tmp_path / "with", "dio", "--weights", trained, "--features") == 0
    for side in ("fixed", "moving"):
        image = sitk.ReadImage(str(tmp_path / "with" / f"features_{side}.nii.gz"))
        assert image.GetNumberOfComponentsPerPixel() == 8
    assert register(folder, tmp_path / "without", "dio", "--weights", trained) == 0
    assert not list((tmp_path / "without").glob("features*"))


def test_weights_of_something_else(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = str(folder / "dio" / "weights.pt")
    loaded = load_weights(trained)
    save_weights(tmp_path / "3d.pt", "dio", "small", 3, loaded.state, loaded.convention, {})
    (tmp_path / "text.pt").write_text("no weights")
    for method, file, what in (
        ("gradicon", trained, "of the method dio"),
        ("dio", tmp_path / "none.pt", "does not exist"),
        ("dio", tmp_path / "text.pt", "not a weights file"),
        ("dio", tmp_path / "3d.pt", "for 3-D images"),
    ):
        assert register(folder, tmp_path / "out", method, "--weights", str(file)) == 2
        errors = capsys.readouterr().err
        assert what in errors and errors.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_the_list_of_methods_tells_what_weights_there_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(weights.ELSEWHERE, str(tmp_path))
    trained = load_weights(folder / "dio" / "weights.pt")
    (tmp_path / "dio-2d.pt").write_bytes((folder / "dio" / "weights.pt").read_bytes())
    (tmp_path / "gradicon-3d.pt").write_text("damaged")
    assert cli.main(["methods", "--json"]) == 0
    listed = {m["name"]: m["weights"] for m in json.loads(capsys.readouterr().out)["methods"]}
    told = {"dimension": 2, "configuration": "small", "sha256": trained.sha256}
    assert listed["dio"] == [{**told, **trained.record}]
    assert trained.record["data"] == "generated:shapes?size=32"
    assert listed["gradicon"][0]["dimension"] == 3 and "not a weights file" in listed["gradicon"][0]["error"]
    assert listed["sitreg"] == []
    assert cli.main(["methods"]) == 0
    told = capsys.readouterr().out
    steps = trained.record["steps"]
    assert f"Weights for 2-D images: small; {steps} steps, 0.0 h on generated:shapes?size=32, seed 0;" in told
    assert f"SHA-256 {trained.sha256[:12]}." in told
