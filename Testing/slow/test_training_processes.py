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
from DeepRegistrationLib.training.checkpoint import load_checkpoint
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
    out, batch, device = sys.argv[1:]
    options = TrainingOptions(Path(out), "toy", "c", "generated:shapes", steps=6, device=device)
    train(options, Task(int(batch)))
"""


def start(script: Path, out: Path, batch: int, environment: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(script), str(out), str(batch), "cpu"],
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [start(script, tmp_path / "two", 3, {**shared, "RANK": str(rank)}) for rank in range(2)]
    finished(*ranks, start(script, tmp_path / "one", 6, {}), start(script, tmp_path / "half", 3, {}))
    one, two, half = (load_checkpoint(tmp_path / name) for name in ("one", "two", "half"))
    assert one.step == two.step == 6 and two.settings["processes"] == 2
    for name, expected in one.network.items():
        assert torch.allclose(two.network[name], expected, rtol=1e-4, atol=1e-6), name
    assert not all(torch.allclose(half.network[k], v, atol=1e-4) for k, v in one.network.items())
    assert load_weights(tmp_path / "two" / "weights.pt").record["processes"] == 2
    rows = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "terms" in row] == [1, 2, 3, 4, 5, 6]  # one of them writes


def train_command(out: Path) -> list[str]:
    run = [sys.executable, "-m", "DeepRegistrationLib", "train", "--method", "gradicon", "--config", "small"]
    return [*run, "--data", "generated:shapes?size=32", "--out", str(out), "--device", "cpu"]


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_with_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
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
        process.send_signal(number)
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
