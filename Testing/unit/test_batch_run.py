"""Batches by worker processes: complete, resumable, unhurt by what fails, the same however many work."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from batch_support import blobs
from DeepRegistrationLib import cli
from DeepRegistrationLib.batch.entries import entry_of
from DeepRegistrationLib.batch.names import RECORD
from DeepRegistrationLib.batch.pair import Task, finished
from DeepRegistrationLib.batch.pool import Outcome, Pool
from DeepRegistrationLib.batch.rows import Row, read_table
from DeepRegistrationLib.batch.run import run_batch
from DeepRegistrationLib.batch.size import needed_bytes, workers_for
from DeepRegistrationLib.errors import Cancelled, InputError, OutputError
from DeepRegistrationLib.folder_lock import locked
from DeepRegistrationLib.progress import CancelToken

FAST = {"preset": "fast", "representation": "free-form", "linear": "rigid", "device": "cpu", "threads": 1}


def made_rows(folder: Path, names: Sequence[str] = ("one", "two", "three")) -> list[Row]:
    fixed = blobs(folder / "fixed.nii.gz")
    rows = []
    for k, name in enumerate(names, 2):
        moving = blobs(folder / f"{name}.nii.gz", shift=0.8 * k)
        rows.append(Row(k, name, {**FAST, "fixed": str(fixed), "moving": str(moving)}))
    return rows


def arrays(folder: Path) -> list[np.ndarray]:
    """Both maps and the warped image of a pair."""
    files = json.loads((folder / RECORD).read_text())["files"]
    maps = [sitk.ReadTransform(str(folder / files[name])) for name in ("forward.h5", "inverse.h5")]
    warped = sitk.ReadImage(str(folder / files["warped.nii.gz"]))
    return [*(np.asarray(m.GetParameters()) for m in maps), sitk.GetArrayFromImage(warped)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("images")
    bad = folder / "bad.nii.gz"
    bad.write_bytes(b"no image")
    return [
        *made_rows(folder),
        Row(9, "bad", {**FAST, "fixed": str(folder / "fixed.nii.gz"), "moving": str(bad)}),
    ]


@pytest.fixture(scope="module")
def done(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows' results by one process."""
    folder = tmp_path_factory.mktemp("done")
    ends: list[Outcome] = []
    entries = run_batch(rows, folder, workers=1, told=lambda outcome, over: ends.append(outcome))
    assert [entry.state for entry in entries] == ["done"] * 3 + ["failed"]
    assert sorted(outcome.name for outcome in ends) == ["bad", "one", "three", "two"]
    return folder


def test_each_pair_has_its_folder_and_nothing_else_stays(done: Path) -> None:
    assert {path.name for path in done.iterdir()} == {
        *("one", "two", "three"), *("summary.csv", "summary.html", ".lock"),
    }  # fmt: skip
    names = {"forward.h5", "inverse.h5", "warped.nii.gz", "quality.json", "picture.jpg", RECORD}
    assert {path.name for path in (done / "one").iterdir()} == names


def test_what_a_killed_run_left_is_removed(rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / ".unfinished-0123").mkdir()
    for name in (".unfinished-0123/forward.h5", ".running-0123", ".0123456789ab.csv", ".mine"):
        (tmp_path / name).touch()
    run_batch(rows[:1], tmp_path, workers=1, picture=False)
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"one", "summary.csv", "summary.html", ".lock", ".mine"}


