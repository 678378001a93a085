"""What a finished run leaves in the scene: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import slicer
from DeepRegistrationLib.errors import InputError, OutputError
from DeepRegistrationScene import results
from DeepRegistrationScene.changes import Changes
from DeepRegistrationScene.choices import Choices, Outputs
from DeepRegistrationScene.parameters import Parameters, scene_parameters
from DeepRegistrationScene.requests import Request, build_request
from DeepRegistrationScene.results import place, prepare, quality_from, settle_transforms, stored_quality
from DeepRegistrationScene.transform_nodes import read_displacement, read_matrix
from DeepRegistrationScene.volumes import read_volume
from scene_support import contents, nodes, placement, volume_node
from worker_support import FIXED, MOVING, answer, bend, picture

ALL = Outputs(jacobian=True, fixed_features=True, moving_features=True)


def request_for(scene, outputs: Outputs = ALL, **options: object) -> Request:
    fixed = scene.GetFirstNodeByName("CT") or volume_node(scene, picture(FIXED, False), FIXED, name="CT")
    moving = scene.GetFirstNodeByName("MR") or volume_node(scene, picture(MOVING, True), MOVING, name="MR")
    return build_request(Choices(fixed, moving, options, outputs=outputs))


def put(request: Request, event, parameters: Parameters | None = None):
    steps = prepare(request, event.result, event.arrays)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return place(end.value, parameters)


def test_everything_that_was_asked_for(scene) -> None:
    request, event = request_for(scene), answer(features=True)
    done = put(request, event)
    assert {name: node.GetName() for name, node in done.nodes().items()} == {
        "forward": "MR moving to fixed",
        "inverse": "MR fixed to moving",
        "warped": "MR registered",
        "jacobian": "MR Jacobian",
        "table": "MR quality",
        "fixed_features": "MR fixed features",
        "moving_features": "MR moving features",
    }
    assert np.array_equal(read_displacement(done.forward, FIXED), bend(FIXED))
    assert np.array_equal(read_displacement(done.inverse, MOVING), bend(MOVING, -1))
    assert np.array_equal(read_volume(done.warped).array, event.arrays["warped"])
    assert read_volume(done.jacobian).frame.same_lattice(FIXED)
    assert done.moving_features.GetImageData().GetNumberOfScalarComponents() == 3
    roles = slicer.vtkMRMLTransformNode
    fixed, moving = request.choices.fixed, request.choices.moving
    for node, ends in ((done.forward, (fixed, moving)), (done.inverse, (moving, fixed))):
        assert node.GetNodeReference(roles.GetFixedNodeReferenceRole()) is ends[0]
        assert node.GetNodeReference(roles.GetMovingNodeReferenceRole()) is ends[1]
    cells = [done.table.GetCellText(row, 2) for row in range(done.table.GetNumberOfRows())]
    assert any("0.9" in cell for cell in cells)
    assert done.quality["warnings"] == ["said by the worker"]
    assert stored_quality(None, done.forward, done.table) == done.quality


def test_what_is_left_out(scene) -> None:
    request = request_for(scene, Outputs(False, True, False, False, False))
    before = len(nodes(scene))
    done = put(request, answer())
    assert set(done.nodes()) == {"inverse"} and len(nodes(scene)) == before + 1
    assert stored_quality(done.inverse) == done.quality
    # features that a method does not have are no failure, anything else that is missing is
    assert put(request_for(scene), answer()).fixed_features is None
    event = answer()
    del event.arrays["warped"]
    state = contents(scene)
    with pytest.raises(OutputError, match="warped"):
        put(request_for(scene), event)
    assert contents(scene) == state


def test_given_nodes_are_filled_again(scene) -> None:
    parameters = scene_parameters()
    first = put(request_for(scene), answer(features=True), parameters)
    assert parameters.forward is first.forward and parameters.table is first.table
    before = nodes(scene)
    event = answer(features=True)
    event.arrays["forward"] = bend(FIXED, 0.5)
    again = put(request_for(scene, Outputs(**first.nodes())), event, parameters)
    assert nodes(scene) == before and again.nodes() == first.nodes()
    assert np.array_equal(read_displacement(again.forward, FIXED), bend(FIXED, 0.5))
    assert parameters.forward is first.forward


def test_an_output_that_was_removed_meanwhile_is_made_anew(scene) -> None:
    given = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "given")
    request = request_for(scene, Outputs(forward=given))
    scene.RemoveNode(given)
    done = put(request, answer())
    assert done.forward is not given and done.forward.GetName() == "MR moving to fixed"


def test_features_of_another_number_of_channels(scene) -> None:
    """A node of one component cannot show three: a new one is made, and the user's stays."""
    first = put(request_for(scene), answer(features=True))
    event = answer(features=True)
    event.arrays["features_fixed"] = event.arrays["features_fixed"][:1]
    event.arrays["features_moving"] = event.arrays["features_moving"][:1]
    again = put(request_for(scene, Outputs(**first.nodes())), event)
    assert again.fixed_features is not first.fixed_features and again.fixed_features.IsA("vtkMRMLVolumeNode")
    assert again.fixed_features.GetClassName() == "vtkMRMLScalarVolumeNode"
    assert scene.IsNodePresent(first.fixed_features) and first.fixed_features.GetName() == "MR fixed features"


