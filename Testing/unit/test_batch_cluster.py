"""Batches on a Dask cluster; without Dask, the sentence that says so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from batch_support import blobs
from DeepRegistrationLib.batch.cluster import Cluster, do
from DeepRegistrationLib.batch.pool import Outcome
from DeepRegistrationLib.batch.rows import Row
from DeepRegistrationLib.batch.run import run_batch
from DeepRegistrationLib.errors import Cancelled, NotAvailableError
from DeepRegistrationLib.progress import CancelToken
from DeepRegistrationLib.template.average import Source
from DeepRegistrationLib.template.build import Work, build_template

needs_dask = pytest.mark.skipif(find_spec("distributed") is None, reason="Dask is not installed")
FAST = {"preset": "fast", "representation": "free-form", "linear": "rigid", "device": "cpu", "threads": 1}


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    fixed = blobs(tmp_path / "fixed.nii.gz")
    movings = [blobs(tmp_path / f"m{k}.nii.gz", shift=1.0 + k) for k in range(4)]
    return [
        Row(k, f"p{k}", {**FAST, "fixed": str(fixed), "moving": str(moving)})
        for k, moving in enumerate(movings)
    ]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Path, list[subprocess.Popen[bytes]]]]:
    """A scheduler file, and the processes of two workers."""
    file = tmp_path / "scheduler.json"
    base = [sys.executable, "-m"]
    scheduler = [*base, "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    worker = [*base, "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    nowhere = subprocess.DEVNULL
    quiet = {"stdout": nowhere, "stderr": nowhere, "cwd": tmp_path, "env": environment}
    processes = [subprocess.Popen([*scheduler, "--scheduler-file", str(file)], **quiet)]
    try:
        while not (file.is_file() and file.read_text().rstrip().endswith("}")):
            assert processes[0].poll() is None
            time.sleep(0.05)
        processes += [subprocess.Popen([*worker, "--scheduler-file", str(file)], **quiet) for _ in range(2)]
        yield file, processes[1:]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait(30)


@pytest.mark.skipif(find_spec("distributed") is not None, reason="Dask is installed")
def test_without_dask_a_sentence_says_what_to_do(rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(NotAvailableError, match="Dask is not installed; install this program's extra"):
        run_batch(rows, tmp_path / "out", scheduler="tcp://127.0.0.1:1")


@needs_dask
def test_a_scheduler_that_does_not_answer() -> None:
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        with pytest.raises(NotAvailableError, match="No Dask scheduler answers"):
            Cluster(address)


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    task = {"name": "x", "options": {}, "parent": str(tmp_path)}
    outcome = Outcome(**do(task, str(tmp_path / "gone" / "marker")))
    assert not outcome.done and "shared file system" in outcome.sentence


@needs_dask
def test_a_killed_worker_costs_nothing_and_the_results_are_the_same(
    rows: list[Row], tmp_path: Path, cluster: tuple[Path, list[subprocess.Popen[bytes]]]
) -> None:
    file, workers = cluster
    ends: list[str] = []

    def told(outcome: Outcome, over: int) -> None:
        ends.append(outcome.name)
        if over == 2:
            workers[0].kill()

    entries = run_batch(rows, tmp_path / "many", scheduler=str(file), told=told, picture=False)
    assert [entry.state for entry in entries] == ["done"] * 4 and sorted(ends) == [row.name for row in rows]
    run_batch(rows, tmp_path / "one", workers=1, picture=False)
    for row in rows:
        for name in ("forward.h5", "inverse.h5"):
            one, many = (sitk.ReadTransform(str(tmp_path / w / row.name / name)) for w in ("one", "many"))
            assert np.array_equal(one.GetParameters(), many.GetParameters())
    assert not list((tmp_path / "many").glob(".running*"))


@needs_dask
def test_cancelling_stops_the_cluster_too(
    rows: list[Row], tmp_path: Path, cluster: tuple[Path, list[subprocess.Popen[bytes]]]
) -> None:
    token, folder = CancelToken(), tmp_path / "out"
    with pytest.raises(Cancelled):
        run_batch(
            rows,
            folder,
            scheduler=str(cluster[0]),
            cancel=token,
            told=lambda *end: token.cancel(),
            picture=False,
        )
    time.sleep(3)
    there = {path.name for path in folder.iterdir() if path.is_dir()}
    assert len(there) < 4 and not list(folder.glob(".*-*"))
    run_batch(rows, folder, scheduler=str(cluster[0]), resume=True, picture=False)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {row.name for row in rows}


@needs_dask
def test_a_template_made_on_a_cluster_is_the_same(
    rows: list[Row], tmp_path: Path, cluster: tuple[Path, list[subprocess.Popen[bytes]]]
) -> None:
    sources = [Source(row.name, Path(row.options["moving"])) for row in rows[:3]]
    options = {key: value for key, value in FAST.items() if key != "linear"}
    for name, work in (("many", Work(scheduler=str(cluster[0]))), ("one", Work(1))):
        build_template(sources, tmp_path / name, 1, options, work)
    for file in ("template-0.nii.gz", "template-1.nii.gz"):
        many, one = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / w / file))) for w in ("many", "one")
        )
        assert np.array_equal(many, one) and many.std() > 0


def test_the_commands_of_the_readme_listen_on_this_machine_alone() -> None:
    """Dask asks nobody for a password, and listens to everybody unless it is told not to."""
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    commands = [line for line in text.splitlines() if line.startswith("    dask ")]
    assert len(commands) >= 2
    for command in commands:
        assert "--host 127.0.0.1" in command and "--no-dashboard" in command
    assert "can run programs as you" in text and "--tls-cert" in text
