"""Generated pairs: shapes to be matched with one another, and the square of DIO's toy problem.

``generated:shapes``  a circle or a triangle (2-D; the toy of GradICON, arXiv 2206.05897), or an
    ellipsoid, a box or a cone (3-D), at a random place, size and turn in each image.
``generated:squares``  one square (a cube in 3-D), the same in both images but for its place; in half of
    the pairs the two do not overlap (arXiv 2406.07361, 32 pixels wide in 256).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..frame import Frame
from .base import Batch
from .generated import GeneratedPairs, choice, flag


class Shapes(GeneratedPairs):
    """Random shapes, bright on black, their edge about a voxel wide.

    Args:
        pairs: ``any`` draws the kind of shape for each image, ``same`` once for a pair.
        hollow: outlines instead of filled shapes; the label is the filled shape.
        edge: width of the outline and softness of the edges, voxels.
    """

    size = 64
    options: ClassVar[Mapping[str, Callable]] = {
        "size": int,
        "pairs": choice("any", "same"),
        "hollow": flag,
        "edge": float,
    }

    def __init__(
        self,
        spec: str,
        shape: tuple[int, ...],
        pairs: str = "any",
        hollow: bool = False,
        edge: float = 1.0,
    ) -> None:
        super().__init__(spec, shape)
        if not 0 < edge <= min(shape) / 8:
            raise InputError(
                f"The edge of the shapes of '{spec}' has to be above 0 and a small part of the size."
            )
        self._same, self._hollow, self._edge = pairs == "same", hollow, edge
        self._points = _voxel_points(shape)

    def _pairs(self, draws: Sequence[np.random.Generator], held_out: bool, index: int = 0) -> Batch:
        d, kinds = self.dimension, len(_DISTANCES[self.dimension])
        drawn = [draw.random((2, 2 * d + 6)) for draw in draws]
        numbers = torch.from_numpy(np.concatenate(drawn)).float()  # fixed, moving, fixed, moving, ...
        kind = (numbers[:, 0] * kinds).long()
        if self._same:
            kind[1::2] = kind[::2]
        centre = (numbers[:, 1 : 1 + d] - 0.5) * 0.6 * self._points.abs().amax(1)
        radius = 0.3 + 0.3 * numbers[:, 1 + d]
        stretch = 0.8 + 0.4 * numbers[:, 2 + d : 2 + 2 * d]
        matrix = (_rotations(numbers[:, 2 + 2 * d :], d) / (radius[:, None] * stretch)[:, None]).mT
        shift = -(matrix @ centre[..., None])
        voxels = torch.stack(
            [
                _DISTANCES[d][int(kind[k])](torch.addmm(shift[k], matrix[k], self._points))
                for k in range(len(kind))
            ]
        )
        voxels = voxels.view(-1, *self.shape) * (radius * (min(self.shape) / 2)).view(-1, *(1,) * d)
        shown = voxels.abs() - self._edge if self._hollow else voxels
        images = torch.sigmoid(shown * (-4 / self._edge)).unflatten(0, (-1, 2))
        return self._batch(images, (voxels < 0).float().unflatten(0, (-1, 2)))


class Squares(GeneratedPairs):
    """One bright square at whole voxels.

    Args:
        side: its width in voxels, an eighth of the images by default.
        apart: share of the pairs whose squares do not overlap.
    """

    size = 256
    options: ClassVar[Mapping[str, Callable]] = {"size": int, "side": int, "apart": float}

    def __init__(
        self, spec: str, shape: tuple[int, ...], side: int | None = None, apart: float = 0.5
    ) -> None:
        super().__init__(spec, shape)
        self._side = max(1, min(shape) // 8) if side is None else side
        if not 1 <= self._side <= min(shape) // 3:
            raise InputError(f"The side of the squares of '{spec}' has to be 1 to {min(shape) // 3} voxels.")
        if not 0 <= apart <= 1:
            raise InputError(f"The share of squares apart in '{spec}' has to be 0 to 1.")
        self._apart = apart

    def _pairs(self, draws: Sequence[np.random.Generator], held_out: bool, index: int = 0) -> Batch:
        images = torch.zeros(len(draws), 2, *self.shape)
        for k, draw in enumerate(draws):
            # held-out pairs take turns, so that any even number of them has the right share of one half
            apart = index % 2 == 1 if held_out and self._apart == 0.5 else draw.random() < self._apart
            for side, corner in enumerate(self._corners(draw, apart)):
                images[(k, side, *(slice(c, c + self._side) for c in corner))] = 1
        return self._batch(images, images.clone())

    def _corners(self, draw: np.random.Generator, apart: bool) -> np.ndarray:
        """First voxels of both squares, (2, d), array order."""
        room = np.array(self.shape) - self._side + 1
        while True:
            corners = draw.integers(0, room, (2, self.dimension))
            if not apart:  # uniform over overlapping places, without waiting for one to come up
                low = np.maximum(0, corners[0] - self._side + 1)
                corners[1] = draw.integers(low, np.minimum(room, corners[0] + self._side))
            if (np.abs(corners[0] - corners[1]) < self._side).all() != apart:
                return corners


def _voxel_points(shape: tuple[int, ...]) -> Tensor:
    """Voxel centres (d, N), (x, y, z), in units of half the shortest side, 0 in the middle."""
    half = torch.tensor([n / min(shape) for n in reversed(shape)])
    return (Frame.regular(tuple(reversed(shape))).grid() * half).flatten(0, -2).T.contiguous()


def _rotations(numbers: Tensor, d: int) -> Tensor:
    """Uniform rotations (B, d, d) from uniform numbers (B, >= 4)."""
    turns = 2 * torch.pi * numbers
    if d == 2:
        c, s = turns[:, 0].cos(), turns[:, 0].sin()
        return torch.stack([c, -s, s, c], -1).view(-1, 2, 2)
    # Shoemake's uniform quaternion
    a, b = (1 - numbers[:, 0]).sqrt(), numbers[:, 0].sqrt()
    x, y, z, w = a * turns[:, 1].sin(), a * turns[:, 1].cos(), b * turns[:, 2].sin(), b * turns[:, 2].cos()
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).view(-1, 3, 3)


def _ball(p: Tensor) -> Tensor:
    return p.square().sum(0).sqrt_() - 1


def _triangle(p: Tensor) -> Tensor:
    """Equilateral, its corners on a circle of radius 1.2."""
    x, y = p
    slant = 0.75**0.5 * x.abs() + 0.5 * y
    return torch.maximum(slant, -y) - 0.6


def _box(p: Tensor) -> Tensor:
    return p.abs().amax(0) - 0.75


def _cone(p: Tensor) -> Tensor:
    """Base of radius 1 at z = -0.8, tip at z = 1."""
    x, y, z = p
    slant = ((x * x + y * y).sqrt() * 1.8 + z - 1) / (1.8**2 + 1) ** 0.5
    return torch.maximum(slant, -z - 0.8)


_DISTANCES = {2: (_ball, _triangle), 3: (_ball, _box, _cone)}
"""Signed distances (N,), negative inside, of shapes of about unit radius at points (d, N)."""
