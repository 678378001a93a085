"""From chosen nodes to what the worker is sent, or one sentence that says why not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame

from .choices import Choices, check
from .geometry import Node
from .landmark_pairs import pair_landmarks
from .segments import match_segments, read_labels, read_mask
from .transform_nodes import matrix_of_displacement, read_displacement, read_matrix
from .volumes import Voxels, read_volume

PROMPTS = ("labels", "masks")
"""Prompts that are images: they are sent again only when they have changed."""


@dataclass(frozen=True)
class Request:
    """What the worker is sent.

    Attributes:
        choices: where it came from.
        parameters: JSON-ready: options, frames, landmarks.
        arrays: by role: fixed, moving, fixed_labels, moving_labels, fixed_mask, moving_mask, initial.
        label_names: label value (as text) to segment name.
        warnings: sentences that belong to the result.
    """

    choices: Choices
    parameters: dict[str, Any]
    arrays: dict[str, np.ndarray]
    label_names: dict[str, str]
    warnings: tuple[str, ...]


def build_request(choices: Choices) -> Request:
    """Read the nodes.

    Raises:
        InputError: with the sentence for the user.
    """
    check(choices)
    results = choices.results
    images = {"fixed": read_volume(choices.fixed, results), "moving": read_volume(choices.moving, results)}
    for node, (_, frame) in zip((choices.fixed, choices.moving), images.values(), strict=True):
        if min(frame.size) < 2:
            raise InputError(
                f"{node.GetName()} is a single slice. Registration in Slicer needs volumes of several slices."
            )
    frames = {side: image.frame for side, image in images.items()}
    parameters, arrays, names, warnings = _prompts(choices, frames)
    arrays |= {side: image.array for side, image in images.items()}
    parameters["frames"] |= {side: described(frame) for side, frame in frames.items()}
    parameters["outputs"] = choices.outputs.arrays
    parameters["options"] = {**choices.options, "features": choices.outputs.features}
    if choices.initial is not None:
        initial = initial_map(choices.initial, frames["fixed"], choices.linear)
        if initial.ndim == 2:
            parameters["initial_matrix"] = initial.tolist()
        else:
            arrays["initial"] = initial
            parameters["frames"]["initial"] = described(frames["fixed"])
    return Request(choices, parameters, arrays, names, warnings)


def build_refinement(
    choices: Choices, session: str, frames: dict[str, Frame], changed: Collection[str] = PROMPTS
) -> Request:
    """The prompts of a run whose images the worker has; landmarks always, the others if they have changed.

    Args:
        choices: the run's, with its prompts as they are now.
        session: the worker's name for it.
        frames: of the fixed and the moving image.
        changed: which of `PROMPTS` are sent (or taken away, where there are none any more).

    Raises:
        InputError: with the sentence for the user.
    """
    check(choices)
    parameters, arrays, names, warnings = _prompts(choices, frames, changed)
    sent = {"labels": choices.segmentations is not None, "masks": choices.masks != (None, None)}
    parameters["without"] = [kind for kind in changed if not sent[kind]]
    parameters["outputs"] = choices.outputs.arrays
    return Request(choices, {"session": session, **parameters}, arrays, names, warnings)


def initial_map(node: Node, frame: Frame, linear: bool = False) -> np.ndarray:
    """A transform node as a matrix (4, 4) if it is linear, else as a displacement (z, y, x, 3) on a frame.

    Args:
        node: transform node.
        frame: where a displacement is sampled.
        linear: whether a linear result is wanted; a grid that holds a linear map is then read as such.
    """
    matrix = read_matrix(node)
    if matrix is not None:
        return matrix
    displacement = read_displacement(node, frame)
    matrix = matrix_of_displacement(displacement, frame) if linear else None
    return displacement if matrix is None else matrix


def described(frame: Frame) -> dict[str, Any]:
    """A frame in JSON's types."""
    return {
        "size": list(frame.size),
        "spacing": list(frame.spacing),
        "origin": list(frame.origin),
        "direction": [list(row) for row in frame.direction],
    }


def frame_from(description: dict[str, Any]) -> Frame:
    """The reverse of `described`."""
    return Frame(
        tuple(description["size"]),
        tuple(description["spacing"]),
        tuple(description["origin"]),
        tuple(map(tuple, description["direction"])),
    )


def _prompts(
    choices: Choices, frames: dict[str, Frame], wanted: Collection[str] = PROMPTS
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, str], tuple[str, ...]]:
    """Parameters, arrays, label names and warnings of landmarks, labels and masks."""
    parameters: dict[str, Any] = {"landmarks": None, "frames": {}}
    arrays: dict[str, np.ndarray] = {}
    warnings: list[str] = []
    if choices.landmarks is not None:
        pairs = pair_landmarks(*choices.landmarks, choices.held_out, choices.results)
        warnings += pairs.sentences
        if len(pairs):
            parameters["landmarks"] = pairs.request()
        elif pairs.sentences:
            raise InputError("None of the landmarks has a partner on the other image.")
    names: dict[str, str] = {}
    labels: list[Voxels | None] = [None, None]
    masks: list[Voxels | None] = [None, None]
    if choices.segmentations is not None:
        matched = match_segments(*choices.segmentations, *choices.segments)
        names = {str(k): name for k, name in enumerate(matched.names, start=1)}
        if "labels" in wanted:
            labels = [
                read_labels(node, frame, ids, choices.results)
                for node, frame, ids in zip(
                    choices.segmentations, frames.values(), (matched.fixed, matched.moving), strict=True
                )
            ]
    if "masks" in wanted:
        masks = [
            None if node is None else read_mask(node, frame, ids or None, choices.results)
            for node, frame, ids in zip(choices.masks, frames.values(), choices.mask_segments, strict=True)
        ]
    for kind, pair in (("labels", labels), ("mask", masks)):
        for side, voxels in zip(("fixed", "moving"), pair, strict=True):
            if voxels is not None:
                arrays[f"{side}_{kind}"] = voxels.array
                parameters["frames"][f"{side}_{kind}"] = described(voxels.frame)
    return parameters, arrays, names, tuple(warnings)
