"""What is said where there are no trained weights, and how the README gets some."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import SimpleITK as sitk
from batch_support import blobs
from DeepRegistrationLib import catalogue, cli, register
from DeepRegistrationLib.demo.pair import demo_pair
from DeepRegistrationLib.training import TASKS

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
FAST = {"preset": "fast", "linear": "rigid", "device": "cpu", "threads": 1}
NONE = "There are no trained weights for DIO and {d}-D images"


def test_the_default_method_says_that_two_dimensions_have_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEEPREGISTRATION_WEIGHTS")
    pair = blobs(tmp_path / "f.nii.gz"), blobs(tmp_path / "m.nii.gz", 2)
    (said,) = register(*pair, **FAST).quality["warnings"]
    assert said.startswith(NONE.format(d=2))
    assert register(*pair, method="classical", **FAST).quality["warnings"] == []


def test_a_mistyped_folder_of_weights_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = demo_pair(spacing=12.0)
    for folder, told in ((tmp_path / "gone", True), (tmp_path, False)):
        monkeypatch.setenv("DEEPREGISTRATION_WEIGHTS", str(folder))
        for method in ("dio", "gradicon"):
            said = register(pair.fixed, pair.moving, method=method, **FAST).quality["warnings"]
            assert any("no trained weights" in sentence for sentence in said)
            named = [
                s
                for s in said
                if s == f"DEEPREGISTRATION_WEIGHTS names the folder {folder}, which does not exist."
            ]
            assert len(named) == told
        assert register(pair.fixed, pair.moving, method="classical", **FAST).quality["warnings"] == []


def test_the_recipe_of_the_readme_makes_weights_for_volumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = README.partition("One command and one loop for all methods:")[2]
    lines = re.findall(r"^    deepregistration (.*)$", recipe, re.MULTILINE)[:2]
    assert lines[0].startswith("train ") and lines[1].startswith("register ")
    pair = demo_pair(spacing=12.0)
    for name, volume in (("F", pair.fixed), ("M", pair.moving)):
        image = sitk.GetImageFromArray(volume.data[0].numpy())
        image.SetSpacing(volume.frame.spacing)
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    places = {"training": tmp_path / "training", "F": tmp_path / "F.nrrd", "M": tmp_path / "M.nrrd"}
    places |= {"DIR": tmp_path / "out", "training/weights.pt": tmp_path / "training" / "weights.pt"}
    train, use = ([str(places.get(word, word)) for word in shlex.split(line)] for line in lines)
    train[train.index("generated:shapes")] += "?size=16"
    assert cli.main([*train, "--steps", "2", "--batch", "2", "--device", "cpu"]) == 0
    assert cli.main([*use, "--preset", "fast", "--device", "cpu", "--quiet"]) == 0, capsys.readouterr().err
    assert (tmp_path / "out" / "forward.h5").is_file()


def test_a_training_in_two_dimensions_by_default_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["train", "--method", "svf-r2net", "--config", "small", "--data", "generated:shapes?size=16"]
    base += ["--steps", "2", "--batch", "1", "--device", "cpu", "--out"]
    for name, more, said in (("a", [], True), ("b", ["--quiet"], False), ("c", ["--dimension", "2"], False)):
        assert cli.main([*base, str(tmp_path / name), *more]) == 0
        assert capsys.readouterr().out.count("for 2-D images; --dimension 3") == said


def test_every_configuration_is_named_by_the_help_and_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    assert {name: tuple(task.configurations) for name, task in TASKS.items()} == catalogue.CONFIGURATIONS
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    told = re.split(r"[\s,;]+", re.sub(r"-\n\s+", "-", capsys.readouterr().out))  # lines break at hyphens
    training = README.partition("\n## Training\n")[2].partition("\n## ")[0]
    for names in catalogue.CONFIGURATIONS.values():
        for name in names:
            assert name in told and f"`{name}`" in training, name
