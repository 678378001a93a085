"""Make the README's screenshots: the real panel on the embedded example, and real slice views of its result.

    QT_QPA_PLATFORM=offscreen python Testing/slicer/screenshots.py [--out Resources/Screenshots]

Needs the extra `slicer` and OpenGL without a display (see `harness/slice_view.py`). Writes
`panel_before.png`, `panel_running.png`, `panel_after.png` and `inspection.png`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "DeepRegistration")]

import numpy as np
import slicer
from harness.application import Session
from harness.fixtures import MODULE_FILE
from harness.grab import ensure_fonts, grab
from harness.slice_view import save_picture
from PySide6.QtWidgets import QApplication

WIDTH = 450
VIEW = 380
GAP = 6


def wait(condition: Any, seconds: float = 300.0) -> None:
    """Let the panel live until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the panel did not get there")
        QApplication.processEvents()
        time.sleep(0.01)


def show_panel(panel: Any, path: Path, sections: tuple[str, ...]) -> None:
    """A picture of the panel with these collapsible sections open and the others closed."""
    for name, widget in vars(panel.ui).items():
        if name.endswith("Button") and hasattr(widget, "collapsed"):
            widget.collapsed = name not in sections
    panel.parent.setFixedWidth(WIDTH)
    end = time.monotonic() + 0.5  # the overlap picture is made anew once the panel rests
    wait(lambda: time.monotonic() > end)
    grab(panel.parent, path, WIDTH)


def beside(*pictures: np.ndarray) -> np.ndarray:
    """Pictures of one height in a row on a dark ground."""
    gap = np.full((pictures[0].shape[0], GAP, 3), 40, np.uint8)
    row = [part for picture in pictures for part in (picture, gap)][:-1]
    return np.concatenate(row, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "Resources" / "Screenshots")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    application = QApplication.instance() or QApplication([])
    ensure_fonts()
    session = Session().start()
    try:
        make_pictures(session, out)
        print(session.close() or f"the pictures are in {out}")
    finally:
        session.stop()
        del application


def make_pictures(session: Session, out: Path) -> None:
    panel = session.open_panel(MODULE_FILE)
    from DeepRegistrationScene.sample_data import sample_pair

    nodes = sample_pair()
    ui = panel.ui
    ui.fixedSelector.setCurrentNode(nodes["fixed"])
    ui.movingSelector.setCurrentNode(nodes["moving"])
    wait(lambda: not panel.panel.environment.asking)
    show_panel(
        panel,
        out / "panel_before.png",
        ("volumesButton", "methodButton", "adviceButton", "environmentButton"),
    )
    ui.fixedLandmarksSelector.setCurrentNode(nodes["fixed_landmarks"])
    ui.movingLandmarksSelector.setCurrentNode(nodes["moving_landmarks"])
    ui.registerButton.click()
    wait(lambda: ui.progressBar.value > 35)
    show_panel(panel, out / "panel_running.png", ("methodButton", "promptsButton"))
    wait(lambda: ui.registerButton.text == "Register")
    show_panel(panel, out / "panel_after.png", ("resultButton",))
    inspect(panel, out / "inspection.png")


def inspect(panel: Any, path: Path) -> None:
    """Fixed and warped volume under the deformed grid, and the Jacobian: as the axial view shows them."""
    ui, view = panel.ui, slicer.app.layoutManager().sliceWidget("Red")._view
    ui.compareCombo.setCurrentIndex(ui.compareCombo.findText("Blend"))
    ui.gridCheck.setChecked(True)
    QApplication.processEvents()
    view.picture(VIEW, VIEW)  # the first one only tells the view how large it is
    blend = view.picture(VIEW, VIEW)
    ui.gridCheck.setChecked(False)
    ui.jacobianOverlayCheck.setChecked(True)
    QApplication.processEvents()
    save_picture(beside(blend, view.picture(VIEW, VIEW)), path)


if __name__ == "__main__":
    main()
