"""Cancel, a worker that dies, memory that runs out, a machine without torch: a sentence, and nothing else."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import slicer
from DeepRegistrationLib.errors import InputError
from panel_support import User, children_of, left_over, make_pair
from scene_support import contents

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def user(temporary, panel, qtbot):
    return User(panel, qtbot)


def running(user, pair):
    """Press Register and wait until the deformable stage is under way."""
    user.choose_pair(pair, fast=False)
    user.choose(user.ui.presetCombo, "Accurate")
    user.wait_for_answer()
    before = contents(slicer.mrmlScene)
    user.click(user.ui.registerButton)
    user.bot.waitUntil(lambda: "Deformable" in user.ui.runText.text, timeout=120_000)
    return before


@linux
def test_cancel(user, slicer_session, temporary):
    processes = children_of(os.getpid())
    pair = make_pair(slicer_session.scene)
    before = running(user, pair)
    with pytest.raises(InputError, match="running already; wait for it or cancel it"):
        user.panel.logic.registerFromParameters()
    assert not user.ui.refineButton.enabled and "Wait" in user.ui.refineButton.toolTip
    start = time.monotonic()
    user.click(user.ui.registerButton)
    user.wait_for_end()
    print(f"cancelled in {time.monotonic() - start:.2f} s")
    assert user.ui.runText.text == "Cancelled."
    assert contents(slicer.mrmlScene) == before
    assert left_over(temporary) == []
    assert not user.panel.logic.isRunning() and not user.panel.timer.active
    user.choose(user.ui.presetCombo, "Fast")
    user.register()
    assert user.ui.runText.text.startswith("Registered in")
    user.panel.logic.close()
    assert set(children_of(os.getpid())) <= set(processes)
    assert left_over(temporary) == []


@linux
def test_the_worker_ends_with_slicer(user, slicer_session, temporary):
    """In the middle of a run."""
    processes = children_of(os.getpid())
    running(user, make_pair(slicer_session.scene))
    slicer.app.aboutToQuit.emit()
    assert set(children_of(os.getpid())) <= set(processes) and left_over(temporary) == []
    user.wait_for_end()


@linux
def test_worker_killed(user, slicer_session, temporary):
    pair = make_pair(slicer_session.scene)
    before = running(user, pair)
    os.kill(user.panel.logic.runner.client.pid, signal.SIGKILL)
    user.wait_for_end()
    text = user.ui.runText.text
    assert text.endswith(".") and "Registered" not in text and len(text.split()) > 4, text
    assert contents(slicer.mrmlScene) == before
    assert left_over(temporary) == []
    assert slicer_session.messages.shown == []
    user.choose(user.ui.presetCombo, "Fast")
    user.register()
    assert user.ui.runText.text.startswith("Registered in"), user.ui.runText.text


@linux
def test_worker_out_of_memory(user, slicer_session, temporary):
    """The system grants the worker too little memory: said, and gone when there is more."""
    user.choose_pair(make_pair(slicer_session.scene))
    user.wait_for_answer()
    user.panel.logic.close()
    limits = user.panel.logic.runner.client._environment
    limits["DEEPREGISTRATION_MEMORY_LIMIT_MB"] = "900"
    before = contents(slicer.mrmlScene)
    user.register()
    assert "memory" in user.ui.runText.text and user.ui.runText.text.endswith(".")
    assert contents(slicer.mrmlScene) == before and left_over(temporary) == []
    del limits["DEEPREGISTRATION_MEMORY_LIMIT_MB"]
    user.panel.logic.close()
    user.register()
    assert user.ui.runText.text.startswith("Registered in"), user.ui.runText.text


def test_a_register_pressed_before_the_answer_is_not_lost(user, slicer_session):
    user.choose_pair(make_pair(slicer_session.scene))
    assert user.panel.environment.asking
    user.register()
    assert user.ui.runText.text.startswith("Registered in"), user.ui.runText.text


def test_a_register_pressed_before_the_answer_can_be_cancelled(user, slicer_session):
    user.choose_pair(make_pair(slicer_session.scene))
    before = contents(slicer.mrmlScene)
    user.click(user.ui.registerButton)
    user.click(user.ui.registerButton)
    assert user.ui.registerButton.text == "Register" and user.ui.runText.text == "Cancelled."
    user.wait_for_answer()
    assert not user.panel.logic.isRunning() and contents(slicer.mrmlScene) == before


@pytest.fixture
def without_torch(monkeypatch, tmp_path):
    """A worker that finds a torch which cannot be imported, as on a machine that has none."""
    folder = tmp_path / "no-torch" / "torch"
    folder.mkdir(parents=True)
    broken = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    (folder / "__init__.py").write_text(broken)
    monkeypatch.setenv("PYTHONPATH", str(folder.parent), prepend=os.pathsep)
    return folder


def test_without_torch(without_torch, panel, qtbot, slicer_session):
    user, ui = User(panel, qtbot), panel.ui
    user.wait_for_answer()
    assert "PyTorch is not installed" in ui.environmentText.text
    assert not ui.environmentButton.collapsed
    assert not ui.installButton.isHidden() and not ui.offlineText.isHidden()
    assert "--no-index" in ui.offlineText.text
    user.choose_pair(make_pair(slicer_session.scene))
    assert not ui.registerButton.enabled and "PyTorch is not installed" in ui.registerButton.toolTip
    assert "Diffeomorphic" in [
        ui.representationCombo.itemText(k) for k in range(ui.representationCombo.count)
    ]
    assert ui.methodText.text
    assert slicer_session.messages.shown == []  # nothing is asked before somebody asks for it

    # asked, and declined
    slicer_session.set_torch(installed=False)
    from PySide6.QtWidgets import QMessageBox

    slicer_session.messages.answers.append(QMessageBox.No)
    user.click(ui.installButton)
    assert len(slicer_session.messages.shown) == 1 and "Install it now?" in slicer_session.messages.texts[0]
    assert slicer_session.torch.requests == []
    user.wait_for_answer()
    assert "not installed" in ui.environmentText.text

    # asked, and installed: the torch that cannot be imported goes away
    def install(**_options):
        import types

        (without_torch / "__init__.py").unlink()
        without_torch.rmdir()
        return types.SimpleNamespace(__version__="2.13.0")

    slicer_session.set_torch(install=install)
    user.click(ui.installButton)
    user.wait_for_answer()
    assert len(slicer_session.torch.requests) == 1
    assert slicer_session.torch.requests[0]["torchVersionRequirement"]
    assert "is installed" in ui.environmentText.text and ui.installButton.isHidden()
    assert ui.registerButton.enabled, ui.registerButton.toolTip


def test_without_the_pytorch_extension(without_torch, panel, qtbot, slicer_session):
    user, ui = User(panel, qtbot), panel.ui
    user.wait_for_answer()
    slicer_session.set_torch(extension=False)
    user.click(ui.installButton)
    user.wait_for_answer()
    assert "Extensions Manager" in ui.environmentText.text


def test_a_worker_that_cannot_be_started(monkeypatch, panel, qtbot, slicer_session):
    user, ui = User(panel, qtbot), panel.ui
    user.wait_for_answer()
    user.choose_pair(make_pair(slicer_session.scene))
    user.panel.logic.close()
    monkeypatch.setattr(user.panel.logic.runner.client, "_python", "/nowhere/python", raising=False)
    before = contents(slicer.mrmlScene)
    user.click(ui.registerButton)
    user.wait_for_end()
    assert ui.runText.text.startswith("The worker could not be started")
    assert contents(slicer.mrmlScene) == before


def waiting_cursor() -> bool:
    from PySide6.QtCore import Qt
    from PySide6.QtWidgets import QApplication

    cursor = QApplication.overrideCursor()
    return cursor is not None and cursor.shape() == Qt.WaitCursor


def test_an_installation_is_asked_for_and_done_once(without_torch, panel, qtbot, slicer_session):
    """The question comes before the wait cursor, and a click while pip writes its lines is none."""
    user, ui = User(panel, qtbot), panel.ui
    user.wait_for_answer()
    user.choose_pair(make_pair(slicer_session.scene))
    seen: list[tuple[bool, ...]] = []

    def install(**_options):
        seen.append((waiting_cursor(), ui.installButton.enabled, ui.checkButton.enabled))
        ui.installButton.click()
        user.panel.environment._install()  # a click that had been on its way already
        slicer.app.processEvents()
        assert "being installed" in ui.registerButton.toolTip and "being installed" in ui.environmentText.text

    slicer_session.set_torch(installed=False, install=install)
    user.click(ui.installButton)
    assert seen == [(True, False, False)] and not waiting_cursor()
    assert len(slicer_session.torch.requests) == 1 and len(slicer_session.messages.shown) == 1
    user.wait_for_answer()
    assert ui.installButton.enabled and ui.checkButton.enabled
    assert "PyTorch was not installed." in ui.environmentText.text


def test_an_installation_that_fails_leaves_the_button(without_torch, panel, qtbot, slicer_session):
    user, ui = User(panel, qtbot), panel.ui
    user.wait_for_answer()

    def install(**_options):
        raise OSError("no space left on device")

    slicer_session.set_torch(installed=False, install=install)
    user.click(ui.installButton)
    user.wait_for_answer()
    assert "no space left on device" in ui.environmentText.text
    assert ui.installButton.enabled and not waiting_cursor()


def test_an_unexpected_failure_at_the_start_is_told_and_over(panel, qtbot, slicer_session, monkeypatch):
    """Slicer's `tryWithErrorDisplay` raises again after its message: what follows it is not reached."""
    user, ui = User(panel, qtbot), panel.ui
    user.choose_pair(make_pair(slicer_session.scene))
    user.wait_for_answer()
    before = contents(slicer.mrmlScene)

    def fail(*_arguments, **_options):
        raise ValueError("something odd")

    for button, name in ((ui.registerButton, "registerFromParameters"), (ui.refineButton, "refine")):
        monkeypatch.setattr(user.panel.logic, name, fail)
        monkeypatch.setattr(user.panel.refine, "_reason", lambda: None)
        button.setEnabled(True)
        with qtbot.captureExceptions() as caught:
            button.click()
        assert [str(error) for _, error, _ in caught] == ["something odd"]
        assert ui.runText.text == "The registration could not be started."
        assert user.panel.run.task is None
        qtbot.waitUntil(lambda: ui.progressBar.isHidden() and ui.registerButton.text == "Register")
        assert "something odd" in slicer_session.messages.texts[-1] and "something odd" in user.log()
    monkeypatch.undo()
    assert contents(slicer.mrmlScene) == before
    user.register()
    assert ui.runText.text.startswith("Registered in"), ui.runText.text


