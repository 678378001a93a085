"""The panel never asks for more width than there is: Slicer's module panel has no sideways scroll bar."""

from __future__ import annotations

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")


from DeepRegistrationLib.catalogue import METHODS
from panel_support import User, make_pair
from PySide6.QtCore import Qt
from PySide6.QtGui import QFont
from PySide6.QtWidgets import QApplication
from scene_support import linear_node, placement, volume_node
from worker_support import FIXED, picture

WIDEST = 450
"""Pixels, with letters of nine points."""

LONG = "sub-0123456789_ses-20260101T120000_acq-highresolution_rec-normalised_run-01_desc-preprocessed_T1w"


@pytest.fixture
def user(slicer_session, panel, qtbot):
    QApplication.setFont(QFont(QApplication.font().family(), 9))
    return User(panel, qtbot)


def open_all(user) -> None:
    """Every section, so that everything there is asks for its room."""
    for widget in vars(user.ui).values():
        if hasattr(widget, "collapsed"):
            widget.collapsed = False
    user.panel.update()
    QApplication.processEvents()


def assert_narrow(user, when: str) -> None:
    open_all(user)
    frame = user.widget.parent
    hints = {name: w.minimumSizeHint for name, w in vars(user.ui).items() if hasattr(w, "isHidden")}
    widths = [((hint() if callable(hint) else hint).width(), name) for name, hint in hints.items()]
    widest = sorted(widths, reverse=True)
    assert frame.layout().totalMinimumSize().width() <= WIDEST, (when, widest[:6])


def test_the_environments_answer_does_not_widen_it(user):
    assert_narrow(user, "before the answer")
    before = user.widget.parent.layout().totalMinimumSize().width()
    user.wait_for_answer()
    assert_narrow(user, "after the answer")
    for method in METHODS.values():
        user.choose(user.ui.methodCombo, method.title)
        assert_narrow(user, method.title)
        assert user.widget.parent.layout().totalMinimumSize().width() <= before
        assert "generated:" not in user.ui.methodText.text


def test_nor_does_a_result(user, slicer_session):
    pair = make_pair(slicer_session.scene)
    user.choose_pair(pair)
    user.choose_landmarks(pair)
    user.wait_for_answer()
    user.click(user.ui.registerButton)
    user.bot.waitUntil(lambda: "Deformable" in user.ui.runText.text, timeout=120_000)
    assert_narrow(user, "running")
    user.wait_for_end()
    user.bot.wait(100)
    assert_narrow(user, "registered")
    user.ui.jacobianOverlayCheck.setChecked(True)
    assert_narrow(user, "Jacobian")


def test_nor_do_long_names(user, slicer_session):
    """Of volumes, lists, landmarks and files; nothing in them says where a line may end."""
    scene = slicer_session.scene
    pair = make_pair(scene)
    for node in vars(pair).values():
        node.SetName(f"{node.GetName()}-{LONG}")
    for k in range(3):
        pair.fixed_landmarks.SetNthControlPointLabel(k, f"{k}{LONG}")
        pair.moving_landmarks.SetNthControlPointLabel(k, f"{k}{LONG}")
    volume_node(scene, picture(FIXED, True), FIXED, name=LONG)
    user.choose_pair(pair)
    user.choose_landmarks(pair)
    user.wait_for_answer()
    linear_node(scene, placement(0, (500, 0, 0)), pair.moving)  # a warning with both names
    user.bot.waitUntil(lambda: "do not overlap" in user.ui.volumesText.text, timeout=5000)
    user.ui.weightsPath.setCurrentPath(f"/{LONG}/{LONG}.pt")
    assert_narrow(user, "long names")
    user.ui.weightsPath.setCurrentPath("")
    open_all(user)
    user.click(user.ui.manyAllButton)
    user.click(user.ui.manyRegisterButton)
    user.wait_for_end()
    assert_narrow(user, "many of long names")
    user.register()
    user.bot.wait(100)
    assert_narrow(user, "registered, with long names")
    others = user.ui.othersList
    for row in range(others.count):
        others.item(row).setCheckState(Qt.Checked)
    user.click(user.ui.othersApplyButton)
    assert_narrow(user, "others")
