"""Results appear together, older ones stay until they do, and what killed runs left is cleared away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from DeepRegistrationLib import cli, staging
from DeepRegistrationLib.errors import OutputError
from DeepRegistrationLib.folder_lock import abandoned, hold
from DeepRegistrationLib.staging import staged

NAMES = ("a.h5", "b.json")


def save(folder: Path, text: str) -> None:
    with staged(folder, NAMES) as paths:
        for path in paths:
            path.write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def killed(folder: Path, *files: str) -> None:
    """What a run that was killed while it saved has left."""
    folder.mkdir()
    hold(folder).close()
    for name in files:
        (folder / name).write_text("left")


def test_all_files_appear_or_none(tmp_path: Path) -> None:
    save(tmp_path, "first")
    with pytest.raises(ValueError), staged(tmp_path, NAMES) as paths:
        paths[0].write_text("second")
        raise ValueError
    assert content(tmp_path) == dict.fromkeys(NAMES, "first")


def test_an_older_result_is_always_there_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever step the program is killed before."""
    save(tmp_path, "first")
    replace, seen = os.replace, []

    def look(source: Path, target: Path) -> None:
        seen.append({name for name in NAMES if (tmp_path / name).exists()})
        replace(source, target)

    monkeypatch.setattr(staging.os, "replace", look)
    save(tmp_path, "second")
    assert seen == [set(NAMES)] * 2
    assert content(tmp_path) == dict.fromkeys(NAMES, "second")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_cannot_be_moved_takes_the_others_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    save(tmp_path, "first")
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / "b.json" and "older" not in Path(source).name:
            raise OSError(28, "No space left on device")
        replace(source, target)

    def no_links(source: Path, target: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(staging.os, "replace", fail)
    if not links:
        monkeypatch.setattr(staging.os, "link", no_links)
    with pytest.raises(OutputError, match=r"b\.json could not be written: the disk is full"):
        save(tmp_path, "second")
    assert content(tmp_path) == dict.fromkeys(NAMES, "first")


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    killed(tmp_path / ".saving-0123456789ab", "a.h5", "older-b.json")
    (tmp_path / ".mine").write_text("mine")
    with pytest.raises(ValueError), staged(tmp_path, NAMES):
        raise ValueError
    assert content(tmp_path) == {"b.json": "left", ".mine": "mine"}  # the older result is back
    (tmp_path / ".mine").unlink()
    save(tmp_path, "new")
    assert content(tmp_path) == dict.fromkeys(NAMES, "new")


def test_what_another_run_is_writing_stays(tmp_path: Path) -> None:
    other = tmp_path / ".saving-0123456789ab"
    other.mkdir()
    with hold(other):
        save(tmp_path, "mine")
        assert other.is_dir() and not abandoned(other)
    assert abandoned(other)


def test_a_folder_in_the_place_of_a_result_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.json").mkdir()
    with pytest.raises(OutputError, match="a folder of that name is there"):
        save(tmp_path, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]
    (tmp_path / "quality.json").mkdir()
    arguments = ["register", "--fixed", "a.nii", "--moving", "b.nii", "--out", str(tmp_path)]
    assert cli.main(arguments) == 1  # before anything is read
    assert "but that is a folder" in capsys.readouterr().err
