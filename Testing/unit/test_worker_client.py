"""The parent's side, with real worker processes: results, cancelling, deaths, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.folder_lock import hold
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.transforms import FieldTransform, LinearTransform
from DeepRegistrationLib.worker.client import (
    Cancelled,
    Event,
    Failed,
    Finished,
    LogLine,
    Progress,
    TimeLeft,
    WorkerBusyError,
    WorkerClient,
)
from DeepRegistrationLib.worker.data import described
from DeepRegistrationLib.worker.process import cause_of_death, clear_stale_folders, python_executable

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and limits as POSIX has them")
SOLID = Frame.regular((32, 30, 28), (2.0, 2.2, 2.4))
LANDMARKS = {
    "fixed": [[0.0, 0, 0], [12, 3, 2], [-11, 5, -4], [3, 12, -6]],
    "moving": [[3.0, 0, 0], [15, 8, 2], [-8, 5, -4], [6, 12, -6]],
    "names": ["a", "b", "c", "d"],
    "held_out": [False, False, False, True],
}
QUICK = {"preset": "fast", "linear": "rigid", "similarity": "lncc", "threads": 1, "device": "cpu"}
LONG = {**QUICK, "preset": "accurate", "representation": "geodesic", "linear": "none"}


def picture(shift: float = 0.0) -> Volume:
    points = SOLID.points() - torch.tensor([shift, 0, 0])
    ball = torch.sigmoid(2 * (20 - points.norm(dim=-1)))
    texture = sum(torch.sin(points[..., k] / 2.7 + torch.cos(points[..., k - 1] / 3)) for k in range(3))
    return Volume(100 * (ball * (1 + 0.2 * texture))[None].float(), SOLID)


IMAGES = {"fixed": picture(), "moving": picture(3.0)}
ARRAYS = {role: volume.data[0].numpy() for role, volume in IMAGES.items()}
FRAMES = {role: described(volume.frame) for role, volume in IMAGES.items()}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[WorkerClient]:
    made = WorkerClient(temporary=tmp_path)
    yield made
    pid = made.pid
    made.stop()
    assert made.state == "off" and made.pid is None
    assert list(tmp_path.iterdir()) == []
    assert pid is None or gone(pid)


def gone(pid: int) -> bool:
    """Whether no process of the worker's group is left."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.killpg(pid, 0) if os.name == "posix" else os.kill(pid, 0)
        except OSError:
            return True
        time.sleep(0.01)
    return False


def events(client: WorkerClient, until: Callable[[Event], bool], patience: float = 120) -> list[Event]:
    """All events until one that is waited for."""
    seen: list[Event] = []
    end = time.monotonic() + patience
    while time.monotonic() < end:
        for event in client.poll():
            seen.append(event)
            if until(event):
                return seen
        time.sleep(0.005)
    raise AssertionError(f"nothing came: {seen[-5:]}")


def outcome(client: WorkerClient) -> Event:
    return events(client, lambda e: isinstance(e, Finished | Failed | Cancelled))[-1]


def started(client: WorkerClient, options: dict[str, Any] = LONG) -> None:
    """A long job, well under way."""
    client.submit("register", {"frames": FRAMES, "options": options}, ARRAYS)
    events(client, lambda e: isinstance(e, Progress) and e.stage.startswith("Deformable"))


def works(client: WorkerClient) -> None:
    """A job goes through."""
    client.submit("register", {"frames": FRAMES, "options": {**QUICK, "linear": "none"}}, ARRAYS)
    assert isinstance(done := outcome(client), Finished), done
    assert client.state == "idle"


def jobs(folder: Path) -> list[Path]:
    """What is left of jobs, in every worker's folder."""
    return [path for worker in folder.iterdir() for path in worker.iterdir() if path.name != ".lock"]


