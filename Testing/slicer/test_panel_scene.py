"""The panel and the scene: what is chosen is kept; scenes, nodes and the module come and go."""

from __future__ import annotations

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import numpy as np
import slicer
from panel_support import LANDMARKS, User, make_pair, to_moving
from scene_support import RAS


@pytest.fixture
def user(panel, qtbot):
    return User(panel, qtbot)


def by_name(name):
    return slicer.util.getNode(name)


def test_gui_and_parameters_follow_each_other(user):
    ui, p = user.ui, user.panel.parameters
    for combo, name, title, value in (
        (ui.methodCombo, "method", "GradICON", "gradicon"),
        (ui.representationCombo, "representation", "B-spline", "b-spline"),
        (ui.presetCombo, "preset", "Accurate", "accurate"),
        (ui.similarityCombo, "similarity", "MIND", "mind"),
        (ui.linearCombo, "linear", "Rigid", "rigid"),
        (ui.deviceCombo, "device", "Processor", "cpu"),
    ):
        before = getattr(p, name)
        user.choose(combo, title)
        assert getattr(p, name) == value
        setattr(p, name, before)
        assert combo.currentText != title
    for check, name in (
        (ui.inverseCheck, "want_inverse"),
        (ui.jacobianCheck, "want_jacobian"),
        (ui.featuresCheck, "want_features"),
        (ui.autoRefineCheck, "auto_refine"),
    ):
        before = getattr(p, name)
        user.click(check)
        assert getattr(p, name) is not before
        setattr(p, name, before)
        assert check.checked is before
    ui.outputSpacing.setValue(3.5)
    assert p.output_spacing == 3.5
    p.output_spacing = None
    assert ui.outputSpacing.value == 0 and ui.outputSpacing.text == "as the volumes"
    ui.weightsPath.setCurrentPath("/somewhere/w.pt")
    assert p.weights == "/somewhere/w.pt"
    p.weights = ""
    assert ui.weightsPath.currentPath == ""


SELECTORS = {
    "vtkMRMLScalarVolumeNode": ("fixed", "moving", "warped", "jacobian"),
    "vtkMRMLGridTransformNode": ("initial", "forward", "inverse"),
    "vtkMRMLMarkupsFiducialNode": ("fixed_landmarks", "moving_landmarks"),
    "vtkMRMLSegmentationNode": ("fixed_segmentation", "moving_segmentation", "fixed_mask", "moving_mask"),
    "vtkMRMLLabelMapVolumeNode": ("fixed_segmentation", "moving_segmentation", "fixed_mask", "moving_mask"),
}


def selector_of(ui, name):
    first, *rest = name.split("_")
    return getattr(ui, first + "".join(map(str.title, rest)) + "Selector")


@pytest.mark.parametrize("kind", SELECTORS)
def test_every_selector_offers_nodes_and_follows_its_parameter(user, slicer_session, kind):
    p = user.panel.parameters
    for name in SELECTORS[kind]:
        node = slicer_session.scene.AddNewNodeByClass(kind, f"for {name}")
        selector = selector_of(user.ui, name)
        assert selector.currentNode() is None, name
        selector.setCurrentNode(node)
        assert selector.currentNode() is node and getattr(p, name) is node, name
        setattr(p, name, None)
        assert selector.currentNode() is None, name
        setattr(p, name, node)
        assert selector.currentNode() is node, name


def test_no_selector_was_forgotten(user):
    known = {selector_of(user.ui, name).objectName for names in SELECTORS.values() for name in names}
    assert {n for n in vars(user.ui) if n.endswith("Selector")} == known


def test_a_removed_node_is_not_replaced_by_its_neighbour(user, slicer_session):
    pair = make_pair(slicer_session.scene)
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "neighbour")
    user.choose_pair(pair)
    slicer.mrmlScene.RemoveNode(pair.moving)
    user.bot.wait(50)
    assert user.panel.parameters.moving is None and user.ui.movingSelector.currentNode() is None
    assert not user.ui.registerButton.enabled and "moving" in user.ui.registerButton.toolTip
    slicer.mrmlScene.RemoveNode(other)
    assert user.panel.parameters.fixed is pair.fixed


def test_closing_the_scene(user, slicer_session):
    user.choose_pair(make_pair(slicer_session.scene))
    user.choose(user.ui.representationCombo, "Affine")
    slicer.mrmlScene.Clear()
    assert user.panel.parameters.fixed is None
    assert user.panel.parameters.representation == "diffeomorphic"
    assert user.ui.representationCombo.currentText == "Diffeomorphic"
    assert not user.ui.registerButton.enabled
    user.choose_pair(make_pair(slicer_session.scene))
    assert user.ui.registerButton.enabled


def test_closing_the_scene_while_a_registration_runs(user, slicer_session):
    user.choose_pair(make_pair(slicer_session.scene))
    user.click(user.ui.registerButton)
    user.bot.waitUntil(lambda: user.ui.progressBar.value > 20, timeout=120_000)
    slicer.mrmlScene.Clear()
    user.wait_for_end()
    user.bot.wait(200)
    assert slicer.util.getNodesByClass("vtkMRMLGridTransformNode") == []
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []
    assert user.ui.runText.text.endswith(".")
    user.choose_pair(make_pair(slicer_session.scene))
    user.register()
    assert user.ui.runText.text.startswith("Registered in"), user.ui.runText.text


