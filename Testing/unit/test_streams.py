"""Commands whose standard streams are closed or full, and whose terminal is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from batch_support import blobs
from DeepRegistrationLib import cli
from DeepRegistrationLib.registration import OUTPUTS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a shell and signals as POSIX has them")
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")

NOT_WRITTEN = "deepregistration: error: Standard output could not be written: No space left on device.\n"


def shell(words: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command line, and behind it what a shell is to do with its streams."""
    command = [sys.executable, "-m", "DeepRegistrationLib", *map(str, arguments)]
    return subprocess.run(
        ["sh", "-c", f'"$@" {words}', "sh", *command], capture_output=True, text=True, timeout=120
    )


def registered(words: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    images = ("--fixed", blobs(folder / "fixed.nii.gz"), "--moving", blobs(folder / "moving.nii.gz", 2))
    options = ("--preset", "fast", "--linear", "rigid", "--device", "cpu", "--threads", "1")
    run = shell(words, "register", *images, "--out", folder / "out", *options, *more)
    assert {path.name for path in (folder / "out").iterdir()} == set(OUTPUTS)
    return run


def test_all_streams_closed_and_the_results_are_there(tmp_path: Path) -> None:
    run = registered("<&- >&- 2>&-", tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@FULL
def test_a_full_standard_output_is_said_in_a_sentence(tmp_path: Path) -> None:
    run = registered("> /dev/full", tmp_path, "--json-progress")
    assert run.returncode == 1 and run.stderr.endswith(NOT_WRITTEN)


@FULL
def test_a_table_that_cannot_be_printed_is_an_error() -> None:
    run = shell("> /dev/full", "methods")
    assert run.returncode == 1
    assert (
        run.stderr
        == "deepregistration: error: Standard output could not be written: No space left on device.\n"
    )


def test_with_standard_error_closed_or_full_the_exit_code_tells() -> None:
    for words in ("2>&-", "2> /dev/full")[: 2 if Path("/dev/full").exists() else 1]:
        assert shell(words, "methods", "--json").returncode == 0
        wrong = shell(words, "apply", "--transform", "gone.h5", "--input", "a.csv", "--output", "b.csv")
        assert (wrong.returncode, wrong.stdout) == (2, "")


@pytest.mark.parametrize("ignored", [False, True])
def test_the_end_of_the_terminal_is_an_interrupt_unless_it_is_ignored(
    ignored: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[int] = []
    usual = signal.SIG_IGN if ignored else lambda number, frame: heard.append(number)
    before = signal.signal(signal.SIGHUP, usual)
    monkeypatch.setattr(
        "DeepRegistrationLib.commands.methods.run", lambda options: signal.raise_signal(signal.SIGHUP)
    )
    try:
        assert cli.main(["methods"]) == (0 if ignored else 130)
        assert signal.getsignal(signal.SIGHUP) == usual and heard == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_progress_lines_are_whole(tmp_path: Path) -> None:
    run = registered("", tmp_path, "--json-progress")
    assert [json.loads(line)["stage"] for line in run.stdout.splitlines()][-1] == "Done"