def test_the_workers_results_are_the_engines_bit_for_bit(client: WorkerClient, tmp_path: Path) -> None:
    """Registered, then refined; also a second time from what is warm."""
    assert client.state == "off" and client.pid is None
    points = {side: np.array(LANDMARKS[side]) for side in ("fixed", "moving")}
    with_landmarks = register(
        IMAGES["fixed"],
        IMAGES["moving"],
        fixed_landmarks=points["fixed"][:3],
        moving_landmarks=points["moving"][:3],
        held_out_landmarks=(points["fixed"][3:], points["moving"][3:]),
        **QUICK,
    )
    parameters = {"frames": FRAMES, "options": QUICK, "landmarks": LANDMARKS}
    for _ in range(2):
        job = client.submit("register", parameters, ARRAYS)
        assert job.task == "register" and client.state == "running"
        seen = events(client, lambda e: isinstance(e, Finished | Failed))
        done = seen[-1]
        assert isinstance(done, Finished), done
        assert client.state == "idle" and jobs(tmp_path) == []
        progress = [e for e in seen if isinstance(e, Progress)]
        fractions = [e.fraction for e in progress]
        assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
        assert any(e.seconds_left is not None for e in progress)
        assert np.array_equal(done.arrays["forward"], with_landmarks.forward_field.mm().numpy())
        assert np.array_equal(done.arrays["inverse"], with_landmarks.inverse_field.mm().numpy())
        assert np.array_equal(done.arrays["warped"], with_landmarks.warped.data[0].numpy())
        assert np.array_equal(done.arrays["jacobian"], with_landmarks.jacobian().data[0].numpy())
        assert done.result["kind"] == "grid" and done.result["frames"]["forward"] == described(SOLID)
        quality, expected = done.result["quality"], with_landmarks.quality
        assert list(quality["landmarks"]["fitted"]["after"]["each_mm"]) == ["a", "b", "c"]
        assert list(quality["landmarks"]["held_out"]["after"]["each_mm"]) == ["d"]
        for key in ("similarity", "regularity", "inverse_consistency", "parameters", "scales"):
            assert quality[key] == expected[key]
    fitted = quality["landmarks"]["fitted"]["after"]["each_mm"]
    moved = json.loads(json.dumps(LANDMARKS))
    moved["moving"][1][1] += 5
    client.submit("refine", {"session": done.result["session"], "landmarks": moved, "outputs": []})
    refined = outcome(client)
    assert isinstance(refined, Finished), refined
    after = refined.result["quality"]["landmarks"]["fitted"]["after"]["each_mm"]
    assert refined.result["session"] == done.result["session"] and set(refined.arrays) == {
        "forward",
        "inverse",
    }
    assert after["b"] < 0.5 * (fitted["b"] + 5)
    client.submit("refine", {"session": refined.result["session"], "without": ["landmarks"]})
    assert "landmarks" not in outcome(client).result["quality"]


def test_prompts_and_starts_travel(client: WorkerClient) -> None:
    """Labels, masks, a linear and a dense start, as the engine has them without a worker."""
    labels = {f"{role}_labels": (array > 50).astype(np.uint8) for role, array in ARRAYS.items()}
    mask = np.ones(SOLID.shape, bool)
    mask[:4] = False
    arrays = {**ARRAYS, **labels, "fixed_mask": mask}
    frames = {name: described(SOLID) for name in (*arrays, "initial")}
    matrix = np.eye(4)
    matrix[0, 3] = 2.5
    options = {**QUICK, "linear": "none"}
    expected = register(
        **IMAGES,
        **{name: Volume(torch.from_numpy(arrays[name])[None].int(), SOLID) for name in labels},
        fixed_mask=Volume(torch.from_numpy(mask)[None].float(), SOLID),
        initial=LinearTransform(matrix),
        **options,
    )
    parameters = {"frames": frames, "options": options, "initial_matrix": matrix.tolist()}
    client.submit("register", parameters, arrays)
    done = outcome(client)
    assert isinstance(done, Finished), done
    assert np.array_equal(done.arrays["forward"], expected.forward_field.mm().numpy())
    assert done.result["quality"]["labels"] == expected.quality["labels"]
    parameters["options"] = {**options, "representation": "affine"}
    client.submit("register", parameters, ARRAYS)
    done = outcome(client)
    assert isinstance(done, Finished) and done.result["kind"] == "linear", done
    assert done.arrays["forward"].shape == (4, 4) and done.arrays["forward"].dtype == np.float64
    assert np.allclose(done.arrays["forward"] @ done.arrays["inverse"], np.eye(4))
    start = np.zeros((*SOLID.shape, 3), np.float32)
    start[..., 0] = 3
    client.submit("register", {"frames": frames, "options": options}, {**ARRAYS, "initial": start})
    done = outcome(client)
    field = Field.from_mm(torch.from_numpy(start), SOLID)
    expected = register(**IMAGES, initial=FieldTransform(field), **options)
    assert np.array_equal(done.arrays["forward"], expected.forward_field.mm().numpy())