def test_results_that_are_damaged_are_told(rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text('{"files": {"quality.json": "quality.json"}}')
    for quality in ("[]", '{"parameters": 3}', '{"warnings": [1]}', "[" * 100_000):
        (tmp_path / "quality.json").write_text(quality)
        entry = entry_of(rows[0], tmp_path, Outcome("one", True))
        assert entry.state == "failed" and entry.sentence.startswith("Its results cannot be read")


def test_a_row_that_fails_is_told_and_the_summary_has_the_worst_first(done: Path) -> None:
    with (done / "summary.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert table[0]["name"] == "bad" and table[0]["state"] == "failed"
    assert "incomplete" in table[0]["error"]
    after = [float(line["ncc_after"]) for line in table[1:]]
    assert after == sorted(after) and min(after) > 0.97
    quality = json.loads((done / "two" / "quality.json").read_text())
    line = next(line for line in table if line["name"] == "two")
    assert float(line["ncc_after"]) == pytest.approx(quality["similarity"]["after"]["ncc"], rel=1e-5)
    page = (done / "summary.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 3 and "3 of 4 pairs are done, 1 failed" in page


def test_results_do_not_depend_on_the_number_of_workers(rows: list[Row], done: Path, tmp_path: Path) -> None:
    run_batch(rows[:3], tmp_path, workers=2, picture=False)
    for row in rows[:3]:
        for a, b in zip(arrays(done / row.name), arrays(tmp_path / row.name), strict=True):
            assert np.array_equal(a, b)


def test_resuming_repeats_nothing_and_tries_failures_again(rows: list[Row], done: Path) -> None:
    before = {name: (done / name / "forward.h5").stat().st_mtime_ns for name in ("one", "two", "three")}
    ends: list[tuple[Outcome, int]] = []
    run_batch(rows, done, workers=1, resume=True, told=lambda *end: ends.append(end))
    assert [(outcome.name, over) for outcome, over in ends] == [("bad", 4)]
    assert before == {name: (done / name / "forward.h5").stat().st_mtime_ns for name in before}


@pytest.mark.parametrize("name", ["forward.h5", "warped.nii.gz", "quality.json"])
def test_resuming_does_a_pair_again_that_has_lost_a_file(rows: list[Row], tmp_path: Path, name: str) -> None:
    run_batch(rows[:1], tmp_path, workers=1, picture=False)
    whole, lost = arrays(tmp_path / "one"), tmp_path / "one" / name
    (tmp_path / "one" / "notes.txt").write_text("mine")
    if name == "forward.h5":
        lost.unlink()
    else:
        lost.write_text("{}" if name == "quality.json" else "")
    with pytest.raises(InputError, match="holds 1 of these 1 pairs already"):
        run_batch(rows[:1], tmp_path, workers=1, picture=False)
    entries = run_batch(rows[:1], tmp_path, workers=1, picture=False, resume=True)
    assert entries[0].number("ncc_after") is not None
    assert all(np.array_equal(a, b) for a, b in zip(whole, arrays(tmp_path / "one"), strict=True))
    assert (tmp_path / "one" / "notes.txt").read_text() == "mine"
    assert finished(Task.of(rows[0], tmp_path, picture=False))


def test_results_are_not_overwritten_nor_taken_for_others(
    rows: list[Row], done: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="holds 3 of these 4 pairs already"):
        run_batch(rows, done)
    other = Row(2, "one", {**rows[0].options, "seed": 5})
    with pytest.raises(InputError, match="was made with other options"):
        run_batch([other], done, resume=True)
    (tmp_path / "one").mkdir()
    with pytest.raises(InputError, match="not from a batch"):
        run_batch(rows[:1], tmp_path, resume=True)
    task = Task.of(rows[0], done)
    assert finished(task)
    moving = Path(rows[0].options["moving"])
    state = moving.stat()
    os.utime(moving, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    try:
        with pytest.raises(InputError, match="The moving has changed since"):
            finished(task)
    finally:
        os.utime(moving, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_one_run_at_a_time_in_a_folder(rows: list[Row], tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="Another run is working"):
        run_batch(rows, tmp_path)


def test_folders_that_cannot_be_used(rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        run_batch(rows, tmp_path / "file" / "inside")


def test_cancelling_keeps_what_is_finished(rows: list[Row], tmp_path: Path) -> None:
    token = CancelToken()
    with pytest.raises(Cancelled):
        run_batch(rows[:3], tmp_path, workers=1, cancel=token, told=lambda *end: token.cancel())
    there = [row.name for row in rows[:3] if finished(Task.of(row, tmp_path))]
    assert len(there) == 1 and not list(tmp_path.glob(".unfinished*"))
    states = [line["state"] for line in csv.DictReader((tmp_path / "summary.csv").open(newline=""))]
    assert sorted(states) == ["done", "missing", "missing"]


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_worker_that_dies_is_replaced_and_its_pair_done_again(rows: list[Row], tmp_path: Path) -> None:
    pool, killed = Pool(1), []

    def moved(done: float) -> None:
        if done > 0.1 and not killed:
            killed.append(pool._slots[0].client.pid)
            os.kill(killed[0], signal.SIGKILL)

    try:
        tasks = [Task.of(row, tmp_path, picture=False) for row in rows[:2]]
        outcomes = list(pool.run(tasks, moved))
    finally:
        pool.close()
    assert killed and [(o.name, o.done) for o in outcomes] == [("two", True), ("one", True)]


def test_a_pair_that_takes_too_long_is_given_up_and_the_rest_go_on(rows: list[Row], tmp_path: Path) -> None:
    pool = Pool(1)
    tasks = [Task.of(rows[0], tmp_path, False, 1e-4), Task.of(rows[1], tmp_path, False, 60)]
    try:
        late, other = pool.run(tasks)
    finally:
        pool.close()
    assert (late.name, late.done, late.kind) == ("one", False, "time") and other.done
    assert late.sentence.startswith("It was given up after 0.0001 minutes, the limit for a pair")
    assert {path.name for path in tmp_path.iterdir()} == {"two"}
    (entry,) = run_batch(rows[:1], tmp_path / "out", workers=1, pair_minutes=1e-4)
    assert entry.state == "failed" and "given up" in (tmp_path / "out" / "summary.csv").read_text()
    for minutes in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="minutes for a pair"):
            run_batch(rows[:1], tmp_path / "none", pair_minutes=minutes)
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_pair_that_kills_its_worker_twice_fails_and_the_rest_go_on(rows: list[Row], tmp_path: Path) -> None:
    pool, killed = Pool(1), set()

    def moved(done: float) -> None:
        slot = pool._slots[0]
        pid, first = slot.client.pid, slot.task is not None and slot.task.name == "one"
        if first and slot.fraction > 0 and pid not in (None, *killed):  # what a dead one said may come late
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
            slot.fraction = 0.0

    try:
        tasks = [Task.of(row, tmp_path, picture=False) for row in rows[:2]]
        outcomes = list(pool.run(tasks, moved))
    finally:
        pool.close()
    assert [(o.name, o.done, o.kind) for o in outcomes] == [("two", True, ""), ("one", False, "died")]
    assert "ended from outside" in outcomes[1].sentence and len(killed) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


def test_a_disk_that_is_full_stops_the_batch(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(pool: Pool, tasks: Sequence[Task], moved: object) -> Iterator[Outcome]:
        for task in tasks:
            assert not over
            over.append(task.name)
            yield Outcome(task.name, False, "The disk is full.", "output")

    over: list[str] = []
    monkeypatch.setattr(Pool, "run", full)
    with pytest.raises(OutputError, match="The disk is full"):
        run_batch(rows, tmp_path, workers=1)
    states = [line["state"] for line in csv.DictReader((tmp_path / "summary.csv").open(newline=""))]
    assert sorted(states) == ["failed", "missing", "missing", "missing"]


def test_the_memory_estimate_follows_the_headers(tmp_path: Path) -> None:
    sizes = []
    for n in (40, 400):
        image = blobs(tmp_path / f"{n}.nii.gz", size=n)
        sizes.append(needed_bytes(Row(1, "x", {**FAST, "fixed": str(image), "moving": str(image)})))
    assert sizes[1] > sizes[0] + 1000 * 400
    dear = {**FAST, "representation": "geodesic", "fixed": str(image), "moving": str(image)}
    assert needed_bytes(Row(1, "x", dear)) > sizes[1] + 500 * 400 * 400
    assert workers_for([Row(1, "x", {**FAST, "fixed": "none", "moving": "none"})]) == 1


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_the_command_from_a_table_interrupted_and_resumed(tmp_path: Path, number: str) -> None:
    made_rows(tmp_path, ("one", "two"))
    (tmp_path / "pairs.csv").write_text(
        "name,fixed,moving\na,fixed.nii.gz,one.nii.gz\nb,fixed.nii.gz,two.nii.gz\n"
    )
    options = ["--preset", "fast", "--representation", "free-form", "--workers", "1", "--device", "cpu"]
    arguments = ["batch", str(tmp_path / "pairs.csv"), "--out", str(tmp_path / "out"), *options]
    run = subprocess.Popen([sys.executable, "-m", "DeepRegistrationLib", *arguments], stderr=subprocess.PIPE)
    while not (tmp_path / "out" / "a").exists() and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(signal.Signals[number])
    _, errors = run.communicate()
    assert run.returncode == 130 and b"Go on with --resume" in errors
    assert (tmp_path / "out" / "summary.csv").is_file()
    assert cli.main(arguments) == 2  # there is something, and nobody said to go on
    assert cli.main([*arguments, "--resume"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {"a", "b"}


def test_the_command_names_the_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_rows(tmp_path, ("one",))
    (tmp_path / "pairs.csv").write_text("fixed,moving\nfixed.nii.gz,gone.nii.gz\n")
    assert cli.main(["batch", str(tmp_path / "pairs.csv"), "--out", str(tmp_path / "out")]) == 2
    assert "Row 2: the moving" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(["batch", "--out", str(tmp_path / "out")]) == 2
    assert "Give a table of pairs" in capsys.readouterr().err


def test_a_table_read_and_run_agree_on_threads(tmp_path: Path) -> None:
    made_rows(tmp_path, ("one",))
    (tmp_path / "pairs.csv").write_text("fixed,moving,threads\nfixed.nii.gz,one.nii.gz,2\n")
    (row,) = read_table(tmp_path / "pairs.csv", {})
    assert row.options["threads"] == 2
