"""The whole map of a registration, made of its linear and its deformable parts, and how it is written.

forward = to_moving o b o a^-1 o to_fixed^-1, with b towards the moving and a towards the fixed image;
one-sided, a is the identity and the working frame is the fixed image's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .field import Field
from .filters import box_sum, gaussian_smooth
from .frame import Frame, apply_matrix
from .jacobian import determinant_slabs
from .transforms import FieldTransform, LinearTransform, Transform

_NO_FOLD = 5e-3
"""Smallest determinant of a written field: above zero also after rounding."""

_ROUNDS = 12
"""Of repairing; each reaches further."""


@dataclass(frozen=True)
class Deformation:
    """A pair of fields between two linear maps.

    Attributes:
        to_moving, to_fixed: linear, from the working frame's points to the images', LPS mm.
        towards_moving: b, on the working lattice.
        towards_fixed: a; None is the identity.
    """

    to_moving: LinearTransform
    to_fixed: LinearTransform
    towards_moving: Field
    towards_fixed: Field | None = None

    @property
    def forward(self) -> Transform:
        """Fixed to moving points, LPS mm."""
        inner: Transform = self.to_fixed.inverse()
        if self.towards_fixed is not None:
            inner = FieldTransform(self.towards_fixed).inverse().compose(inner)
        return self.to_moving.compose(FieldTransform(self.towards_moving).compose(inner))

    @property
    def inverse(self) -> Transform:
        """Moving to fixed points, LPS mm."""
        inner: Transform = FieldTransform(self.towards_moving).inverse().compose(self.to_moving.inverse())
        if self.towards_fixed is not None:
            inner = FieldTransform(self.towards_fixed).compose(inner)
        return self.to_fixed.compose(inner)

    def written(
        self, frames: tuple[Frame, Frame], repair: bool, device: torch.device | str = "cpu"
    ) -> tuple[Deformation, tuple[Field, Field]]:
        """Both directions on the frames they are written on.

        Read between its voxels, a map without folds can fold on another lattice than its own, above all the
        inverse of one that shrinks much. With `repair` the deformation is smoothed where that happens, in
        both directions at once, until neither field folds.

        Args:
            frames: of the forward field and of the inverse.
            repair: for maps that promise not to fold.

        Returns:
            The deformation as repaired, and its forward and inverse fields.
        """
        deformation = self
        fields = [deformation.forward.field(frames[0], device), deformation.inverse.field(frames[1], device)]
        rows: list[Tensor | None] = [None, None]  # of the first axis, that have changed since the last look
        for attempt in range(_ROUNDS if repair else 0):
            folded = [_folded(field, changed) for field, changed in zip(fields, rows, strict=True)]
            if not any(len(places) for places in folded):
                break
            deformation, share = deformation._relaxed(folded, frames, 1 + attempt // 2)
            for k, (transform, frame) in enumerate(
                zip((deformation.forward, deformation.inverse), frames, strict=True)
            ):
                touched = self._touched(share, k, frame)
                fields[k], rows[k] = _updated(fields[k], transform, touched), touched[:, 0].unique()
        return deformation, (fields[0], fields[1])

    def _relaxed(
        self, folded: list[Tensor], frames: tuple[Frame, Frame], reach: int
    ) -> tuple[Deformation, Tensor]:
        """Smoothed by a voxel around the places of folds (N, d), indices (z, y, x) of each frame."""
        working = self.towards_moving.frame
        share = torch.zeros(working.shape, device=self.towards_moving.displacement.device)
        for side, (places, frame) in enumerate(zip(folded, frames, strict=True)):
            if len(places):
                points = apply_matrix(frame.index_to_world, places.flip(-1).double())
                share.index_put_(_indices(self._origins(points, side), working), share.new_ones(()))
        d = working.dimension
        share = box_sum(share, (reach + 1,) * d).clamp_(max=1)
        if reach > 1:  # a sharp edge would fold anew
            share = gaussian_smooth(share, (reach / 2,) * d)
        parts = [self.towards_moving, self.towards_fixed]
        for k, field in enumerate(parts):
            if field is not None:
                u = field.displacement
                for _ in range(reach):
                    u = torch.lerp(u, gaussian_smooth(u, (1.0,) * d, True, "replicate"), share[..., None])
                parts[k] = replace(field, displacement=u)
        assert parts[0] is not None
        return replace(self, towards_moving=parts[0], towards_fixed=parts[1]), share

    def _origins(self, points: Tensor, side: int) -> Tensor:
        """Where in the working frame an image's points (..., d) come from; side 0 is fixed, 1 moving."""
        linear, field = (
            (self.to_fixed, self.towards_fixed) if side == 0 else (self.to_moving, self.towards_moving)
        )
        inner = linear.inverse().map(points)
        return inner if field is None else FieldTransform(field).inverse().map(inner.float())

    def _touched(self, share: Tensor, side: int, frame: Frame) -> Tensor:
        """Voxels (N, d; z, y, x) of an image's frame that the relaxed part of the working frame leads to."""
        working = self.towards_moving.frame
        places = (share > 1e-6).nonzero()
        points = apply_matrix(working.index_to_world, places.flip(-1).double())
        linear, field = (
            (self.to_fixed, self.towards_fixed) if side == 0 else (self.to_moving, self.towards_moving)
        )
        if field is not None:
            points = FieldTransform(field).map(points.float()).double()
        mask = torch.zeros(frame.shape)
        mask.index_put_(_indices(linear.map(points), frame), mask.new_ones(()))
        # a working voxel covers several of a finer frame
        margins = (int(2 + 2 * max(working.spacing) / s) for s in frame.spacing)
        return (box_sum(mask, tuple(margins)) > 0).nonzero()


