"""What a run will need of the memory, in words, and in the panel."""

from __future__ import annotations

import re

import numpy as np
import pytest
import slicer
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.memory import PROGRAM, Request
from DeepRegistrationScene.made import mark
from DeepRegistrationScene.memory_estimate import (
    in_words,
    many_request,
    memory_in_words,
    pair_request,
    results_size,
)
from DeepRegistrationScene.parameters import scene_parameters
from scene_support import frame, segmentation_node, volume_node
from worker_support import FIXED, MOVING, picture

CT = Request((512, 512, 400), (0.75, 0.75, 1.0), (512, 512, 400), (0.75, 0.75, 1.0))
HEAD = Request((200, 220, 190), (1.0,) * 3, (200, 220, 190), (1.0,) * 3)


@pytest.mark.parametrize(
    ("size", "text"),
    [(24e3, "24 kB"), (999.6e3, "1 MB"), (5.2e6, "5 MB"), (999.6e6, "1.0 GB"), (1.94e9, "1.9 GB")],
)
def test_sizes(size: float, text: str) -> None:
    assert in_words(size) == text


def test_enough() -> None:
    needed = HEAD.estimate().peak + PROGRAM
    text = memory_in_words(HEAD, 64_000_000_000, loaded=False)
    assert text == f"Needs about {needed / 1e9:.1f} GB of memory; 64.0 GB are free."
    assert memory_in_words(HEAD, None, loaded=False) == f"Needs about {needed / 1e9:.1f} GB of memory."


def test_coarser_where_there_is_less() -> None:
    """The spacing that is named is that of a grid which does fit."""
    for loaded in (False, True):
        free = int(0.8 * HEAD.estimate().peak) + (0 if loaded else PROGRAM)
        text = memory_in_words(HEAD, free, loaded)
        found = re.search(r"computed at ([\d.]+) mm instead of ([\d.]+) mm", text)
        assert found and found[2] == "1" and "less well" in text, text
        voxels = np.prod(HEAD.fixed_size) / float(found[1]) ** 3
        fits = Request(
            HEAD.fixed_size, HEAD.fixed_spacing, HEAD.moving_size, HEAD.moving_spacing, most_voxels=voxels
        )
        assert fits.estimate().peak < 0.8 * HEAD.estimate().peak
    # a process that is there already has taken its own share
    free = HEAD.estimate().peak * 1.2
    assert "computed at" not in memory_in_words(HEAD, free, True) and "computed at" in memory_in_words(
        HEAD, free, False
    )


def test_output_coarser_or_nothing() -> None:
    text = memory_in_words(CT, 4_000_000_000, loaded=True)
    assert re.search(r"transforms will be written at [\d.]+ mm\.$", text), text
    assert "only 0.1 GB are free" in memory_in_words(CT, 100_000_000, loaded=True)


@pytest.fixture
def parameters(scene):
    p = scene_parameters()
    p.fixed = volume_node(scene, picture(FIXED, False), FIXED, name="CT")
    p.moving = volume_node(scene, picture(MOVING, True), MOVING, name="MR")
    return p


def test_the_request_is_the_run(parameters, scene) -> None:
    p = parameters
    p.method, p.preset, p.representation, p.similarity = "gradicon", "accurate", "b-spline", "mind"
    p.output_spacing = 4.0
    request = pair_request(p)
    assert (request.fixed_size, request.moving_size) == (FIXED.size, MOVING.size)
    assert request.fixed_spacing == pytest.approx(FIXED.spacing)
    assert (request.method, request.preset) == ("gradicon", "accurate")
    assert (request.representation, request.similarity) == ("b-spline", "mind")
    assert request.output_spacing == 4.0 and request.labels == request.masks == 0

    def ball(where, *names: str):
        return segmentation_node(scene, where, dict.fromkeys(names, np.ones(where.shape, bool)))

    p.fixed_segmentation, p.moving_segmentation = ball(FIXED, "a", "b", "c"), ball(MOVING, "b", "c", "d")
    p.fixed_mask = p.fixed_segmentation
    assert (pair_request(p).labels, pair_request(p).masks) == (2, 1)
    p.moving_segmentation = ball(MOVING, "x", "y")
    assert pair_request(p).labels == 0  # no pair of one name: said where they are chosen
    labels = np.arange(np.prod(FIXED.shape)).reshape(FIXED.shape).astype(np.int16) % 7
    for side, where in (("fixed", FIXED), ("moving", MOVING)):
        values = labels if side == "fixed" else np.ones(where.shape, np.int16)
        setattr(p, f"{side}_segmentation", volume_node(scene, values, where, "LabelMap"))
    assert pair_request(p).labels == 6
    p.moving = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    with pytest.raises(InputError, match="no voxels"):
        pair_request(p)


