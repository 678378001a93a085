"""Each part of the panel says what it should, and every disabled button says why."""

from __future__ import annotations

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import numpy as np
import slicer
import vtk
from DeepRegistrationLib import catalogue
from DeepRegistrationScene.transform_nodes import transform_to_node
from panel_support import FIXED, LANDMARKS, MOVING, User, make_pair, to_moving
from PySide6.QtCore import Qt
from scene_support import RAS, linear_node, placement


@pytest.fixture
def user(panel, qtbot):
    return User(panel, qtbot)


@pytest.fixture
def chosen(user, slicer_session):
    """A user who has chosen a pair."""
    pair = make_pair(slicer_session.scene)
    user.choose_pair(pair)
    user.wait_for_answer()
    return user, pair


def test_first_sight(user):
    """Two volumes and a button: everything else is folded or has a default."""
    ui = user.ui
    folded = ("advice", "more", "prompts", "outputs", "log", "result", "environment", "others", "many")
    assert all(getattr(ui, f"{name}Button").collapsed for name in folded)
    assert not ui.volumesButton.collapsed and not ui.methodButton.collapsed
    assert user.widget.parent.layout().totalHeightForWidth(480) < 800


def test_disabled_buttons_say_why(chosen, slicer_session):
    user, pair = chosen
    ui = user.ui
    assert ui.registerButton.enabled
    for button, why in (
        (ui.refineButton, "Register first"),
        (ui.othersApplyButton, "Register first"),
        (ui.jumpLandmarkButton, "no landmark errors"),
        (ui.jumpFoldButton, "Register first"),
        (ui.gridCheck, "Register first"),
        (ui.jacobianOverlayCheck, "Register first"),
        (ui.compareCombo, "Register with a warped volume"),
        (ui.resultButton, "no result yet"),
    ):
        ui.othersButton.collapsed = False
        assert not button.enabled and why in button.toolTip, (button.name, button.toolTip)
    ui.fixedSelector.setCurrentNode(None)
    assert not ui.registerButton.enabled and "Choose a fixed volume" in ui.registerButton.toolTip
    ui.fixedSelector.setCurrentNode(pair.moving)
    assert not ui.registerButton.enabled and "same" in ui.registerButton.toolTip
    ui.fixedSelector.setCurrentNode(pair.fixed)
    for check in (ui.forwardCheck, ui.inverseCheck, ui.warpedCheck):
        user.click(check)
    user.panel.parameters.want_table = False
    assert not ui.registerButton.enabled and "output" in ui.registerButton.toolTip
    user.click(ui.forwardCheck)
    assert ui.registerButton.enabled
    ui.fixedLandmarksSelector.setCurrentNode(pair.fixed_landmarks)
    assert not ui.registerButton.enabled and "one image only" in ui.registerButton.toolTip
    ui.movingLandmarksSelector.setCurrentNode(pair.fixed_landmarks)
    assert not ui.registerButton.enabled and "one list" in ui.registerButton.toolTip
    ui.movingLandmarksSelector.setCurrentNode(pair.moving_landmarks)
    assert ui.registerButton.enabled
    ui.warpedSelector.setCurrentNode(pair.fixed)
    user.click(ui.warpedCheck)
    assert not ui.registerButton.enabled and "CT is an input" in ui.registerButton.toolTip
    ui.warpedSelector.setCurrentNode(None)
    for method in catalogue.METHODS.values():
        user.choose(ui.methodCombo, method.title)
        assert ui.registerButton.enabled
    user.choose(ui.methodCombo, "DIO")
    ui.weightsPath.setCurrentPath("/nowhere/w.pt")
    assert not ui.registerButton.enabled and "/nowhere/w.pt does not exist" in ui.registerButton.toolTip