def _indices(points: Tensor, frame: Frame) -> tuple[Tensor, ...]:
    """The nearest voxels of world points (N, d), array order, clamped to the frame."""
    index = apply_matrix(frame.world_to_index, points.double()).round().long().flip(-1)
    return tuple(index[:, k].clamp(0, n - 1) for k, n in enumerate(frame.shape))


def _folded(field: Field, rows: Tensor | None = None) -> Tensor:
    """Voxels (N, d; z, y, x) that meet a (nearly) folded corner of a cell.

    Args:
        rows: of the first axis, sorted; only there and next to them is looked. All by default.
    """
    n = field.displacement.shape[0]
    parts = [(0, n)] if rows is None else _runs(rows, n)
    found = [torch.zeros(0, field.frame.dimension, dtype=torch.long)]
    for first, last in parts:
        part = field.displacement[first:last].clone() if last - first < n else field.displacement
        if last - first < n:  # a part is a lattice of its own, whose first axis is shorter
            part[..., -1] *= n / (last - first)
        for slab in determinant_slabs(part):
            places = (slab.smallest < _NO_FOLD).nonzero()
            places[:, 0] += slab.start + first
            found.append(places.cpu())
    return torch.cat(found)


def _runs(rows: Tensor, count: int) -> list[tuple[int, int]]:
    """First and last-plus-one of runs of rows, two more on either side."""
    runs: list[tuple[int, int]] = []
    for row in rows.tolist():
        first, last = max(0, row - 2), min(count, row + 3)
        if runs and first <= runs[-1][1]:
            runs[-1] = runs[-1][0], last
        else:
            runs.append((first, last))
    return runs


def _updated(field: Field, transform: Transform, places: Tensor) -> Field:
    """The field read anew from a map at some voxels (N, d; z, y, x)."""
    displacement, frame = field.displacement.clone(), field.frame
    for part in _parts(places):
        points = apply_matrix(frame.index_to_world, part.flip(-1).double()).float().to(displacement.device)
        moved = Field.from_mm(transform.map(points) - points, frame).displacement
        displacement[tuple(part.T.to(displacement.device))] = moved
    return Field(displacement, frame)


def _parts(places: Tensor) -> Iterator[Tensor]:
    yield from places.split(1 << 20) if len(places) else ()
