"""What the tests of the panel share: a small pair of volumes, and a user's hands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scene_support import frame, markups_node, points_of, volume_node

SHIFT = np.array([2.5, -3.0, 2.0])
"""LPS mm: how the moving points lie to the fixed ones at the middle of the pair."""

FIXED = frame((40, 44, 36), (2.0, 1.9, 2.2), (-40.0, -40.0, -38.0), (0.2, 1.0, 0.1), 8)
MOVING = frame((42, 40, 38), (2.0, 2.1, 2.1), (-39.0, -42.0, -40.0), (1.0, 0.1, 0.3), -6)


@dataclass(frozen=True)
class Pair:
    """Two volume nodes, and two point lists that agree with the truth but for what a test does to them."""

    fixed: Any
    moving: Any
    fixed_landmarks: Any
    moving_landmarks: Any


def to_moving(points: np.ndarray) -> np.ndarray:
    """The true map of fixed to moving points (..., 3), LPS mm: a shift that bends."""
    bend = 1.5 * np.sin(points[..., [1, 2, 0]] / 14)
    return points + SHIFT + bend


def _from_moving(points: np.ndarray) -> np.ndarray:
    result = points - SHIFT
    for _ in range(30):
        result = result + points - to_moving(result)
    return result


def _picture(points: np.ndarray) -> np.ndarray:
    """Intensities of the fixed world at points (..., 3): an ellipsoid with others inside."""
    result = np.zeros(points.shape[:-1])
    for centre, axes, value in (
        ((0, 0, 0), (28, 31, 27), 300),
        ((-9, 6, 4), (9, 11, 8), 350),
        ((11, -7, -5), (8, 7, 10), -180),
        ((5, 12, -9), (6, 5, 6), 400),
    ):
        distance = np.linalg.norm((points - np.array(centre)) / np.array(axes), axis=-1)
        result += value / (1 + np.exp(np.clip(9 * (distance - 1), -50, 50)))
    return result + 20 * np.sin(points[..., 0] / 5) * np.sin(points[..., 1] / 6)


LANDMARKS = np.array([[-9.0, 6, 4], [11, -7, -5], [5, 12, -9], [0, -20, 8], [-14, -8, -10]])


def make_pair(scene: Any) -> Pair:
    """Put the pair into a scene."""
    fixed = _picture(points_of(FIXED)).astype(np.float32)
    moving = _picture(_from_moving(points_of(MOVING))).astype(np.float32)
    names = tuple(f"p{k + 1}" for k in range(len(LANDMARKS)))
    return Pair(
        volume_node(scene, fixed, FIXED, name="CT"),
        volume_node(scene, moving, MOVING, name="MR"),
        markups_node(scene, LANDMARKS, names, "on CT"),
        markups_node(scene, to_moving(LANDMARKS), names, "on MR"),
    )


class User:
    """Somebody at the panel: chooses, clicks, waits, reads."""

    def __init__(self, widget: Any, qtbot: Any) -> None:
        self.widget, self.ui, self.panel, self.bot = widget, widget.ui, widget.panel, qtbot

    def click(self, button: Any) -> None:
        """With the mouse; a check box only hears of it on its box and its words."""
        from PySide6.QtCore import QPoint, Qt
        from PySide6.QtWidgets import QCheckBox

        place = QPoint(8, button.height // 2) if isinstance(button, QCheckBox) else QPoint()
        self.bot.mouseClick(button, Qt.LeftButton, pos=place)

    def choose(self, combo: Any, title: str) -> None:
        """An entry of a combo box, by what can be read."""
        index = combo.findText(title)
        assert index >= 0, (title, [combo.itemText(k) for k in range(combo.count)])
        combo.setCurrentIndex(index)

    def wait_for_answer(self) -> None:
        """Until it is known what the machine has."""
        self.bot.waitUntil(lambda: not self.panel.environment.asking, timeout=120_000)

    def wait_for_end(self) -> None:
        """Until nothing runs any more."""
        self.bot.waitUntil(lambda: self.ui.registerButton.text == "Register", timeout=120_000)

    def choose_pair(self, pair: Pair, fast: bool = True) -> None:
        self.ui.fixedSelector.setCurrentNode(pair.fixed)
        self.ui.movingSelector.setCurrentNode(pair.moving)
        if fast:
            self.choose(self.ui.presetCombo, "Fast")

    def choose_landmarks(self, pair: Pair) -> None:
        self.ui.fixedLandmarksSelector.setCurrentNode(pair.fixed_landmarks)
        self.ui.movingLandmarksSelector.setCurrentNode(pair.moving_landmarks)

    def register(self) -> None:
        """Press Register and wait for the end."""
        self.click(self.ui.registerButton)
        assert self.ui.registerButton.text == "Cancel", self.ui.runText.text
        self.wait_for_end()

    def log(self) -> str:
        return self.ui.logText.toPlainText()


def left_over(folder: Path) -> list[str]:
    """Files in a temporary folder that are not the harness's own."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return [str(path.relative_to(folder)) for path in files if "harness" not in str(path)]


def children_of(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(entry.parent.name))
    return found
