"""Affine: rotation, stretch, shear and translation, never singular."""

from __future__ import annotations

import torch
from torch import Tensor

from ..catalogue import REPRESENTATIONS
from ..frame import Frame
from .linear import LinearRepresentation, LinearTransform
from .linear_fit import best_affine, positive
from .rotation import rotation_matrix, rotation_vector


class Affine(LinearRepresentation):
    """x -> exp(S) exp(W) (x - c) + c + t, S symmetric (stretch and shear), W skew (rotation).

    By the polar decomposition this reaches every affine map with positive determinant, and no other:
    whatever the parameters, it can be inverted and does not mirror (the form of SITReg, arXiv 2303.10211).
    """

    name = "affine"
    description = REPRESENTATIONS[name].description
    signed = ("turn", "stretch", "shift")

    def __init__(self, frame: Frame, device: torch.device | str = "cpu") -> None:
        super().__init__(frame, device)
        d = frame.dimension
        self.turn = self._zeros(1 if d == 2 else 3)
        self.stretch = self._zeros(d * (d + 1) // 2)
        self.shift = self._zeros(d)

    def parameters(self) -> list[Tensor]:
        return [self.turn, self.stretch, self.shift]

    def matrix(self) -> Tensor:
        strain = torch.zeros(self.dimension, self.dimension, dtype=torch.float64, device=self.device)
        rows, columns = torch.triu_indices(self.dimension, self.dimension)
        strain = strain.index_put((rows, columns), self.stretch * self.angle)
        strain = torch.triu(strain) + torch.triu(strain, 1).T
        linear = torch.linalg.matrix_exp(strain) @ rotation_matrix(self.turn * self.angle)
        return self._about_centre(linear, self.shift * self.voxel_mm)

    def set(self, transform: LinearTransform) -> None:
        """Take over an affine transform; a mirroring one is replaced by the nearest that does not mirror."""
        u, s, vh = torch.linalg.svd(positive(transform.matrix[:-1, :-1]))
        strain = (u * s.log()) @ u.T
        rows, columns = torch.triu_indices(self.dimension, self.dimension)
        self.turn = self._leaf(rotation_vector(u @ vh) / self.angle)
        self.stretch = self._leaf(strain[rows, columns] / self.angle)
        self.shift = self._leaf(self._shift_of(transform) / self.voxel_mm)

    def fit_points(self, fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> float:
        self.set(best_affine(fixed, moving, weights))
        return self._distance(fixed, moving, weights)
