"""How two images lie to each other before a run: a share, a small picture, and plain warnings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import vtk
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame

from .geometry import FLIP, Node, frame_of_volume, to_numpy
from .volumes import scalars

FIXED_COLOUR = (1.0, 0.56, 0.16)
MOVING_COLOUR = (0.16, 0.62, 1.0)
"""Red, green and blue (0 to 1) of the two images in the picture; where both are, they add up."""

SMALL_SHARE = 0.3
"""Images of which less overlaps get a warning."""
SIZE_RATIO, SPACING_RATIO = 20.0, 6.0
"""Volumes of the boxes, and voxel sizes, that differ more get a warning."""

PANEL = 144
"""Pixels along each side of each of the three panels, unless somebody says otherwise."""
_SAMPLES = 48
"""Samples along each side of the space that both images lie in."""
_PLANES = ((0, 1, "axial"), (0, 2, "coronal"), (1, 2, "sagittal"))
"""World axes (RAS) across and up."""


@dataclass(frozen=True)
class Overlap:
    """How two images lie to each other.

    Attributes:
        share: how much of the smaller image's box lies in the other's, 0 to 1; None where it cannot be said.
        warnings: sentences for the user; the first is the gravest.
        usable: whether the two can be registered at all.
        picture: (height, width, 3) uint8: seen along the body's axis, from the front and from the side, the
            patient's right on the left; None where there is nothing to draw.
    """

    share: float | None
    warnings: tuple[str, ...]
    usable: bool
    picture: np.ndarray | None


def overlap(
    fixed: Node | None, moving: Node | None, results: tuple[Node, ...] = (), side: int = PANEL
) -> Overlap:
    """Measure and draw how two volume nodes lie to each other; never raises for what a user can choose.

    Args:
        fixed, moving: the volume nodes that were chosen, or None.
        results: transform nodes of an earlier run, at which the world is taken to begin.
        side: pixels along each side of each of the picture's three panels.
    """
    chosen = [node for node in (fixed, moving) if node is not None]
    problems, frames = [], []
    for node in chosen:
        try:
            frames.append(frame_of_volume(node, results))
        except InputError as error:
            problems.append(str(error))
    if len(chosen) == 2 and fixed is moving:
        problems.insert(0, "The same volume is chosen twice; choose another moving volume.")
    if problems:
        return Overlap(None, tuple(dict.fromkeys(problems)), False, None)
    if not chosen:
        return Overlap(None, (), False, None)
    warnings = []
    for node, frame in zip(chosen, frames, strict=True):
        warnings += _own_warnings(node, frame)
    share = None
    if len(chosen) == 2:
        share = _share(*frames)
        warnings = _pair_warnings(*chosen, *frames, share) + warnings
    colours = [
        colour for node, colour in ((fixed, FIXED_COLOUR), (moving, MOVING_COLOUR)) if node is not None
    ]
    return Overlap(share, tuple(warnings), len(chosen) == 2, _picture(chosen, frames, colours, side))


def _own_warnings(node: Node, frame: Frame) -> list[str]:
    name, warnings = node.GetName(), []
    flat = [n for n in frame.size if n == 1]
    if flat:
        warnings.append(f"{name} is a single slice: only a movement within that slice can be found.")
    coarse = max(frame.spacing) / min(frame.spacing)
    if not flat and coarse > SPACING_RATIO:
        warnings.append(
            f"The voxels of {name} are {coarse:.0f} times as long as they are wide: "
            "detail across the slices is lost."
        )
    if len(set(node.GetImageData().GetScalarRange())) == 1:  # kept by VTK between calls
        warnings.append(f"All voxels of {name} have the same value: there is nothing to go by.")
    unit = np.allclose(frame.spacing, 1) and np.allclose(frame.index_to_world[:3, 3], 0)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    if unit and np.allclose(np.abs(to_numpy(matrix)), np.eye(4)):
        warnings.append(
            f"{name} has voxels of 1 x 1 x 1 mm that begin at the origin, as images have whose geometry was "
            "lost on the way. Check its spacing in the Volumes module."
        )
    return warnings


def _pair_warnings(fixed: Node, moving: Node, a: Frame, b: Frame, share: float) -> list[str]:
    warnings = []
    if share == 0:
        apart = float(np.linalg.norm(a.centre - b.centre))
        warnings.append(
            f"{fixed.GetName()} and {moving.GetName()} do not overlap: their centres are {apart:.0f} mm "
            "apart. Move one of them first, or let the linear stage start from their centres."
        )
    elif share < SMALL_SHARE:
        warnings.append(f"Only {max(1, round(100 * share))} % of the smaller image lies in the larger one.")
    boxes = [abs(float(np.prod(f.extent))) for f in (a, b)]
    if max(boxes) > SIZE_RATIO * min(boxes):
        small, large = (fixed, moving) if boxes[0] < boxes[1] else (moving, fixed)
        warnings.append(
            f"{large.GetName()} covers {max(boxes) / min(boxes):.0f} times the volume of {small.GetName()}: "
            "if they are the same anatomy, check the spacing of both."
        )
    return warnings


def _share(a: Frame, b: Frame) -> float:
    """How much of the smaller box lies in the other, by points spread evenly over it."""
    small, large = sorted((a, b), key=lambda f: float(np.prod(f.extent)))
    steps = (np.arange(40) + 0.5) / 20 - 1
    points = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    matrix = large.world_to_normalised @ small.normalised_to_world
    return float((np.abs(points @ matrix[:3, :3].T + matrix[:3, 3]) <= 1 + 1e-9).all(1).mean())


def _picture(
    nodes: list[Node], frames: list[Frame], colours: list[tuple[float, float, float]], pixels: int
) -> np.ndarray:
    """Three panels side by side: brightest values along the line of sight, and the boxes' edges."""
    corners = [frame.corners() @ FLIP[:3, :3] for frame in frames]
    low, high = (f(np.concatenate(corners), 0) for f in (np.min, np.max))
    middle, side = (low + high) / 2, float((high - low).max()) * 1.04
    panels = [np.full((pixels, pixels, 3), 0.05) for _ in _PLANES]
    for node, frame, colour, box in zip(nodes, frames, colours, corners, strict=True):
        values = _coarse(node, frame, middle, side)
        for panel, (across, up, _) in zip(panels, _PLANES, strict=True):
            seen = values.max(axis=({0, 1, 2} - {across, up}).pop())
            seen = np.flip(seen.T, (0, 1))  # up is up, and the right (and the front) on the left
            panel += _enlarged(seen, pixels)[..., None] * np.array(colour) * 0.8
            _draw_box(panel, ((box - middle) / side)[:, [across, up]], colour)
    return (np.clip(np.concatenate(panels, 1), 0, 1) * 255).astype(np.uint8)


