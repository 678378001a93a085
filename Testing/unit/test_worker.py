"""The worker process on its bare lines: what it answers, what it survives, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import DeepRegistrationLib
import numpy as np
import pytest
from DeepRegistrationLib.errors import InputError, OutputError
from DeepRegistrationLib.worker.arrays import load_array, save_array
from DeepRegistrationLib.worker.environment import default_threads

ENGINE = Path(DeepRegistrationLib.__file__).parents[1]


class Bare:
    """A worker process that is talked to line by line."""

    def __init__(self, folder: Path, command: list[str] | None = None) -> None:
        folder.mkdir()
        self.folder = folder
        self.process = subprocess.Popen(
            [*(command or [sys.executable, "-m", "DeepRegistrationLib.worker"]), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ENGINE,
        )
        assert self.answer() == {"event": "hello", "pid": self.process.pid}

    def write(self, line: bytes) -> None:
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def send(self, **message: Any) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        return json.loads(self.process.stdout.readline())

    def result(self) -> dict[str, Any]:
        """The next answer that is not progress."""
        while (answer := self.answer())["event"] == "progress":
            pass
        return answer

    def put(self, number: int, **arrays: np.ndarray) -> None:
        job = self.folder / f"job-{number}"
        job.mkdir()
        for name, array in arrays.items():
            np.save(job / f"in-{name}.npy", array)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Bare]:
    worker = Bare(tmp_path / "arrays")
    yield worker
    worker.process.kill()
    worker.process.wait()
    for stream in (worker.process.stdin, worker.process.stdout):
        stream.close()


def ball(n: int = 16, shift: float = 0.0) -> np.ndarray:
    z, y, x = np.mgrid[:n, :n, :n] - (n - 1) / 2
    return (100 / (1 + np.exp(2 * (np.sqrt((x - shift) ** 2 + y**2 + z**2) - n / 4)))).astype(np.float32)


def frame(n: int = 16) -> dict[str, Any]:
    return {"size": [n] * 3, "spacing": [2.0] * 3, "origin": [0.0] * 3, "direction": np.eye(3).tolist()}


PARAMETERS = {
    "frames": {"fixed": frame(), "moving": frame()},
    "options": {"preset": "fast", "linear": "none", "similarity": "mse", "threads": 1},
}


def test_a_cancellation_that_overtakes_its_request_counts(bare: Bare) -> None:
    for number in (1, 2):
        bare.put(number, fixed=ball(), moving=ball())
    bare.send(cancel=1)
    bare.send(id=1, task="register", parameters=PARAMETERS, arrays=["fixed", "moving"])
    assert bare.result() == {"event": "cancelled", "id": 1}
    bare.send(id=2, task="register", parameters=PARAMETERS, arrays=["fixed", "moving"])
    assert bare.result()["event"] == "finished"


def test_whatever_is_written_to_it_the_worker_lives_on(bare: Bare) -> None:
    lines = [
        b"not json\n",
        b"[1, 2]\n",
        b"{}\n",
        b"\xff\xfe\n",
        b'{"id": "x", "task": "register"}\n',
        b'{"id": 1, "task": "register", "parameters": 3}\n',
        b'{"id": 1, "task": "register", "arrays": ["../../etc/passwd"]}\n',
        b"[" * 100_000 + b"\n",
        b'{"id": 1, "task": "' + b"x" * (17 << 20) + b'"}\n',
    ]
    for line in lines:
        bare.write(line)
        answer = bare.answer()
        assert (answer["event"], answer["id"], answer["kind"]) == ("failed", None, "request"), line[:60]
        assert answer["sentence"].endswith(".") and "Traceback" not in answer["sentence"]
    bare.write(b"\n")  # nothing is not a request
    bare.send(cancel=7)  # nor is there such a job
    bare.send(id=1, task="methods")
    answer = bare.result()
    names = [m["name"] for m in answer["result"]["methods"]]
    assert answer["event"] == "finished" and names[:2] == ["dio", "gradicon"]
    bare.send(id=2, task="nonsense")
    assert "nonsense" in bare.result()["sentence"]


WRONG = [
    ({"options": {"preset": "hasty"}}, "input", "hasty"),
    ({"options": {"speed": 3}}, "input", "speed"),
    ({"options": {"weights": "/nowhere.pt"}}, "input", "nowhere"),
    ({"options": {"output_spacing": "wide"}}, "request", "could not be understood"),
    ({"frames": {"fixed": frame()}}, "input", "geometry of the moving"),
    ({"frames": {"fixed": frame(), "moving": frame(17)}}, "input", "same size"),
    ({"landmarks": {"fixed": [[0, 0, 0]], "moving": []}}, "input", "each needs its partner"),
    ({"landmarks": {"fixed": [["a", 0, 0]], "moving": [[0, 0, 0]]}}, "input", "same number of"),
    ({"initial_matrix": [[1, 2], [3, 4]]}, "input", "matrix"),
]


def test_what_is_wrong_is_a_sentence(bare: Bare) -> None:
    for number, (change, kind, says) in enumerate(WRONG, 1):
        bare.put(number, fixed=ball(), moving=ball(shift=1))
        parameters = {**PARAMETERS, **change}
        bare.send(id=number, task="register", parameters=parameters, arrays=["fixed", "moving"])
        answer = bare.result()
        assert (answer["event"], answer["kind"]) == ("failed", kind), answer
        assert says in answer["sentence"] and answer["sentence"].endswith(".")
        assert "Traceback" not in answer["sentence"] and "Traceback" in answer["details"]
    bare.send(id=100, task="refine", parameters={"session": "gone"})
    assert bare.result()["kind"] == "unknown-session"


def test_arrays_that_are_not_there_or_not_numbers(bare: Bare, tmp_path: Path) -> None:
    bare.put(1, fixed=ball())
    bare.send(id=1, task="register", parameters=PARAMETERS, arrays=["fixed", "moving"])
    assert bare.result()["kind"] == "input"
    bare.put(2, fixed=ball())
    (bare.folder / "job-2" / "in-moving.npy").write_bytes(b"\x93NUMPY broken")
    bare.send(id=2, task="register", parameters=PARAMETERS, arrays=["fixed", "moving"])
    assert "moving" in bare.result()["sentence"]
    bare.put(3, fixed=ball())
    np.save(tmp_path / "elsewhere.npy", ball())
    (bare.folder / "job-3" / "in-moving.npy").symlink_to(tmp_path / "elsewhere.npy")
    bare.send(id=3, task="register", parameters=PARAMETERS, arrays=["fixed", "moving"])
    assert "moving" in bare.result()["sentence"]


def test_one_job_at_a_time_and_two_sessions(bare: Bare) -> None:
    bare.put(1, fixed=ball(), moving=ball(shift=1))
    bare.send(id=1, task="register", parameters=PARAMETERS, arrays=["fixed", "moving"])
    bare.send(id=2, task="register", parameters=PARAMETERS, arrays=["fixed", "moving"])
    answer = bare.result()
    assert (answer["id"], answer["kind"]) == (2, "busy")
    answer = bare.result()
    assert (answer["id"], answer["event"]) == (1, "finished")
    sessions = [answer["result"]["session"]]
    for number in (3, 4):
        bare.put(number, fixed=ball(), moving=ball(shift=number - 3))
        bare.send(id=number, task="register", parameters=PARAMETERS, arrays=["fixed", "moving"])
        sessions.append(bare.result()["result"]["session"])
    kinds = []
    for number, session in enumerate(sessions, 10):
        (bare.folder / f"job-{number}").mkdir()
        bare.send(id=number, task="refine", parameters={"session": session})
        answer = bare.result()
        kinds.append(answer.get("kind", answer["event"]))
    assert kinds == ["unknown-session", "finished", "finished"]


@pytest.mark.parametrize("running", [False, True])
def test_it_ends_with_its_parent_and_leaves_nothing(bare: Bare, running: bool) -> None:
    if running:
        bare.put(1, fixed=ball(48), moving=ball(48, 1))
        frames = {"fixed": frame(48), "moving": frame(48)}
        parameters = {"frames": frames, "options": {"preset": "accurate", "representation": "geodesic"}}
        bare.send(id=1, task="register", parameters=parameters, arrays=["fixed", "moving"])
        assert bare.answer()["event"] == "progress"
    bare.process.stdin.close()
    assert bare.process.wait(20) == 0
    assert not bare.folder.exists()


def python_where(tmp_path: Path, torch: str) -> list[str]:
    """A Python whose torch is what this source says."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text(textwrap.dedent(torch))
    start = (
        "import sys, runpy; sys.path[:0] = [{!r}, {!r}]; runpy.run_module('DeepRegistrationLib.worker', {})"
    )
    code = start.format(str(tmp_path / "broken"), str(ENGINE), "run_name='__main__', alter_sys=True")
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("torch", "says"),
    [
        ("raise ModuleNotFoundError('No module named torch', name='torch')", "not installed"),
        ("raise OSError('libtorch_cpu.so: cannot open shared object file')", "libtorch_cpu.so"),
    ],
)
def test_without_torch_it_says_so(tmp_path: Path, torch: str, says: str) -> None:
    worker = Bare(tmp_path / "arrays", python_where(tmp_path, torch))
    worker.send(id=1, task="environment")
    result = worker.result()["result"]
    assert result["torch"] is None and says in result["torch_error"] and not result["works"]
    worker.send(id=2, task="methods")
    assert worker.result()["result"]["methods"][0]["name"] == "dio"
    worker.put(3, fixed=ball(), moving=ball())
    worker.send(id=3, task="register", parameters=PARAMETERS, arrays=["fixed", "moving"])
    answer = worker.result()
    assert answer["kind"] == "no-torch" and says in answer["sentence"]
    worker.process.stdin.close()
    assert worker.process.wait(10) == 0


def test_the_environment_is_told(bare: Bare) -> None:
    import torch

    bare.send(id=1, task="environment")
    result = bare.result()["result"]
    assert (
        result["torch"] == torch.__version__ and result["works"] and result["device_type"] in ("cpu", "cuda")
    )


def test_one_processor_is_left_to_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for processors, expected in ((1, 1), (2, 2), (3, 2), (8, 7)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=processors: set(range(n)), raising=False)
        assert default_threads() == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert default_threads() is None


def test_arrays_go_there_and_back(tmp_path: Path) -> None:
    view = np.arange(60, dtype=np.int16).reshape(3, 4, 5)[:, ::2]
    save_array(tmp_path, "in", "fixed", view)
    assert np.array_equal(load_array(tmp_path, "in", "fixed"), view)
    assert [p.name for p in tmp_path.iterdir()] == ["in-fixed.npy"]
    with pytest.raises(InputError, match="numbers"):
        save_array(tmp_path, "in", "odd", np.array([None]))
    with pytest.raises(OutputError, match="temporary folder"):
        save_array(tmp_path / "gone", "in", "fixed", view)
    np.save(tmp_path / "in-odd.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="odd"):
        load_array(tmp_path, "in", "odd")
