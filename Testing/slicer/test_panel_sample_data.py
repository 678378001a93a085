"""The example in Slicer's Sample Data module: one click, and it can be seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import slicer
from harness.fixtures import MODULE_FILE
from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QApplication
from scene_support import contents

SAMPLE = "DeepRegistrationHeads"


@pytest.fixture
def sample_data(slicer_session):
    slicer_session.load_module(MODULE_FILE)
    import SampleData

    return SampleData


def test_it_is_offered_once(sample_data, slicer_session):
    slicer.app.startupCompleted.emit()
    (source,) = sample_data.SampleDataLogic.sampleDataSourcesByCategory("DeepRegistration")
    assert source.sampleName == SAMPLE and Path(source.thumbnailFileName).is_file()


def test_without_the_module(slicer_session, monkeypatch):
    monkeypatch.setitem(sys.modules, "SampleData", None)
    slicer_session.load_module(MODULE_FILE)
    assert slicer_session.messages.shown == []


def test_every_slice_view_shows_it_at_once(sample_data, slicer_session):
    sample_data.press(SAMPLE)
    fixed = slicer.util.getNode("Head fixed")
    selection = slicer.app.applicationLogic().GetSelectionNode()
    assert selection.GetActiveVolumeID() == fixed.GetID()
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert len(composites) == 3
    assert {node.GetBackgroundVolumeID() for node in composites} == {fixed.GetID()}
    for name in ("Red", "Yellow", "Green"):
        view = slicer.app.layoutManager().sliceWidget(name)._view
        view.picture(120, 120)
        assert view.picture(120, 120).std() > 10, name


def test_meanwhile_the_window_lives_and_says_what_goes_on(sample_data, slicer_session):
    """Wait cursor, a line, events that draw; no second run by a second click."""
    seen: list[tuple[bool, str]] = []

    def look() -> None:
        cursor = QApplication.overrideCursor()
        waiting = cursor is not None and cursor.shape() == Qt.WaitCursor
        seen.append((waiting, slicer.util.mainWindow().statusBar().currentMessage()))
        if len(seen) == 1:
            sample_data.press(SAMPLE)

    timer = QTimer()
    timer.timeout.connect(look)
    timer.start(20)
    sample_data.press(SAMPLE)
    timer.stop()
    assert len(seen) > 5 and all(waiting for waiting, _text in seen)
    assert all("two heads" in text for _waiting, text in seen), seen[0]
    assert QApplication.overrideCursor() is None
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 2
    assert "in the scene" in slicer.util.mainWindow().statusBar().currentMessage()


def test_a_failure_is_told_once_it_is_over(sample_data, slicer_session, monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = contents(slicer_session.scene)
    sample_data.press(SAMPLE)
    assert slicer_session.messages.texts == [
        "The sample images are made with PyTorch, which is not installed yet."
    ]
    assert contents(slicer_session.scene) == before and QApplication.overrideCursor() is None
    assert "could not be made" in slicer.util.mainWindow().statusBar().currentMessage()


def test_from_the_console(sample_data, slicer_session):
    """Slicer's own `downloadSample` does not know sources that make their data; the module's logic does."""
    assert sample_data.SampleDataLogic().downloadSamples(SAMPLE) == []
    logic = slicer_session.module.python_classes.DeepRegistrationLogic()
    nodes = logic.sampleData()
    assert {name: node.GetName() for name, node in nodes.items() if "_" not in name} == {
        "fixed": "Head fixed",
        "moving": "Head moving",
    }
    logic.close()


def test_slicer_starts_without_simpleitk(tmp_path):
    """The module's file, as Slicer reads it at every start, brings none of the heavy libraries along."""
    script = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(MODULE_FILE.parent)]!r}
from harness.application import Session
from pathlib import Path
from PySide6.QtWidgets import QApplication
application = QApplication([])
session = Session().start()
already = set(sys.modules)
session.load_module(Path({str(MODULE_FILE)!r}))
print(sorted({{"SimpleITK", "torch", "scipy"}} & (set(sys.modules) - already)))
session.close()
session.stop()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().splitlines()[-1:] == ["[]"], done.stdout + done.stderr
