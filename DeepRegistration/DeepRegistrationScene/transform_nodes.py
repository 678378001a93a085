"""Transform nodes as displacement fields or matrices, and back.

Every map here is a pull-back: it takes points of one image to points of the image that is resampled.
A node made here is set *from parent*: put the moving image under "... moving to fixed" and it moves onto
the fixed image.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from .changes import changes
from .geometry import FLIP, Node, frame_of_lattice, to_numpy, to_vtk

INVERSE_TOLERANCE = 1e-4
"""mm; by default markups under a grid transform would be up to 0.01 mm off."""


def check_holds_transform(node: Node | None, linear: bool) -> None:
    """Raise InputError unless a map can be stored in the node (None: a new one is made).

    A grid transform node takes linear maps too; a linear one takes nothing else.
    """
    if node is None:
        return
    if not node.IsA("vtkMRMLTransformNode") or node.IsA("vtkMRMLBSplineTransformNode"):
        raise InputError(f"The result cannot be stored in {node.GetName()}; choose a grid transform.")
    if node.IsA("vtkMRMLLinearTransformNode") and not linear:
        raise InputError(f"{node.GetName()} is a linear transform and cannot hold a deformation.")


def linear_transform(matrix: np.ndarray) -> Node:
    """A pull-back matrix (4, 4) in LPS as a VTK transform in RAS."""
    result = vtk.vtkTransform()
    result.SetMatrix(to_vtk(FLIP @ np.asarray(matrix, dtype=np.float64) @ FLIP))
    return result


def displacement_image(displacement: np.ndarray) -> Node:
    """A displacement (z, y, x, 3), components (x, y, z), LPS mm, as VTK image data: double, RAS.

    Without geometry, which `grid_transform` adds.
    """
    depth, height, width, _ = displacement.shape
    image = vtk.vtkImageData()
    image.SetDimensions(width, height, depth)
    image.AllocateScalars(vtk.VTK_DOUBLE, 3)
    vectors = vtk_to_numpy(image.GetPointData().GetScalars())
    # one pass with a long inner loop: a whole slice of vectors times a slice of signs
    np.multiply(
        displacement.reshape(depth, -1),
        np.tile([-1.0, -1.0, 1.0], width * height),
        out=vectors.reshape(depth, -1),
        dtype=np.float64,
    )
    return image


def grid_transform(displacement: np.ndarray | Node, frame: Frame) -> Node:
    """A pull-back field as a VTK grid transform: double, RAS, linear between voxels.

    Args:
        displacement: (z, y, x, 3), components (x, y, z), LPS mm; or what `displacement_image` made of it,
            which becomes the transform's own.
        frame: its voxels.

    Raises:
        InputError: the field is not 3-D.
    """
    shaped = isinstance(displacement, np.ndarray)
    shape = displacement.shape[:-1] if shaped else displacement.GetDimensions()[::-1]
    if frame.dimension != 3 or tuple(shape) != frame.shape:
        raise InputError("Only 3-D transforms can be shown in Slicer.")
    image = displacement_image(displacement) if shaped else displacement
    image.SetSpacing(*frame.spacing)
    image.SetOrigin(*(FLIP[:3, :3] @ frame.origin))
    direction = np.eye(4)
    direction[:3, :3] = FLIP[:3, :3] @ np.asarray(frame.direction)
    result = slicer.vtkOrientedGridTransform()
    result.SetGridDirectionMatrix(to_vtk(direction))  # the image's own direction is not looked at
    result.SetDisplacementGridData(image)
    return settled(result)


def settled(transform: Node) -> Node:
    """A grid transform read as it was made: linear between voxels (files come back as cubic)."""
    transform.SetInterpolationModeToLinear()
    transform.SetInverseTolerance(INVERSE_TOLERANCE)
    return transform


def resampled_on(matrix: np.ndarray, frame: Frame) -> np.ndarray:
    """The displacement (z, y, x, 3) of a pull-back matrix (4, 4) on a frame, LPS mm, float64."""
    points = lattice_points(frame)
    return points @ (matrix[:3, :3] - np.eye(3)).T + matrix[:3, 3]


def matrix_of_displacement(
    displacement: np.ndarray, frame: Frame, tolerance: float = 0.01
) -> np.ndarray | None:
    """The pull-back matrix (4, 4) that a displacement (z, y, x, 3) is samples of; None if it is deformed.

    Args:
        tolerance: the largest distance from the best matrix, mm.
    """
    steps = tuple(slice(None, None, max(1, n // 16)) for n in frame.shape)
    points = lattice_points(frame)[steps].reshape(-1, 3)
    there = points + displacement[steps].reshape(-1, 3)
    design = np.column_stack([points - points.mean(0), np.ones(len(points))])
    solution = np.linalg.lstsq(design, there, rcond=None)[0]
    if np.abs(design @ solution - there).max() > tolerance:
        return None
    matrix = np.eye(4)
    matrix[:3, :3] = solution[:3].T
    matrix[:3, 3] = solution[3] - matrix[:3, :3] @ points.mean(0)
    return matrix


def lattice_points(frame: Frame) -> np.ndarray:
    """World position of every voxel centre, (z, y, x, 3) float64, LPS mm."""
    i, j, k = np.ogrid[tuple(slice(n) for n in frame.shape)][::-1]
    m = frame.index_to_world
    return np.stack([m[a, 0] * i + m[a, 1] * j + (m[a, 2] * k + m[a, 3]) for a in range(3)], -1)


def transform_for(map_: np.ndarray | Node, frame: Frame | None, node: Node | None = None) -> Node:
    """A map as a from-parent VTK transform, of a kind that `node` can hold.

    Args:
        map_: a matrix (4, 4), or a displacement (z, y, x, 3), LPS mm, or its `displacement_image`.
        frame: of the displacement; where a matrix is sampled if `node` holds grids only.
        node: the node that is to be filled, or None for a new one.

    Raises:
        InputError: the node cannot hold it.
    """
    linear = isinstance(map_, np.ndarray) and map_.ndim == 2
    check_holds_transform(node, linear)
    if not linear:
        return grid_transform(map_, frame)
    if node is not None and node.IsA("vtkMRMLGridTransformNode"):
        return grid_transform(resampled_on(map_, frame), frame)
    return linear_transform(map_)


def node_class(transform: Node) -> str:
    """The class of MRML node that a VTK transform is put into."""
    return "vtkMRMLLinearTransformNode" if transform.IsA("vtkTransform") else "vtkMRMLGridTransformNode"


def fill_transform(
    node: Node, transform: Node, fixed: Node | None = None, moving: Node | None = None
) -> Node:
    """Let a transform node hold a from-parent map of world points that leads between two images."""
    node.SetAndObserveTransformNodeID(None)
    node.SetAndObserveTransformFromParent(transform)
    roles = slicer.vtkMRMLTransformNode
    for role, image in (
        (roles.GetFixedNodeReferenceRole(), fixed),
        (roles.GetMovingNodeReferenceRole(), moving),
    ):
        node.SetNodeReferenceID(role, None if image is None else image.GetID())
    return node


def transform_to_node(
    map_: np.ndarray,
    frame: Frame | None,
    name: str,
    node: Node | None = None,
    fixed: Node | None = None,
    moving: Node | None = None,
    scene: Node | None = None,
) -> Node:
    """Put a pull-back map into the scene so that what lies under its node moves from `moving` to `fixed`.

    A matrix becomes a linear transform node, a displacement a grid transform node.

    Args:
        map_: a matrix (4, 4), or a displacement (z, y, x, 3); LPS mm.
        frame: the displacement's voxels.
        name: the node's name; it should say the direction.
        node: a transform node to fill instead of making a new one; taken out of its own parent
            transform. A grid transform node takes a matrix too, sampled on `frame`.
        fixed, moving: volume nodes noted as what the transform leads between.
        scene: where to add; `slicer.mrmlScene` by default.

    Raises:
        InputError: `node` cannot hold this map, or it is not 3-D.
        OutputError: the scene refused the node. On any failure the scene is left as it was.
    """
    transform = transform_for(np.asarray(map_), frame, node)
    with changes(scene) as change:
        node = change.add(node_class(transform), name) if node is None else change.keep(node)
        return fill_transform(node, transform, fixed, moving)


def read_matrix(node: Node) -> np.ndarray | None:
    """A transform node's pull-back of world points as (4, 4) in LPS; None if it is not linear."""
    if not node.IsTransformToWorldLinear():
        return None
    matrix = vtk.vtkMatrix4x4()
    node.GetMatrixTransformFromWorld(matrix)
    return FLIP @ to_numpy(matrix) @ FLIP


