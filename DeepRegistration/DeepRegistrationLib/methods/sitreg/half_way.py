"""The half-way maps: how bounded displacements of all levels become one map and its inverse.

Honkamaa and Marttinen, SITReg (MELBA 2024, arXiv 2303.10211). Everything is stacked along the batch: the
maps of B pairs in the first half, those of the same pairs with the images exchanged in the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import NotAvailableError
from ...field import Field
from ...frame import Frame
from ...interpolation import read_at
from ...inversion_layer import Watch, inverse_displacement
from ..maps import BatchMap, ComposedMap, FieldMap
from .extraction import swapped

_PART = 1 << 18
"""Points the inverse is solved for between two calls of `watch`."""

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-11}
"""Of the inverse at points, voxels: about what the coordinates resolve."""


class InverseMap(BatchMap):
    """The inverse of x -> x + u(x), solved for at whatever points it is asked for; not differentiable.

    Args:
        displacement: u (B, *S, d), normalised units, a contraction in voxels.
        guess: the inverse's displacement at the voxel centres, roughly.
        watch: called often while it is solved for; it may raise.
    """

    def __init__(self, displacement: Tensor, guess: Tensor, watch: Watch | None = None) -> None:
        self._field, self.guess, self.watch = displacement, guess, watch

    @property
    def field(self) -> Tensor:
        return self._field

    @torch.no_grad()
    def __call__(self, points: Tensor) -> Tensor:
        frame = Frame.regular(tuple(reversed(self.field.shape[1:-1])))
        found = []
        for u, v, image_points in zip(self.field, self.guess, points, strict=True):
            for at in image_points.reshape(-1, points.shape[-1]).split(_PART):
                if self.watch is not None:
                    self.watch()
                there, _ = Field(u, frame).inverse_at(at, _TOLERANCE[at.dtype], start=Field(v, frame))
                found.append(at + there)
        return torch.cat(found).view(points.shape)

    def part(self, start: int, stop: int) -> InverseMap:
        return InverseMap(self.field[start:stop], self.guess[start:stop], self.watch)

    def twice_differentiable(self) -> BatchMap:
        raise NotAvailableError("The inverse that is solved for at points has no derivatives.")


@dataclass(frozen=True)
class HalfWay:
    """The running maps of all levels so far; None is the identity.

    Attributes:
        outward: left, then right: from half-way points to the first and to the second image's.
        inward: their inverses in the other order: right^-1, then left^-1.
        complete: whether maps are kept as chains of the levels' own displacements, whose inverses are
            solved for wherever they are needed. Otherwise each map is resampled to the voxels.
    """

    outward: BatchMap | None = None
    inward: BatchMap | None = None
    complete: bool = False

    def updated(self, displacement: Tensor, watch: Watch | None = None) -> HalfWay:
        """One more level: with u the first half of `displacement` (2 B, *S, d) and w the second,

        delta = u o w^-1 and its inverse w o u^-1; left <- left o delta, right <- right o delta^-1,
        left^-1 <- delta^-1 o left^-1 and right^-1 <- delta o right^-1.
        """
        inverse = inverse_displacement(displacement, watch=watch)
        there: BatchMap = FieldMap(displacement)
        back: BatchMap = FieldMap(swapped(inverse))
        if self.complete:
            back = InverseMap(swapped(displacement), swapped(inverse), watch)
        delta = self._kept(ComposedMap(there, back))
        if self.outward is None or self.inward is None:
            return HalfWay(delta, delta, self.complete)
        outward = self._kept(ComposedMap(self.outward, delta))
        inward = self._kept(ComposedMap(delta, self.inward))
        return HalfWay(outward, inward, self.complete)

    def whole(self) -> BatchMap:
        """left o right^-1, then right o left^-1: each the other's inverse.

        The first takes the second image's points to the first image's.
        """
        assert self.outward is not None and self.inward is not None
        return ComposedMap(self.outward, self.inward)

    def _kept(self, chain: ComposedMap) -> BatchMap:
        return chain if self.complete else FieldMap(chain.displacement(chain.field.shape[1:-1]))


class Lattice:
    """The voxels of a level, in the coordinates of the full resolution's box.

    Level k's voxels are blocks of 2^k voxels; the last ones overhang the box where its size is not a
    multiple.

    Args:
        shape: S of the full resolution.
        level: k.
    """

    def __init__(self, shape: Sequence[int], level: int) -> None:
        self.rate = 2**level
        self.shape = tuple(-(-n // self.rate) for n in shape)
        sizes = zip(shape, self.shape, strict=True)
        self.ratio = [m * self.rate / n for n, m in sizes][::-1]

    def to_level(self, points: Tensor) -> Tensor:
        """Normalised points (..., d) of the box to normalised points of the level's own lattice."""
        return (points + 1) / points.new_tensor(self.ratio) - 1

    def to_box(self, points: Tensor) -> Tensor:
        """The way back."""
        return (points + 1) * points.new_tensor(self.ratio) - 1

    def read(self, features: Tensor, points: Tensor) -> Tensor:
        """Features (B, C, *shape) of the level at points (B, *T, d) of the box: (B, C, *T)."""
        return read_at(features, self.to_level(points))
