"""Pictures of slice views and widgets show what is there."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import slicer
import vtk
from harness.grab import grab
from harness.slice_view import save_picture
from harness.stall import stall_meter

GREEN = (0, 255, 0)


@pytest.fixture
def view(slicer_session):
    return slicer.app.layoutManager().sliceWidget("Red")._view


def ball(spacing: float = 1.0):
    """A bright ball of 12 mm radius in the middle of an 80 mm cube."""
    z, y, x = np.mgrid[:80, :80, :80] - 39.5
    array = 200.0 * (np.sqrt(x**2 + y**2 + z**2) < 12)
    return slicer.util.addVolumeFromArray(array, name="ball")


def constant_field(vector: tuple[float, float, float], box: float = 100.0):
    """A grid transform, from parent, of one displacement (mm, RAS) everywhere."""
    field = vtk.vtkImageData()
    field.SetDimensions(11, 11, 11)
    field.SetOrigin(-10, -10, -10)
    field.SetSpacing(*[box / 10] * 3)
    field.AllocateScalars(vtk.VTK_DOUBLE, 3)
    for component, value in enumerate(vector):
        field.GetPointData().GetScalars().FillComponent(component, value)
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(field)
    transform.SetInterpolationModeToLinear()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "field")
    node.SetAndObserveTransformFromParent(transform)
    return node


def centre(picture: np.ndarray) -> np.ndarray:
    """(across, down) of the middle of what is bright, in pixels."""
    rows, columns = np.nonzero(picture.max(axis=2) > 100)
    return np.array([columns.mean(), rows.mean()])


def test_a_field_of_five_millimetres_moves_the_picture_five_millimetres(slicer_session, view):
    volume = ball()
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    before = centre(view.picture(300, 260))
    node = constant_field((5.0, 3.0, 0.0))
    volume.SetAndObserveTransformNodeID(node.GetID())
    shift = centre(view.picture(300, 260, fit=False)) - before
    across, down = view.millimetres_per_pixel()
    # The field maps a point of the view to where its value is found, so the ball goes 5 mm to the patient's
    # left, which an axial view shows on its right, and 3 mm backwards, which it shows downwards.
    assert shift * [across, down] == pytest.approx([5.0, 3.0], abs=0.2)


def test_the_deformed_grid_is_drawn_over_the_picture(slicer_session, view, tmp_path):
    volume = ball()
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    plain = view.picture()
    node = constant_field((5.0, 0.0, 0.0))
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetVisualizationMode(slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID)
    display.SetVisibility(True)
    display.SetVisibility2D(True)
    drawn = view.picture()
    assert (drawn != plain).any(axis=2).mean() > 0.01
    display.SetVisibility(False)
    assert np.array_equal(view.picture(), plain)
    save_picture(drawn, tmp_path / "slice.png")
    assert (tmp_path / "slice.png").stat().st_size > 500


def test_landmarks_are_drawn(slicer_session, view):
    slicer.util.setSliceViewerLayers(background=ball(), fit=True)
    plain = view.picture()
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "points")
    points.CreateDefaultDisplayNodes()
    points.AddControlPoint(40.0, 40.0, view.logic.GetSliceOffset())
    assert (view.picture() != plain).any()


def letters(widget, tmp_path, text: str) -> float:
    import qt

    label = qt.QLabel(text)
    widget.addWidget(label)
    picture = grab(label, tmp_path / "label.png", width=200)
    return float((picture.max(axis=2) < 100).mean())


def test_letters_are_visible_in_a_grabbed_picture(slicer_session, qtbot, tmp_path):
    assert letters(qtbot, tmp_path, "Register") > 3 * letters(qtbot, tmp_path, "R") > 0
    assert (tmp_path / "label.png").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="fontconfig's")
def test_letters_are_visible_without_any_font_on_the_system(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "fonts.conf").write_text("<fontconfig></fontconfig>")
    script = (
        "from PySide6.QtWidgets import QApplication, QLabel\n"
        "app = QApplication([])\n"
        "from harness.grab import ensure_fonts, grab\n"
        "from harness.python_qt import enforce_rules\n"
        "enforce_rules()\n"
        "from harness import grab as module\n"
        "assert not module._draws_letters()\n"
        "assert (grab(QLabel('Register'), width=200).max(axis=2) < 100).sum() > 50\n"
    )
    environment = os.environ | {
        "FONTCONFIG_FILE": str(tmp_path / "fonts.conf"),
        "PYTHONPATH": os.path.dirname(__file__),
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_stall_meter_sees_a_stall(slicer_session, qtbot):
    import time

    import qt

    with stall_meter() as meter:
        qtbot.wait(100)
    calm = meter.longest_ms
    assert meter.beats > 10
    with stall_meter() as meter:
        qt.QTimer.singleShot(5, lambda: time.sleep(0.2))
        qtbot.wait(300)
    assert meter.longest_ms >= 200 > calm
