"""What a run depends on: nodes, names, numbers and outputs, and whether they go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import slicer
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.memory import LINEAR

from .geometry import Node, lies_under
from .parameters import Parameters
from .segments import is_segmentation
from .transform_nodes import check_holds_transform
from .volumes import check_holds_volume

Output = Any
"""A node to fill, True to make one, or False to leave it out."""

Sides = tuple[Any, Any]
"""Something of the fixed and of the moving image."""


@dataclass(frozen=True)
class Outputs:
    """What a run is to leave in the scene."""

    forward: Output = True
    inverse: Output = True
    warped: Output = True
    jacobian: Output = False
    table: Output = True
    fixed_features: Output = False
    moving_features: Output = False

    def items(self) -> Iterator[tuple[str, Output]]:
        return iter(vars(self).items())

    def nodes(self) -> dict[str, Node]:
        """The nodes that are to be filled, by name."""
        return {name: value for name, value in self.items() if not isinstance(value, bool)}

    @property
    def arrays(self) -> list[str]:
        """What the worker is asked for besides the maps."""
        return [name for name in ("warped", "jacobian") if getattr(self, name) is not False]

    @property
    def features(self) -> bool:
        return self.fixed_features is not False or self.moving_features is not False


@dataclass(frozen=True)
class Choices:
    """Everything a run depends on.

    Attributes:
        fixed, moving: volume nodes.
        options: keyword options of `DeepRegistrationLib.register` (names, numbers, paths).
        landmarks: point lists, or None.
        held_out: names of landmark pairs that only measure.
        segmentations: segmentation or label map nodes, or None.
        segments: identifiers of the segments that count; none or None: all.
        masks: segmentation or label map nodes; either may be None.
        mask_segments: as `segments`.
        initial: transform node to start from (moving image onto fixed), or None.
        outputs: what is wanted.
        name: what new nodes' names begin with; the moving image's name by default.
    """

    fixed: Node
    moving: Node
    options: dict[str, Any] = field(default_factory=dict)
    landmarks: Sides | None = None
    held_out: tuple[str, ...] = ()
    segmentations: Sides | None = None
    segments: Sides = (None, None)
    masks: Sides = (None, None)
    mask_segments: Sides = (None, None)
    initial: Node | None = None
    outputs: Outputs = Outputs()
    name: str | None = None

    @property
    def linear(self) -> bool:
        """Whether the result is a matrix."""
        return self.options.get("representation") in LINEAR

    @property
    def results(self) -> tuple[Node, ...]:
        """Output transforms that already are the result for these two images.

        An image or a prompt that hangs under one of them is read as if it did not: it was put there to be
        looked at, and the new result is to be one of the same untouched images.
        """
        roles = slicer.vtkMRMLTransformNode
        pair = {self.fixed.GetID(), self.moving.GetID()}
        return tuple(
            node
            for name, node in self.outputs.nodes().items()
            if name in ("forward", "inverse")
            and {
                node.GetNodeReferenceID(roles.GetFixedNodeReferenceRole()),
                node.GetNodeReferenceID(roles.GetMovingNodeReferenceRole()),
            }
            == pair
        )

    def prompt_nodes(self) -> list[Node]:
        sides = (*(self.landmarks or ()), *(self.segmentations or ()), *self.masks)
        return [node for node in sides if node is not None]


def choices_from(parameters: Parameters) -> Choices:
    """What a parameter node says.

    Raises:
        InputError: a prompt has only one side, or none of its chosen segments is left.
    """
    p = parameters
    wanted = {
        "forward": (p.want_forward, p.forward),
        "inverse": (p.want_inverse, p.inverse),
        "warped": (p.want_warped, p.warped),
        "jacobian": (p.want_jacobian, p.jacobian),
        "table": (p.want_table, p.table),
        "fixed_features": (p.want_features, p.fixed_features),
        "moving_features": (p.want_features, p.moving_features),
    }
    return Choices(
        p.fixed,
        p.moving,
        options_from(p),
        _both(p.fixed_landmarks, p.moving_landmarks, "landmark list"),
        p.held_out,
        _both(p.fixed_segmentation, p.moving_segmentation, "segmentation"),
        (
            still_there(p.fixed_segmentation, p.fixed_segments),
            still_there(p.moving_segmentation, p.moving_segments),
        ),
        (p.fixed_mask, p.moving_mask),
        (
            still_there(p.fixed_mask, p.fixed_mask_segments),
            still_there(p.moving_mask, p.moving_mask_segments),
        ),
        p.initial,
        Outputs(**{name: (node or True) if want else False for name, (want, node) in wanted.items()}),
    )


def options_from(parameters: Parameters) -> dict[str, Any]:
    """The options of `DeepRegistrationLib.register` that a parameter node says."""
    p = parameters
    return {
        "method": p.method,
        "representation": p.representation,
        "preset": p.preset,
        "similarity": p.similarity,
        "linear": p.linear,
        "device": p.device,
        "threads": None,
        "seed": 0,
        "weights": p.weights or None,
        "output_spacing": p.output_spacing,
    }


def still_there(node: Node | None, segments: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the chosen segments that a segmentation still has.

    Raises:
        InputError: none is left of those that were chosen.
    """
    if not segments or not is_segmentation(node):
        return ()
    left = tuple(name for name in segments if node.GetSegmentation().GetSegment(name) is not None)
    if not left:
        raise InputError(f"None of the segments chosen of {node.GetName()} is left; choose others.")
    return left


