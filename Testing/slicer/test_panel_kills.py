"""The worker killed at random moments of runs that were started in the panel."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import slicer
from panel_support import User, children_of, left_over
from scene_support import contents, volume_node
from worker_support import FIXED, MOVING, picture

COUNT = 200 if os.environ.get("DEEPREGISTRATION_FAULTS") == "full" else 6


def killed_after(client, seconds: float) -> threading.Timer:
    """Kill the worker that there is by then, from another thread."""

    def kill() -> None:
        pid = client.pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    return timer


def timed(action) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_runs_end_in_a_sentence_and_the_next_succeeds(temporary, panel, qtbot, slicer_session):
    """Every fifth run starts the worker itself, so that it is killed while it loads, too."""
    rng, user, scene = random.Random(20), User(panel, qtbot), slicer_session.scene
    ui, logic = user.ui, user.panel.logic
    ui.fixedSelector.setCurrentNode(volume_node(scene, picture(FIXED, False), FIXED, name="CT"))
    ui.movingSelector.setCurrentNode(volume_node(scene, picture(MOVING, True), MOVING, name="MR"))
    user.choose(ui.presetCombo, "Fast")
    user.wait_for_answer()
    others = set(children_of(os.getpid())) - {logic.runner.client.pid}
    user.register()
    took = {True: timed(user.register), False: timed(user.register)}  # seconds, with a cold or a warm worker
    killed, sentences, stages = 0, Counter(), Counter()
    while killed < COUNT:
        cold = killed % 5 == 4
        if cold:
            logic.close()
        before = contents(slicer.mrmlScene)
        timer = killed_after(logic.runner.client, rng.uniform(0, took[cold]))
        seconds, text = timed(user.register), ui.runText.text
        timer.join()
        if text.startswith("Registered in"):  # it was faster
            took[cold] = seconds
            user.bot.waitUntil(lambda: logic.runner.client.state == "off", timeout=5000)
        else:
            killed += 1
            sentences[text] += 1
            stages[user.log().splitlines()[-2].split("s  ")[-1].split(",")[0]] += 1
            assert text.endswith(".") and len(text.split()) > 4 and "\n" not in text, text
            assert contents(slicer.mrmlScene) == before, killed
        assert not logic.isRunning() and not user.panel.timer.active and ui.progressBar.isHidden()
        assert slicer_session.messages.shown == []
        took[True] = timed(user.register)
        assert ui.runText.text.startswith("Registered in"), (killed, ui.runText.text)
        assert left_over(temporary) == [], killed
        assert len(set(children_of(os.getpid())) - others) == 1, killed
    logic.close()
    assert set(children_of(os.getpid())) <= others
    assert list(temporary.glob("deepregistration-*")) == []
    print(f"{killed} runs killed; {dict(sentences)}; after {dict(stages)}")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kills a process")
def test_of_many_volumes_only_the_killed_one_is_missing(temporary, panel, qtbot, slicer_session):
    rng, user, scene = random.Random(21), User(panel, qtbot), slicer_session.scene
    ui, logic = user.ui, user.panel.logic
    fixed = volume_node(scene, picture(FIXED, False), FIXED, name="CT")
    moving = [volume_node(scene, picture(MOVING, True), MOVING, name=f"MR{k}") for k in range(3)]
    ui.fixedSelector.setCurrentNode(fixed)
    user.panel.parameters.many_moving = moving
    user.choose(ui.presetCombo, "Fast")
    ui.manyButton.collapsed = False
    user.wait_for_answer()

    def register_all() -> str:
        user.click(ui.manyRegisterButton)
        user.wait_for_end()
        user.bot.waitUntil(lambda: ui.manyRegisterButton.text == "Register all", timeout=5000)
        return ui.manyText.text

    register_all()
    killed, seconds = 0, timed(register_all)
    before = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLNode")}
    while killed < max(1, COUNT // 10):
        timer = killed_after(logic.runner.client, rng.uniform(0, seconds))
        text = register_all()
        timer.join()
        first, *others = text.splitlines()
        if others:
            killed += 1
            assert first.startswith("Registered 2 of 3 volumes in") and len(others) == 1, text
            assert others[0][:5] in ("MR0: ", "MR1: ", "MR2: ") and others[0].endswith("."), text
        else:
            user.bot.waitUntil(lambda: logic.runner.client.state == "off", timeout=5000)
        assert {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLNode")} == before, killed
        assert left_over(temporary) == [] and slicer_session.messages.shown == []
        text = register_all()
        assert text.startswith("Registered 3 of 3 volumes in") and "\n" not in text, text
    print(f"{killed} runs of many volumes killed")