def test_volumes_warn(chosen, slicer_session):
    user, pair = chosen
    ui = user.ui
    assert "% of the smaller volume" in ui.volumesText.text
    before = ui.overlapPicture.pixmap.toImage()
    away = linear_node(slicer_session.scene, placement(0, (500, 0, 0)), pair.moving)
    user.bot.waitUntil(lambda: "do not overlap" in ui.volumesText.text, timeout=5000)
    assert ui.overlapPicture.pixmap.toImage() != before
    slicer_session.scene.RemoveNode(away)
    user.bot.waitUntil(lambda: "do not overlap" not in ui.volumesText.text, timeout=5000)
    bend = slicer_session.scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "bend")
    grid = slicer.vtkOrientedGridTransform()
    field = vtk.vtkImageData()
    field.SetDimensions(3, 3, 3)
    field.AllocateScalars(vtk.VTK_DOUBLE, 3)
    field.GetPointData().GetScalars().Fill(1.0)
    grid.SetDisplacementGridData(field)
    bend.SetAndObserveTransformFromParent(grid)
    pair.moving.SetAndObserveTransformNodeID(bend.GetID())
    user.bot.waitUntil(lambda: "deformable transform" in ui.volumesText.text, timeout=5000)
    assert not ui.registerButton.enabled and ui.registerButton.toolTip in ui.volumesText.text
    pair.moving.SetAndObserveTransformNodeID(None)
    user.bot.waitUntil(lambda: ui.registerButton.enabled, timeout=5000)


def test_methods_explain_themselves(user):
    ui = user.ui
    for k, text in enumerate(catalogue.METHODS.values()):
        ui.methodCombo.setCurrentIndex(k)
        assert text.description in ui.methodText.text and text.guarantee in ui.methodText.text
        assert "rained weights" in ui.methodText.text and text.publication in ui.methodCombo.toolTip
    for k, text in enumerate(catalogue.REPRESENTATIONS.values()):
        ui.representationCombo.setCurrentIndex(k)
        assert ui.representationText.text == text.description
        assert ui.representationCombo.itemData(k, Qt.ToolTipRole) == text.description
    for k, text in enumerate(catalogue.SIMILARITIES.values()):
        ui.similarityCombo.setCurrentIndex(k)
        assert ui.similarityText.text == text.description


def test_landmark_table(chosen, slicer_session):
    user, pair = chosen
    ui, p = user.ui, user.panel.parameters
    ui.promptsButton.collapsed = False
    assert ui.landmarkTable.isHidden()
    user.choose_landmarks(pair)
    table = ui.landmarkTable
    assert not table.isHidden() and table.rowCount == len(LANDMARKS)
    distances = np.linalg.norm(to_moving(LANDMARKS) - LANDMARKS, axis=1)
    for row, distance in enumerate(distances):
        assert table.item(row, 0).text() == f"{row + 1}: p{row + 1}"
        assert table.item(row, 1).text() == f"{distance:.1f} mm" and table.item(row, 2).text() == ""
    table.item(2, 3).setCheckState(Qt.Checked)
    assert p.held_out == ("p3",)
    p.held_out = ("p1", "p3")
    assert [table.item(row, 3).checkState() == Qt.Checked for row in range(5)] == [
        True,
        False,
        True,
        False,
        False,
    ]
    table.item(0, 3).setCheckState(Qt.Unchecked)
    assert p.held_out == ("p3",)
    pair.moving_landmarks.AddControlPoint(0, 0, 0, "lonely")
    user.bot.waitUntil(
        lambda: "lonely (no partner) on the moving image" in ui.landmarkText.text, timeout=5000
    )
    pair.fixed_landmarks.AddControlPoint(0, 0, 0, "lonely")
    user.bot.waitUntil(lambda: table.rowCount == 6 and ui.landmarkText.text == "", timeout=5000)
    p.held_out = (*(f"p{k}" for k in range(1, 6)), "lonely")
    assert "nothing is fitted" in ui.landmarkText.text