def test_linear_results(scene) -> None:
    matrix = placement(8, (1, 2, 3))
    done = put(request_for(scene, representation="rigid"), answer(matrix))
    assert done.forward.IsA("vtkMRMLLinearTransformNode") and done.inverse.IsA("vtkMRMLLinearTransformNode")
    assert np.allclose(read_matrix(done.forward) @ read_matrix(done.inverse), np.eye(4))
    assert np.allclose(read_matrix(done.forward), matrix)
    grid = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "grid")
    done = put(request_for(scene, Outputs(forward=grid), representation="rigid"), answer(matrix))
    assert read_matrix(done.forward) is None
    # a rigid run into a linear node, and then a deformation into the same one
    linear = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "linear")
    request = request_for(scene, Outputs(forward=linear), representation="rigid")
    state = contents(scene)
    with pytest.raises(InputError):
        put(request, answer())
    assert contents(scene) == state


class Stop(Exception):
    pass


def failing_at(last: int, original: Callable) -> Callable:
    """A function that does its work and then fails, the `last` time it is called."""
    calls: list[object] = []

    def failing(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        result = original(*arguments, **options)
        if len(calls) == last:
            raise Stop
        return result

    return failing


@pytest.mark.parametrize("given", [False, True], ids=["new nodes", "given nodes"])
@pytest.mark.parametrize(
    ("where", "name"),
    [
        (results, "image_data"),
        (results, "transform_for"),
        (results, "fill_volume"),
        (results, "show_as_jacobian"),
        (results, "fill_table"),
        (results, "fill_transform"),
        (results, "_remember"),
        (Parameters, "batch"),
    ],
)
def test_a_failure_anywhere_leaves_the_scene_as_it_was(
    scene, monkeypatch: pytest.MonkeyPatch, where: object, name: str, given: bool
) -> None:
    parameters = scene_parameters()
    outputs = ALL
    if given:
        outputs = Outputs(**put(request_for(scene), answer(features=True), parameters).nodes())
    request = request_for(scene, outputs)
    state = contents(scene)
    event = answer(features=True)
    event.arrays["forward"] = bend(FIXED, 0.5)
    event.result["quality"]["device"] = "another"
    original = getattr(where, name)
    times = {"image_data": 4, "fill_volume": 4, "transform_for": 2, "fill_transform": 2}.get(name, 1)
    for last in range(1, times + 1):
        monkeypatch.setattr(where, name, failing_at(last, original))
        with pytest.raises(Stop):
            put(request, event, parameters)
        monkeypatch.undo()
        monkeypatch.setattr(slicer, "mrmlScene", scene, raising=False)
        assert contents(scene) == state
    assert put(request, event, parameters).forward is not None
    assert contents(scene) != state


def test_a_scene_that_refuses_a_node(scene, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_for(scene)
    state, add = contents(scene), Changes.add
    for refused in ("registered", "quality", "to moving"):

        def refusing(change: Changes, class_name: str, name: str, refused: str = refused) -> object:
            if refused in name:
                raise OutputError("refused")
            return add(change, class_name, name)

        monkeypatch.setattr(Changes, "add", refusing)
        with pytest.raises(OutputError, match="refused"):
            put(request, answer())
        assert contents(scene) == state


def test_stored_numbers_that_were_tampered_with(scene) -> None:
    done = put(request_for(scene), answer(), scene_parameters())
    assert quality_from(scene_parameters()) == done.quality
    for text in ("nonsense", "[1]", "", "[" * 5000):
        done.table.SetAttribute(results.QUALITY, text)
        assert quality_from(scene_parameters()) is None


def test_what_was_loaded_is_read_as_it_was_made(scene) -> None:
    done = put(request_for(scene), answer())
    grid = done.forward.GetTransformFromParent()
    grid.SetInterpolationModeToCubic()
    other = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "of somebody else")
    foreign = slicer.vtkOrientedGridTransform()
    foreign.SetInterpolationModeToCubic()
    other.SetAndObserveTransformFromParent(foreign)
    settle_transforms(scene)
    assert (grid.GetInterpolationMode(), foreign.GetInterpolationMode()) == (1, 2)
