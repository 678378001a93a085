"""How much a transform changes volumes: determinants of its Jacobian as a volume, and colours to see them by.

The map meant is the one from fixed to moving points, which a transform node holds *from parent*: where
the determinant is 2, one cubic millimetre of the fixed image comes from two of the moving one. A volume
under the node shrinks there to a half.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame

from .changes import changes
from .geometry import FLIP, Node, frame_of_volume
from .transform_nodes import grid_frame, read_displacement
from .volumes import fill_volume, image_data, read_volume

COLOURS = "DeepRegistration Jacobian"
"""Name of the colour table made by `colour_node`."""
SHOWN = (0.0, 2.0)
"""Determinants at the ends of the colour table."""
FOLD_COLOUR = (0.85, 0.0, 0.85)
"""Of determinants of zero and less: a colour that no other value has."""

_SLAB = 1 << 17
"""Voxels worked on at a time: some forty arrays of this size are in use."""
_STOPS = np.array([
    [-2.0, 0.02, 0.07, 0.36], [-1.0, 0.13, 0.40, 0.80], [-0.4, 0.60, 0.78, 0.93], [0.0, 1.0, 1.0, 1.0],
    [0.4, 0.97, 0.70, 0.55], [1.0, 0.78, 0.07, 0.10],
])  # fmt: skip
"""log2 of the determinant, red, green, blue: as far from white where volume halves as where it doubles."""


def determinants(displacement: np.ndarray, frame: Frame) -> np.ndarray:
    """Jacobian determinants of x -> x + u(x) at every voxel of a frame, which may be oblique.

    By central differences, one-sided at the border. A voxel is *folded* where the smallest of the eight
    determinants by one-sided differences, which are the exact ones of the linearly interpolated field at
    the corners of the cells around it, is zero or less; there that smallest one is given, so that what
    is zero or less here is what the quality numbers count as folds.

    Args:
        displacement: (z, y, x, 3) mm, components (x, y, z) in the world's axes, LPS.
        frame: its voxels.

    Returns:
        (z, y, x) float32, without unit.
    """
    axes = frame.index_to_world[:3, :3]
    unit = np.linalg.det(axes)
    result = np.empty(frame.shape, np.float32)
    rows = max(1, _SLAB // (frame.size[0] * frame.size[1]))
    for start in range(0, frame.shape[0], rows):
        stop = min(frame.shape[0], start + rows)
        low, high = max(0, start - 1), min(frame.shape[0], stop + 1)
        slab = np.ascontiguousarray(np.moveaxis(displacement[low:high], -1, 0), dtype=np.float64)
        inside = slice(start - low, stop - low)
        sides = [
            [side[:, inside] + axes[:, axis, None, None, None] for side in _one_sided(slab, 3 - axis)]
            for axis in range(3)
        ]
        minors = [_cross(y, z) for y in sides[1] for z in sides[2]]
        corners = [_dot(x, minor) / unit for minor in minors for x in sides[0]]
        x, y, z = ((a + b) / 2 for a, b in sides)
        smallest, central = np.minimum.reduce(corners), _dot(x, _cross(y, z)) / unit
        result[start:stop] = np.where(smallest <= 0, smallest, central)
    return result


def jacobian_volume(
    transform: Node,
    reference: Node | None = None,
    node: Node | None = None,
    name: str | None = None,
    scene: Node | None = None,
) -> Node:
    """Put the determinants of a transform node's Jacobian into the scene, coloured; see `determinants`.

    Args:
        transform: a transform node; grid transforms set from parent have a lattice of their own, all
            others (linear, B-spline, composite, set to parent) are measured on that of `reference`.
        reference: the volume node on whose voxels to measure; the transform's own lattice by default.
        node: a scalar volume node to fill instead of making a new one; taken out of its parent transform.
        name: of a new node; "<transform's name> Jacobian" by default.
        scene: where to add; `slicer.mrmlScene` by default.

    Returns:
        The scalar volume node.

    Raises:
        InputError: no transform, or no lattice to measure on.
        OutputError: the scene refused the node.
    """
    if transform is None or not transform.IsA("vtkMRMLTransformNode"):
        raise InputError("A Jacobian belongs to a transform; choose one.")
    if node is not None and node.GetClassName() != "vtkMRMLScalarVolumeNode":
        raise InputError(f"The Jacobian cannot be stored in {node.GetName()}; choose a scalar volume.")
    if reference is not None:
        frame = frame_of_volume(reference)
    else:
        frame = grid_frame(transform) if transform.GetParentTransformNode() is None else None
    if frame is None:
        raise InputError(
            f"{transform.GetName()} has no lattice of its own; choose an image to measure its Jacobian on."
        )
    image = image_data(determinants(read_displacement(transform, frame), frame))
    with changes(scene) as change:
        if node is None:
            node = change.add("vtkMRMLScalarVolumeNode", name or f"{transform.GetName()} Jacobian")
        else:
            change.keep(node)
        fill_volume(node, image, frame)
        show_as_jacobian(node)
    return node


def colour_node(scene: Node | None = None) -> Node:
    """The scene's colour table for Jacobians, made the first time it is asked for.

    White at 1, blue below and red above, as strong where volume halves as where it doubles; folds in
    `FOLD_COLOUR`. Its ends stand for `SHOWN`.
    """
    scene = slicer.mrmlScene if scene is None else scene
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode")):
        known = scene.GetNthNodeByClass(index, "vtkMRMLColorTableNode")
        if known.GetName() == COLOURS and known.GetNumberOfColors() == 256:
            return known
    colours = slicer.vtkMRMLColorTableNode()
    colours.SetTypeToUser()
    colours.SetName(COLOURS)
    colours.SetAttribute("Category", "Registration")
    colours.SetNumberOfColors(256)
    for index in range(256):
        value = SHOWN[0] + (SHOWN[1] - SHOWN[0]) * index / 255
        colours.SetColor(index, f"{value:.2f}", *colour_of(value))
    return scene.AddNode(colours)


def colour_of(determinant: float) -> tuple[float, float, float]:
    """Red, green and blue (0 to 1) for a determinant."""
    if determinant <= 0:
        return FOLD_COLOUR
    where = np.log2(determinant)
    red, green, blue = (float(np.interp(where, _STOPS[:, 0], _STOPS[:, k])) for k in (1, 2, 3))
    return red, green, blue


def show_as_jacobian(volume: Node) -> None:
    """Give a volume of determinants its colours and their range."""
    volume.CreateDefaultDisplayNodes()
    display = volume.GetDisplayNode()
    display.SetAndObserveColorNodeID(colour_node(volume.GetScene()).GetID())
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*SHOWN)


def strongest_fold(volume: Node) -> tuple[float, np.ndarray]:
    """The smallest determinant of a Jacobian volume and where in the world it is, (3,) RAS mm.

    Raises:
        InputError: not a volume with voxels.
    """
    values, frame = read_volume(volume)
    k, j, i = np.unravel_index(int(np.argmin(values)), values.shape)
    return float(values[k, j, i]), (FLIP @ frame.index_to_world @ [i, j, k, 1])[:3]


def _one_sided(u: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Differences to the next and the previous voxel, repeated at the border; zero along a single voxel."""
    if u.shape[axis] == 1:
        return (np.zeros_like(u),) * 2
    step = np.diff(u, axis=axis)
    first, last = np.take(step, [0], axis), np.take(step, [-1], axis)
    return np.concatenate([step, last], axis), np.concatenate([first, step], axis)


def _cross(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    return [a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1))]


def _dot(a: np.ndarray, b: Sequence[np.ndarray]) -> np.ndarray:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
