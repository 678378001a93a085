"""The way of a user through the panel: choose, register, look, move a landmark, refine."""

from __future__ import annotations

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import numpy as np
import SimpleITK as sitk
import slicer
from panel_support import LANDMARKS, User, make_pair, to_moving
from scene_support import RAS, shown


@pytest.fixture
def user(panel, qtbot):
    return User(panel, qtbot)


def mapped(node, points):
    """Points (N, 3) in LPS mm through a from-parent transform node, LPS mm."""
    transform = node.GetTransformFromParent()
    return np.array([transform.TransformPoint(RAS[:3, :3] @ p) for p in points]) @ RAS[:3, :3]


def test_register_then_refine(user, slicer_session, tmp_path):
    pair = make_pair(slicer_session.scene)
    ui, parameters = user.ui, user.panel.parameters
    assert not ui.registerButton.enabled
    user.choose_pair(pair)
    user.choose_landmarks(pair)
    assert ui.registerButton.enabled, ui.registerButton.toolTip
    assert "Choose" not in ui.registerButton.toolTip
    assert not ui.overlapPicture.pixmap.isNull()
    values, stages = [], set()
    ui.progressBar.valueChanged.connect(values.append)
    user.click(ui.registerButton)
    assert ui.registerButton.text == "Cancel"
    assert not ui.progressBar.isHidden()

    def ended():
        stages.add(ui.runText.text)
        return ui.registerButton.text == "Register"

    user.bot.waitUntil(ended, timeout=120_000)
    assert ui.runText.text.startswith("Registered in"), ui.runText.text
    assert ui.progressBar.isHidden()
    assert len(set(values)) > 5 and values == sorted(values)
    assert any("s left" in stage for stage in stages) or len(stages) > 4

    forward, inverse, warped = parameters.forward, parameters.inverse, parameters.warped
    assert forward.GetName() == "MR moving to fixed" and inverse.GetName() == "MR fixed to moving"
    roles = slicer.vtkMRMLTransformNode
    for node, (fixed, moving) in ((forward, (pair.fixed, pair.moving)), (inverse, (pair.moving, pair.fixed))):
        assert node.GetNodeReference(roles.GetFixedNodeReferenceRole()) is fixed
        assert node.GetNodeReference(roles.GetMovingNodeReferenceRole()) is moving
        assert node.GetTransformFromParentAs("vtkOrientedGridTransform", False, False) is not None

    # what the scene holds is what SimpleITK computes from the file
    path = tmp_path / "forward.h5"
    assert slicer.util.saveNode(forward, str(path))
    itk = sitk.ReadTransform(str(path))
    rng = np.random.default_rng(0)
    points = rng.uniform(-22, 22, (200, 3))
    by_itk = np.array([itk.TransformPoint(p) for p in points])
    assert np.abs(by_itk - mapped(forward, points)).max() < 1e-3
    back = mapped(inverse, by_itk)
    assert np.abs(back - points).max() < 1.0 and np.abs(back - points).mean() < 0.1
    assert np.linalg.norm(by_itk - to_moving(points), axis=1).mean() < 1.0
    images = [slicer.util.arrayFromVolume(n) for n in (pair.moving, warped)]
    assert np.isfinite(images[1]).all()
    pair.moving.SetAndObserveTransformNodeID(forward.GetID())
    from panel_support import FIXED, MOVING
    from scene_support import itk as itk_image

    expected = sitk.GetArrayFromImage(
        sitk.Resample(itk_image(images[0], MOVING), itk_image(images[1], FIXED), itk, sitk.sitkLinear, -1e9)
    )
    seen = shown(pair.moving, FIXED)
    inside = (expected > -1e8) & (seen > -1e8)
    assert inside.mean() > 0.3
    assert np.abs(expected - seen)[inside].max() < 0.5  # of 800
    assert np.abs(expected - images[1])[inside].max() < 0.5

    # one landmark is moved by 6 mm; the click on Refine brings its error down in the same nodes
    table = ui.landmarkTable
    ids = {n.GetID() for n in slicer.util.getNodesByClass("vtkMRMLNode")}
    before_points = mapped(forward, LANDMARKS)
    goal = to_moving(LANDMARKS[:1])[0] + (4.0, 4.0, 2.0)
    pair.moving_landmarks.SetNthControlPointPositionWorld(0, *(RAS[:3, :3] @ goal))
    off = np.linalg.norm(before_points[0] - goal)
    user.bot.waitUntil(lambda: float(table.item(0, 2).text().split()[0]) > 5, timeout=5000)
    assert abs(float(table.item(0, 2).text().split()[0]) - off) < 0.06
    user.click(ui.refineButton)
    assert ui.registerButton.text == "Cancel"
    assert not ui.refineButton.enabled
    user.wait_for_end()
    assert ui.runText.text.startswith("Refined in"), ui.runText.text
    assert parameters.forward is forward and parameters.inverse is inverse and parameters.warped is warped
    assert {n.GetID() for n in slicer.util.getNodesByClass("vtkMRMLNode")} == ids
    assert np.linalg.norm(mapped(forward, LANDMARKS[:1])[0] - goal) < off / 2
    assert float(table.item(0, 2).text().split()[0]) < off / 2
