"""What a registration will need of the memory, in words, before it is begun. Reads no image's voxels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

import numpy as np
from DeepRegistrationLib.errors import InputError, ResourceError
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.free_memory import available_memory
from DeepRegistrationLib.memory import PROGRAM, Request, fitting, in_words, usable

from .choices import Choices, options_from
from .geometry import Node, frame_of_volume
from .made import FIXED, MOVING, made_nodes
from .parameters import Parameters
from .segments import is_segmentation, match_segments
from .volumes import scalars

LARGE = ("forward", "inverse", "warped", "jacobian")
"""Outputs of the size of an image."""

_WORTH_TELLING = 100_000_000
"""Bytes of results below which nothing is said of them."""

_SAMPLES = 100_000
"""Voxels of a label map that are looked at to count its structures."""


def pair_request(parameters: Parameters, results: Sequence[Node] = ()) -> Request:
    """The run that a parameter node says, as far as its memory goes.

    Args:
        parameters: with a fixed and a moving volume.
        results: as in `geometry.world_matrix`.

    Raises:
        InputError: a volume cannot be used.
    """
    p = parameters
    masks = sum(node is not None for node in (p.fixed_mask, p.moving_mask))
    frames = frame_of_volume(p.fixed, results), frame_of_volume(p.moving, results)
    return _request(p, *frames, labels=_structures(p), masks=masks)


def many_request(parameters: Parameters) -> tuple[Request, int]:
    """Of the runs of a parameter node's many moving volumes the one that needs most; bytes of all results.

    Results that are in the scene already do not count: they are filled again.

    Raises:
        InputError: the fixed volume cannot be used, or none of the others.
    """
    p, found, results = parameters, [], 0
    fixed, wanted = frame_of_volume(p.fixed), wanted_from(p)
    problem = InputError("Choose at least one moving volume.")
    done = {node.GetNodeReference(MOVING) for node in made_nodes() if node.GetNodeReference(FIXED) is p.fixed}
    for moving in p.many_moving:
        try:
            found.append(_request(p, fixed, frame_of_volume(moving), masks=int(p.fixed_mask is not None)))
        except InputError as error:
            problem = error
        else:
            results += 0 if moving in done else results_size(found[-1], wanted)
    if not found:
        raise problem
    return max(found, key=lambda request: request.estimate().peak), results


def wanted_from(parameters: Parameters) -> list[str]:
    """The large outputs that a parameter node asks for."""
    return [name for name in LARGE if getattr(parameters, f"want_{name}")]


def results_size(request: Request, wanted: Collection[str]) -> int:
    """Bytes that the results of a run take in the scene: Slicer's grids are doubles, its volumes float32.

    Args:
        wanted: names of outputs; those of `LARGE` count.
    """
    size = 4 * prod(request.fixed_size) * len({"warped", "jacobian"}.intersection(wanted))
    if not request.linear:
        maps = zip(("forward", "inverse"), request.output_sizes, strict=True)
        size += sum(3 * 8 * prod(voxels) for name, voxels in maps if name in wanted)
    return size


def memory_in_words(request: Request, available: int | None, loaded: bool, results: int = 0) -> str:
    """What a run needs, what is free, and what is made coarser where that is less.

    Args:
        request: the run.
        available: bytes that are free; None where nobody knows.
        loaded: whether the process that computes is there already.
        results: bytes that stay in the scene.
    """
    text = f"Needs about {in_words(request.estimate().peak + PROGRAM)} of memory"
    if results > _WORTH_TELLING:
        text += f", and {in_words(results)} for the results in the scene"
    if available is None:
        return f"{text}."
    text += f"; {in_words(available)} are free."
    try:
        found, _ = fitting(request, usable(max(0, available - (0 if loaded else PROGRAM))))
    except ResourceError as error:
        return f"{text} {error}"
    if found.working_size != request.working_size:
        before, after = _working_spacing(request), _working_spacing(found)
        text += (
            f" As that is too much, the deformation will be computed at {after:.2g} mm instead of "
            f"{before:.2g} mm: fine detail may be aligned less well."
        )
    if found.output_spacing != request.output_spacing:
        text += f" To save memory, the transforms will be written at {found.output_spacing:.2g} mm."
    elif results > usable(available):
        text += " The results do not fit: choose a larger output spacing or fewer outputs."
    return text


def check_room(choices: Choices) -> None:
    """Raise ResourceError where the results of a run would not find room in the scene."""
    available = usable(available_memory())
    request = Request.of(
        frame_of_volume(choices.fixed, choices.results),
        frame_of_volume(choices.moving, choices.results),
        choices.options,
    )
    size = results_size(request, [name for name, wanted in choices.outputs.items() if wanted is not False])
    if available is not None and size > available:
        raise ResourceError(
            f"There is no room for its results: they would take {in_words(size)} of memory, and only "
            f"{in_words(available)} are left. Choose a larger output spacing or fewer outputs."
        )


def _request(p: Parameters, fixed: Frame, moving: Frame, labels: int = 0, masks: int = 0) -> Request:
    return Request.of(fixed, moving, options_from(p), labels=labels, masks=masks)


def _working_spacing(request: Request) -> float:
    """mm along the finest axis of the grid the deformation is computed on."""
    sizes = zip(request.fixed_size, request.fixed_spacing, request.working_size, strict=True)
    return min(n * spacing / working for n, spacing, working in sizes)


def _structures(p: Parameters) -> int:
    """How many structures the segmentations have in common, about."""
    nodes = p.fixed_segmentation, p.moving_segmentation
    if None in nodes:
        return 0
    try:
        if any(map(is_segmentation, nodes)):
            ids = [chosen or None for chosen in (p.fixed_segments, p.moving_segments)]
            return len(match_segments(*nodes, *ids).names)
        values = scalars(nodes[0].GetImageData(), frame_of_volume(nodes[0]))
    except InputError:
        return 0
    step = max(1, round((values.size / _SAMPLES) ** (1 / 3)))
    return np.count_nonzero(np.unique(values[::step, ::step, ::step]))
