"""Choosing segmentations, masks and which of their segments count."""

from __future__ import annotations

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import numpy as np
from DeepRegistrationScene.choices import choices_from
from DeepRegistrationScene.requests import build_request
from panel_support import FIXED, MOVING, User, make_pair
from PySide6.QtCore import Qt
from scene_support import points_of, segmentation_node, volume_node

CENTRES = {"liver": (-9, 6, 4), "spleen": (11, -7, -5), "tumour": (5, 12, -9), "alone": (0, 0, 0)}


@pytest.fixture
def chosen(panel, qtbot, slicer_session):
    """A user who has chosen a pair."""
    user = User(panel, qtbot)
    user.choose_pair(make_pair(slicer_session.scene))
    user.wait_for_answer()
    return user


def balls(points, *names):
    return {name: np.linalg.norm(points - np.array(CENTRES[name]), axis=-1) < 7 for name in names}


def segmentations(scene):
    fixed = segmentation_node(scene, FIXED, balls(points_of(FIXED), "liver", "spleen", "tumour"))
    places = points_of(MOVING) - (2.5, -3, 2)
    return fixed, segmentation_node(scene, MOVING, balls(places, "spleen", "liver", "alone", "tumour"))


def listed(widget):
    return [widget.item(row).text() for row in range(widget.count)]


def names_of(node, ids):
    return [node.GetSegmentation().GetSegment(i).GetName() for i in ids]


def test_choosing_segments(chosen, slicer_session):
    ui, p = chosen.ui, chosen.panel.parameters
    fixed, moving = segmentations(slicer_session.scene)
    ui.fixedSegmentationSelector.setCurrentNode(fixed)
    assert not ui.registerButton.enabled and "moving segmentation" in ui.registerButton.toolTip
    ui.movingSegmentationSelector.setCurrentNode(moving)
    assert ui.registerButton.enabled
    choices = ui.segmentList
    assert listed(choices) == ["liver", "spleen", "tumour"]
    assert "alone" in ui.segmentText.text and p.fixed_segments == ()
    choices.item(1).setCheckState(Qt.Unchecked)
    assert names_of(fixed, p.fixed_segments) == names_of(moving, p.moving_segments) == ["liver", "tumour"]
    choices.item(0).setCheckState(Qt.Unchecked)
    choices.item(2).setCheckState(Qt.Unchecked)
    assert choices.item(2).checkState() == Qt.Checked  # one has to stay
    choices.item(0).setCheckState(Qt.Checked)
    choices.item(1).setCheckState(Qt.Checked)
    assert p.fixed_segments == ()
    choices.item(1).setCheckState(Qt.Unchecked)
    ui.movingSegmentationSelector.setCurrentNode(None)
    assert p.fixed_segments == () and choices.isHidden()


def test_choosing_what_a_mask_is_made_of(chosen, slicer_session):
    """What is ticked is what the worker is sent."""
    ui, p = chosen.ui, chosen.panel.parameters
    fixed, moving = segmentations(slicer_session.scene)
    assert ui.fixedMaskSegmentList.isHidden()
    ui.fixedMaskSelector.setCurrentNode(fixed)
    ui.movingMaskSelector.setCurrentNode(moving)
    assert listed(ui.fixedMaskSegmentList) == ["liver", "spleen", "tumour"]
    assert listed(ui.movingMaskSegmentList) == ["spleen", "liver", "alone", "tumour"]

    def masks():
        arrays = build_request(choices_from(p)).arrays
        return arrays["fixed_mask"], arrays["moving_mask"]

    every = balls(points_of(FIXED), "liver", "spleen", "tumour")
    assert np.array_equal(masks()[0], np.logical_or.reduce(list(every.values())))
    ui.fixedMaskSegmentList.item(1).setCheckState(Qt.Unchecked)
    for row in (0, 1, 3):
        ui.movingMaskSegmentList.item(row).setCheckState(Qt.Unchecked)
    assert names_of(fixed, p.fixed_mask_segments) == ["liver", "tumour"]
    assert names_of(moving, p.moving_mask_segments) == ["alone"]
    assert np.array_equal(masks()[0], every["liver"] | every["tumour"])
    assert np.array_equal(masks()[1], balls(points_of(MOVING) - (2.5, -3, 2), "alone")["alone"])
    ui.movingMaskSegmentList.item(2).setCheckState(Qt.Unchecked)
    assert ui.movingMaskSegmentList.item(2).checkState() == Qt.Checked  # one has to stay
    p.fixed_mask_segments = (p.fixed_mask_segments[1],)
    ticks = [ui.fixedMaskSegmentList.item(row).checkState() == Qt.Checked for row in range(3)]
    assert ticks == [False, False, True]
    ui.fixedMaskSelector.setCurrentNode(moving)
    assert p.fixed_mask_segments == () and p.moving_mask_segments != ()
    values = np.zeros(FIXED.shape, np.int16)
    values[5:20] = 1
    labels = volume_node(slicer_session.scene, values, FIXED, "LabelMap", "region")
    ui.fixedMaskSelector.setCurrentNode(labels)
    assert ui.fixedMaskSegmentList.isHidden() and ui.registerButton.enabled


def test_a_chosen_segment_that_is_gone(chosen, slicer_session):
    """It is not asked for any more; if no other was chosen, somebody has to choose again."""
    ui, p = chosen.ui, chosen.panel.parameters
    fixed, _moving = segmentations(slicer_session.scene)
    ui.fixedMaskSelector.setCurrentNode(fixed)
    ui.fixedMaskSegmentList.item(1).setCheckState(Qt.Unchecked)
    liver, tumour = p.fixed_mask_segments
    fixed.GetSegmentation().RemoveSegment(liver)
    chosen.widget.enter()
    assert listed(ui.fixedMaskSegmentList) == ["spleen", "tumour"] and ui.registerButton.enabled
    assert choices_from(p).mask_segments[0] == (tumour,)
    p.fixed_mask_segments = (liver,)
    assert not ui.registerButton.enabled and "None of the segments chosen" in ui.registerButton.toolTip
    ui.fixedMaskSegmentList.item(0).setCheckState(Qt.Checked)
    assert ui.registerButton.enabled and names_of(fixed, p.fixed_mask_segments) == ["spleen"]


def test_label_maps_as_structures(chosen, slicer_session):
    """Equal values are the same structure; there is nothing to tick."""
    ui, p = chosen.ui, chosen.panel.parameters
    for selector, where in ((ui.fixedSegmentationSelector, FIXED), (ui.movingSegmentationSelector, MOVING)):
        places = balls(points_of(where), "liver", "spleen")
        values = (places["liver"] + 2 * places["spleen"]).astype(np.int16)
        selector.setCurrentNode(volume_node(slicer_session.scene, values, where, "LabelMap", "labels"))
    assert ui.segmentList.isHidden() and "equal value" in ui.segmentText.text
    request = build_request(choices_from(p))
    assert set(np.unique(request.arrays["fixed_labels"])) == {0, 1, 2}
    chosen.register()
    assert ui.runText.text.startswith("Registered in"), ui.runText.text
    dice = chosen.panel.quality()["labels"]
    assert dice["after"]["dice_mean"] > dice["before"]["dice_mean"]
