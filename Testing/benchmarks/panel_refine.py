"""From the click on Refine to the updated transform node, in the real panel with a warm worker.

    QT_QPA_PLATFORM=offscreen python Testing/benchmarks/panel_refine.py [--size 80 96 112] [--times 10]

The pair is the embedded head with a known deformation. Each time another landmark of the moving volume is
moved by 6 mm and Refine is clicked. Printed are the seconds until the forward node holds another grid, and
the longest time the event loop stood still from the click until the panel shows the result. Needs the extra
`slicer`. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "Testing" / "slicer"), str(ROOT / "DeepRegistration")]

import numpy as np
from harness.application import Session
from harness.fixtures import MODULE_FILE
from harness.stall import stall_meter
from PySide6.QtCore import QEventLoop
from PySide6.QtWidgets import QApplication
from refine import problem
from scene_support import markups_node, volume_node

REST = 0.5
"""Seconds that the panel is left alone after a run, so that what it does then is measured too."""


def live(condition: Any, seconds: float = 600.0) -> None:
    """Let the panel live until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the panel did not get there")
        QApplication.processEvents(QEventLoop.AllEvents, 1)
        time.sleep(0.0005)


def rest() -> None:
    """Let the panel live for a while."""
    end = time.monotonic() + REST
    live(lambda: time.monotonic() > end)


def choose(panel: Any, scene: Any, size: tuple[int, ...], representation: str) -> float:
    """Put the pair into the scene and choose it; the longest gap on the way, ms."""
    from DeepRegistrationScene.requests import frame_from

    parameters, arrays = problem(size)
    landmarks = parameters["landmarks"]
    volumes = [
        volume_node(scene, arrays[side], frame_from(parameters["frames"][side]), name=side)
        for side in ("fixed", "moving")
    ]
    points = [
        markups_node(scene, np.array(landmarks[side]), landmarks["names"], f"on {side}")
        for side in ("fixed", "moving")
    ]
    p = panel.panel.parameters
    p.representation = representation
    with stall_meter() as meter:
        for name, node in zip(("fixed", "moving"), volumes, strict=True):
            getattr(panel.ui, f"{name}Selector").setCurrentNode(node)
            rest()
    for name, node in zip(("fixed", "moving"), points, strict=True):
        getattr(panel.ui, f"{name}LandmarksSelector").setCurrentNode(node)
    rest()
    return meter.longest_ms


def run(panel: Any) -> float:
    """Register once; the longest gap, ms."""
    with stall_meter() as meter:
        panel.ui.registerButton.click()
        live(lambda: panel.panel.run.task is None)
        rest()
    if panel.panel.parameters.forward is None:
        raise SystemExit(panel.ui.runText.text)
    return meter.longest_ms


def refine(panel: Any, k: int) -> tuple[float, float]:
    """Move landmark `k` and refine: seconds from click to grid, longest gap in ms."""
    p = panel.panel.parameters
    points = p.moving_landmarks
    index = k % points.GetNumberOfControlPoints()
    place = np.array(points.GetNthControlPointPositionWorld(index))
    place[k % 3] += 6.0
    points.SetNthControlPointPositionWorld(index, *place)
    rest()
    before = p.forward.GetTransformFromParent()
    with stall_meter() as meter:
        begin = time.perf_counter()
        panel.ui.refineButton.click()
        live(lambda: p.forward.GetTransformFromParent() is not before or panel.panel.run.task is None)
        seconds = time.perf_counter() - begin
        live(lambda: panel.panel.run.task is None)
        rest()
    if not panel.ui.runText.text.startswith("Refined in"):
        raise SystemExit(panel.ui.runText.text)
    return seconds, meter.longest_ms


def main() -> None:
    """Register once, refine often, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=3, default=[80, 96, 112], help="default: %(default)s")
    parser.add_argument("--representation", default="diffeomorphic", help="default: %(default)s")
    parser.add_argument("--times", type=int, default=10, help="default: %(default)s")
    arguments = parser.parse_args()
    application = QApplication.instance() or QApplication([])
    session = Session().start()
    try:
        panel = session.open_panel(MODULE_FILE)
        live(lambda: not panel.panel.environment.asking)
        chosen = choose(panel, session.scene, tuple(arguments.size), arguments.representation)
        registered = run(panel)
        rows = [refine(panel, k) for k in range(arguments.times)]
        print("| | median | least | most |")
        print("|---|---|---|---|")
        for label, column, digits in zip(
            ("seconds from click to updated grid", "longest gap of the event loop, ms"),
            zip(*rows, strict=True),
            (2, 0),
            strict=True,
        ):
            values = [f"{f(column):.{digits}f}" for f in (statistics.median, min, max)]
            print(f"| {label} | {' | '.join(values)} |")
        print(
            f"\nLongest gap while volumes are chosen {chosen:.0f} ms, while registering {registered:.0f} ms."
        )
        print(session.close() or "")
    finally:
        session.stop()
        del application


if __name__ == "__main__":
    main()
