"""The worker process is killed at random moments: one sentence, nothing left behind, the next job works."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from DeepRegistrationLib.worker.client import Cancelled, Event, Failed, Finished, WorkerClient
from kills import alive, kill, waited
from small_pair import LANDMARKS, PARAMETERS, ball

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
]

FULL = os.environ.get("DEEPREGISTRATION_FAULTS") == "full"
COUNT = 200 if FULL else 3
SEED = 20240
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV)
ARRAYS = {"fixed": ball(), "moving": ball(shift=1.0)}


def ended(client: WorkerClient, seconds: float = 120) -> Event:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for event in client.poll():
            if isinstance(event, Finished | Failed | Cancelled):
                return event
        time.sleep(0.003)
    raise AssertionError("the job does not end")


def submit(client: WorkerClient, task: str, session: str = "") -> None:
    if task == "refine":
        client.submit("refine", {"session": session, "landmarks": LANDMARKS})
    else:
        client.submit("register", PARAMETERS, ARRAYS)


def test_a_worker_killed_at_any_moment(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """In a cold start, a registration or a refinement, after a time that is drawn."""
    rng, counts = random.Random(SEED), Counter()
    client = WorkerClient(temporary=tmp_path, environment={"OMP_NUM_THREADS": "1"})
    took = {}
    for task in ("cold", "register"):
        start = time.monotonic()
        submit(client, task)
        done = ended(client)
        took[task] = time.monotonic() - start
        assert isinstance(done, Finished), done
    expected, session = done.arrays["forward"], done.result["session"]
    start = time.monotonic()
    submit(client, "refine", session)
    assert isinstance(ended(client), Finished)
    took["refine"] = time.monotonic() - start
    try:
        while sum(counts[task] for task in took) < COUNT:
            task = rng.choice(("cold", "register", "register", "refine"))
            if task == "cold":
                client.stop()
            submit(client, task, session)
            pid = client.pid
            time.sleep(rng.uniform(0, took[task]))
            number = rng.choice(SIGNALS)
            killed = client.state == "running" and kill(pid, number)
            event = ended(client)
            if isinstance(event, Finished):  # it was too fast
                counts["finished before"] += 1
                session = event.result["session"]
                client.stop() if killed else None
                continue
            assert killed and isinstance(event, Failed) and event.kind == "died", (task, event)
            assert event.sentence.startswith("The registration's process ") and "\n" not in event.sentence
            assert client.state == "off" and client.pid is None and not alive(pid)
            assert waited(lambda: not list(tmp_path.iterdir()), 5), list(tmp_path.rglob("*"))
            counts[task] += 1
            submit(client, "refine", session)
            lost = ended(client)
            assert isinstance(lost, Failed) and lost.kind == "unknown-session", lost
            submit(client, "register")
            again = ended(client)
            assert isinstance(again, Finished) and np.array_equal(again.arrays["forward"], expected)
            session = again.result["session"]
            assert [[path.name for path in folder.iterdir()] for folder in tmp_path.iterdir()] == [[".lock"]]
    finally:
        client.stop()
    assert list(tmp_path.iterdir()) == []
    record_property("killed", dict(counts))
