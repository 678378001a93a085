"""Whether the panel's process keeps anything: load two volumes, choose, register, close, many times.

    QT_QPA_PLATFORM=offscreen python Testing/benchmarks/panel_memory.py [--rounds 50]

The pair is the embedded head (94 x 112 x 96 voxels, 2 mm), written once and loaded anew in each round, with
all sections of the panel open. Printed is the resident memory of the process (the application's, not the
worker's) after each round, and how far it moves after the third. Linux only. Needs the extra `slicer`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "Testing" / "slicer"), str(ROOT / "DeepRegistration")]

import slicer
from harness.application import Session
from harness.fixtures import MODULE_FILE
from panel_refine import live
from PySide6.QtWidgets import QApplication

_SETTLED = 3
"""Rounds after which the memory is to stay level."""
_REST = 0.3
"""Seconds that the panel is left alone after each step."""


def resident() -> float:
    """Memory of this process, MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def rest() -> None:
    """Let the panel live for a moment."""
    end = time.monotonic() + _REST
    live(lambda: time.monotonic() > end)


def write_pair(folder: Path) -> tuple[Path, Path]:
    """The embedded heads as files."""
    from DeepRegistrationLib.worker.process import python_executable
    from DeepRegistrationScene.sample_data import _make

    _make(folder, python_executable(), None)
    return folder / "fixed.nii.gz", folder / "moving.nii.gz"


def one_round(panel: Any, files: tuple[Path, Path]) -> None:
    """What a user does with a pair, from loading it to closing the scene."""
    ui = panel.ui
    fixed, moving = (slicer.util.loadVolume(str(file)) for file in files)
    ui.fixedSelector.setCurrentNode(fixed)
    ui.movingSelector.setCurrentNode(moving)
    ui.presetCombo.setCurrentIndex(ui.presetCombo.findText("Fast"))
    rest()
    ui.registerButton.click()
    live(lambda: panel.panel.run.task is None)
    rest()
    if not ui.runText.text.startswith("Registered in"):
        raise SystemExit(ui.runText.text)
    slicer.mrmlScene.Clear(False)
    rest()


def main() -> None:
    """Do the rounds and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50, help="default: %(default)s")
    rounds = parser.parse_args().rounds
    application = QApplication.instance() or QApplication([])
    session = Session().start()
    try:
        panel = session.open_panel(MODULE_FILE)
        for name, widget in vars(panel.ui).items():
            if name.endswith("Button") and hasattr(widget, "collapsed"):
                widget.collapsed = False
        live(lambda: not panel.panel.environment.asking)
        with tempfile.TemporaryDirectory() as folder:
            files = write_pair(Path(folder))
            found = [resident()]
            print("| round | resident MB |\n|---|---|")
            print(f"| (open) | {found[0]:.0f} |")
            for number in range(1, rounds + 1):
                one_round(panel, files)
                found.append(resident())
                print(f"| {number} | {found[-1]:.0f} |", flush=True)
        level = found[_SETTLED:]
        print(f"\nAfter round {_SETTLED}: {min(level):.0f} to {max(level):.0f} MB", end="")
        print(f", {max(level) - level[0]:+.0f} MB at most, {level[-1] - level[0]:+.0f} MB at the end.")
        print(session.close() or "")
    finally:
        session.stop()
        del application


if __name__ == "__main__":
    main()
