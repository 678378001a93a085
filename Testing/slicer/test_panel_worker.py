"""The worker as Slicer has it: behind the launcher, and beside an event loop that holds Python's lock."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import slicer
from harness.event_loop import idle
from harness.launcher import make_launcher
from panel_support import User, children_of, left_over, make_pair
from scene_support import contents

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, calls Qt by Linux names")


@pytest.fixture
def user(temporary, panel, qtbot):
    return User(panel, qtbot)


@pytest.fixture
def launched(temporary, slicer_session, qtbot, monkeypatch, tmp_path):
    """The panel of an application whose Python lies behind a launcher."""
    from harness.fixtures import MODULE_FILE

    program = str(make_launcher(tmp_path))
    module = slicer_session.load_module(MODULE_FILE)
    import DeepRegistrationLib.worker.client as client

    monkeypatch.setattr(client, "python_executable", lambda: program)
    frame = module.widgetRepresentation()
    frame.enter()
    frame.resize(480, 900)
    frame.show()
    return User(frame.self(), qtbot)


def gone(pid: int) -> bool:
    """Whether a process is dead, also where nobody has asked for its exit code yet."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)
    end = time.monotonic() + 10
    while not gone(pid):
        assert time.monotonic() < end


def test_a_worker_that_died_while_slicer_idled_is_replaced(user, slicer_session, temporary):
    """Its end cannot be heard of: no thread runs meanwhile."""
    user.choose_pair(make_pair(slicer_session.scene))
    user.wait_for_answer()
    client = user.panel.logic.runner.client
    dead = client.pid
    os.kill(dead, signal.SIGKILL)
    idle(700)
    user.ui.registerButton.click()
    user.wait_for_end()
    assert user.ui.runText.text.startswith("Registered in"), user.ui.runText.text
    assert client.pid != dead and "ended while idle" in user.log()
    user.panel.logic.close()
    assert left_over(temporary) == [] and list(temporary.glob("deepregistration-*")) == []


def test_the_memory_line_knows_that_the_worker_is_gone(user):
    user.wait_for_answer()
    client = user.panel.logic.runner.client
    assert client.state == "idle"
    os.kill(client.pid, signal.SIGKILL)
    idle(500)
    assert client.state == "off" and client.pid is None


def worker_behind(user) -> int:
    """The process that computes: the launcher's child."""
    (child,) = children_of(user.panel.logic.runner.client.pid)
    return child


def in_the_middle(user, pair) -> list:
    user.choose_pair(pair, fast=False)
    user.choose(user.ui.presetCombo, "Accurate")
    user.wait_for_answer()
    before = contents(slicer.mrmlScene)
    user.click(user.ui.registerButton)
    user.bot.waitUntil(lambda: "Deformable" in user.ui.runText.text, timeout=120_000)
    return before


def test_behind_the_launcher_a_kill_is_told_as_what_it_is(launched, slicer_session, temporary):
    """As the system kills where memory is short; the launcher only says that something went wrong."""
    user = launched
    before = in_the_middle(user, make_pair(slicer_session.scene))
    kill(worker_behind(user))
    user.wait_for_end()
    assert "most likely for want of memory" in user.ui.runText.text, user.ui.runText.text
    assert contents(slicer.mrmlScene) == before and left_over(temporary) == []
    user.choose(user.ui.presetCombo, "Fast")
    user.register()
    assert user.ui.runText.text.startswith("Registered in"), user.ui.runText.text


def test_behind_the_launcher_a_crash_is_told_as_what_it_is(launched, slicer_session):
    user = launched
    in_the_middle(user, make_pair(slicer_session.scene))
    kill(worker_behind(user), signal.SIGSEGV)
    user.wait_for_end()
    assert "crashed (Segmentation fault)" in user.ui.runText.text, user.ui.runText.text


def test_behind_the_launcher_a_worker_killed_while_idle_is_replaced(launched, slicer_session):
    user = launched
    user.choose_pair(make_pair(slicer_session.scene))
    user.wait_for_answer()
    os.kill(worker_behind(user), signal.SIGKILL)
    idle(1500)
    user.ui.registerButton.click()
    user.wait_for_end()
    assert user.ui.runText.text.startswith("Registered in"), user.ui.runText.text
