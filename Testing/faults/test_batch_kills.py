"""A batch and its workers are killed at random moments: nothing is lost, repeated or half-written."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegistrationLib.batch.names import PICTURE, RECORD
from DeepRegistrationLib.batch.pair import register_pair
from DeepRegistrationLib.batch.rows import Row, read_table
from DeepRegistrationLib.batch.run import run_batch
from DeepRegistrationLib.progress import CancelToken
from DeepRegistrationLib.worker.client import Finished, WorkerClient
from kills import alive, children, kill, waited
from small_pair import ENGINE, RESULTS, ball

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
]

FULL = os.environ.get("DEEPREGISTRATION_FAULTS") == "full"
COUNT = 200 if FULL else 2
SEED = 711
PAIRS = 4
FILES = sorted([*RESULTS, PICTURE, RECORD])
STAYS = {".lock", "summary.csv", "summary.html"}
OPTIONS = ("--preset", "fast", "--linear", "none", "--device", "cpu", "--workers", "2", "--quiet")

Content = dict[str, object]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    names = ["name,fixed,moving,representation"]
    for k in range(PAIRS + 1):
        sitk.WriteImage(sitk.GetImageFromArray(ball(14, 0.3 * k)), str(folder / f"{k}.nii"))
    for k in range(1, PAIRS + 1):
        names.append(f"pair{k},0.nii,{k}.nii,{('diffeomorphic', 'b-spline')[k % 2]}")
    (folder / "pairs.csv").write_text("\n".join(names) + "\n")
    return folder / "pairs.csv"


@pytest.fixture(scope="module")
def rows(table: Path) -> list[Row]:
    return read_table(table, {"preset": "fast", "linear": "none", "device": "cpu"})


@pytest.fixture(scope="module")
def undisturbed(
    rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Content], float]:
    folder, start = tmp_path_factory.mktemp("expected"), time.monotonic()
    run_batch(rows, folder, workers=1)
    return {row.name: content(folder / row.name) for row in rows}, time.monotonic() - start


@pytest.fixture
def expected(undisturbed: tuple[dict[str, Content], float]) -> dict[str, Content]:
    """What each pair's folder holds after an undisturbed run."""
    return undisturbed[0]


@pytest.fixture
def seconds(undisturbed: tuple[dict[str, Content], float]) -> float:
    """What such a run takes with one worker."""
    return undisturbed[1]


def content(folder: Path) -> Content:
    """What a pair's folder holds, all of it readable; times are left out."""
    assert sorted(path.name for path in folder.iterdir()) == FILES, list(folder.iterdir())
    found: Content = {}
    for name in ("forward.h5", "inverse.h5"):
        found[name] = np.asarray(sitk.ReadTransform(str(folder / name)).GetParameters()).tobytes()
    for name in ("warped.nii.gz", PICTURE):
        found[name] = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / name))).tobytes()
    found[RECORD] = json.loads((folder / RECORD).read_text())["files"]
    quality = json.loads((folder / "quality.json").read_text())
    found["quality"] = {key: quality[key] for key in ("similarity", "regularity", "inverse_consistency")}
    return found