def grid_frame(node: Node) -> Frame | None:
    """The frame of the grid that a transform node holds, from parent; None if it holds something else."""
    grid = _own_grid(node)
    if grid is None:
        return None
    image, index_to_ras = grid.GetDisplacementGrid(), np.eye(4)
    index_to_ras[:3, :3] = _direction(grid) @ np.diag(image.GetSpacing())
    index_to_ras[:3, 3] = image.GetOrigin()
    return frame_of_lattice(index_to_ras, image.GetExtent())


def read_displacement(node: Node, frame: Frame) -> np.ndarray:
    """A transform node's pull-back of world points as a displacement on a frame.

    Grids, matrices and compositions, from or to parent, under any parents of their own.

    Returns:
        (z, y, x, 3) float32, components (x, y, z), LPS mm.
    """
    matrix = read_matrix(node)
    if matrix is not None:
        return resampled_on(matrix, frame).astype(np.float32)
    own = grid_frame(node) if node.GetParentTransformNode() is None else None
    if own is not None and own.same_lattice(frame):
        image = _own_grid(node).GetDisplacementGrid()
        vectors = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(*frame.shape, 3)
        return (vectors * np.diag(FLIP)[:3]).astype(np.float32)
    general = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(general)
    points = lattice_points(frame).reshape(-1, 3)
    return (transformed(general, points) - points).reshape(*frame.shape, 3).astype(np.float32)


def transformed(transform: Node, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) in LPS mm through a VTK transform of RAS points."""
    ras = np.ascontiguousarray(points * np.diag(FLIP)[:3])
    start, end = vtk.vtkPoints(), vtk.vtkPoints()
    end.SetDataTypeToDouble()
    start.SetData(numpy_to_vtk(ras))
    transform.TransformPoints(start, end)
    return vtk_to_numpy(end.GetData()) * np.diag(FLIP)[:3]


def _own_grid(node: Node) -> Node | None:
    """The grid transform that a node holds as its from-parent map, if that is what it holds."""
    grid = node.GetTransformFromParentAs("vtkOrientedGridTransform", False, False)
    if grid is None:
        return None
    grid.Update()  # a to-parent node answers with a grid transform too, which only now knows to be an inverse
    if grid.GetInverseFlag() or grid.GetDisplacementGrid() is None:
        return None
    return grid if grid.GetDisplacementScale() == 1 and grid.GetDisplacementShift() == 0 else None


def _direction(grid: Node) -> np.ndarray:
    matrix = grid.GetGridDirectionMatrix()
    return np.eye(3) if matrix is None else to_numpy(matrix)[:3, :3]
