"""Rigid: rotation about the box's centre and translation."""

from __future__ import annotations

import torch
from torch import Tensor

from ..catalogue import REPRESENTATIONS
from ..frame import Frame
from .linear import LinearRepresentation, LinearTransform
from .linear_fit import best_rigid
from .rotation import rotation_matrix, rotation_vector


class Rigid(LinearRepresentation):
    """x -> R (x - c) + c + t, R = exp(skew(r)) with a rotation vector r (3-D) or an angle (2-D)."""

    name = "rigid"
    description = REPRESENTATIONS[name].description
    signed = ("turn", "shift")

    def __init__(self, frame: Frame, device: torch.device | str = "cpu") -> None:
        super().__init__(frame, device)
        self.turn = self._zeros(1 if frame.dimension == 2 else 3)
        self.shift = self._zeros(frame.dimension)

    def parameters(self) -> list[Tensor]:
        return [self.turn, self.shift]

    def rotation(self) -> Tensor:
        """R, (d, d) float64, differentiable."""
        return rotation_matrix(self.turn * self.angle)

    def matrix(self) -> Tensor:
        return self._about_centre(self.rotation(), self.shift * self.voxel_mm)

    def set(self, transform: LinearTransform) -> None:
        """Take over the rotation nearest to the transform's linear part, and its shift of the centre."""
        u, _, vh = torch.linalg.svd(transform.matrix[:-1, :-1])
        u = torch.cat([u[:, :-1], u[:, -1:] * torch.sign(torch.linalg.det(u @ vh))], 1)
        self.turn = self._leaf(rotation_vector(u @ vh) / self.angle)
        self.shift = self._leaf(self._shift_of(transform) / self.voxel_mm)

    def fit_points(self, fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> float:
        self.set(best_rigid(fixed, moving, weights))
        return self._distance(fixed, moving, weights)