def test_of_many_the_largest(parameters, scene) -> None:
    p = parameters
    with pytest.raises(InputError, match="at least one"):
        many_request(p)
    large = frame((60, 50, 40), (1.0, 1.0, 1.0), (0, 0, 0), (0, 0, 1), 0)
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    p.many_moving = [p.moving, volume_node(scene, np.zeros(large.shape, np.float32), large), empty]
    request, results = many_request(p)
    assert request.moving_size == large.size
    # forward and warped on the fixed voxels, inverse on the moving ones
    fixed, moving, other = (int(np.prod(where.size)) for where in (FIXED, MOVING, large))
    assert results == 2 * (24 + 4) * fixed + 24 * (moving + other)
    p.want_inverse = False
    made = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "made")
    mark(made, "forward", p.fixed, p.moving)
    assert many_request(p)[1] == (24 + 4) * fixed
    p.representation = "affine"
    assert many_request(p)[1] == 4 * fixed
    p.many_moving = [empty]
    with pytest.raises(InputError, match="no voxels"):
        many_request(p)


def test_results_that_find_no_room() -> None:
    everything = ("forward", "inverse", "warped", "jacobian", "table")
    size = results_size(HEAD, everything)
    assert size == (24 + 24 + 4 + 4) * int(np.prod(HEAD.fixed_size))
    assert "and 468 MB for the results in the scene; 9.0 GB" in memory_in_words(
        HEAD, 9_000_000_000, True, size
    )
    assert "do not fit" not in memory_in_words(HEAD, 9_000_000_000, True, size)
    assert "do not fit" in memory_in_words(HEAD, 9_000_000_000, True, 20 * size)


def test_in_the_panel(monkeypatch, slicer_session, request) -> None:
    """Follows the choices; gone while something runs."""
    pytest.importorskip("PySide6")
    pytest.importorskip("pytestqt")
    from DeepRegistrationPanel import memory
    from panel_support import User, make_pair

    user = User(request.getfixturevalue("panel"), request.getfixturevalue("qtbot"))
    ui = user.ui
    user.wait_for_answer()
    assert ui.memoryText.isHidden()
    user.choose_pair(make_pair(slicer_session.scene), fast=False)
    assert not ui.memoryText.isHidden()

    def needs() -> float:
        number, unit = re.match(r"Needs about ([\d.]+) (\w+) of memory; ", ui.memoryText.text).groups()
        return float(number) * {"MB": 1e6, "GB": 1e9}[unit]

    p = user.panel.parameters
    assert needs() == pytest.approx(pair_request(p).estimate().peak + PROGRAM, abs=6e5)
    before = needs()
    user.choose(ui.representationCombo, "Geodesic")
    assert needs() > before
    user.choose(ui.representationCombo, "Rigid")
    assert needs() < before
    user.choose(ui.representationCombo, "Diffeomorphic")
    monkeypatch.setattr(memory, "available_memory", lambda: int(0.7 * pair_request(p).estimate().peak))
    user.choose(ui.presetCombo, "Fast")
    assert "are free. As that is too much, the deformation will be computed at" in ui.memoryText.text
    monkeypatch.setattr(memory, "available_memory", lambda: 10_000_000)
    ui.outputSpacing.setValue(5)
    assert "Use a larger output spacing" in ui.memoryText.text and ui.registerButton.enabled
    monkeypatch.undo()
    user.click(ui.registerButton)
    assert ui.memoryText.isHidden()
    user.wait_for_end()
    user.bot.waitUntil(lambda: not ui.memoryText.isHidden(), timeout=5000)
    ui.movingSelector.setCurrentNode(None)
    assert ui.memoryText.isHidden() and slicer.mrmlScene is not None
