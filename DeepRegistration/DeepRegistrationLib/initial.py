"""The map a registration starts from: read, and refused where it cannot be meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from .errors import InputError
from .field import Field
from .frame import Frame, apply_matrix
from .transform_files import displacement_from_sitk, read_transform_file
from .transform_parts import field_and_linear, linear_matrix
from .transforms import FieldTransform, LinearTransform, Transform

TransformSource = str | Path | sitk.Transform | Transform

DEFORMABLE = (
    "The initial transform is a deformation: its linear part takes the place of the linear stage, the "
    "deformation is what the search starts from, and the method's own prediction is left out."
)
"""What becomes of a start that is not linear."""

_POINTS = 16
"""Points per axis at which a start is looked at."""

_FLAT = 1e-4
"""Smallest stretch of a linear map, as a share of its largest, that is no mistake."""


def load_transform(source: TransformSource, dimension: int, frame: Frame | None = None) -> Transform:
    """A transform from a file, a SimpleITK transform or one of the engine's.

    Linear ones, also chains of them, become a `LinearTransform`, displacement fields a `FieldTransform`, and
    fields with linear maps after them the two in turn. All others, such as B-splines and chains, are sampled.

    Args:
        source: fixed to moving points, LPS mm.
        dimension: what it has to have, 2 or 3.
        frame: where to sample those that have no lattice of their own.

    Raises:
        InputError: unreadable, of another dimension, with numbers that are not finite, or without a lattice
            and no frame.
    """
    if isinstance(source, Transform):
        transform, found = source, source.dimension
    else:
        itk = source if isinstance(source, sitk.Transform) else read_transform_file(source)
        transform, found = None, itk.GetDimension()
    if found != dimension:
        raise InputError(f"The initial transform is {found}-D, but the images are {dimension}-D.")
    return _converted(itk, frame) if transform is None else transform


def _converted(itk: sitk.Transform, frame: Frame | None) -> Transform:
    matrix = linear_matrix(itk)
    if matrix is not None:
        _check_finite(matrix)
        return LinearTransform(matrix)
    parts = field_and_linear(itk)
    vectors, lattice, linear = parts or (*displacement_from_sitk(itk, frame), None)
    _check_finite(vectors)
    deformation = FieldTransform(Field.from_mm(torch.as_tensor(vectors).float(), lattice))
    if linear is None:
        return deformation
    _check_finite(linear)
    return LinearTransform(linear).compose(deformation)


def _check_finite(numbers: np.ndarray) -> None:
    if not np.isfinite(numbers).all():
        raise InputError("The initial transform has numbers that are not finite.")


def check_initial(initial: Transform, fixed: Frame, moving: Frame) -> None:
    """Raise InputError where a start mirrors, flattens, or leads out of the moving image altogether."""
    points = _lattice(fixed)
    there = initial.map(points)
    if not bool(there.isfinite().all()):
        raise InputError("The initial transform has numbers that are not finite.")
    matrix = _linear_of(initial, points, there)
    stretches = np.linalg.svd(matrix, compute_uv=False)
    if stretches[-1] < _FLAT * stretches[0]:
        raise InputError("The initial transform presses the images flat: it cannot be inverted.")
    if np.linalg.det(matrix) < 0:
        raise InputError(
            f"The initial transform mirrors the images (its determinant is {np.linalg.det(matrix):.2f}), "
            "which no registration makes good."
        )
    if not bool(moving.contains(there).any()):
        raise InputError(
            "After the initial transform the two images do not overlap in space."
            + _hint(initial, fixed, moving)
        )


def _lattice(frame: Frame) -> torch.Tensor:
    """Points all over a box, (N, d) float64, LPS mm."""
    return frame.resized(tuple(min(n, _POINTS) for n in frame.size)).points().flatten(0, -2)


def _linear_of(initial: Transform, points: torch.Tensor, there: torch.Tensor) -> np.ndarray:
    """The (d, d) matrix of a map, or of the linear one nearest to it."""
    if isinstance(initial, LinearTransform):
        return initial.matrix[:-1, :-1].numpy()
    centred = (points - points.mean(0)).numpy()
    varied = np.ptp(centred, axis=0) > 0
    matrix = np.eye(centred.shape[1])
    solution = np.linalg.lstsq(centred, (there - there.mean(0)).numpy(), rcond=None)[0].T
    matrix[:, varied] = solution[:, varied]
    return matrix


def likely_mistakes(initial: LinearTransform) -> dict[str, LinearTransform]:
    """What a linear start may have been meant to be, by what was wrong then, in words."""
    flip = np.diag([-1.0, -1.0, *[1.0] * (initial.dimension - 1)])
    flipped = LinearTransform(flip @ initial.matrix.numpy() @ flip)
    return {
        "it is in RAS coordinates instead of LPS": flipped,
        "it maps moving to fixed points instead of fixed to moving ones": initial.inverse(),
    }


def _hint(initial: Transform, fixed: Frame, moving: Frame) -> str:
    if isinstance(initial, LinearTransform):
        for mistake, meant in likely_mistakes(initial).items():
            if bool(moving.contains(apply_matrix(meant.matrix, _lattice(fixed))).any()):
                return f" They would if {mistake}."
    return ""