def _enlarged(picture: np.ndarray, pixels: int) -> np.ndarray:
    """A picture (`_SAMPLES`, `_SAMPLES`) interpolated to (`pixels`, `pixels`)."""
    place = np.clip((np.arange(pixels) + 0.5) * _SAMPLES / pixels - 0.5, 0, _SAMPLES - 1)
    low = np.minimum(place.astype(int), _SAMPLES - 2)
    share = place - low
    for _ in range(2):
        picture = (picture[low].T * (1 - share) + picture[low + 1].T * share).astype(np.float32)
    return picture


def _coarse(node: Node, frame: Frame, middle: np.ndarray, side: float) -> np.ndarray:
    """Nearest voxels at even steps along R, A and S, scaled to 0..1 by their own range; 0 outside."""
    steps = ((np.arange(_SAMPLES) + 0.5) / _SAMPLES - 0.5) * side
    to_index = frame.world_to_index @ FLIP
    offset = to_index[:3, :3] @ middle + to_index[:3, 3]
    place = np.zeros((_SAMPLES,) * 3, np.int64)
    inside = np.ones((_SAMPLES,) * 3, bool)
    stride = 1
    for axis, size in enumerate(frame.size):
        parts = [(to_index[axis, world] * steps).astype(np.float32) for world in range(3)]
        index = parts[0][:, None, None] + (parts[1][:, None] + parts[2] + np.float32(offset[axis] + 0.5))
        index = np.floor(index, out=index).astype(np.int64)
        inside &= (index >= 0) & (index < size)
        place += stride * np.clip(index, 0, size - 1, out=index)
        stride *= size
    values = scalars(node.GetImageData(), frame).reshape(-1)[place[inside]].astype(np.float32)
    result = np.zeros((_SAMPLES,) * 3, np.float32)
    if values.size:
        bottom, top = np.percentile(values[:: max(1, values.size // 20000)], (1, 99.5))
        result[inside] = np.clip((values - bottom) / max(float(top - bottom), 1e-12), 0, 1)
    return result


def _draw_box(panel: np.ndarray, corners: np.ndarray, colour: tuple[float, float, float]) -> None:
    """The twelve edges of a box whose corners (8, 2) differ in one bit of their number; -0.5 to 0.5."""
    pixels = (0.5 - corners) * (len(panel) - 1)  # both axes grow to the left and upwards
    for first in range(8):
        for bit in (1, 2, 4):
            if not first & bit:
                start, end = pixels[first], pixels[first | bit]
                line = start + np.linspace(0, 1, 2 * len(panel))[:, None] * (end - start)
                column, row = np.clip(np.rint(line), 0, len(panel) - 1).astype(int).T
                panel[row, column] = colour
