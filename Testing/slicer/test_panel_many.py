"""One fixed volume, many moving ones, in the panel and with the real worker."""

from __future__ import annotations

import os
import signal
import sys

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import numpy as np
import slicer
from DeepRegistrationScene.made import made_before
from DeepRegistrationScene.many_table import COLUMNS, rows_of
from panel_support import User, left_over
from PySide6.QtCore import Qt
from scene_support import contents, markups_node, volume_node
from worker_support import FIXED, MOVING, picture

linux = pytest.mark.skipif(sys.platform != "linux", reason="kills a process")


def moving(name: str, values=None):
    return volume_node(
        slicer.mrmlScene, picture(MOVING, True) if values is None else values, MOVING, name=name
    )


@pytest.fixture
def user(temporary, panel, qtbot):
    """Somebody who has chosen a fixed volume and opened the section."""
    user = User(panel, qtbot)
    user.ui.fixedSelector.setCurrentNode(
        volume_node(slicer.mrmlScene, picture(FIXED, False), FIXED, name="CT")
    )
    user.choose(user.ui.presetCombo, "Fast")
    user.ui.manyButton.collapsed = False
    user.wait_for_answer()
    return user


def listed(user) -> list[str]:
    return [user.ui.manyList.item(row).text() for row in range(user.ui.manyList.count)]


def tick(user, *names: str) -> None:
    widget = user.ui.manyList
    user.bot.waitUntil(lambda: set(names) <= set(listed(user)), timeout=5000)
    for row in range(widget.count):
        if widget.item(row).text() in names:
            widget.item(row).setCheckState(Qt.Checked)
    assert [node.GetName() for node in user.panel.parameters.many_moving] == list(names)


def begin(user, number: int = 1) -> None:
    """Press the button and wait until the volume of that number is being deformed."""
    user.click(user.ui.manyRegisterButton)
    user.bot.waitUntil(
        lambda: f"{number} of" in user.ui.manyText.text and "Deformable" in user.ui.manyText.text,
        timeout=120_000,
    )


def register_all(user) -> str:
    user.click(user.ui.manyRegisterButton)
    assert user.ui.manyRegisterButton.text == "Cancel", user.ui.manyText.text
    user.wait_for_end()
    user.bot.waitUntil(lambda: user.ui.manyRegisterButton.text == "Register all", timeout=5000)
    return user.ui.manyText.text


def names() -> list[str]:
    kinds = ("vtkMRMLTransformNode", "vtkMRMLVolumeNode", "vtkMRMLTableNode")
    return sorted(node.GetName() for kind in kinds for node in slicer.util.getNodesByClass(kind))


def made(*volumes: str) -> list[str]:
    return [f"{v} {what}" for v in volumes for what in ("fixed to moving", "moving to fixed", "registered")]


def test_all_are_registered_and_the_bad_one_is_reported(user, temporary):
    first, second = moving("MR 1"), moving("MR 2")
    moving("flat", np.zeros(MOVING.shape, np.float32))
    ui, p = user.ui, user.panel.parameters
    assert not ui.manyRegisterButton.enabled and "at least one moving" in ui.manyRegisterButton.toolTip
    user.click(ui.manyAllButton)
    assert len(p.many_moving) == 3
    user.click(ui.manyNoneButton)
    assert p.many_moving == ()
    tick(user, "MR 1", "MR 2", "flat")
    assert ui.manyRegisterButton.enabled, ui.manyRegisterButton.toolTip
    assert "GB" in ui.manyMemoryText.text or "MB" in ui.manyMemoryText.text
    p.fixed_landmarks = markups_node(slicer.mrmlScene, np.eye(3))  # of a pair, and only half of it
    assert not ui.registerButton.enabled and ui.manyRegisterButton.enabled
    before, values, texts = names(), [], set()
    ui.progressBar.valueChanged.connect(values.append)
    watch = user.panel.run._say

    def say(text: str) -> None:
        texts.add(text)
        watch(text)

    user.panel.run._say = say
    text = register_all(user)
    assert text.startswith("Registered 2 of 3 volumes in"), text
    assert "flat: " in text and text.endswith(".") and len(text.splitlines()) == 2
    for number, name in enumerate(("MR 1", "MR 2", "flat"), start=1):
        assert any(t.startswith(f"{number} of 3: {name}, ") for t in texts) or name == "flat"
    assert values == sorted(values) and len(set(values)) > 5
    assert names() == sorted([*before, *made("MR 1", "MR 2"), "CT registrations"])
    assert left_over(temporary) == []
    assert p.forward is None and p.warped is None  # those of one pair

    rows = rows_of(p.many_table)
    assert rows[0]["Moving volume"] == "flat" and rows[0]["Verdict"] == "failed"
    assert rows[0]["First to look at"] in text
    assert {row["Moving volume"] for row in rows[1:]} == {"MR 1", "MR 2"}
    table = ui.manyTable
    assert [table.item(r, 0).text() for r in range(3)] == [row["Moving volume"] for row in rows]
    assert table.item(0, 0).toolTip() == rows[0]["First to look at"]
    for row in rows[1:]:
        assert float(row["NCC after"]) > float(row["NCC before"]) + 0.05

    # a double click makes the pair the panel's own
    row = [table.item(r, 0).text() for r in range(3)].index("MR 2")
    p.fixed_landmarks = None
    table.cellDoubleClicked.emit(row, 0)
    assert p.moving is second and p.forward.GetName() == "MR 2 moving to fixed"
    assert user.panel.quality()["similarity"]["after"]["ncc"] == pytest.approx(
        float(rows[row]["NCC after"]), abs=1e-3
    )
    assert not ui.resultButton.collapsed and ui.refineButton.enabled, ui.refineButton.toolTip

    # once more: every volume again, into the same nodes, even where one is looked at
    first.SetAndObserveTransformNodeID(slicer.util.getNode("MR 1 moving to fixed").GetID())
    ids, stamp = names(), p.forward.GetTransformFromParent().GetMTime()
    assert register_all(user).startswith("Registered 2 of 3 volumes in")
    assert names() == ids and p.forward.GetTransformFromParent().GetMTime() > stamp

    # a deformation does not fit into a node for matrices: that node is made anew, under the same name
    user.choose(ui.representationCombo, "Rigid")
    for node in made_before(p.fixed, first).values():
        slicer.mrmlScene.RemoveNode(node)
    register_all(user)
    matrix = made_before(p.fixed, first)["forward"]
    assert matrix.IsA("vtkMRMLLinearTransformNode")
    first.SetAndObserveTransformNodeID(matrix.GetID())
    ids = names()
    user.choose(ui.representationCombo, "Diffeomorphic")
    assert f"MR 1: MR 1 lies under {matrix.GetName()}" in register_all(user)
    first.SetAndObserveTransformNodeID(None)
    assert register_all(user).startswith("Registered 2 of 3 volumes in")
    assert names() == ids
    assert made_before(p.fixed, first)["forward"].IsA("vtkMRMLGridTransformNode")


