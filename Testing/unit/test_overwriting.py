"""No command writes its results over what it reads, or over files that are somebody else's."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import SimpleITK as sitk
from batch_support import blobs
from DeepRegistrationLib import cli
from DeepRegistrationLib.commands import demo
from DeepRegistrationLib.demo.pair import demo_pair
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.template.average import Source
from DeepRegistrationLib.template.build import build_template


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a command line says that is refused, with its files as they were."""
    files = [Path(a) for a in arguments if Path(a).is_file()]
    before = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    assert cli.main([str(argument) for argument in arguments]) == 2
    assert [hashlib.sha256(file.read_bytes()).digest() for file in files] == before
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


@pytest.fixture
def shift(tmp_path: Path) -> Path:
    sitk.WriteTransform(sitk.TranslationTransform(2, (1.0, 0.0)), str(tmp_path / "shift.h5"))
    return tmp_path / "shift.h5"


def test_register_keeps_a_moving_image_of_a_result_s_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed, moving = blobs(tmp_path / "fixed.nii.gz"), blobs(tmp_path / "warped.nii.gz", 2)
    for more in ((), ("--dry-run",)):
        told = refused(capsys, "register", "--fixed", fixed, "--moving", moving, "--out", tmp_path, *more)
        assert f"would be written over the moving {moving}" in told


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_register_keeps_a_start_also_behind_a_link(
    tmp_path: Path, shift: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed, moving = blobs(tmp_path / "fixed.nii.gz"), blobs(tmp_path / "moving.nii.gz", 2)
    (tmp_path / "out").mkdir()
    shift.rename(tmp_path / "out" / "forward.h5")
    shift.symlink_to(tmp_path / "out" / "forward.h5")
    arguments = ("register", "--fixed", fixed, "--moving", moving, "--initial", shift)
    assert f"over the initial {shift}" in refused(capsys, *arguments, "--out", tmp_path / "out")


@pytest.mark.parametrize("role", ["input", "reference"])
def test_apply_keeps_its_inputs(
    role: str, tmp_path: Path, shift: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"input": blobs(tmp_path / "a.nii.gz"), "reference": blobs(tmp_path / "b.nii.gz")}
    arguments = ("apply", "--transform", shift, "--input", files["input"], "--reference", files["reference"])
    told = refused(capsys, *arguments, "--output", tmp_path / ".." / tmp_path.name / files[role].name)
    assert f"over the {role} {files[role]}" in told


def test_a_batch_keeps_a_table_of_the_summary_s_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs(tmp_path / "a.nii.gz"), blobs(tmp_path / "b.nii.gz")
    (tmp_path / "summary.csv").write_text("fixed,moving\na.nii.gz,b.nii.gz\n")
    told = refused(capsys, "batch", tmp_path / "summary.csv", "--out", tmp_path)
    assert "over the table" in told


def test_a_template_keeps_its_images(tmp_path: Path) -> None:
    names = ("a", "template-1")
    sources = [Source(name, blobs(tmp_path / f"{name}.nii.gz", k), None) for k, name in enumerate(names)]
    with pytest.raises(InputError, match="over the image"):
        build_template(sources, tmp_path, iterations=1)
    assert {path.name for path in tmp_path.iterdir()} == {"a.nii.gz", "template-1.nii.gz"}


def test_a_training_keeps_the_weights_it_starts_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights of yesterday")
    arguments = ("train", "--method", "gradicon", "--config", "small", "--data", "generated:shapes")
    assert "over the weights" in refused(capsys, *arguments, "--start", weights, "--out", tmp_path)


def test_the_demo_replaces_its_own_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "demo_pair", lambda: demo_pair(spacing=12.0))
    again = ["demo", "--pair-only", "--out", str(tmp_path / "made")]
    assert cli.main(again) == 0 and cli.main(again) == 0
    capsys.readouterr()
    for own in (tmp_path / "made" / "moving.nii.gz", tmp_path / "moving.nii.gz"):
        own.write_bytes(b"somebody's scan")
        assert f"{own} is there already" in refused(capsys, "demo", "--pair-only", "--out", own.parent)
        assert own.read_bytes() == b"somebody's scan"
