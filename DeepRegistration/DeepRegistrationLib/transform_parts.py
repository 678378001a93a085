"""What SimpleITK's transforms are made of: matrices, fields, and fields with matrices after them. LPS mm."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .frame import Frame
from .io import frame_from_sitk

_LINEAR_SCALE = 1000.0  # mm; long steps make the matrix exact to rounding even far from the origin


def field_and_linear(transform: sitk.Transform) -> tuple[np.ndarray, Frame, np.ndarray | None] | None:
    """The parts of a displacement field, also of one with linear maps after it; None for anything else.

    Returns:
        (*frame.shape, d) float64 displacement, LPS mm, its frame, and the homogeneous (d+1, d+1) matrix of
        what comes after it, None where nothing does.
    """
    transform, linear = typed(transform), None
    if isinstance(transform, sitk.CompositeTransform):
        count = transform.GetNumberOfTransforms()
        parts = [transform.GetNthTransform(k) for k in range(count)]  # the last is applied first
        if not all(part.IsLinear() for part in parts[:-1]):
            return None
        linear = linear_matrix(sitk.CompositeTransform(parts[:-1]))
        transform = typed(parts[-1])
    if not isinstance(transform, sitk.DisplacementFieldTransform):
        return None
    field = transform.GetDisplacementField()
    return np.array(sitk.GetArrayViewFromImage(field)), frame_from_sitk(field), linear


def linear_beyond(transform: sitk.Transform) -> np.ndarray | None:
    """Homogeneous (d+1, d+1) matrix of a linear transform, or of what holds of a displacement field with
    linear maps after it beyond its lattice; None of anything else."""
    if transform.IsLinear():
        return linear_matrix(transform)
    parts = field_and_linear(transform)
    return None if parts is None else parts[2]


def outside_caution(transform: sitk.Transform, points: np.ndarray, what: str) -> list[str]:
    """A sentence if some world points (N, d), LPS mm, lie outside the lattice of the displacement field that
    a transform begins with, where it is read as no displacement; none for transforms of other kinds."""
    parts = field_and_linear(transform)
    if parts is None:
        return []
    matrix = parts[1].world_to_normalised
    outside = int((np.abs(points @ matrix[:-1, :-1].T + matrix[:-1, -1]) > 1).any(-1).sum())
    if not outside:
        return []
    holds = "they stay where they are" if parts[2] is None else "only its linear part holds for them"
    return [f"{outside} of {len(points)} {what} lie outside the transform's grid: {holds}."]


def linear_matrix(transform: sitk.Transform) -> np.ndarray | None:
    """Homogeneous (d+1, d+1) float64 matrix in LPS mm of a linear transform (also a chain of them);
    None for any other."""
    if not transform.IsLinear():
        return None
    d = transform.GetDimension()
    offset = np.asarray(transform.TransformPoint([0.0] * d))
    matrix = np.eye(d + 1)
    for axis, step in enumerate(np.eye(d) * _LINEAR_SCALE):
        matrix[:d, axis] = (np.asarray(transform.TransformPoint(step.tolist())) - offset) / _LINEAR_SCALE
    matrix[:d, d] = offset
    return matrix


def linear_to_sitk(matrix: np.ndarray) -> sitk.AffineTransform:
    """A SimpleITK affine transform from a homogeneous (d+1, d+1) matrix in LPS mm; raises InputError."""
    matrix = np.asarray(matrix, dtype=np.float64)
    d = len(matrix) - 1
    if matrix.shape not in ((3, 3), (4, 4)) or not np.isfinite(matrix).all():
        raise InputError("A linear transform must be a 3 by 3 or 4 by 4 matrix of finite numbers.")
    return sitk.AffineTransform(matrix[:d, :d].ravel().tolist(), matrix[:d, d].tolist())


def lattice_points(frame: Frame, rows: slice) -> np.ndarray:
    """World position of the voxel centres of rows of the array's first axis, (rows, *S[1:], d), LPS mm."""
    axes = [np.arange(n) for n in frame.shape]
    axes[0] = axes[0][rows]
    index = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], -1)
    matrix = frame.index_to_world
    return index @ matrix[:-1, :-1].T + matrix[:-1, -1]


def typed(transform: sitk.Transform) -> sitk.Transform:
    """The transform by its own class, out of any composite that holds nothing else."""
    transform = transform.Downcast()
    while isinstance(transform, sitk.CompositeTransform) and transform.GetNumberOfTransforms() == 1:
        transform = transform.GetNthTransform(0).Downcast()
    return transform
