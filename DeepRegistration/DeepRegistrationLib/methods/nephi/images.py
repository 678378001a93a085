"""A prepared pair, read at points: nothing is resampled onto another lattice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...field import Field
from ...frame import Volume
from ...interpolation import sample
from ...objective import normalised_matrix
from ...objectives import GlobalNCC, Similarity
from ...transforms.linear import LinearTransform


@dataclass(frozen=True)
class PairImages:
    """One pair in the normalised coordinates of the fixed box (`loss.Images`, B = 1).

    Attributes:
        fixed: (1, C, *S) over that box.
        moving: (1, C, *T) on the moving image's own lattice.
        matrix: (d, d+1) from the fixed box's normalised coordinates to the moving lattice's.
        start: a map applied before the matrix, so that the moving image is seen through it; None is the
            identity.
    """

    fixed: Tensor
    moving: Tensor
    matrix: Tensor
    start: Field | None = None

    @classmethod
    def of(
        cls,
        fixed: Volume,
        moving: Volume,
        linear: LinearTransform,
        similarity: Similarity,
        start: Field | None = None,
    ) -> PairImages:
        """What a measure compares of two images.

        Args:
            fixed, moving: (1, *S), each on a frame of its own.
            linear: fixed to moving points, LPS mm.
            similarity: its descriptors are read in the place of the images, where it has some. Where they
                depend on the directions of the lattice the moving image is first brought onto the fixed one.
            start: a displacement over the fixed box.
        """
        matrix = normalised_matrix(linear, fixed.frame, moving.frame, fixed.data.device)
        seen, eye = moving.data[None], torch.eye(*matrix.shape).to(matrix)
        if similarity.oriented and not (torch.equal(matrix, eye) and fixed.frame.size == moving.frame.size):
            seen, matrix = sample(seen, _linear(matrix, fixed.frame.grid(fixed.data.device))), eye
        return cls(similarity.prepare(fixed.data[None]), similarity.prepare(seen), matrix, start)

    def fixed_at(self, points: Tensor) -> Tensor:
        return sample(self.fixed, points[0])

    def moving_at(self, points: Tensor) -> Tensor:
        return sample(self.moving, self._moving_points(points[0]))

    def both_seen(self, points: Tensor) -> Tensor:
        """Those that start and matrix lead into the moving box; all, where none are."""
        with torch.no_grad():
            inside = (self._moving_points(points).abs() <= 1).all(-1)
        return points[inside] if bool(inside.any()) else points

    def _moving_points(self, points: Tensor) -> Tensor:
        if self.start is not None:
            points = points + self.start.at(points)
        return _linear(self.matrix, points)


def measured_at_points(similarity: Similarity) -> Similarity:
    """The measure itself where it needs no neighbourhoods, else the correlation over all points."""
    return similarity if similarity.pointwise else GlobalNCC()


def _linear(matrix: Tensor, points: Tensor) -> Tensor:
    return points @ matrix[:, :-1].T + matrix[:, -1]