def check(
    out: Path, expected: dict[str, Content], seen: dict[str, list[tuple[int, int]]], hidden: bool = True
) -> int:
    """What is visible is whole and as it should be, and what was finished before is still the same file.

    Args:
        out: the batch's folder.
        expected: by pair.
        seen: by pair, each file's number and time; those of new pairs are added.
        hidden: whether unfinished work may lie about.

    Returns:
        How many pairs are finished.
    """
    there = [path for path in out.iterdir() if path.name not in STAYS]
    strays = [path.name for path in there if path.name.startswith(".")]
    assert hidden or not strays, strays
    visible = {path.name: path for path in there if not path.name.startswith(".")}
    assert seen.keys() <= visible.keys() <= expected.keys(), (seen.keys(), visible.keys())
    for name, folder in visible.items():
        files = [((folder / f).stat().st_ino, (folder / f).stat().st_mtime_ns) for f in FILES]
        if name not in seen:
            assert content(folder) == expected[name], name
            seen[name] = files
        assert files == seen[name], f"{name} was done again"
    if (out / "summary.csv").exists():
        lines = list(csv.DictReader(io.StringIO((out / "summary.csv").read_text())))
        assert sorted(line["name"] for line in lines) == sorted(expected)
        assert {line["name"] for line in lines if line["state"] == "done"} <= visible.keys()
        assert (out / "summary.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    return len(visible)


def command(table: Path, out: Path, temporary: Path, *more: str) -> subprocess.Popen[str]:
    arguments = ["batch", str(table), "--out", str(out), *OPTIONS, *more]
    environment = {**os.environ, "PYTHONPATH": str(ENGINE), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    return subprocess.Popen(
        [sys.executable, "-m", "DeepRegistrationLib", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_the_whole_command_killed_at_any_moment(
    table: Path,
    expected: dict[str, Content],
    seconds: float,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Again and again, resumed each time, until all is there; then in another folder."""
    rng, killed, studies = random.Random(SEED), 0, 0
    finished_at = Counter()
    while killed < COUNT:
        studies += 1
        out, temporary = tmp_path / f"out{studies}", tmp_path / f"tmp{studies}"
        temporary.mkdir()
        seen: dict[str, list[tuple[int, int]]] = {}
        out.mkdir()
        while True:
            last = killed >= COUNT
            run = command(table, out, temporary, "--resume")
            if not last and rng.random() < 0.2:  # while it loads
                delay = rng.uniform(0, seconds / 2)
            else:
                waited(lambda run=run: bool(children(run.pid)) or run.poll() is not None)
                delay = rng.uniform(0, seconds)
            if not last:
                try:
                    run.wait(delay)
                except subprocess.TimeoutExpired:
                    workers = children(run.pid)
                    killed += kill(run.pid)
                    run.communicate()
                    assert waited(lambda workers=workers: not any(map(alive, workers)), 30)
                    finished_at[check(out, expected, seen)] += 1
                    continue
            _, errors = run.communicate(timeout=300)
            assert run.returncode == 0 and errors == "", errors
            assert check(out, expected, seen, hidden=False) == PAIRS
            assert list(temporary.iterdir()) == []
            break
    record_property("killed", killed)
    record_property("pairs finished by then", dict(finished_at))
    record_property("batches", studies)


def test_workers_killed_at_any_moment(
    rows: list[Row],
    expected: dict[str, Content],
    seconds: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """A pair whose process died is done again; one whose process dies twice fails with a sentence, and the
    next run does it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    rng, killed, batches, failed, own = random.Random(SEED + 1), 0, 0, 0, os.getpid()
    finished_at = Counter()
    while killed < COUNT:
        batches += 1
        strikes = min(rng.randint(1, 4), COUNT - killed)
        out, over = tmp_path / f"out{batches}", threading.Event()
        (tmp_path / "tmp").mkdir(exist_ok=True)
        seen: dict[str, list[tuple[int, int]]] = {}

        def strike(over: threading.Event = over, left: int = strikes, out: Path = out) -> None:
            nonlocal killed
            while left and not over.wait(rng.uniform(0, seconds)):
                workers = children(own)
                if workers and kill(rng.choice(workers)):
                    left, killed = left - 1, killed + 1
                    finished_at[len(list(out.glob("pair*")))] += 1

        hand = threading.Thread(target=strike)
        hand.start()
        try:
            while True:
                entries = run_batch(rows, out, workers=2, resume=True)
                done = check(out, expected, seen, hidden=False)
                assert done == sum(entry.state == "done" for entry in entries)
                for entry in entries:
                    if entry.state != "done":
                        failed += 1
                        assert entry.sentence.startswith("The registration's process was ended from outside")
                if done == PAIRS:
                    break
        finally:
            over.set()
            hand.join()
        assert waited(lambda: not list((tmp_path / "tmp").iterdir()), 10)
    record_property("killed", killed)
    record_property("pairs finished by then", dict(finished_at))
    record_property("pairs that failed and were done by the next run", failed)
    record_property("batches", batches)


def test_two_batches_on_one_folder(table: Path, expected: dict[str, Content], tmp_path: Path) -> None:
    """The second one says so, and the first is not disturbed; so it is after any of them was stopped."""
    out = tmp_path / "out"
    runs = [command(table, out, tmp_path, "--resume") for _ in range(3)]
    ends = [run.communicate(timeout=300) for run in runs]
    codes = [run.returncode for run in runs]
    assert 0 in codes and set(codes) <= {0, 2}, (codes, ends)
    for run, (_, errors) in zip(runs, ends, strict=True):
        if run.returncode == 2:
            assert errors.startswith(f"deepregistration: error: Another run is working in {out}; wait")
            assert errors.count("\n") == 1
    assert check(out, expected, {}, hidden=False) == PAIRS


def test_two_workers_on_one_pair(rows: list[Row], expected: dict[str, Content], tmp_path: Path) -> None:
    """As on a cluster that has given up on one of them: one result, and both are content."""
    from dataclasses import asdict

    from DeepRegistrationLib.batch.pair import Task

    clients = [WorkerClient(environment={"OMP_NUM_THREADS": "1"}) for _ in range(2)]
    try:
        for row in rows[:3]:
            task = Task.of(row, tmp_path)
            for client in clients:
                client.submit("pair", asdict(task))
            for client in clients:
                assert waited(lambda client=client: client.state == "idle", 120)
                assert isinstance(client.poll()[-1], Finished)
            before = content(task.folder)
            assert before == expected[row.name]
            register_pair(task, lambda progress: None, CancelToken())  # there is nothing to do
            assert content(task.folder) == before
    finally:
        for client in clients:
            client.stop()
    assert {path.name for path in tmp_path.iterdir()} == {row.name for row in rows[:3]}


def test_two_registrations_into_one_folder(tmp_path: Path) -> None:
    """Whoever is last: its files are there, and all of them are its own."""
    for k in range(3):
        sitk.WriteImage(sitk.GetImageFromArray(ball(14, 0.5 * k)), str(tmp_path / f"{k}.nii"))
    code = """
import sys
from pathlib import Path
from DeepRegistrationLib import register
fixed, moving, out, start = map(Path, sys.argv[1:])
result = register(fixed, moving, preset="fast", linear="none", device="cpu", threads=1)
print("ready", flush=True)
while not start.exists():
    pass
for _ in range(15):
    result.save(out)
"""
    out, start = tmp_path / "out", tmp_path / "start"
    environment = {**os.environ, "PYTHONPATH": str(ENGINE), "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, (tmp_path / "0.nii", tmp_path / f"{k}.nii", out, start))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for k in (1, 2)
    ]
    for run in runs:
        assert run.stdout is not None and run.stdout.readline() == "ready\n"
    start.touch()
    for run in runs:
        assert run.communicate(timeout=120)[1] == "" and run.returncode == 0
    assert sorted(path.name for path in out.iterdir()) == RESULTS
    forward = sitk.ReadTransform(str(out / "forward.h5"))
    moving = json.loads((out / "quality.json").read_text())
    found = sitk.ReadImage(str(out / "warped.nii.gz"))
    resampled = []
    for k in (1, 2):
        image = sitk.ReadImage(str(tmp_path / f"{k}.nii"))
        again = sitk.GetArrayFromImage(sitk.Resample(image, found, forward, sitk.sitkLinear, 0.0))
        resampled.append(float(np.abs(again - sitk.GetArrayFromImage(found))[2:-2, 2:-2, 2:-2].max()))
    assert min(resampled) < 0.05 < max(resampled), (resampled, moving)
