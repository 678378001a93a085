"""A map of points as its file has it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .field import Field, linear_part
from .frame import Frame, apply_matrix
from .transforms import LinearTransform


class WrittenMap:
    """A field on its lattice and, where that ends, the linear part of the map.

    In the outer half of the border's voxels, too, the map goes on as the linear part has it: what is read
    there as at the border is what it does besides. A field without a linear part, which is read as the
    identity beyond, keeps the border's displacement there.
    """

    def __init__(self, field: Field, linear: LinearTransform | None = None) -> None:
        self.field, self.linear = field, linear

    def map(self, points: Tensor) -> Tensor:
        """World points (..., d) to world points, LPS mm, in the points' dtype."""
        frame = self.field.frame
        here = apply_matrix(frame.world_to_normalised, points)
        moved = self._moved(here, self.field.at(here))
        beyond = points if self.linear is None else self.linear.map(points)
        inside = (here.abs() <= 1).all(-1, keepdim=True)
        return torch.where(inside, apply_matrix(frame.normalised_to_world, moved), beyond)

    def pulled(self, frame: Frame, source: Frame) -> Iterator[tuple[tuple[slice], Tensor]]:
        """As `Field.pulled`."""
        if frame == self.field.frame or self.linear is None:
            yield from self.field.pulled(frame, source)
            return
        device = self.field.displacement.device
        for window in frame.slabs():
            points = self.map(frame.points(device, torch.float32, window))
            yield window, apply_matrix(source.world_to_normalised, points)

    def _moved(self, here: Tensor, displacement: Tensor) -> Tensor:
        moved = here + displacement
        if self.linear is not None:
            moved += border_part(here, self.field.frame, self.linear.matrix.numpy())
        return moved


def border_part(points: Tensor, frame: Frame, linear: np.ndarray) -> Tensor:
    """What a linear map adds to the border's displacement at points beyond the outermost voxel centres.

    Args:
        points: (..., d) normalised coordinates of `frame`.
        frame: of the field.
        linear: homogeneous (d+1, d+1), LPS mm.

    Returns:
        (..., d) in the same coordinates; zero between the voxel centres.
    """
    limit = 1 - 1 / torch.tensor(frame.size, dtype=points.dtype, device=points.device)
    beyond = points - torch.minimum(torch.maximum(points, -limit), limit)
    change = frame.world_to_normalised @ linear @ frame.normalised_to_world - np.eye(len(linear))
    return linear_part(change, beyond)
