"""What the worker is sent, and what is refused before anything is sent."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from DeepRegistrationLib.errors import InputError
from DeepRegistrationScene.choices import Choices, Outputs, check, choices_from, cold_refinement
from DeepRegistrationScene.parameters import scene_parameters
from DeepRegistrationScene.requests import build_refinement, build_request, frame_from
from DeepRegistrationScene.segments import read_labels
from DeepRegistrationScene.transform_nodes import transform_to_node
from DeepRegistrationScene.volumes import read_volume
from scene_support import (
    linear_node,
    markups_node,
    nodes,
    placement,
    points_of,
    segmentation_node,
    volume_node,
)
from worker_support import FIXED, MOVING, bend, described, picture

A = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])


def pair(scene) -> tuple:
    return (
        volume_node(scene, picture(FIXED, False), FIXED, name="CT"),
        volume_node(scene, picture(MOVING, True), MOVING, name="MR"),
    )


def halves(scene, where, names):
    x = points_of(where)[..., 0]
    return segmentation_node(scene, where, dict(zip(names, (x > 3, x < -3), strict=True)))


def test_everything_is_read_and_described(scene) -> None:
    fixed, moving = pair(scene)
    linear_node(scene, placement(14, (5, 6, 7)), moving)
    parts = halves(scene, FIXED, ("liver", "spleen")), halves(scene, MOVING, ("spleen", "liver"))
    points = markups_node(scene, A, ("a", "b", "c")), markups_node(scene, A + 1, ("c", "b", "x"))
    choices = Choices(
        fixed, moving, {"method": "dio", "preset": "fast"}, points, ("b",), parts,
        masks=(None, parts[0]), outputs=Outputs(jacobian=True, warped=False),
    )  # fmt: skip
    before = nodes(scene)
    request = build_request(choices)
    assert nodes(scene) == before
    assert set(request.arrays) == {"fixed", "moving", "fixed_labels", "moving_labels", "moving_mask"}
    sent = json.loads(json.dumps(request.parameters))
    assert sent["options"] == {"method": "dio", "preset": "fast", "features": False}
    assert sent["outputs"] == ["jacobian"]
    assert sent["landmarks"]["names"] == ["b", "c"] and sent["landmarks"]["held_out"] == [True, False]
    assert np.allclose(sent["landmarks"]["moving"], [A[1] + 1, A[0] + 1])
    assert len(request.warnings) == 2 and "x on the moving image" in request.warnings[1]
    for name, array in request.arrays.items():
        assert frame_from(sent["frames"][name]).shape == array.shape
    assert frame_from(sent["frames"]["fixed"]).same_lattice(FIXED)
    seen = read_volume(moving)  # under its parent
    assert not seen.frame.same_lattice(MOVING)
    for role in ("moving", "moving_labels", "moving_mask"):
        assert frame_from(sent["frames"][role]).same_lattice(seen.frame, 1e-9)
    assert request.label_names == {"1": "liver", "2": "spleen"}
    liver = parts[1].GetSegmentation().GetSegmentIdBySegmentName("liver")
    alone = read_labels(parts[1], moving, [liver]).array
    assert alone.any() and np.array_equal(request.arrays["moving_labels"] == 1, alone == 1)


def test_the_initial_transform(scene) -> None:
    fixed, moving = pair(scene)
    matrix = placement(8, (1, 2, 3))
    linear = transform_to_node(matrix, None, "start")
    sent = build_request(Choices(fixed, moving, initial=linear))
    assert np.allclose(sent.parameters["initial_matrix"], matrix) and "initial" not in sent.arrays
    grid = transform_to_node(bend(FIXED), FIXED, "grid")
    sent = build_request(Choices(fixed, moving, initial=grid))
    assert np.array_equal(sent.arrays["initial"], bend(FIXED)) and "initial_matrix" not in sent.parameters
    # a linear map in a grid is a linear start for a linear result
    transform_to_node(matrix, FIXED, "grid", node=grid)
    sent = build_request(Choices(fixed, moving, {"representation": "rigid"}, initial=grid))
    assert np.abs(np.array(sent.parameters["initial_matrix"]) - matrix).max() < 1e-3


def test_refinements_send_what_has_changed(scene) -> None:
    fixed, moving = pair(scene)
    parts = halves(scene, FIXED, ("a", "b")), halves(scene, MOVING, ("a", "b"))
    points = markups_node(scene, A, ("a", "b", "c")), markups_node(scene, A + 1, ("a", "b", "c"))
    choices = Choices(fixed, moving, {"linear": "affine"}, points, segmentations=parts)
    frames = {"fixed": FIXED, "moving": MOVING}
    request = build_refinement(choices, "s", frames, ())
    assert request.arrays == {} and request.parameters["without"] == []
    assert request.parameters["session"] == "s" and len(request.parameters["landmarks"]["names"]) == 3
    assert request.label_names == {"1": "a", "2": "b"}
    request = build_refinement(choices, "s", frames, ("labels", "masks"))
    assert set(request.arrays) == {"fixed_labels", "moving_labels"}
    assert request.parameters["without"] == ["masks"]
    gone = build_refinement(replace(choices, landmarks=None, segmentations=None), "s", frames, ("labels",))
    assert gone.parameters["landmarks"] is None and gone.parameters["without"] == ["labels"]
    grid = transform_to_node(bend(FIXED), FIXED, "forward")
    cold = cold_refinement(choices, grid)
    assert cold.initial is grid and cold.options["linear"] == "none" and choices.options["linear"] == "affine"


def test_what_the_parameter_node_says(scene) -> None:
    fixed, moving = pair(scene)
    parameters = scene_parameters()
    with pytest.raises(InputError, match="Choose a fixed volume"):
        check(choices_from(parameters))
    parameters.fixed = fixed
    with pytest.raises(InputError, match="Choose a moving volume"):
        check(choices_from(parameters))
    parameters.moving = moving
    given = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "given")
    with parameters.batch():
        parameters.representation, parameters.preset, parameters.weights = "b-spline", "fast", "w.pt"
        parameters.output_spacing, parameters.forward, parameters.want_inverse = 3.0, given, False
    choices = choices_from(parameters)
    check(choices)
    assert choices.options == {
        "method": "dio", "representation": "b-spline", "preset": "fast", "similarity": "auto",
        "linear": "affine", "device": "auto", "threads": None, "seed": 0, "weights": "w.pt",
        "output_spacing": 3.0,
    }  # fmt: skip
    assert choices.outputs == Outputs(given, False, True, False, True, False, False)
    assert choices.landmarks is None and choices.segmentations is None and choices.masks == (None, None)
    parameters.fixed_landmarks = markups_node(scene, A)
    with pytest.raises(InputError, match="one image only; choose the moving one"):
        choices_from(parameters)


def test_what_cannot_be_done_is_said(scene) -> None:
    fixed, moving = pair(scene)
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "table")
    linear = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "linear")
    points = markups_node(scene, A)
    slab = volume_node(scene, picture(FIXED, False)[:1], replace(FIXED, size=(28, 26, 1)), name="slab")
    none = Outputs(False, False, False, False, False)
    plain = Choices(fixed, moving)
    cases = [
        (replace(plain, moving=fixed), "are the same"),
        (replace(plain, moving=slab), "slab is a single slice"),
        (replace(plain, landmarks=(points, points)), "same point list"),
        (replace(plain, outputs=none), "at least one output"),
        (replace(plain, outputs=Outputs(warped=fixed)), "CT is an input"),
        (replace(plain, outputs=Outputs(warped=table)), "table; choose a volume"),
        (replace(plain, outputs=Outputs(table=linear)), "linear; choose a table"),
        (replace(plain, outputs=Outputs(forward=linear)), "cannot hold a deformation"),
        (replace(plain, outputs=Outputs(forward=table)), "choose a grid transform"),
        (replace(plain, landmarks=(points, markups_node(scene, A[:0]))), "None of the landmarks"),
    ]
    grid = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "grid")
    cases.append((replace(plain, outputs=Outputs(forward=grid, inverse=grid)), "chosen for two outputs"))
    before = nodes(scene)
    for choices, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            build_request(choices)
    assert nodes(scene) == before
    check(replace(plain, options={"representation": "affine"}, outputs=Outputs(forward=linear)))


def test_an_output_must_not_place_an_input(scene) -> None:
    fixed, moving = pair(scene)
    placed = linear_node(scene, placement(3, (1, 1, 1)), moving)
    options = {"representation": "rigid"}
    with pytest.raises(InputError, match="MR lies under placement"):
        check(Choices(fixed, moving, options, outputs=Outputs(forward=placed)))
    points = markups_node(scene, A, name="F"), markups_node(scene, A, name="M")
    moving.SetAndObserveTransformNodeID(None)
    points[1].SetAndObserveTransformNodeID(placed.GetID())
    with pytest.raises(InputError, match="M lies under placement"):
        check(Choices(fixed, moving, options, points, outputs=Outputs(inverse=placed)))


def test_the_own_result_of_an_earlier_run_may_show_the_inputs(scene) -> None:
    """The moving image and its landmarks, put under the result to be looked at, are read as before."""
    fixed, moving = pair(scene)
    points = markups_node(scene, A, name="F"), markups_node(scene, A, name="M")
    choices = Choices(fixed, moving, landmarks=points)
    untouched = build_request(choices)
    forward = transform_to_node(bend(FIXED), FIXED, "result", fixed=fixed, moving=moving)
    for node in (moving, points[1]):
        node.SetAndObserveTransformNodeID(forward.GetID())
    again = build_request(replace(choices, outputs=Outputs(forward=forward)))
    assert again.parameters == untouched.parameters
    assert again.parameters["frames"]["moving"] == described(read_frame(untouched))
    # the result for another pair is a transform as any other
    other = volume_node(scene, picture(FIXED, False), FIXED, name="other")
    with pytest.raises(InputError, match="MR lies under"):
        build_request(replace(choices, fixed=other, outputs=Outputs(forward=forward)))


def read_frame(request):
    return frame_from(request.parameters["frames"]["moving"])