@linux
def test_cancelled_in_the_middle(user, temporary):
    moving("MR 1"), moving("MR 2"), moving("MR 3")
    tick(user, "MR 1", "MR 2", "MR 3")
    before = names()
    user.choose(user.ui.presetCombo, "Accurate")
    begin(user, 2)
    assert user.ui.registerButton.text == "Cancel"
    user.click(user.ui.manyRegisterButton)
    user.wait_for_end()
    assert user.ui.manyText.text == "Cancelled; 1 of 3 volumes are registered."
    assert names() == sorted([*before, *made("MR 1"), "CT registrations"])
    rows = rows_of(user.panel.parameters.many_table)
    assert [row["Verdict"] for row in rows][:2] == ["not done", "not done"]
    assert left_over(temporary) == [] and not user.panel.logic.isRunning()

    # nothing done: nothing left
    state = contents(slicer.mrmlScene)
    begin(user, 1)
    user.click(user.ui.registerButton)  # the one above does it too
    user.wait_for_end()
    assert user.ui.manyText.text == "Cancelled; 0 of 3 volumes are registered."
    assert contents(slicer.mrmlScene) == state


@linux
def test_the_worker_is_killed_in_the_middle(user, temporary):
    moving("MR 1"), moving("MR 2"), moving("MR 3")
    tick(user, "MR 1", "MR 2", "MR 3")
    before = names()
    begin(user, 2)
    os.kill(user.panel.logic.runner.client.pid, signal.SIGKILL)
    user.wait_for_end()
    text = user.ui.manyText.text
    assert text.startswith("Registered 2 of 3 volumes in") and "MR 2: The registration's process was" in text
    assert names() == sorted([*before, *made("MR 1", "MR 3"), "CT registrations"])
    assert left_over(temporary) == []


def test_what_is_removed_or_closed_in_the_middle(user):
    nodes = [moving("MR 1"), moving("MR 2"), moving("MR 3")]
    tick(user, "MR 1", "MR 2", "MR 3")
    begin(user, 1)
    slicer.mrmlScene.RemoveNode(nodes[1])
    user.wait_for_end()
    assert user.ui.manyText.text.splitlines()[0].startswith("Registered 2 of 3")
    assert "MR 2: It was removed from the scene." in user.ui.manyText.text
    begin(user, 1)
    slicer.mrmlScene.Clear()
    user.wait_for_end()
    assert user.panel.logic.isRunning() is False
    assert [n for n in names() if "MR" in n or "registrations" in n] == []


def test_the_choice_and_the_table_come_back_with_the_scene(user, tmp_path):
    moving("MR 1"), moving("MR 2")
    tick(user, "MR 1", "MR 2")
    register_all(user)
    rows = rows_of(user.panel.parameters.many_table)
    path = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear()
    assert user.panel.parameters.many_moving == () and user.ui.manyTable.rowCount == 0
    slicer.util.loadScene(str(path))
    p = user.panel.parameters
    user.bot.waitUntil(lambda: user.ui.manyTable.rowCount == 2, timeout=5000)
    assert [node.GetName() for node in p.many_moving] == ["MR 1", "MR 2"]
    assert rows_of(p.many_table) == rows and set(rows[0]) == set(COLUMNS)
    before = names()
    register_all(user)
    assert names() == before
    p.reset()
    assert p.many_moving == () and p.many_table is None


def test_only_what_can_move_is_offered(user):
    volume = moving("MR 1")
    moving("hidden").SetHideFromEditors(True)
    volume_node(slicer.mrmlScene, np.zeros(MOVING.shape, np.int16), MOVING, "LabelMap", "labels")
    user.bot.waitUntil(lambda: listed(user) == ["MR 1"], timeout=5000)
    tick(user, "MR 1")
    register_all(user)
    assert listed(user) == ["MR 1"]
    volume.SetName("renamed")
    user.bot.waitUntil(lambda: listed(user) == ["renamed"], timeout=5000)
    user.ui.fixedSelector.setCurrentNode(volume)
    assert listed(user) == ["CT"] and not user.ui.manyRegisterButton.enabled
