"""From what the worker hands back to nodes of the scene: all of them, or none."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from DeepRegistrationLib.errors import OutputError
from DeepRegistrationLib.frame import Frame

from .changes import Changes, changes, nodes_of_class
from .choices import Choices
from .feature_pictures import FeatureColours
from .geometry import Node
from .jacobian_volume import show_as_jacobian
from .parameters import Parameters
from .quality_table import fill_table, table_rows
from .requests import Request, frame_from
from .transform_nodes import displacement_image, fill_transform, node_class, settled, transform_for
from .volumes import fill_volume, image_data

QUALITY = "DeepRegistration.Quality"
"""Attribute of the table node (or else of the first transform): the numbers, as JSON."""

DIRECTION = "DeepRegistration.Direction"
"""Attribute of the transform nodes that this module made or filled."""

DIRECTIONS = {"forward": "moving to fixed", "inverse": "fixed to moving"}

_NAMES = {
    **DIRECTIONS,
    "warped": "registered",
    "jacobian": "Jacobian",
    "table": "quality",
    "fixed_features": "fixed features",
    "moving_features": "moving features",
}
"""What follows the moving image's name."""

_ARRAYS = {
    "warped": "warped",
    "jacobian": "jacobian",
    "fixed_features": "features_fixed",
    "moving_features": "features_moving",
}
"""Outputs that are volumes, and what the worker calls them."""


@dataclass(frozen=True)
class RegistrationNodes:
    """What a run left in the scene; None for what was left out.

    Attributes:
        forward: transform node that moves the moving image onto the fixed one.
        inverse: transform node that moves the fixed image onto the moving one.
        warped: the moving image on the fixed image's voxels.
        jacobian: determinants of the forward map's Jacobian.
        table: the numbers as a table node.
        fixed_features, moving_features: pictures of what the method compared (see `feature_pictures`).
        quality: the numbers, as quality.json has them, and "label_names".
        choices: what was chosen, for the next refinement.
        warm: whether this was a refinement from where the worker stood.
    """

    forward: Node | None = None
    inverse: Node | None = None
    warped: Node | None = None
    jacobian: Node | None = None
    table: Node | None = None
    fixed_features: Node | None = None
    moving_features: Node | None = None
    quality: dict[str, Any] = field(default_factory=dict)
    choices: Choices | None = None
    warm: bool = False

    def nodes(self) -> dict[str, Node]:
        """The nodes there are, by name."""
        values = {name: getattr(self, name) for name in _NAMES}
        return {name: node for name, node in values.items() if node is not None}


Fill = Callable[[Node], object]


@dataclass(frozen=True)
class Prepared:
    """A result on its way into the scene.

    Attributes:
        choices: of the run.
        quality: its numbers.
        fills: for each output that there is, the class of its node and what fills one.
    """

    choices: Choices
    quality: dict[str, Any]
    fills: dict[str, tuple[str, Fill]]


class InVtk:
    """Makes VTK image data of one worker's answer, an array at a time; a matrix stays as it is.

    It touches nothing but its own memory, so that any thread can do it: at the size of a head, converting
    and touching the memory of a grid for the first time takes longer than an application may stand still.
    """

    def __init__(self) -> None:
        self._colours = FeatureColours()

    def __call__(self, array: np.ndarray, name: str) -> np.ndarray | Node:
        if array.ndim < 3:
            return array
        if name in DIRECTIONS:
            return displacement_image(array)
        return image_data(self._colours(array) if array.ndim == 4 else array)


def prepare(
    request: Request, result: Mapping[str, Any], arrays: Mapping[str, np.ndarray | Node]
) -> Generator[None, None, Prepared]:
    """Turn what the worker answered into VTK's objects, an output at a time, without touching the scene.

    Everything that takes time or memory is done here; the application can do other things at each yield.

    Args:
        request: what was asked for.
        result, arrays: the answer; arrays as they are or by `InVtk`.

    Raises:
        InputError: a node cannot hold its result.
        OutputError: the answer is incomplete.
    """
    choices, quality, convert = request.choices, _quality(request, result), InVtk()
    wanted = {name: value for name, value in choices.outputs.items() if value is not False}
    fills: dict[str, tuple[str, Fill]] = {}
    for name, role in _ARRAYS.items():
        if name in wanted and (role in arrays or not name.endswith("features")):
            image = _image(arrays, role, convert)  # that only features may lack: not every method has some
            fills[name] = _volume(name, image, frame_from(result["frames"][role]))
            yield
    if "table" in wanted:
        fills["table"] = "vtkMRMLTableNode", lambda node: fill_table(node, quality)
    sides = {"forward": (choices.fixed, choices.moving), "inverse": (choices.moving, choices.fixed)}
    for name, images in sides.items():
        if name in wanted:
            given = None if wanted[name] is True else wanted[name]
            image = _image(arrays, name, convert)
            fills[name] = _map(transform_for(image, frame_from(result["frames"][name]), given), images)
            yield
    return Prepared(choices, quality, fills)


