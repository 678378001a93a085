"""What the panel lets people choose, kept in the scene: a typed class over a scripted module node.

Nothing read from a node can be unusable: a name that is not known here (an old scene, a changed file)
reads as the default, and a reference to a node of another kind as None.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, overload

import slicer
from DeepRegistrationLib.catalogue import LINEAR_STAGES, METHODS, PRESETS, REPRESENTATIONS, SIMILARITIES
from DeepRegistrationLib.errors import InputError

from .changes import node_modified_once
from .geometry import Node

MODULE_NAME = "DeepRegistration"

DEVICES = ("auto", "cpu", "cuda")
COMPARISONS = ("none", "blend", "checkerboard", "flicker")

T = TypeVar("T")


class Parameter(Generic[T]):
    """A value of a parameter node under the name of the attribute it is assigned to."""

    def __init__(self, default: T) -> None:
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Parameter[T]: ...
    @overload
    def __get__(self, instance: Parameters, owner: type) -> T: ...
    def __get__(self, instance: Parameters | None, owner: type) -> Any:
        return self if instance is None else self.read(instance.node)

    def __set__(self, instance: Parameters, value: T) -> None:
        self.write(instance.node, value)

    def read(self, node: Node) -> T:
        text = node.GetParameter(self.name)
        try:
            return self.value(json.loads(text)) if text else self.default
        except (ValueError, TypeError, RecursionError, InputError):
            return self.default

    def write(self, node: Node, value: T) -> None:
        node.SetParameter(self.name, json.dumps(self.value(value)))

    def value(self, given: Any) -> T:
        """The value that something stands for.

        Raises:
            InputError (or ValueError, TypeError): it stands for none.
        """
        raise NotImplementedError

    def refuse(self, given: Any) -> InputError:
        return InputError(f"{given!r} is not a value for {self.name}.")


class Choice(Parameter[str]):
    """One of some names."""

    def __init__(self, names: Iterable[str], default: str) -> None:
        super().__init__(default)
        self.names = tuple(names)

    def value(self, given: Any) -> str:
        if given not in self.names:
            raise self.refuse(given)
        return given


class Flag(Parameter[bool]):
    def value(self, given: Any) -> bool:
        if not isinstance(given, bool):
            raise self.refuse(given)
        return given


class Text(Parameter[str]):
    def value(self, given: Any) -> str:
        if not isinstance(given, str):
            raise self.refuse(given)
        return given


class Number(Parameter["float | None"]):
    """A number between two others (the lower one not included), or None."""

    def __init__(self, low: float, high: float, default: float | None) -> None:
        super().__init__(default)
        self.low, self.high = low, high

    def value(self, given: Any) -> float | None:
        if given is None:
            return None
        number = float(given)
        if isinstance(given, bool) or not (math.isfinite(number) and self.low < number <= self.high):
            raise self.refuse(given)
        return number


class Names(Parameter["tuple[str, ...]"]):
    """Some names, each once, in an order."""

    def value(self, given: Any) -> tuple[str, ...]:
        if isinstance(given, str) or not all(isinstance(name, str) for name in given):
            raise self.refuse(given)
        return tuple(dict.fromkeys(given))


class NodeChoice(Parameter["Node | None"]):
    """A node of one of some classes, by reference: it is renumbered with the scene and gone when removed."""

    def __init__(self, *classes: str) -> None:
        super().__init__(None)
        self.classes = classes

    def fits(self, node: Node) -> bool:
        return any(node.IsA(name) for name in self.classes)

    def read(self, node: Node) -> Node | None:
        chosen = node.GetNodeReference(self.name)
        return chosen if chosen is not None and self.fits(chosen) else None

    def write(self, node: Node, value: Node | None) -> None:
        if value is not None and (not self.fits(value) or value.GetScene() is not node.GetScene()):
            raise InputError(f"{value.GetName()} cannot be chosen as {self.name}.")
        node.SetNodeReferenceID(self.name, None if value is None else value.GetID())


class NodeChoices(Parameter["tuple[Node, ...]"]):
    """Some nodes of a class, each once, in an order, by reference."""

    def __init__(self, class_name: str) -> None:
        super().__init__(())
        self.class_name = class_name

    def read(self, node: Node) -> tuple[Node, ...]:
        count = node.GetNumberOfNodeReferences(self.name)
        found = [node.GetNthNodeReference(self.name, k) for k in range(count)]
        return tuple(chosen for chosen in found if chosen is not None and chosen.IsA(self.class_name))

    def write(self, node: Node, value: Iterable[Node]) -> None:
        wanted = {chosen.GetID(): chosen for chosen in value}
        for chosen in wanted.values():
            if not chosen.IsA(self.class_name) or chosen.GetScene() is not node.GetScene():
                raise InputError(f"{chosen.GetName()} cannot be chosen as {self.name}.")
        if tuple(wanted.values()) == self.read(node):
            return
        with node_modified_once(node):
            node.RemoveNodeReferenceIDs(self.name)
            for node_id in wanted:
                node.AddNodeReferenceID(self.name, node_id)


_VOLUME = "vtkMRMLScalarVolumeNode"
_TRANSFORM = "vtkMRMLTransformNode"
_SEGMENTATION = "vtkMRMLSegmentationNode"


class Parameters:
    """The choices of one parameter node, as attributes.

    Assigning an attribute changes the node (one ModifiedEvent, none if nothing changes); a value that
    cannot be chosen raises InputError. Observe `node`.

    Args:
        node: a `vtkMRMLScriptedModuleNode`.
    """

    fixed = NodeChoice(_VOLUME)
    moving = NodeChoice(_VOLUME)
    initial = NodeChoice(_TRANSFORM)

    method = Choice(METHODS, "dio")
    representation = Choice(REPRESENTATIONS, "diffeomorphic")
    preset = Choice(PRESETS, "balanced")
    similarity = Choice(SIMILARITIES, "auto")
    linear = Choice(LINEAR_STAGES, "affine")
    device = Choice(DEVICES, "auto")
    weights = Text("")

    fixed_landmarks = NodeChoice("vtkMRMLMarkupsNode")
    moving_landmarks = NodeChoice("vtkMRMLMarkupsNode")
    held_out = Names(())
    fixed_segmentation = NodeChoice(_SEGMENTATION, _VOLUME)
    moving_segmentation = NodeChoice(_SEGMENTATION, _VOLUME)
    fixed_segments = Names(())
    moving_segments = Names(())
    fixed_mask = NodeChoice(_SEGMENTATION, _VOLUME)
    moving_mask = NodeChoice(_SEGMENTATION, _VOLUME)
    fixed_mask_segments = Names(())
    moving_mask_segments = Names(())

    forward = NodeChoice(_TRANSFORM)
    inverse = NodeChoice(_TRANSFORM)
    warped = NodeChoice(_VOLUME)
    jacobian = NodeChoice(_VOLUME)
    table = NodeChoice("vtkMRMLTableNode")
    fixed_features = NodeChoice(_VOLUME)
    moving_features = NodeChoice(_VOLUME)
    want_forward = Flag(True)
    want_inverse = Flag(True)
    want_warped = Flag(True)
    want_jacobian = Flag(False)
    want_table = Flag(True)
    want_features = Flag(False)
    output_spacing = Number(0, 1000, None)

    many_moving = NodeChoices(_VOLUME)
    many_table = NodeChoice("vtkMRMLTableNode")

    auto_refine = Flag(False)
    grid_shown = Flag(False)
    jacobian_shown = Flag(False)
    comparison = Choice(COMPARISONS, "none")

    def __init__(self, node: Node) -> None:
        object.__setattr__(self, "node", node)

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(getattr(type(self), name, None), Parameter):
            raise AttributeError(f"There is no parameter {name}.")
        super().__setattr__(name, value)

    @classmethod
    def all(cls) -> dict[str, Parameter[Any]]:
        """Every parameter by name."""
        return {name: value for name, value in vars(cls).items() if isinstance(value, Parameter)}

    @classmethod
    def names_of(cls, name: str) -> tuple[str, ...]:
        """What a choice offers."""
        return getattr(cls, name).names

    @contextmanager
    def batch(self) -> Iterator[Parameters]:
        """Changes inside are heard of as one."""
        with node_modified_once(self.node):
            yield self

    def reset(self) -> None:
        """Everything as in a new node."""
        with self.batch():
            for name, parameter in self.all().items():
                setattr(self, name, parameter.default)


def scene_parameters(scene: Node | None = None) -> Parameters:
    """The scene's parameter node, made if there is none yet.

    It is a singleton: a scene that is loaded brings its values, not a second node.

    Args:
        scene: `slicer.mrmlScene` by default.
    """
    scene = slicer.mrmlScene if scene is None else scene
    node = scene.GetSingletonNode(MODULE_NAME, "vtkMRMLScriptedModuleNode")
    if node is None:
        node = scene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)  # the scene and the wrapper hold it
        node.SetSingletonTag(MODULE_NAME)
        node.SetModuleName(MODULE_NAME)
        node.SetAttribute("ModuleName", MODULE_NAME)
        node.SetName(MODULE_NAME)
        node = scene.AddNode(node)
    return Parameters(node)


def parameters_of(source: Parameters | Node | None) -> Parameters:
    """The parameters of a parameter node; by default the scene's own."""
    if source is None:
        return scene_parameters()
    return source if isinstance(source, Parameters) else Parameters(source)
