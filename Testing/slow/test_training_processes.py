"""Several training processes, and what happens to one that is told to stop, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.training.checkpoint import load_checkpoint
from DeepRegistrationLib.training.processes import Processes
from DeepRegistrationLib.weights import load_weights

pytestmark = pytest.mark.slow
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")

# A network without batch statistics, whose last layer only joins in the second stage; plain gradient
# descent at a rate of one, so that weights differ by the gradient. `jitter` is shared by all processes.
SCRIPT = """
import sys
from dataclasses import dataclass
from pathlib import Path
import torch
from torch import nn
from DeepRegistrationLib.progress import CancelToken
from DeepRegistrationLib.training import Stage, TrainingTask
from DeepRegistrationLib.training.loop import train
from DeepRegistrationLib.training.options import TrainingOptions

class Task(TrainingTask):
    method, configurations, clip = "toy", {"c": None}, 1e9
    def __init__(self, batch):
        self.batch = batch
    def network(self, configuration, dimension):
        sizes = ((2, 6), (6, 2), (6, 2))
        return nn.ModuleList(nn.Conv2d(*size, 3, padding=1) for size in sizes)
    def convention(self, configuration, dimension):
        return {"shape": [16] * dimension}
    def stages(self, configuration):
        return Stage("a", 0.5, 1.0, self.batch), Stage("b", 0.5, 1.0, self.batch)
    def optimiser(self, network, stage):
        return torch.optim.SGD(network.parameters(), lr=stage.rate)
    def displacement(self, network, batch):
        x = network[0](torch.cat([batch.fixed, batch.moving], 1)).tanh()
        return network[1](x).movedim(1, -1)
    def loss(self, network, batch, done, generator):
        x = network[0](torch.cat([batch.fixed, batch.moving], 1)).tanh()
        y = network[1](x) + torch.randn(2, generator=generator)[:, None, None]
        if done >= 0.5:
            y = y + network[2](x)
        return {"loss": (y - batch.fixed).square().mean(), "size": y.abs().mean()}

if __name__ == "__main__":
    out, batch, stop = sys.argv[1:]
    cancel, options = CancelToken(), TrainingOptions(Path(out), resume=True, device="cpu")
    if not (options.out / "checkpoint.pt").exists():
        options = TrainingOptions(Path(out), "toy", "c", "generated:shapes", steps=6, device="cpu")
    train(options, Task(int(batch)), lambda p: p.fraction > float(stop) and cancel.cancel(), cancel)
"""


def start(
    script: Path, out: Path, batch: int, environment: dict[str, str], stop: float = 1.0
) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(script), str(out), str(batch), str(stop)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(*processes: subprocess.Popen) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def test_two_processes_learn_what_one_does_from_the_double_batch(tmp_path: Path) -> None:
    script = tmp_path / "task.py"
    script.write_text(SCRIPT, encoding="utf-8")
    ranks = [start(script, tmp_path / "two", 3, rank) for rank in group(2)]
    finished(*ranks, start(script, tmp_path / "one", 6, {}), start(script, tmp_path / "half", 3, {}))
    one, two, half = (load_checkpoint(tmp_path / name) for name in ("one", "two", "half"))
    assert one.step == two.step == 6 and two.settings["processes"] == 2
    for name, expected in one.network.items():
        assert torch.allclose(two.network[name], expected, rtol=1e-4, atol=1e-6), name
    assert not all(torch.allclose(half.network[k], v, atol=1e-4) for k, v in one.network.items())
    assert load_weights(tmp_path / "two" / "weights.pt").record["processes"] == 2
    rows = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "terms" in row] == [1, 2, 3, 4, 5, 6]  # one of them writes


def test_as_torchrun_starts_it(tmp_path: Path) -> None:
    """The command of the README, then the same folder gone on with by one process."""
    out = tmp_path / "out"
    train = ["DeepRegistrationLib", "train", "--out", str(out), "--device", "cpu"]
    new = ["--method", "gradicon", "--config", "small", "--data", "generated:shapes?size=32"]
    new += ["--dimension", "2", "--batch", "1", "--steps", "4", "--max-minutes", "0.0001"]
    several = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    several += ["--master-port", group(1)[0]["MASTER_PORT"], "-m", *train, *new]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.run(several, env=environment, capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("Time is over") == 1  # one of them speaks
    assert load_checkpoint(out).settings["processes"] == 2 and load_checkpoint(out).step < 4
    on = [sys.executable, "-m", *train, "--resume"]
    second = subprocess.run(on, env=environment, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0 and "Trained: 4 of 4 steps" in second.stdout, second.stderr
    assert load_weights(out / "weights.pt").record["pairs_per_step"] == [2, 2]


ENDING = """
from pathlib import Path
from torch import nn
from DeepRegistrationLib.training.processes import joined

def threads():
    return sum("gloo_runloop" in (t / "comm").read_text() for t in Path("/proc/self/task").iterdir())

