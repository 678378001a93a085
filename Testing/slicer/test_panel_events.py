"""What the panel does with turns of the wheel, with its size, and with the pixels of the screen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import slicer
from harness.fixtures import MODULE_FILE
from panel_support import User, make_pair
from PySide6.QtCore import QPoint, QPointF
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractSpinBox, QComboBox, QScrollArea, QSlider


@pytest.fixture
def user(panel, qtbot):
    return User(panel, qtbot)


def turn(area: QScrollArea, widget, notches: int) -> None:
    """Turn the wheel over the middle of a widget, as the window system tells it."""
    place = QPointF(widget.mapTo(area, widget.rect.center()))
    QTest.wheelEvent(area.windowHandle(), place, QPoint(0, 120 * notches))


def test_the_wheel_scrolls_and_changes_nothing(user, slicer_session):
    """Over whatever it happens to be, in focus or not."""
    pair = make_pair(slicer_session.scene)
    user.choose_pair(pair)
    ui = user.ui
    for widget in vars(ui).values():
        if hasattr(widget, "collapsed"):
            widget.collapsed = False
    frame = user.widget.parent
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setWidget(frame)
    area.resize(480, 400)
    area.show()
    user.bot.addWidget(area)
    user.bot.wait(50)
    ui.outputSpacing.setValue(3.5)
    kinds = (QComboBox, QAbstractSpinBox, QSlider)
    found = [w for w in slicer.util.findChildren(frame) if isinstance(w, kinds)]
    guarded = [w for w in found if w.enabled and w.visible]
    assert len(guarded) >= 20

    def state() -> list:
        return [w.currentIndex if isinstance(w, QComboBox) else w.value for w in guarded]

    before = state()
    for widget in guarded:
        for focus in (False, True):
            if focus:
                widget.setFocus()
            for notches in (-1, 1):
                area.ensureWidgetVisible(widget, 0, 150)
                user.bot.wait(1)
                bar = area.verticalScrollBar()
                there, end = bar.value, bar.maximum if notches < 0 else 0
                turn(area, widget, notches)
                assert there == end or (bar.value - there) * notches < 0, (widget.objectName, focus)
            assert state() == before, (widget.objectName, focus)
    area.takeWidget()


def test_the_picture_fits_again_once_the_panel_has_another_size(user, slicer_session):
    user.choose_pair(make_pair(slicer_session.scene))
    user.bot.wait(300)
    frame, label = user.widget.parent, user.ui.overlapPicture

    def width() -> float:
        return label.pixmap.width() / label.pixmap.devicePixelRatio()

    for wanted in (420, 700, 450):  # no narrower than the panel can be
        frame.resize(wanted, 900)
        room = min(432, max(280, wanted - 60))
        user.bot.waitUntil(lambda room=room: abs(width() - room) < 25, timeout=3000)
        assert width() <= max(280, user.ui.volumesButton.width)


def test_the_picture_is_made_for_the_pixels_of_the_screen():
    """As fine as letters are, and as large to look at as on any screen."""
    script = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(MODULE_FILE.parent)]!r}
from pathlib import Path
from PySide6.QtWidgets import QApplication
from harness.application import Session
from panel_support import make_pair
application = QApplication([])
session = Session().start()
panel = session.open_panel(Path({str(MODULE_FILE)!r}))
pair = make_pair(session.scene)
panel.ui.fixedSelector.setCurrentNode(pair.fixed)
panel.ui.movingSelector.setCurrentNode(pair.moving)
QApplication.processEvents()
pixmap = panel.ui.overlapPicture.pixmap
print("picture", pixmap.width(), pixmap.devicePixelRatio())
panel.logic.close()
session.close()
session.stop()
"""
    widths = {}
    for factor in (1, 2):
        environment = {**os.environ, "QT_SCALE_FACTOR": str(factor)}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        said = [line.split() for line in done.stdout.splitlines() if line.startswith("picture")]
        assert said, done.stderr
        widths[factor] = int(said[0][1])
        assert float(said[0][2]) == factor
    assert abs(widths[2] - 2 * widths[1]) <= 6 and widths[1] > 250