def test_an_unexpected_failure_of_apply_to_others_is_told(panel, qtbot, slicer_session, monkeypatch):
    from PySide6.QtCore import Qt

    user, ui = User(panel, qtbot), panel.ui
    pair = make_pair(slicer_session.scene)
    user.choose_pair(pair)
    user.wait_for_answer()
    user.register()
    ui.othersButton.collapsed = False
    ui.othersList.item(0).setCheckState(Qt.Checked)

    def fail(*_arguments, **_options):
        raise ValueError("something odd")

    monkeypatch.setattr(user.panel.logic, "applyToOthers", fail)
    with qtbot.captureExceptions() as caught:
        ui.othersApplyButton.click()
    assert [str(error) for _, error, _ in caught] == ["something odd"]
    assert "something odd" in slicer_session.messages.texts[-1] and not waiting_cursor()
    assert ui.othersText.text == "Nothing was carried along."
    assert ui.othersList.item(0).checkState() == Qt.Checked  # as chosen, to try again


def test_a_jacobian_that_cannot_be_made_is_not_ticked(panel, qtbot, slicer_session, monkeypatch):
    user, ui = User(panel, qtbot), panel.ui
    user.choose_pair(make_pair(slicer_session.scene))
    user.wait_for_answer()
    user.register()

    def fail(*_arguments, **_options):
        raise ValueError("something odd")

    monkeypatch.setattr(user.panel.logic, "jacobianVolume", fail)
    with qtbot.captureExceptions() as caught:
        ui.jacobianOverlayCheck.setChecked(True)
    assert [str(error) for _, error, _ in caught] == ["something odd"]
    assert not ui.jacobianOverlayCheck.checked and not user.panel.parameters.jacobian_shown
    assert ui.compareCombo.enabled