def test_place_buttons(chosen, slicer_session):
    user, _pair = chosen
    ui, p = user.ui, user.panel.parameters
    logic = slicer.app.applicationLogic()
    interaction, selection = logic.GetInteractionNode(), logic.GetSelectionNode()
    user.click(ui.fixedPlaceButton)
    assert p.fixed_landmarks is not None and ui.fixedPlaceButton.checked
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    assert selection.GetActivePlaceNodeID() == p.fixed_landmarks.GetID()
    user.click(ui.movingPlaceButton)
    assert ui.movingPlaceButton.checked and not ui.fixedPlaceButton.checked
    assert selection.GetActivePlaceNodeID() == p.moving_landmarks.GetID()
    for node, place in ((p.fixed_landmarks, (1, 2, 3)), (p.moving_landmarks, (2, 2, 3))):
        node.AddControlPoint(vtk.vtkVector3d(*place))
        node.AddControlPoint(vtk.vtkVector3d(*place))
    user.bot.waitUntil(lambda: ui.landmarkTable.rowCount == 2, timeout=5000)
    assert [ui.landmarkTable.item(r, 0).text() for r in range(2)] == ["1: 1", "2: 2"]
    assert "order" not in ui.landmarkText.text
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)  # the right mouse button, or Escape
    user.bot.waitUntil(lambda: not ui.movingPlaceButton.checked, timeout=5000)
    user.click(ui.movingPlaceButton)
    user.click(ui.movingPlaceButton)
    assert interaction.GetCurrentInteractionMode() == interaction.ViewTransform


def test_outputs(chosen):
    user, _pair = chosen
    ui = user.ui
    voxels = np.prod(FIXED.size) + np.prod(MOVING.size)
    assert f"{24 * voxels / 1e6:.0f} MB" in ui.outputSizeText.text
    ui.outputSpacing.setValue(8.0)
    assert "kB" in ui.outputSizeText.text
    user.choose(ui.representationCombo, "Rigid")
    assert "matrices" in ui.outputSizeText.text
    user.choose(ui.representationCombo, "Diffeomorphic")
    ui.outputSpacing.setValue(0)
    assert not ui.jacobianSelector.enabled
    given = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "mine")
    ui.forwardSelector.setCurrentNode(given)
    user.click(ui.inverseCheck)
    user.click(ui.jacobianCheck)
    user.register()
    p = user.panel.parameters
    assert p.forward is given and p.inverse is None and p.jacobian is not None and p.warped is not None
    assert given.GetTransformFromParent() is not None and ui.jacobianSelector.currentNode() is p.jacobian


@pytest.fixture
def registered(chosen, slicer_session):
    """A user with a result."""
    user, pair = chosen
    user.choose_landmarks(pair)
    user.panel.parameters.held_out = ("p5",)
    user.register()
    assert user.ui.runText.text.startswith("Registered in"), user.ui.runText.text
    return user, pair


def test_result(registered):
    user, _pair = registered
    ui, quality = user.ui, user.panel.quality()
    assert not ui.resultButton.collapsed and ui.resultButton.enabled
    first, second = ui.verdictText.text.split("<br>")[:2]
    assert first.startswith("<b>") and not second.startswith("<b>")  # one plain verdict, then the reasons
    assert any(words in first for words in ("Good", "Look here", "Do not use it")), first
    assert "folding" in ui.verdictText.text
    rows = {
        ui.qualityTable.item(r, 0).text(): [ui.qualityTable.item(r, c).text() for c in (1, 2)]
        for r in range(ui.qualityTable.rowCount)
    }
    ncc = [f"{quality['similarity'][when]['ncc']:.3f}" for when in ("before", "after")]
    assert next(v for k, v in rows.items() if "NCC" in k) == ncc
    assert any("held out" in k.lower() or "not used" in k for k in rows) and any("Time" in k for k in rows)
    table = user.panel.parameters.table
    assert table.GetNumberOfRows() == ui.qualityTable.rowCount
    assert "Register" in ui.registerButton.text and "Deformable" in user.log()


def views():
    return slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")


