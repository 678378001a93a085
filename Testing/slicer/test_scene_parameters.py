"""The parameter node: typed, quiet, robust against what other scenes say."""

from __future__ import annotations

from pathlib import Path

import pytest
import vtk
from DeepRegistrationLib.errors import InputError
from DeepRegistrationScene.parameters import Choice, NodeChoice, NodeChoices, Parameters, scene_parameters
from scene_support import nodes

VALUES = {
    "method": "gradicon",
    "representation": "b-spline",
    "preset": "fast",
    "similarity": "mind",
    "linear": "none",
    "device": "cpu",
    "comparison": "checkerboard",
    "weights": "/a file/of weights.pt",
    "output_spacing": 2.5,
    "held_out": ("a", "b, c", "ü"),
    "fixed_segments": ("Segment_1",),
    "moving_segments": ("Segment_2", "Segment_1"),
    "fixed_mask_segments": ("x",),
    "moving_mask_segments": ("y",),
}


def every_value() -> dict[str, object]:
    """For each parameter that is not a node one that is not its default."""
    kinds = {n: p for n, p in Parameters.all().items() if not isinstance(p, NodeChoice | NodeChoices)}
    return {name: VALUES.get(name, not parameter.default) for name, parameter in kinds.items()}


def every_node(scene) -> dict[str, object]:
    """For each parameter that is a node one that fits."""
    made = {}
    for name, parameter in Parameters.all().items():
        if isinstance(parameter, NodeChoice):
            class_name = {"vtkMRMLTransformNode": "vtkMRMLGridTransformNode"}.get(
                parameter.classes[0],
                parameter.classes[0].replace("vtkMRMLMarkupsNode", "vtkMRMLMarkupsFiducialNode"),
            )
            made[name] = scene.AddNewNodeByClass(class_name, name)
    return made


def several_nodes(scene) -> tuple:
    return tuple(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"volume {k}") for k in range(3))


def test_there_is_one_and_it_starts_with_the_defaults(scene) -> None:
    parameters = scene_parameters()
    before = nodes(scene)
    assert scene_parameters(scene).node is parameters.node and nodes(scene) == before
    assert parameters.node.GetModuleName() == parameters.node.GetAttribute("ModuleName") == "DeepRegistration"
    for name, parameter in Parameters.all().items():
        assert getattr(parameters, name) == parameter.default


def test_every_value_comes_back(scene) -> None:
    parameters, values, chosen = scene_parameters(), every_value(), every_node(scene)
    for name, value in {**values, **chosen}.items():
        assert getattr(parameters, name) != value
        setattr(parameters, name, value)
    for name, value in values.items():
        assert getattr(Parameters(parameters.node), name) == value
    for name, node in chosen.items():
        assert getattr(parameters, name) is node
    parameters.reset()
    assert all(getattr(parameters, name) == p.default for name, p in Parameters.all().items())


def test_one_change_is_heard_of_once(scene) -> None:
    parameters, values, chosen = scene_parameters(), every_value(), every_node(scene)
    heard: list[str] = []
    parameters.node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: heard.append(""))
    for name, value in {**values, **chosen}.items():
        for expected in (1, 0):  # the second time nothing changes
            heard.clear()
            setattr(parameters, name, value)
            assert len(heard) == expected, name
    heard.clear()
    with parameters.batch():
        parameters.method = "dio"
        parameters.fixed = None
        parameters.output_spacing = None
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "magic"),
        ("method", None),
        ("want_forward", "yes"),
        ("want_forward", 1),
        ("weights", 3),
        ("output_spacing", 0.0),
        ("output_spacing", float("nan")),
        ("output_spacing", 1e9),
        ("output_spacing", True),
        ("held_out", "abc"),
        ("held_out", [1]),
    ],
)
def test_what_cannot_be_chosen_is_refused(scene, name: str, value: object) -> None:
    parameters = scene_parameters()
    setattr(parameters, name, every_value()[name])
    with pytest.raises((InputError, TypeError, ValueError)):
        setattr(parameters, name, value)
    assert getattr(parameters, name) == every_value()[name]


def test_unknown_parameters_are_no_parameters(scene) -> None:
    with pytest.raises(AttributeError):
        scene_parameters().metod = "dio"


@pytest.mark.parametrize("text", ["", "nonsense", '"magic"', "[1, 2]", "{}", "null", "1e999", "[" * 5000])
def test_a_changed_file_reads_as_defaults(scene, text: str) -> None:
    parameters = scene_parameters()
    for name in every_value():
        parameters.node.SetParameter(name, text)
    for name, parameter in Parameters.all().items():
        value = getattr(parameters, name)
        assert type(value) is type(parameter.default)
        if isinstance(parameter, Choice):
            assert value == parameter.default


def test_references_of_another_kind_or_scene(scene) -> None:
    parameters, chosen = scene_parameters(), every_node(scene)
    with pytest.raises(InputError):
        parameters.fixed = chosen["table"]
    parameters.node.SetNodeReferenceID("fixed", chosen["table"].GetID())
    assert parameters.fixed is None
    stranger = type(chosen["fixed"])()
    with pytest.raises(InputError):
        parameters.fixed = stranger


def test_several_nodes(scene) -> None:
    parameters, volumes = scene_parameters(), several_nodes(scene)
    heard: list[str] = []
    parameters.node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: heard.append(""))
    for value in (volumes, volumes[::-1], [volumes[1], volumes[0], volumes[1]], ()):
        for expected in (1, 0):  # the second time nothing changes
            heard.clear()
            parameters.many_moving = value
            assert len(heard) == expected and parameters.many_moving == tuple(dict.fromkeys(value))
    parameters.many_moving = volumes
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "table")
    for wrong in ([volumes[0], table], [type(volumes[0])()]):
        with pytest.raises(InputError):
            parameters.many_moving = wrong
    assert parameters.many_moving == volumes
    parameters.node.AddNodeReferenceID("many_moving", table.GetID())
    heard.clear()
    scene.RemoveNode(volumes[1])
    assert parameters.many_moving == volumes[::2] and heard
    parameters.reset()
    assert parameters.many_moving == ()


def test_a_removed_node_is_no_choice_any_more(scene) -> None:
    parameters, chosen = scene_parameters(), every_node(scene)
    for name, node in chosen.items():
        setattr(parameters, name, node)
    heard: list[str] = []
    parameters.node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: heard.append(""))
    for name, node in chosen.items():
        heard.clear()
        scene.RemoveNode(node)
        assert getattr(parameters, name) is None and heard


def test_saved_and_loaded_with_the_scene(scene, tmp_path: Path) -> None:
    parameters, values = scene_parameters(), every_value()
    for name, value in values.items():
        setattr(parameters, name, value)
    # something in the scene that is read before takes the identifier that the reference had
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "the points")
    points.AddControlPoint(1, 2, 3)
    parameters.fixed_landmarks = points
    parameters.many_moving = several_nodes(scene)[::-1]
    scene.SetRootDirectory(str(tmp_path))
    file = str(tmp_path / "scene.mrb")
    assert scene.WriteToMRB(file)
    scene.Clear(False)
    fresh = scene_parameters()
    assert fresh.method == "dio" and fresh.fixed_landmarks is None
    scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "another")
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "another volume")
    assert scene.ReadFromMRB(file, False)
    read = scene_parameters()
    assert scene.GetNodesByClass("vtkMRMLScriptedModuleNode").GetNumberOfItems() == 1
    assert {name: getattr(read, name) for name in values} == values
    assert read.fixed_landmarks.GetName() == "the points"
    assert [node.GetName() for node in read.many_moving] == ["volume 2", "volume 1", "volume 0"]
