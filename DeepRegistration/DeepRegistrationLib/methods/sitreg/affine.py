"""The optional first stage: an affine half-way map from the coarsest features.

Honkamaa and Marttinen, SITReg (MELBA 2024, arXiv 2303.10211).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..maps import BatchMap, voxel_centres
from .extraction import swapped


class AffineMap(BatchMap):
    """x -> A x + t.

    Args:
        matrix: (B, d + 1, d + 1), homogeneous, of normalised coordinates (x, y, z).
        shape: lattice of `field`.
    """

    def __init__(self, matrix: Tensor, shape: Sequence[int]) -> None:
        self.matrix, self.shape = matrix, tuple(shape)

    @property
    def field(self) -> Tensor:
        grid = voxel_centres(self.shape, self.matrix)
        return self(grid.expand(len(self.matrix), *grid.shape)) - grid

    def __call__(self, points: Tensor) -> Tensor:
        b, *target, d = points.shape
        m = self.matrix.to(points.dtype)
        flat = torch.baddbmm(m[:, None, :d, d], points.reshape(b, -1, d), m[:, :d, :d].mT)
        return flat.reshape(b, *target, d)

    def part(self, start: int, stop: int) -> AffineMap:
        return AffineMap(self.matrix[start:stop], self.shape)

    def twice_differentiable(self) -> AffineMap:
        return self


class AffineStage(nn.Module):
    """Two hidden layers, one after the other, on differences and sums of the coarsest features.

    (The authors' code feeds the input to both and uses the second only.) Features of more than one voxel
    are averaged. With M(a, b) = translation . exp(symmetric) . exp(skew) of the network's numbers for images
    in this order, the half-way map is M(a, b) M(b, a)^-1: with the images exchanged it is its own inverse.

    Args:
        dimension: 2 or 3.
        features: channels of the coarsest level.
    """

    def __init__(self, dimension: int, features: int) -> None:
        super().__init__()
        self.dimension = dimension
        width = 2 * features
        self.layers = nn.Sequential(
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, dimension * (dimension + 1)),
        )

    def forward(self, features: Tensor, extent: Sequence[float]) -> Tensor:
        """Homogeneous matrices of the half-way map in normalised coordinates.

        Args:
            features: (2 B, C, *S) of the first, then of the second images.
            extent: side lengths of the box, (x, y, z), in any unit of length. The network's own
                coordinates are isotropic, the longest side from -1 to 1.

        Returns:
            (2 B, d + 1, d + 1), of the first, then of the second images; float32 at least.
        """
        pooled = features.flatten(2).mean(2)
        other = swapped(pooled)
        numbers = self.layers(torch.cat([pooled - other, pooled + other], 1))
        with torch.autocast(features.device.type, enabled=False):
            one_way = self._matrix(numbers if numbers.dtype == torch.float64 else numbers.float())
            half = one_way @ torch.linalg.inv(swapped(one_way))
            sides = half.new_tensor([*(e / max(extent) for e in extent), 1.0])
            return half * sides / sides[:, None]

    def _matrix(self, numbers: Tensor) -> Tensor:
        d = self.dimension
        rows, columns = torch.triu_indices(d, d)
        above = torch.triu_indices(d, d, 1)
        stretch, turn, shift = numbers.split([len(rows), above.shape[1], d], 1)
        upper = numbers.new_zeros(len(numbers), d, d)
        upper[:, rows, columns] = stretch
        strain = (upper + upper.mT) / 2
        skew = numbers.new_zeros(len(numbers), d, d)
        skew[:, above[0], above[1]] = turn
        linear = torch.linalg.matrix_exp(strain) @ torch.linalg.matrix_exp(skew - skew.mT)
        matrix = torch.eye(d + 1, dtype=numbers.dtype, device=numbers.device).repeat(len(numbers), 1, 1)
        matrix[:, :d, :d], matrix[:, :d, d] = linear, shift
        return matrix
