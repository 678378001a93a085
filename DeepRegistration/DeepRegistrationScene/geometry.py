"""Matrices between Slicer's RAS and the engine's LPS, and the frame of voxels in the world."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import vtk
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame

Node = Any
"""A MRML node; VTK's wrapped classes carry no types that a checker could use."""

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS to LPS and back."""


def to_numpy(matrix: Node) -> np.ndarray:
    """A vtkMatrix4x4 as (4, 4) float64."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def to_vtk(array: np.ndarray) -> Node:
    """(4, 4) numbers as a vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, dtype=np.float64).ravel().tolist())
    return matrix


def lies_under(node: Node, transform: Node | None) -> bool:
    """Whether `transform` is among the node's parents."""
    parent = node.GetParentTransformNode()
    while parent is not None and transform is not None:
        if parent.GetID() == transform.GetID():
            return True
        parent = parent.GetParentTransformNode()
    return False


def world_matrix(node: Node, results: Collection[Node] = ()) -> np.ndarray:
    """(4, 4) from a node's own space to the world, RAS.

    Args:
        node: whose parent transforms are followed.
        results: transform nodes at which the world is taken to begin: a moving image that hangs under the
            result of an earlier run was registered where it lay before that.

    Raises:
        InputError: one of the parents is deformable.
    """
    stops = {result.GetID() for result in results}
    total = np.eye(4)
    parent = node.GetParentTransformNode()
    while parent is not None and parent.GetID() not in stops:
        if not parent.IsLinear():
            raise InputError(
                f"{node.GetName()} lies under the deformable transform {parent.GetName()}. "
                "Take it out of that transform or harden the transform first."
            )
        matrix = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToParent(matrix)
        total = to_numpy(matrix) @ total
        parent = parent.GetParentTransformNode()
    return total


def frame_of_lattice(index_to_ras: np.ndarray, extent: Sequence[int]) -> Frame:
    """The frame of voxels that an index-to-RAS matrix (4, 4) places; extents need not start at zero.

    Raises:
        InputError: the matrix does not describe a lattice.
    """
    matrix = FLIP @ index_to_ras
    first = matrix @ [extent[0], extent[2], extent[4], 1]
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if not (spacing > 0).all():
        raise InputError("The image's spacing, origin or direction is not usable.")
    return Frame(
        tuple(int(extent[2 * a + 1] - extent[2 * a] + 1) for a in range(3)),
        tuple(spacing.tolist()),
        tuple(first[:3].tolist()),
        tuple(map(tuple, (matrix[:3, :3] / spacing).tolist())),
    )


def frame_of_volume(node: Node | None, results: Collection[Node] = ()) -> Frame:
    """Where a volume node's voxels are in the world; linear parents, shears included, become part of it.

    Args:
        node: a scalar or label map volume node.
        results: as in `world_matrix`.

    Raises:
        InputError: not a volume, no voxels, several values per voxel, or a deformable parent transform.
    """
    if node is None or not node.IsA("vtkMRMLScalarVolumeNode"):
        raise InputError("An image must be a volume.")
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or image.GetNumberOfPoints() == 0:
        raise InputError(f"The volume {node.GetName()} is empty: it has no voxels.")
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(
            f"The volume {node.GetName()} has {image.GetNumberOfScalarComponents()} values in each voxel; "
            "one is needed. Convert it to a scalar volume first."
        )
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return frame_of_lattice(world_matrix(node, results) @ to_numpy(matrix), image.GetExtent())