def test_a_second_job_is_refused_and_the_first_one_goes_on(client: WorkerClient) -> None:
    client.submit("register", {"frames": FRAMES, "options": QUICK}, ARRAYS)
    with pytest.raises(WorkerBusyError, match="running already"):
        client.submit("methods", {})
    assert isinstance(outcome(client), Finished)


def test_cancelling_a_run(client: WorkerClient, tmp_path: Path) -> None:
    """By the token: the same worker goes on with the next job."""
    client.cancel()  # nothing to cancel
    started(client)
    pid = client.pid
    client.cancel()
    client.cancel()
    assert events(client, lambda e: isinstance(e, Cancelled), 10)
    assert client.state == "idle" and jobs(tmp_path) == []
    works(client)
    assert client.pid == pid
    time.sleep(0.8)  # the timer of the cancelled job has nothing to do with later ones
    assert client.pid == pid and client.state == "idle"


@POSIX
def test_a_worker_that_does_not_listen_is_ended(client: WorkerClient, tmp_path: Path) -> None:
    started(client)
    pid = client.pid
    os.kill(pid, signal.SIGSTOP)
    client.cancel()
    assert events(client, lambda e: isinstance(e, Cancelled), 10)
    assert client.state == "off" and gone(pid) and list(tmp_path.iterdir()) == []
    works(client)


def test_cancelling_at_once(client: WorkerClient, tmp_path: Path) -> None:
    """Before the worker has said a word."""
    client.submit("register", {"frames": FRAMES, "options": LONG}, ARRAYS)
    client.cancel()
    assert isinstance(outcome(client), Cancelled)
    assert client.state in ("idle", "off")
    assert [e for e in client.poll() if not isinstance(e, LogLine)] == []
    works(client)


@POSIX
@pytest.mark.parametrize(
    ("number", "says"),
    [(signal.SIGKILL, "want of memory"), (signal.SIGSEGV, "crashed")],
    ids=["KILL", "SEGV"],
)
def test_a_worker_that_dies(number: int, says: str, client: WorkerClient, tmp_path: Path) -> None:
    started(client)
    pid = client.pid
    os.kill(pid, number)
    failed = outcome(client)
    assert isinstance(failed, Failed) and failed.kind == "died"
    assert says in failed.sentence and "coarser preset" in failed.sentence
    assert client.state == "off" and gone(pid) and list(tmp_path.iterdir()) == []
    works(client)
    client.submit("refine", {"session": "of the dead"})
    assert outcome(client).kind == "unknown-session"


@POSIX
def test_starved_of_memory(tmp_path: Path) -> None:
    """A large job under a limit of address space fails with a sentence, and a small one then succeeds."""
    probe = "import torch, resource; print(int(open('/proc/self/statm').read().split()[0]) * 4096 >> 20)"
    if not sys.platform.startswith("linux"):
        pytest.skip("the limit needs /proc to be chosen well")
    needed = int(subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True).stdout)
    limit = {"DEEPREGISTRATION_MEMORY_LIMIT_MB": str(needed + 600), "DEEPREGISTRATION_ALLOCATOR": "system"}
    client = WorkerClient(temporary=tmp_path, environment=limit)
    large = Frame.regular((280, 280, 280), 1.0)
    noise = np.random.default_rng(0).random(large.shape, np.float32)
    frames = {role: described(large) for role in ("fixed", "moving")}
    try:
        client.submit("register", {"frames": frames, "options": QUICK}, {"fixed": noise, "moving": noise})
        failed = outcome(client)
        assert isinstance(failed, Failed) and failed.kind == "resource", failed
        assert "memory" in failed.sentence and "coarser preset" in failed.sentence
        works(client)
    finally:
        client.stop()
    assert list(tmp_path.iterdir()) == []


def test_stopping_in_the_middle(client: WorkerClient, tmp_path: Path) -> None:
    started(client)
    pid = client.pid
    client.stop()
    assert client.state == "off" and gone(pid) and list(tmp_path.iterdir()) == []
    assert isinstance(client.poll()[-1], Cancelled)
    works(client)