def test_saved_cleared_loaded_and_refined(user, slicer_session, tmp_path):
    pair = make_pair(slicer_session.scene)
    ui = user.ui
    user.choose_pair(pair)
    user.choose_landmarks(pair)
    user.choose(ui.representationCombo, "Stationary velocity")
    user.panel.parameters.held_out = ("p2",)
    user.register()
    quality, verdict = user.panel.quality(), ui.verdictText.text
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    assert user.panel.parameters.forward is None and user.panel.quality() is None
    slicer.util.loadScene(path)
    p = user.panel.parameters
    assert p.fixed is by_name("CT") and p.moving is by_name("MR")
    assert p.forward is by_name("MR moving to fixed") and p.inverse is by_name("MR fixed to moving")
    assert p.representation == "stationary-velocity" and p.preset == "fast" and p.held_out == ("p2",)
    assert ui.representationCombo.currentText == "Stationary velocity"
    assert ui.fixedSelector.currentNode() is by_name("CT")
    assert user.panel.quality() == quality and ui.verdictText.text == verdict
    assert ui.qualityTable.rowCount > 8
    roles = slicer.vtkMRMLTransformNode
    assert p.forward.GetNodeReference(roles.GetMovingNodeReferenceRole()) is p.moving

    goal = to_moving(LANDMARKS[:1])[0] + (4.0, 4.0, 2.0)

    def off():
        there = p.forward.GetTransformFromParent().TransformPoint(RAS[:3, :3] @ LANDMARKS[0])
        return float(np.linalg.norm(RAS[:3, :3] @ there - goal))

    p.moving_landmarks.SetNthControlPointPositionWorld(0, *(RAS[:3, :3] @ goal))
    before, forward = off(), p.forward
    user.bot.waitUntil(lambda: ui.refineButton.enabled, timeout=10_000)
    user.click(ui.refineButton)
    user.wait_for_end()
    assert ui.runText.text.startswith("Refined in"), ui.runText.text
    assert p.forward is forward and off() < before / 2


def test_the_module_is_left_and_entered(user, slicer_session):
    user.choose_pair(make_pair(slicer_session.scene))
    user.widget.exit()
    slicer.mrmlScene.Clear()
    user.widget.enter()
    assert user.panel.parameters.fixed is None and user.ui.fixedSelector.currentNode() is None


def test_a_run_goes_on_while_another_module_is_shown(user, slicer_session):
    user.choose_pair(make_pair(slicer_session.scene))
    user.click(user.ui.registerButton)
    user.widget.exit()
    user.wait_for_end()
    assert user.panel.parameters.forward is not None


def test_closing_the_module_lets_go_of_the_scene(user, slicer_session):
    user.choose_pair(make_pair(slicer_session.scene))
    node = user.panel.parameters.node
    panel = user.panel
    user.widget.cleanup()
    assert len(panel.observers) == 0 and user.widget.Observations == []
    node.SetParameter("representation", '"affine"')
    slicer.mrmlScene.Clear()
    assert user.widget.panel is None


def test_reload(user, slicer_session):
    pair = make_pair(slicer_session.scene)
    user.choose_pair(pair)
    user.widget.cleanup()
    frame = slicer_session.module.createNewWidgetRepresentation()
    frame.enter()
    again = frame.self()
    assert again.panel.parameters.fixed is pair.fixed
    assert again.ui.fixedSelector.currentNode() is pair.fixed and again.ui.registerButton.enabled
    again.cleanup()
    frame.deleteLater()


def test_reload_asks_for_the_environment_again(user, slicer_session):
    """Slicer's Reload sets the new panel up, and does not enter it."""
    import sys

    pair = make_pair(slicer_session.scene)
    user.choose_pair(pair)
    user.wait_for_answer()
    kept = {name: module for name, module in sys.modules.items() if name.startswith("DeepRegistration")}
    try:
        user.widget.onReload()
        again = slicer.modules.DeepRegistrationWidget
        assert again is not user.widget and again.panel.parameters.fixed is pair.fixed
        assert again.panel.environment.asking
        user.bot.waitUntil(lambda: not again.panel.environment.asking, timeout=60_000)
        assert again.ui.registerButton.enabled, again.ui.registerButton.toolTip
        slicer.mrmlScene.Clear(False)
        assert again.ui.fixedSelector.currentNode() is None
    finally:
        sys.modules.update(kept)


def test_reload_of_a_panel_that_nobody_looks_at_starts_nothing(user, slicer_session):
    import sys

    user.wait_for_answer()
    user.widget.exit()
    kept = {name: module for name, module in sys.modules.items() if name.startswith("DeepRegistration")}
    try:
        user.widget.onReload()
        again = slicer.modules.DeepRegistrationWidget
        assert not again.panel.environment.asking and again.logic.runner.client.state == "off"
    finally:
        sys.modules.update(kept)
