"""A displacement field: the dense form every map can be brought to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from .frame import Frame, apply_matrix
from .interpolation import sample
from .inversion import invert_at


@dataclass(frozen=True)
class Field:
    """A pull-back map x -> x + u(x) sampled on a frame.

    Attributes:
        displacement: (*frame.shape, d), components along the image axes (x, y, z), in normalised units
            of `frame` (one voxel along axis a is 2 / size[a]). Linear between voxels; beyond the box
            the border's displacement goes on.
        frame: where it is sampled.
    """

    displacement: Tensor
    frame: Frame

    @classmethod
    def identity(cls, frame: Frame, device: torch.device | str = "cpu") -> Field:
        return cls(torch.zeros(*frame.shape, frame.dimension, device=device), frame)

    @classmethod
    def from_mm(cls, displacement: Tensor, frame: Frame) -> Field:
        """From vectors (*frame.shape, d) in LPS mm."""
        return cls(linear_part(frame.world_to_normalised, displacement), frame)

    def mm(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The displacement as vectors (*frame.shape, d) in LPS mm."""
        return linear_part(self.frame.normalised_to_world, self.displacement.to(dtype))

    def mm_slabs(self) -> Iterator[Tensor]:
        """`mm` on the CPU, a few rows of the first axis at a time."""
        for window in self.frame.slabs():
            yield linear_part(self.frame.normalised_to_world, self.displacement[window].float()).cpu()

    def magnitude_mm(self) -> Tensor:
        """Length of each displacement in mm, (*frame.shape)."""
        return self.mm().norm(dim=-1)

    def at(self, points: Tensor) -> Tensor:
        """Displacement at normalised points (..., d), normalised units."""
        image = self.displacement.to(points.dtype).movedim(-1, 0)[None]
        return sample(image, points)[0].movedim(0, -1)

    def map(self, points: Tensor) -> Tensor:
        """World points (..., d) to world points, LPS mm, in the points' dtype."""
        normalised = apply_matrix(self.frame.world_to_normalised, points)
        return apply_matrix(self.frame.normalised_to_world, normalised + self.at(normalised))

    def resampled(self, frame: Frame) -> Field:
        """The same map sampled on another frame."""
        if frame == self.frame:
            return self
        return Field(torch.cat([self._on(frame, window) for window in frame.slabs()]), frame)

    def pulled(self, frame: Frame, source: Frame) -> Iterator[tuple[tuple[slice], Tensor]]:
        """Where this map takes a frame's voxels, slab by slab: the window, and its points (*T, d) in
        normalised coordinates of `source`, on the field's device."""
        matrix = source.world_to_normalised @ frame.normalised_to_world
        for window in frame.slabs():
            points = frame.grid(self.displacement.device, window=window)
            yield window, apply_matrix(matrix, points.add_(self._on(frame, window)))

    def _on(self, frame: Frame, window: tuple[slice]) -> Tensor:
        """Displacement at the voxels of a window of a frame, that frame's normalised units."""
        if frame == self.frame:
            return self.displacement[window]
        to_self = self.frame.world_to_normalised @ frame.normalised_to_world
        here = apply_matrix(to_self, frame.grid(self.displacement.device, window=window))
        return linear_part(frame.world_to_normalised @ self.frame.normalised_to_world, self.at(here))

    def inverse(
        self,
        tolerance: float = 0.01,
        max_iterations: int = 50,
        start: Field | None = None,
        frame: Frame | None = None,
    ) -> tuple[Field, float]:
        """The inverse map, solved for at the voxels of a frame: see `inversion.invert_at`.

        Args:
            tolerance: largest allowed error, voxels of this field.
            max_iterations: of the point-by-point part.
            start: first guess, an inverse on any frame of the same box; by default -u.
            frame: where it is wanted; by default this field's own frame.

        Returns:
            The inverse and the largest error left, in voxels: above `tolerance` where the map folds.
        """
        frame = frame or self.frame
        points = apply_matrix(
            self.frame.world_to_normalised @ frame.normalised_to_world,
            frame.grid(self.displacement.device, self.displacement.dtype),
        )
        v, error = self.inverse_at(points, tolerance, max_iterations, start)
        linear = frame.world_to_normalised @ self.frame.normalised_to_world
        return Field(v if frame == self.frame else linear_part(linear, v), frame), error

    def inverse_at(
        self, points: Tensor, tolerance: float = 0.01, max_iterations: int = 50, start: Field | None = None
    ) -> tuple[Tensor, float]:
        """The inverse's displacement at normalised points (*T, d), normalised units, and the error left.

        `start` is a first guess, an inverse on any frame of the same box.
        """
        voxel = 2 / torch.tensor(self.frame.size, dtype=points.dtype, device=points.device)
        guess = start.at if start is not None else lambda y: self.at(y).neg_()
        return invert_at(self.at, points, voxel, guess, tolerance, max_iterations)

    def jacobian_determinant(self, strict: bool = False) -> Tensor:
        """det of the map's Jacobian at every voxel, (*frame.shape); unitless.

        With `strict` the smallest determinant of the 2^d cells that meet in the voxel (one-sided
        differences), which is what decides whether the linearly interpolated field folds; otherwise
        central differences.
        """
        return jacobian_determinant(self.displacement, strict)