def check(choices: Choices) -> None:
    """Everything about a run that can be known without reading voxels.

    Raises:
        InputError: with the sentence for the user.
    """
    fixed, moving, outputs = choices.fixed, choices.moving, choices.outputs
    for image, side in ((fixed, "fixed"), (moving, "moving")):
        if image is None:
            raise InputError(f"Choose a {side} volume.")
    if fixed is moving:
        raise InputError("The fixed and the moving volume are the same; choose two different ones.")
    for pair, what in ((choices.landmarks, "point list"), (choices.segmentations, "segmentation")):
        if pair is not None and pair[0] is pair[1]:
            raise InputError(f"The same {what} is chosen for both images; each needs its own.")
    if all(value is False for _, value in outputs.items()):
        raise InputError("Nothing would come out of this run: choose at least one output.")
    _check_outputs(choices)


def cold_refinement(choices: Choices, forward: Node) -> Choices:
    """A run from the beginning that starts where `forward` stands."""
    return replace(choices, initial=forward, options={**choices.options, "linear": "none"})


def filled_again(choices: Choices, nodes: Mapping[str, Node]) -> Choices:
    """The choices of a run whose results, as far as they are still in the scene, are to be filled again."""
    here = {name: node for name, node in nodes.items() if slicer.mrmlScene.IsNodePresent(node)}
    return replace(choices, outputs=Outputs(**{name: here.get(name, False) for name, _ in Outputs().items()}))


def with_prompts(choices: Choices, prompts: Mapping[str, Any]) -> Choices:
    """Choices with other prompts, called as in `SceneLogic.register`.

    Raises:
        InputError: there is no prompt of that name.
    """
    names = {
        "landmarks": "landmarks",
        "heldOut": "held_out",
        "segmentations": "segmentations",
        "segments": "segments",
        "masks": "masks",
        "maskSegments": "mask_segments",
    }
    unknown = sorted(prompts.keys() - names.keys())
    if unknown:
        raise InputError(f"There is no prompt '{unknown[0]}'; there are {', '.join(names)}.")
    given = {names[name]: value for name, value in prompts.items()}
    if "held_out" in given:
        given["held_out"] = tuple(given["held_out"])
    return replace(choices, **given)


def forward_of(choices: Choices) -> Node:
    """The transform that a refinement starts from.

    Raises:
        InputError: there is none.
    """
    forward = choices.outputs.forward
    if isinstance(forward, bool) or forward.GetTransformFromParent() is None:
        raise InputError("There is no forward transform to refine; register first.")
    return forward


def _both(fixed: Node | None, moving: Node | None, what: str) -> Sides | None:
    if (fixed is None) != (moving is None):
        side = "fixed" if fixed is None else "moving"
        raise InputError(f"A {what} is chosen for one image only; choose the {side} one too, or none.")
    return None if fixed is None else (fixed, moving)


def _check_outputs(choices: Choices) -> None:
    """Each output has a node of its own that can hold it, and no input depends on it."""
    filled = choices.outputs.nodes()
    seen: dict[str, str] = {}
    inputs = [choices.fixed, choices.moving, *choices.prompt_nodes()]
    for name, node in filled.items():
        if name in ("forward", "inverse"):
            check_holds_transform(node, choices.linear)
        elif name == "table":
            if not node.IsA("vtkMRMLTableNode"):
                raise InputError(f"The numbers cannot be stored in {node.GetName()}; choose a table.")
        else:
            check_holds_volume(node)
        if node.GetID() in seen:
            raise InputError(f"{node.GetName()} is chosen for two outputs; each needs its own.")
        seen[node.GetID()] = name
        for image in inputs:
            if image is node:
                raise InputError(
                    f"{node.GetName()} is an input and would be overwritten; choose another output."
                )
    for name in ("forward", "inverse"):
        node = filled.get(name)
        if node is None or node in choices.results:
            continue
        for image in inputs:
            if lies_under(image, node):
                raise InputError(
                    f"{image.GetName()} lies under {node.GetName()}, which is to hold the result. "
                    "Take it out of that transform first."
                )