def test_inspect(registered):
    user, pair = registered
    ui, p = user.ui, user.panel.parameters
    before = [(v.GetBackgroundVolumeID(), v.GetForegroundVolumeID()) for v in views()]
    user.choose(ui.compareCombo, "Blend")
    ui.compareSlider.value = 0.25
    for view in views():
        assert view.GetBackgroundVolumeID() == pair.fixed.GetID()
        assert view.GetForegroundVolumeID() == p.warped.GetID() and view.GetForegroundOpacity() == 0.25
    user.choose(ui.compareCombo, "Flicker")
    seen = set()

    def both():
        seen.add(views()[0].GetForegroundOpacity())
        return seen == {0.0, 1.0}

    user.bot.waitUntil(both, timeout=5000)
    user.widget.exit()
    still = views()[0].GetForegroundOpacity()
    user.bot.wait(1200)
    assert views()[0].GetForegroundOpacity() == still
    user.widget.enter()
    seen.clear()
    user.bot.waitUntil(both, timeout=5000)
    user.choose(ui.compareCombo, "Checkerboard")
    board = slicer.mrmlScene.GetNodeByID(views()[0].GetBackgroundVolumeID())
    assert board is not pair.fixed and board is not None
    first = slicer.util.arrayFromVolume(board).copy()
    ui.compareSlider.value = 4
    assert (slicer.util.arrayFromVolume(board) != first).any()
    user.click(ui.jacobianOverlayCheck)
    assert p.jacobian is not None and p.want_jacobian
    assert views()[0].GetForegroundVolumeID() == p.jacobian.GetID()
    assert not ui.compareCombo.enabled and "growth" in ui.compareCombo.toolTip
    assert not ui.jacobianText.isHidden() and "larger in the moving volume" in ui.jacobianText.text
    user.click(ui.jacobianOverlayCheck)
    assert ui.jacobianText.isHidden() and ui.compareAmountLabel.text == "Squares:"
    user.choose(ui.compareCombo, "Nothing")
    assert [(v.GetBackgroundVolumeID(), v.GetForegroundVolumeID()) for v in views()] == before
    user.click(ui.gridCheck)
    display = p.forward.GetDisplayNode()
    assert display.GetVisibility() and display.GetVisibility2D()
    user.click(ui.gridCheck)
    assert not display.GetVisibility()


def test_jumps(registered):
    user, _pair = registered
    ui, quality = user.ui, user.panel.quality()
    errors = {
        **quality["landmarks"]["fitted"]["after"]["each_mm"],
        **quality["landmarks"]["held_out"]["after"]["each_mm"],
    }
    worst = LANDMARKS[int(max(errors, key=errors.get)[1:]) - 1]
    user.click(ui.jumpLandmarkButton)
    for name in ("Red", "Yellow", "Green"):
        matrix = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode().GetSliceToRAS()
        centre = np.array([matrix.GetElement(k, 3) for k in range(3)])
        assert np.abs(centre - RAS[:3, :3] @ worst).max() < 1e-3
    folds = quality["regularity"]["folds_percent"]
    assert ui.jumpFoldButton.enabled == (folds > 0)
    if not folds:
        assert "no fold" in ui.jumpFoldButton.toolTip


def test_jump_to_a_fold(chosen):
    """Of a transform that was made elsewhere: its Jacobian is measured, shown among the outputs and used."""
    user, pair = chosen
    p = user.panel.parameters
    field = np.zeros((*FIXED.shape, 3))
    field[9, 12, 14] = 2.5 * np.asarray(FIXED.direction)[:, 0] * FIXED.spacing[0]  # past its neighbour
    p.forward = transform_to_node(field, FIXED, "folded", fixed=pair.fixed, moving=pair.moving)
    assert user.ui.jumpFoldButton.enabled, user.ui.jumpFoldButton.toolTip
    assert p.jacobian is None
    user.click(user.ui.jumpFoldButton)
    there = RAS[:3, :3] @ (FIXED.index_to_world @ [14, 12, 9, 1])[:3]
    for name in ("Red", "Yellow", "Green"):
        matrix = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode().GetSliceToRAS()
        centre = np.array([matrix.GetElement(k, 3) for k in range(3)])
        assert np.linalg.norm(centre - there) <= FIXED.spacing[0] + 1e-3
    assert p.jacobian is not None and p.jacobian.GetImageData().GetScalarRange()[0] < 0