def jacobian_determinant(displacement: Tensor, strict: bool = False) -> Tensor:
    """`Field.jacobian_determinant` of a bare displacement (*S, d) in normalised units; differentiable."""
    shape, d = displacement.shape[:-1], displacement.shape[-1]
    if strict:
        cells = cell_determinant(displacement)
        # a voxel's value is the smallest of the cells around it; cells beyond the border do not exist
        for dim in range(d):
            if shape[dim] > 1:
                first, last = cells.narrow(dim, 0, 1), cells.narrow(dim, cells.shape[dim] - 1, 1)
                cells = torch.minimum(torch.cat([first, cells], dim), torch.cat([cells, last], dim))
        return cells
    columns = []
    for axis in range(d):
        dim, n = d - 1 - axis, shape[d - 1 - axis]
        if n == 1:
            columns.append(torch.zeros_like(displacement))
            continue
        difference = displacement.diff(dim=dim) * (n / 2)
        first, last = difference.narrow(dim, 0, 1), difference.narrow(dim, n - 2, 1)
        padded = torch.cat([first, difference, last], dim)
        columns.append((padded.narrow(dim, 0, n) + padded.narrow(dim, 1, n)) / 2)
    return _determinant(columns)


def cell_determinant(displacement: Tensor, corners: Sequence[tuple[int, ...]] | None = None) -> Tensor:
    """Smallest Jacobian determinant of the linearly interpolated map at corners of each lattice cell.

    Args:
        displacement: (*S, d), normalised units.
        corners: which corners of a cell to look at, each d times 0 or 1 along (x, y, z); all by default.

    Returns:
        One value per cell: shape (*S) less one along each axis (axes of one voxel stay).
    """
    result: Tensor | None = None
    for corner in corners or list(product((0, 1), repeat=displacement.shape[-1])):
        value = _determinant(_corner_columns(displacement, corner))
        result = value if result is None else torch.minimum(result, value)
    assert result is not None
    return result


def opposite_determinants(displacement: Tensor, corners: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """`cell_determinant` of x + u(x) and of x - u(x), from one pass: det(I +- A) = 1 +- tr A + m +- det A
    with m the sum of A's principal minors (no third term in 2-D)."""
    result: tuple[Tensor, Tensor] | None = None
    for corner in corners:
        columns = [column.unbind(-1) for column in _corner_columns(displacement, corner)]
        if len(columns) == 2:
            (ax, ay), (bx, by) = columns
            even, odd = (ax * by).addcmul_(ay, bx, value=-1).add_(1), ax + by
        else:
            (ax, ay, az), (bx, by, bz), (cx, cy, cz) = columns
            yz = (by * cz).addcmul_(bz, cy, value=-1)
            even = (ax * by).addcmul_(ay, bx, value=-1).addcmul_(ax, cz).addcmul_(az, cx, value=-1)
            even.add_(yz).add_(1)
            odd = yz.mul_(ax).addcmul_(ay, (bz * cx).addcmul_(bx, cz, value=-1))
            odd.addcmul_(az, (bx * cy).addcmul_(by, cx, value=-1)).add_(ax).add_(by).add_(cz)
        values = even + odd, even - odd
        if result is None:
            result = values
        else:
            result = torch.minimum(result[0], values[0]), torch.minimum(result[1], values[1])
    assert result is not None
    return result


def _corner_columns(displacement: Tensor, corner: tuple[int, ...]) -> list[Tensor]:
    """Derivatives of a displacement along the axes at a corner of each cell, d times (*S - 1, d)."""
    shape, d = displacement.shape[:-1], displacement.shape[-1]
    columns = []
    for axis in range(d):  # the difference along an axis, on the edge of the cell that meets the corner
        edge = displacement
        for other in range(d):
            dim, n = d - 1 - other, shape[d - 1 - other]
            if n > 1 and other != axis:
                edge = edge.narrow(dim, corner[other], n - 1)
        n = shape[d - 1 - axis]
        columns.append(edge.diff(dim=d - 1 - axis) * (n / 2) if n > 1 else torch.zeros_like(edge))
    return columns


def _determinant(columns: list[Tensor]) -> Tensor:
    """det(I + [columns]) for d columns (*S, d), each the derivative along one image axis."""
    rows = [
        [column[..., k] + (1.0 if k == axis else 0.0) for axis, column in enumerate(columns)]
        for k in range(len(columns))
    ]
    if len(columns) == 2:
        return rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    a, b, c = rows
    return (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )


def linear_part(matrix: np.ndarray, vectors: Tensor) -> Tensor:
    """Apply the linear part of a homogeneous matrix to vectors (..., d)."""
    m = torch.as_tensor(matrix, dtype=vectors.dtype, device=vectors.device)
    d = vectors.shape[-1]
    return (vectors.reshape(-1, d) @ m[:d, :d].T).reshape(vectors.shape)
