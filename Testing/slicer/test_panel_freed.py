"""What is removed from the scene is freed, however much the panel had to do with it."""

from __future__ import annotations

import gc

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import slicer
import vtk
from DeepRegistrationScene.changes import nodes_of_class, remove_node
from harness.freed import Watched
from panel_support import User, make_pair
from scene_support import volume_node
from worker_support import FIXED, picture


@pytest.fixture
def user(panel, qtbot):
    return User(panel, qtbot)


def everything(scene) -> Watched:
    """All the nodes that a user has brought in or got, and the images in them."""
    found = []
    for kind in ("Volume", "Markups", "Transform", "Table", "Segmentation"):
        for node in slicer.util.getNodesByClass(f"vtkMRML{kind}Node"):
            if node.GetHideFromEditors():
                continue
            found.append((node.GetName(), node))
            if kind == "Volume":
                found.append((f"voxels of {node.GetName()}", node.GetImageData()))
    return Watched(found)


def settle(user) -> None:
    """What was put off is done, and the views, which keep the voxels they showed, show something else."""
    user.bot.wait(700)
    scene = slicer.mrmlScene
    other = volume_node(scene, picture(FIXED, False), FIXED, name="shown instead")
    for shown in (other, None):
        slicer.util.setSliceViewerLayers(background=shown, foreground=shown, label=shown)
    scene.RemoveNode(other)
    user.bot.wait(200)


def used(user, scene) -> None:
    """A panel that has seen it all: chosen, listed, registered, compared, refined."""
    ui = user.ui
    pair = make_pair(scene)
    volume_node(scene, picture(FIXED, True), FIXED, name="another")
    ui.promptsButton.collapsed = False
    user.choose_pair(pair)
    user.choose_landmarks(pair)
    ui.manyButton.collapsed = False
    user.click(ui.manyAllButton)
    user.wait_for_answer()
    user.register()
    assert ui.runText.text.startswith("Registered in"), ui.runText.text
    ui.othersButton.collapsed = False
    for title in ("Checkerboard", "Flicker", "Blend"):
        user.choose(ui.compareCombo, title)
    ui.gridCheck.setChecked(True)
    ui.jacobianOverlayCheck.setChecked(True)
    user.click(ui.refineButton)
    user.wait_for_end()
    settle(user)


def test_a_closed_scene_is_freed(user, slicer_session):
    scene = slicer_session.scene
    used(user, scene)
    watched = everything(scene)
    assert len(watched.left()) > 10
    scene.Clear(False)
    settle(user)
    assert watched.left() == [], watched.left()


def test_results_are_freed_at_once(user, slicer_session):
    """Not only when Python comes round to looking for cycles, hundreds of megabytes later."""
    scene = slicer_session.scene
    user.choose_pair(make_pair(scene))
    user.wait_for_answer()
    gc.collect()
    gc.disable()
    try:
        user.register()
        settle(user)
        watched = everything(scene)
        assert len(watched.left(collect=False)) > 5
        scene.Clear(False)
        settle(user)
        assert watched.left(collect=False) == [], watched.left(collect=False)
    finally:
        gc.enable()


def test_a_closed_scene_is_freed_after_many_volumes(user, slicer_session):
    scene, ui = slicer_session.scene, user.ui
    used(user, scene)
    user.click(ui.manyRegisterButton)
    user.wait_for_end()
    settle(user)
    watched = everything(scene)
    scene.Clear(False)
    settle(user)
    assert watched.left() == [], watched.left()


def test_removed_nodes_are_freed(user, slicer_session):
    """Each by itself with its display, as Slicer's Data module does it; the display keeps voxels, too."""
    scene, ui = slicer_session.scene, user.ui
    used(user, scene)
    ui.jacobianOverlayCheck.setChecked(False)
    user.choose(ui.compareCombo, "Nothing")
    settle(user)
    watched = everything(scene)
    names = [node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLStorableNode")]
    for name in names:
        node = scene.GetNodeByID(name)
        if node is not None and not node.GetHideFromEditors():
            remove_node(scene, node)
        del node
    settle(user)
    assert watched.left() == [], watched.left()


def test_only_looking_at_a_volume_does_not_keep_it(user, slicer_session):
    """Chosen once, then another."""
    scene, ui = slicer_session.scene, user.ui
    nodes = [volume_node(scene, picture(FIXED, bent), FIXED, name=f"volume {bent}") for bent in (False, True)]
    watched = Watched([(node.GetName(), node) for node in nodes])
    ui.manyButton.collapsed = False
    for node in nodes:
        ui.fixedSelector.setCurrentNode(node)
        settle(user)
    for node in nodes:
        scene.RemoveNode(node)
    del node, nodes
    settle(user)
    assert watched.left() == [], watched.left()


def test_a_listed_node_is_not_kept(slicer_session):
    scene = slicer_session.scene
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", "numbers")
    watched = Watched([("numbers", node)])
    assert nodes_of_class(scene, "vtkMRMLTableNode") == [node]
    scene.RemoveNode(node)
    del node
    assert watched.left() == [], watched.left()


def test_a_kept_node_is_noticed():
    """The watch itself: an object that is held is left, and no longer once it is let go."""
    item = vtk.vtkImageData()
    watched = Watched([("image", item)])
    assert watched.left() == ["image"]
    del item
    assert watched.left() == [], watched.left()
