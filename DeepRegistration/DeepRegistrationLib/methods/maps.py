"""Maps as functions on coordinates: composed without being resampled, read at any resolution.

All are pull-backs of a batch, in normalised coordinates of one box (align_corners=False, (x, y, z)
order, -1 and 1 on the outer faces). GradICON's publications count in [0, 1] over the box: their lengths
are half of ours, slopes are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..interpolation import gather_sample, read_at, voxel_centres

__all__ = ["BatchMap", "ComposedMap", "FieldMap", "LargerBoxMap", "read_at", "voxel_centres"]


class BatchMap(ABC):
    """A map of points for each pair of a batch."""

    @abstractmethod
    def __call__(self, points: Tensor) -> Tensor:
        """Points (B, *T, d) to points (B, *T, d), differentiable in the points and in the map."""

    @property
    @abstractmethod
    def field(self) -> Tensor:
        """The displacement (B, *S, d) that is read first."""

    @abstractmethod
    def part(self, start: int, stop: int) -> BatchMap:
        """The maps of some pairs of the batch."""

    @abstractmethod
    def twice_differentiable(self) -> BatchMap:
        """The same map read so that its derivatives with respect to points can be differentiated, slower."""

    def on_grid(self, shape: Sequence[int]) -> Tensor:
        """Where the voxel centres of a lattice (*shape) over the box go: (B, *shape, d).

        A field on that very lattice is added, not interpolated: the values of `__call__`, for less.
        """
        grid = voxel_centres(shape, self.field)
        return self(grid.expand(len(self.field), *grid.shape))

    def displacement(self, shape: Sequence[int]) -> Tensor:
        """(B, *shape, d), normalised units."""
        there = self.on_grid(shape)
        return there - voxel_centres(shape, there)


class FieldMap(BatchMap):
    """x -> x + u(x), u linear between voxel centres and constant beyond the outermost ones.

    Args:
        displacement: (B, *S, d), normalised units.
        twice: see `twice_differentiable`.
    """

    def __init__(self, displacement: Tensor, twice: bool = False) -> None:
        self._field, self.twice = displacement, twice

    @property
    def field(self) -> Tensor:
        return self._field

    def __call__(self, points: Tensor) -> Tensor:
        images = self.field.movedim(-1, 1)
        if self.twice:
            read = [gather_sample(u[None], p)[0] for u, p in zip(images, points, strict=True)]
            return points + torch.stack(read).movedim(1, -1)
        return points + read_at(images, points).movedim(1, -1)

    def on_grid(self, shape: Sequence[int]) -> Tensor:
        if tuple(shape) == tuple(self.field.shape[1:-1]):
            return voxel_centres(shape, self.field) + self.field
        return super().on_grid(shape)

    def part(self, start: int, stop: int) -> FieldMap:
        return FieldMap(self.field[start:stop], self.twice)

    def twice_differentiable(self) -> FieldMap:
        return FieldMap(self.field, twice=True)


class ComposedMap(BatchMap):
    """x -> outer(inner(x))."""

    def __init__(self, outer: BatchMap, inner: BatchMap) -> None:
        self.outer, self.inner = outer, inner

    @property
    def field(self) -> Tensor:
        return self.inner.field

    def __call__(self, points: Tensor) -> Tensor:
        return self.outer(self.inner(points))

    def on_grid(self, shape: Sequence[int]) -> Tensor:
        return self.outer(self.inner.on_grid(shape))

    def part(self, start: int, stop: int) -> ComposedMap:
        return ComposedMap(self.outer.part(start, stop), self.inner.part(start, stop))

    def twice_differentiable(self) -> ComposedMap:
        return ComposedMap(self.outer.twice_differentiable(), self.inner.twice_differentiable())


class LargerBoxMap(BatchMap):
    """A map known in the coordinates of a box that is larger at the far end of some axes.

    Args:
        inner: the map in the larger box's coordinates.
        ratio: larger side over side, per axis (x, y, z).
    """

    def __init__(self, inner: BatchMap, ratio: Sequence[float]) -> None:
        self.inner, self.ratio = inner, tuple(ratio)

    @property
    def field(self) -> Tensor:
        return self.inner.field

    def __call__(self, points: Tensor) -> Tensor:
        ratio = points.new_tensor(self.ratio)
        return (self.inner((points + 1) / ratio - 1) + 1) * ratio - 1

    def part(self, start: int, stop: int) -> LargerBoxMap:
        return LargerBoxMap(self.inner.part(start, stop), self.ratio)

    def twice_differentiable(self) -> LargerBoxMap:
        return LargerBoxMap(self.inner.twice_differentiable(), self.ratio)
