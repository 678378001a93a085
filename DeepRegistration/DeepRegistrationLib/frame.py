"""Where voxels are: a `Frame` in LPS millimetres, and a `Volume`, which is a tensor on a frame.

Three coordinate systems meet here, and only here are they converted:

* *world*: LPS millimetres, components (x, y, z), as SimpleITK has them;
* *index*: voxels along the image axes (i, j, k), 0 at the first voxel's centre;
* *normalised*: along the image axes, -1 and 1 at the outer faces of the first and the last voxel
  (torch's ``align_corners=False``). Frames of one box and different size share it.

Tensors are in array order (z, y, x); coordinates and vectors are always in (x, y, z) order.

Geometry alone needs no torch, which is imported by what makes tensors: so Slicer can describe its images
to the worker process on a machine where torch is missing or broken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_SLAB = 1 << 20
"""Voxels in a slab, about: coordinates and what is read there take some hundred bytes each."""


@dataclass(frozen=True)
class Frame:
    """A lattice of voxels in space, 2-D or 3-D.

    Attributes:
        size: number of voxels along each image axis, (x, y, z) order.
        spacing: millimetres between voxel centres along each image axis.
        origin: world position of the first voxel's centre, LPS mm.
        direction: d rows of d numbers; column a is the unit vector of image axis a in LPS.
            Left-handed directions are allowed, singular ones are not.

    Raises:
        InputError: when the numbers do not describe a lattice.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        d = len(self.size)
        matrix = np.asarray(self.direction, dtype=np.float64)
        if d not in (2, 3) or len(self.spacing) != d or len(self.origin) != d or matrix.shape != (d, d):
            raise InputError("An image must have two or three axes.")
        if min(self.size) < 1:
            raise InputError("The image has no voxels.")
        numbers = np.concatenate([matrix.ravel(), self.spacing, self.origin])
        if not np.isfinite(numbers).all() or min(self.spacing) <= 0 or abs(np.linalg.det(matrix)) < 1e-6:
            raise InputError("The image's spacing, origin or direction is not usable.")

    @classmethod
    def regular(cls, size: tuple[int, ...], spacing: float | tuple[float, ...] = 1.0) -> Frame:
        """An axis-aligned frame centred on the world's origin."""
        d = len(size)
        steps = tuple(float(s) for s in (spacing if isinstance(spacing, tuple) else (spacing,) * d))
        origin = tuple(-s * (n - 1) / 2 for n, s in zip(size, steps, strict=True))
        return cls(tuple(size), steps, origin, tuple(map(tuple, np.eye(d).tolist())))

    @property
    def dimension(self) -> int:
        return len(self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Tensor shape, array order (z, y, x)."""
        return tuple(reversed(self.size))

    @property
    def voxels(self) -> int:
        return int(np.prod(self.size))

    @property
    def voxel_volume(self) -> float:
        """Volume (area in 2-D) of one voxel in mm^d."""
        return float(np.prod(self.spacing) * abs(np.linalg.det(np.asarray(self.direction))))

    @cached_property
    def index_to_world(self) -> np.ndarray:
        """(d+1, d+1) float64 matrix from (i, j, k, 1) to LPS mm."""
        d = self.dimension
        matrix = np.eye(d + 1)
        matrix[:d, :d] = np.asarray(self.direction) @ np.diag(self.spacing)
        matrix[:d, d] = self.origin
        return matrix

    @cached_property
    def world_to_index(self) -> np.ndarray:
        return np.linalg.inv(self.index_to_world)

    @cached_property
    def normalised_to_index(self) -> np.ndarray:
        size = np.asarray(self.size, dtype=np.float64)
        matrix = np.diag(np.append(size / 2, 1.0))
        matrix[:-1, -1] = (size - 1) / 2
        return matrix

    @cached_property
    def normalised_to_world(self) -> np.ndarray:
        """(d+1, d+1) float64 matrix from normalised coordinates to LPS mm."""
        return self.index_to_world @ self.normalised_to_index

    @cached_property
    def world_to_normalised(self) -> np.ndarray:
        return np.linalg.inv(self.normalised_to_world)

    @property
    def centre(self) -> np.ndarray:
        """World position of the box's middle, LPS mm."""
        return self.normalised_to_world[:-1, -1]

    @property
    def extent(self) -> np.ndarray:
        """Side lengths of the box, whole voxels counted, mm."""
        return np.asarray(self.size) * np.asarray(self.spacing)

    def corners(self) -> np.ndarray:
        """(2^d, d) world positions of the box's corners, LPS mm."""
        d = self.dimension
        signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * d, indexing="ij"), -1).reshape(-1, d)
        matrix = self.normalised_to_world
        return signs @ matrix[:d, :d].T + matrix[:d, d]

    def contains(self, points: Tensor) -> Tensor:
        """Whether each world point (..., d) lies in the box; (...) bool."""
        return (apply_matrix(self.world_to_normalised, points).abs() <= 1).all(-1)

    def grid(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        window: tuple[slice, ...] = (),
    ) -> Tensor:
        """Normalised coordinates of every voxel centre, (*shape, d), float32 unless said otherwise; with a
        window (slices of the array's first axes) only of those in it."""
        import torch

        windows = (*window, *(slice(None),) * (self.dimension - len(window)))
        axes = [
            ((2 * torch.arange(n, device=device, dtype=torch.float64) + 1) / n - 1)[w].to(
                dtype or torch.float32
            )
            for n, w in zip(self.shape, windows, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)

    def points(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        window: tuple[slice, ...] = (),
    ) -> Tensor:
        """World position of every voxel centre, (*shape, d), LPS mm, float64 unless said otherwise; window as
        for `grid`."""
        import torch

        points = apply_matrix(self.normalised_to_world, self.grid(device, torch.float64, window))
        return points if dtype is None else points.to(dtype)

    def slabs(self) -> Iterator[tuple[slice]]:
        """Windows along the array's first axis that cover the frame, small enough to work on whole."""
        rows = max(1, _SLAB * self.shape[0] // self.voxels)
        for start in range(0, self.shape[0], rows):
            yield (slice(start, min(self.shape[0], start + rows)),)

    def resized(self, size: tuple[int, ...]) -> Frame:
        """The same box cut into `size` voxels (x, y, z): normalised coordinates are unchanged."""
        size = tuple(int(n) for n in size)
        spacing = tuple(float(e / n) for e, n in zip(self.extent, size, strict=True))
        shift = (np.asarray(spacing) - np.asarray(self.spacing)) / 2
        origin = np.asarray(self.origin) + np.asarray(self.direction) @ shift
        return Frame(size, spacing, tuple(map(float, origin)), self.direction)

    def upright(self) -> Frame:
        """The same voxels, the axes in the order and directions that lie nearest to L, P, S; the frame itself
        where two of its axes lie nearest to one of those."""
        direction = np.asarray(self.direction)
        order = np.abs(direction).argmax(1)  # the own axis along each world axis
        if sorted(order.tolist()) != list(range(self.dimension)):
            return self
        axes = direction[:, order] * np.sign(direction[np.arange(self.dimension), order])
        size, spacing = np.array(self.size)[order], np.asarray(self.spacing)[order]
        origin = self.centre - axes @ (spacing * (size - 1) / 2)
        numbers = (tuple(v.tolist()) for v in (size, spacing, origin))
        return Frame(*numbers, tuple(map(tuple, axes.tolist())))

    def with_spacing(self, spacing: float | tuple[float, ...]) -> Frame:
        """The same box at about `spacing` mm (rounded to whole voxels, at least one per axis)."""
        steps = spacing if isinstance(spacing, tuple) else (float(spacing),) * self.dimension
        return self.resized(tuple(max(1, round(e / s)) for e, s in zip(self.extent, steps, strict=True)))

    def same_lattice(self, other: Frame, tolerance: float = 1e-3) -> bool:
        """Whether both have the same voxels, to `tolerance` of a voxel at every corner."""
        if self.size != other.size:
            return False
        difference = np.abs(self.corners() - other.corners()).max()
        return bool(difference <= tolerance * min(self.spacing))


@dataclass(frozen=True)
class Volume:
    """An image: `data` of shape (channels, *frame.shape), on `frame`."""

    data: Tensor
    frame: Frame

    def __post_init__(self) -> None:
        if tuple(self.data.shape[1:]) != self.frame.shape:
            raise InputError("The image's voxels and its geometry do not have the same size.")

    @property
    def channels(self) -> int:
        return int(self.data.shape[0])

    def to(self, device: torch.device | str) -> Volume:
        return Volume(self.data.to(device), self.frame)


def apply_matrix(matrix: np.ndarray | Tensor, points: Tensor) -> Tensor:
    """Map points (..., d) by a homogeneous (d+1, d+1) matrix, in the points' dtype and device."""
    import torch

    m = torch.as_tensor(matrix, dtype=points.dtype, device=points.device)
    d = points.shape[-1]
    flat = torch.addmm(m[:d, d], points.reshape(-1, d), m[:d, :d].T)
    return flat.reshape(points.shape)