def test_apply_to_others(registered, slicer_session):
    user, _pair = registered
    ui = user.ui
    model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "surface")
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(*(RAS[:3, :3] @ to_moving(LANDMARKS[:1])[0]))
    sphere.SetRadius(3)
    sphere.Update()
    model.SetAndObserveMesh(sphere.GetOutput())
    ui.othersButton.collapsed = False
    entries = {ui.othersList.item(r).text(): ui.othersList.item(r) for r in range(ui.othersList.count)}
    assert {"surface", "on MR", "on CT"} <= set(entries) and not {"CT", "MR"} & set(entries)
    assert not ui.othersApplyButton.enabled and "Tick" in ui.othersApplyButton.toolTip
    entries["surface"].setCheckState(Qt.Checked)
    user.click(ui.othersApplyButton)
    assert "surface on CT" in ui.othersText.text
    copy = slicer.util.getNode("surface on CT")
    bounds = np.zeros(6)
    copy.GetRASBounds(bounds)
    centre = (bounds[::2] + bounds[1::2]) / 2
    assert np.linalg.norm(centre - RAS[:3, :3] @ LANDMARKS[0]) < 1.5
    assert not ui.othersApplyButton.enabled


def test_refines_by_itself(registered):
    user, pair = registered
    ui, p = user.ui, user.panel.parameters
    user.click(ui.autoRefineCheck)
    user.bot.wait(800)
    assert ui.registerButton.text == "Register"  # nothing has moved
    goals = to_moving(LANDMARKS[:1])[0] + (4.0, 4.0, 2.0)
    for share in np.linspace(0.2, 1, 5):  # a drag
        place = to_moving(LANDMARKS[:1])[0] * (1 - share) + goals * share
        pair.moving_landmarks.SetNthControlPointPositionWorld(0, *(RAS[:3, :3] @ place))
        user.bot.wait(20)
    user.bot.waitUntil(lambda: user.panel.run.task == "refine", timeout=5000)
    further = goals + np.array([2.0, 0, 0])
    # while it runs, the point goes on: one more refinement follows, and no third
    pair.moving_landmarks.SetNthControlPointPositionWorld(0, *(RAS[:3, :3] @ further))
    user.bot.waitUntil(lambda: user.log().count("--- refine") == 2, timeout=60_000)
    user.wait_for_end()
    user.bot.wait(800)
    assert user.log().count("--- refine") == 2 and ui.registerButton.text == "Register"
    there = p.forward.GetTransformFromParent().TransformPoint(RAS[:3, :3] @ LANDMARKS[0])
    assert np.linalg.norm(RAS[:3, :3] @ there - further) < 4


def test_feature_images(chosen):
    user, _pair = chosen
    ui = user.ui
    user.click(ui.featuresCheck)
    user.register()
    assert ui.runText.text.startswith("Registered in"), ui.runText.text
    p = user.panel.parameters
    for node, like in ((p.fixed_features, p.fixed), (p.moving_features, p.moving)):
        assert node is not None and "features" in node.GetName()
        assert slicer.util.arrayFromVolume(node).std() > 0 and node.GetImageData() is not like.GetImageData()


def test_environment(user):
    user.wait_for_answer()
    ui = user.ui
    import torch

    assert torch.__version__ in ui.environmentText.text and "Runs on" in ui.environmentText.text
    assert ui.installButton.isHidden() and ui.checkButton.enabled
    user.click(ui.checkButton)
    assert "Looking" in ui.environmentText.text and not ui.checkButton.enabled
    user.wait_for_answer()
    assert torch.__version__ in ui.environmentText.text


def test_what_to_choose_is_said(user):
    """One recommendation for each kind of pair, in words that can be found in the boxes above."""
    ui = user.ui
    ui.adviceButton.collapsed = False
    text = ui.adviceText.text
    for case in ("One contrast", "Two contrasts", "Very different shapes", "Only seconds"):
        assert case in text
    for combo, titles in (
        (ui.methodCombo, ("DIO", "Classical")),
        (ui.presetCombo, ("Balanced", "Accurate", "Fast")),
        (ui.similarityCombo, ("Automatic",)),
        (ui.linearCombo, ("Affine",)),
    ):
        for title in titles:
            assert title in text and combo.findText(title) >= 0