def place(
    prepared: Prepared, parameters: Parameters | None = None, scene: Node | None = None, warm: bool = False
) -> RegistrationNodes:
    """Put a result into the scene.

    Args:
        prepared: by `prepare`.
        parameters: is told of the nodes.
        scene: where to add; `slicer.mrmlScene` by default.
        warm: whether this was a refinement.

    Raises:
        OutputError: the scene refused a node. On any failure the scene is left as it was.
    """
    choices, fills, quality = prepared.choices, prepared.fills, prepared.quality
    title = choices.name or choices.moving.GetName()
    placed: dict[str, Node] = {}
    with changes(scene) as change:
        change.watch("vtkMRMLColorTableNode")  # the first volume of determinants brings its colours
        # first all new nodes, then their contents: a scene that refuses one leaves the given ones alone
        for name, (class_name, _) in fills.items():
            given = getattr(choices.outputs, name)
            fits = given is not True and change.scene.IsNodePresent(given) and _holds(given, class_name)
            placed[name] = change.keep(given) if fits else change.add(class_name, f"{title} {_NAMES[name]}")
        for name, (_, fill) in fills.items():
            fill(placed[name])
        if placed:
            _remember(placed, quality)
        if parameters is not None:
            _tell(parameters, placed, change)
    return RegistrationNodes(**placed, quality=quality, choices=choices, warm=warm)


def stored_quality(*nodes: Node | None) -> dict[str, Any] | None:
    """The numbers that an earlier run, perhaps before the scene was saved, left with one of some nodes."""
    for node in nodes:
        text = None if node is None else node.GetAttribute(QUALITY)
        if text:
            try:
                quality = json.loads(text)
                table_rows(quality)
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
                continue  # of a changed file, or of a version with other numbers
            return quality
    return None


def quality_from(parameters: Parameters) -> dict[str, Any] | None:
    """The numbers of the run that a parameter node refers to, or None."""
    return stored_quality(parameters.table, parameters.forward, parameters.inverse, parameters.warped)


def settle_transforms(scene: Node) -> None:
    """Let this module's grid transforms be read as they were made: files come back as cubic."""
    for node in nodes_of_class(scene, "vtkMRMLTransformNode"):
        if node.GetAttribute(DIRECTION):
            grid = node.GetTransformFromParentAs("vtkOrientedGridTransform", False, True)
            if grid is not None:
                settled(grid)


def _volume(name: str, image: Node, frame: Frame) -> tuple[str, Fill]:
    """Class of node and filling of an output that is a volume."""
    kind = "Vector" if image.GetNumberOfScalarComponents() > 1 else "Scalar"

    def fill(node: Node) -> None:
        fill_volume(node, image, frame)
        if name == "jacobian":
            show_as_jacobian(node)
        elif kind == "Vector":
            display = node.GetDisplayNode()
            display.SetAutoWindowLevel(False)
            display.SetWindowLevelMinMax(0, 255)

    return f"vtkMRML{kind}VolumeNode", fill


def _map(transform: Node, images: tuple[Node, Node]) -> tuple[str, Fill]:
    """Class of node and filling of an output that is a transform between two images."""
    return node_class(transform), lambda node: fill_transform(node, transform, *images)


def _holds(node: Node, class_name: str) -> bool:
    """Whether a volume node has the components it takes (features may be one or many); others do."""
    vector = "vtkMRMLVectorVolumeNode"
    return not node.IsA("vtkMRMLVolumeNode") or node.IsA(vector) == (class_name == vector)


def _image(arrays: Mapping[str, np.ndarray | Node], role: str, convert: InVtk) -> np.ndarray | Node:
    """An array of the answer as `InVtk` makes it."""
    if role not in arrays:
        raise OutputError(f"The registration ended without its result ({role}).")
    found = arrays[role]
    return convert(found, role) if isinstance(found, np.ndarray) else found


def _quality(request: Request, result: Mapping[str, Any]) -> dict[str, Any]:
    """The worker's numbers, with what only the scene knows."""
    quality = dict(result["quality"])
    quality["warnings"] = [*(quality.get("warnings") or ()), *request.warnings]
    quality["label_names"] = request.label_names
    return quality


def _remember(placed: Mapping[str, Node], quality: dict[str, Any]) -> None:
    for name, direction in DIRECTIONS.items():
        if name in placed:
            placed[name].SetAttribute(DIRECTION, direction)
    keeper = next(placed[name] for name in ("table", "forward", "inverse", *placed) if name in placed)
    keeper.SetAttribute(QUALITY, json.dumps(quality))


def _tell(parameters: Parameters, placed: Mapping[str, Node], change: Changes) -> None:
    """Note the nodes among the choices."""
    before = {name: getattr(parameters, name) for name in placed}

    def restore() -> None:
        with parameters.batch():
            for name, node in before.items():
                setattr(parameters, name, node)

    change.on_failure(restore)
    with parameters.batch():
        for name, node in placed.items():
            setattr(parameters, name, node)