def agree():
    with joined("cpu") as processes:
        module = processes.shared(nn.Linear(2, 2))  # torch never ends the threads of its group
        assert processes.agreed(processes.rank) == 1
        return threads()

during = agree()
assert 0 < threads() < during, (during, threads())
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads as Linux names them")
def test_the_threads_that_agree_end_with_the_training(tmp_path: Path) -> None:
    """One that let go of a tensor while the interpreter ended aborted a training that was done."""
    script = tmp_path / "ending.py"
    script.write_text(ENDING, encoding="utf-8")
    finished(*(start(script, tmp_path, 0, rank) for rank in group(2)))


def group(count: int) -> list[dict[str, str]]:
    """What ``torchrun`` would set for each of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**shared, "RANK": str(rank)} for rank in range(count)]


def test_a_training_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """A step keeps its pairs, whoever computes them: the end is that of an uninterrupted training."""
    script = tmp_path / "task.py"
    script.write_text(SCRIPT, encoding="utf-8")
    fewer, more = tmp_path / "two then one", tmp_path / "one then two"
    finished(*(start(script, fewer, 3, rank, 0.4) for rank in group(2)), start(script, more, 6, {}, 0.4))
    assert load_checkpoint(fewer).step == load_checkpoint(more).step == 3
    finished(start(script, fewer, 3, {}), *(start(script, more, 6, rank) for rank in group(2)))
    finished(start(script, tmp_path / "straight", 6, {}))
    straight = load_checkpoint(tmp_path / "straight")
    for found in (load_checkpoint(fewer), load_checkpoint(more)):
        assert found.step == 6
        for name, expected in straight.network.items():
            assert torch.allclose(found.network[name], expected, rtol=1e-4, atol=1e-6), name
    assert load_weights(fewer / "weights.pt").record["processes"] == 1
    assert load_weights(more / "weights.pt").record["pairs_per_step"] == [6, 6]


def test_pairs_that_cannot_be_shared_evenly_are_refused() -> None:
    assert Processes(0, 3, torch.device("cpu")).share(6) == 2
    with pytest.raises(InputError, match=r"takes 6 pairs.*4 processes cannot.*with 1, 2, 3, 6 of them"):
        Processes(0, 4, torch.device("cpu")).share(6)


@POSIX
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_with_one_line(tmp_path: Path, victim: int) -> None:
    out = tmp_path / "out"
    ranks = [
        subprocess.Popen(
            [*train_command(out), "--steps", "100000"],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in group(2)
    ]
    try:
        until, log = time.monotonic() + 90, out / "log.jsonl"
        while time.monotonic() < until and not (log.is_file() and '"terms"' in log.read_text()):
            assert all(rank.poll() is None for rank in ranks)
            time.sleep(0.1)
        ranks[victim].kill()
        survivor = ranks[1 - victim]
        _, errors = survivor.communicate(timeout=90)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert survivor.returncode == 1
    # torch itself may have warned earlier, about parameters
    lines = [line for line in errors.splitlines() if not line.startswith("[rank")]
    assert len(lines) == 1 and lines[0].startswith("deepregistration: error: Another process of this"), errors
    assert "--resume" in lines[0]
    if victim == 1:  # the one that writes has kept what there was
        assert load_checkpoint(out).step > 0


def train_command(out: Path) -> list[str]:
    run = [sys.executable, "-m", "DeepRegistrationLib", "train", "--method", "gradicon", "--config", "small"]
    return [*run, "--data", "generated:shapes?size=32", "--out", str(out), "--device", "cpu"]


@POSIX
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupt_ends_with_a_checkpoint(tmp_path: Path, number: str) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*train_command(out), "--steps", "100000"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < until:
            log = out / "log.txt"
            if log.is_file() and "three networks" in log.read_text():
                break
            time.sleep(0.1)
        process.send_signal(signal.Signals[number])
        told, errors = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert errors == "" and "Interrupted:" in told and "--resume" in told
    found = load_checkpoint(out)
    assert found.step > 0
    assert load_weights(out / "weights.pt", "gradicon", 2).record["steps"] == found.step
    assert "interrupted after" in (out / "log.txt").read_text()


@POSIX
def test_a_killed_training_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*train_command(out), "--steps", "40", "--checkpoint-minutes", "0.01", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    until = time.monotonic() + 90
    log = out / "log.txt"
    while process.poll() is None and time.monotonic() < until:
        if log.is_file() and log.read_text().count("checkpoint at step") >= 2:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    first = load_checkpoint(out)
    assert 0 < first.step < 40
    resume = [sys.executable, "-m", "DeepRegistrationLib", "train", "--resume", "--out", str(out), "--quiet"]
    subprocess.run(resume, env=environment, check=True, timeout=120)
    straight = [*train_command(tmp_path / "straight"), "--steps", "40", "--quiet"]
    subprocess.run(straight, env=environment, check=True, timeout=120)
    a, b = load_checkpoint(out), load_checkpoint(tmp_path / "straight")
    assert a.step == b.step == 40
    assert all(torch.equal(b.network[name], tensor) for name, tensor in a.network.items())
