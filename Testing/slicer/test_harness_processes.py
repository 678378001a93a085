"""The launcher and the event loop that stand in for Slicer's are as strict as those."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

from harness.event_loop import CAN_HOLD_THE_LOCK, idle
from harness.launcher import make_launcher

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
LINUX = pytest.mark.skipif(not CAN_HOLD_THE_LOCK, reason="calls Qt by the names that Linux compilers give it")


@POSIX
@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("print('out'); raise SystemExit(7)", 7, False),
        ("import os; os.kill(os.getpid(), 9)", 1, True),
        ("import os; os.abort()", 1, True),
    ],
)
def test_the_launcher_hides_how_its_program_died(tmp_path, script, code, said):
    command = [make_launcher(tmp_path), "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert ("exit abnormally" in done.stderr) is said
    assert done.stdout == ("" if said else "out\n")


@POSIX
def test_the_launcher_hands_the_input_through(tmp_path):
    command = [make_launcher(tmp_path), "-c", "print(input()[::-1])"]
    done = subprocess.run(command, input="abc\n", capture_output=True, text=True, timeout=60)
    assert done.stdout == "cba\n"


@LINUX
def test_while_the_event_loop_idles_no_thread_of_python_runs(qapp):
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.01)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    time.sleep(0.1)
    before = time.monotonic()
    idle(500)
    after = time.monotonic()
    time.sleep(0.1)
    stop.set()
    thread.join()
    assert after - before >= 0.45
    assert [t for t in ticks if before + 0.05 < t < after - 0.05] == []
    assert [t for t in ticks if t < before] and [t for t in ticks if t > after - 0.05]


@LINUX
def test_slots_of_python_run_in_that_loop(qapp):
    from PySide6.QtCore import QTimer

    heard: list[int] = []
    QTimer.singleShot(50, lambda: heard.append(1))
    idle(300)
    assert heard == [1]