def test_what_cannot_be_handed_over(tmp_path: Path) -> None:
    client = WorkerClient(python=str(tmp_path / "no-python"), temporary=tmp_path)
    client.submit("methods", {})
    assert outcome(client).kind == "not-started" and client.state == "off"
    client = WorkerClient(temporary=tmp_path)
    client.submit("register", {"frames": FRAMES}, {"fixed": np.array([None])})
    assert isinstance(failed := outcome(client), Failed) and "numbers" in failed.sentence
    client.submit("register", {"frames": {1, 2}}, {})
    assert outcome(client).kind == "request"
    works(client)
    client.stop()
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_ends_takes_the_worker_along(tmp_path: Path) -> None:
    """At the interpreter's exit, and when the parent is killed; its folder goes at the next start at last."""
    for end in ("", "os.kill(os.getpid(), 9)"):
        if end and os.name != "posix":
            continue
        code = (
            "import os, pathlib, sys; from DeepRegistrationLib.worker.client import WorkerClient\n"
            "c = WorkerClient(temporary=pathlib.Path(sys.argv[1])); c.start(); print(c.pid, flush=True)\n"
            + end
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, str(tmp_path)]
        pid = int(subprocess.run(command, env=environment, capture_output=True, check=not end).stdout)
        assert gone(pid)
        clear_stale_folders(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_folders_of_the_living_and_of_others_stay(tmp_path: Path) -> None:
    """The lock in a folder tells, and no number of a process: that of another container's is not seen here,
    and that of one which has ended is given to another. Others are those on another machine, too."""
    client = WorkerClient(temporary=tmp_path)
    client.start()
    (mine,) = tmp_path.iterdir()
    start = mine.name.rpartition("-")[0]
    dead, held, empty = (tmp_path / f"{start}-{name}" for name in ("dead", "held", "empty"))
    elsewhere, other = tmp_path / "deepregistration-01234567-ab12", tmp_path / "x"
    for folder in (dead, held, empty, elsewhere, other):
        folder.mkdir()
        if folder not in (empty, other):
            hold(folder).close()
    (dead / "job-1").mkdir()
    (dead / "job-1" / "in-fixed.npy").write_text("a patient's image")
    with hold(held):
        clear_stale_folders(tmp_path)
        assert {*tmp_path.iterdir()} == {mine, held, empty, elsewhere, other}
        assert client.state == "idle" and mine.is_dir()
    clear_stale_folders(tmp_path)
    assert {*tmp_path.iterdir()} == {mine, empty, elsewhere, other}
    client.stop()
    assert not mine.exists()


def test_which_python(tmp_path: Path) -> None:
    assert python_executable() == sys.executable
    layouts = {
        "bin/SlicerApp-real": "bin/PythonSlicer",
        "Slicer": "bin/PythonSlicer",
        "lib/SlicerApp-real": "bin/PythonSlicer",
        "bin/SlicerApp-real.exe": "bin/PythonSlicer.exe",
        "bin/python-real": "bin/PythonSlicer",
        "venv/python3": None,
    }
    for number, (running, expected) in enumerate(layouts.items()):
        root = tmp_path / str(number)
        for name in filter(None, (running, expected)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("")
        assert python_executable(root / running) == str(root / (expected or running))


def test_the_time_left_is_smooth_and_ends_at_zero() -> None:
    left = TimeLeft()
    assert left(0.0, 10.0) is None and left(0.01, 10.1) is None
    steady = [left(k / 10, 10.0 + k) for k in range(1, 11)]
    assert steady == pytest.approx([10.0 - k for k in range(1, 11)])
    jumpy = TimeLeft()
    jumpy(0.0, 0.0)
    before = jumpy(0.5, 10.0)
    assert before == pytest.approx(10.0)
    assert 9.0 < jumpy(0.5, 11.0) < 9.5  # would be 11 were it not smoothed


def test_deaths_in_words() -> None:
    for code in (1, -9, -11, -250, 3):
        sentence = cause_of_death(code)
        assert sentence.endswith(".") and "coarser preset" in sentence
    assert "SIGSEGV" in cause_of_death(-11) or os.name != "posix"


def test_deaths_behind_a_launcher_in_words() -> None:
    """Which turns them all into code 1, and says so on standard error."""
    launcher = "error: [/opt/Slicer/bin/python-real] exit abnormally - Report the problem."
    assert "want of memory" in cause_of_death(1, ["a warning", launcher])
    assert "(Segmentation fault)" in cause_of_death(1, ["Fatal Python error: Segmentation fault", launcher])
    assert "(access violation)" in cause_of_death(1, ["Windows fatal exception: access violation"])
    assert "(code 1)" in cause_of_death(1, ["a warning"]) and "(code 3)" in cause_of_death(3, [launcher])
