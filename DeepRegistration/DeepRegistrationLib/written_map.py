"""A map of points as its file has it."""

from __future__ import annotations

import torch
from torch import Tensor

from .field import Field
from .transforms import LinearTransform


class WrittenMap:
    """A field on its lattice and, where that ends, the linear part of the map.

    A field alone, without a linear part, is read as the identity there.
    """

    def __init__(self, field: Field, linear: LinearTransform | None = None) -> None:
        self.field, self.linear = field, linear

    def map(self, points: Tensor) -> Tensor:
        """World points (..., d) to world points, LPS mm, in the points' dtype."""
        beyond = points if self.linear is None else self.linear.map(points)
        return torch.where(self.field.frame.contains(points)[..., None], self.field.map(points), beyond)
