"""Compositive diffeomorphism: a running composition of small smooth steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..catalogue import REPRESENTATIONS
from ..field import cell_determinant, opposite_determinants
from ..filters import box_sum, gaussian_smooth
from ..frame import Frame
from ..interpolation import sample
from ..jacobian import determinant_slabs
from .free_form import FreeForm

_NO_FOLD = 0.01
"""What the smallest determinant has to reach in the end."""

_REPAIRS = 20


class Diffeomorphic(FreeForm):
    """x -> x + w(x), moved only by w <- v + w o (id + v) with smooth steps v below half a voxel.

    Each step is a diffeomorphism of its own, so their composition is one; sampled on a lattice it could
    still fold. Therefore `smooth` also relaxes the map wherever its Jacobian determinant comes near
    zero, and `finish` relaxes what folds are left, by the strict measure of `Field.jacobian_determinant`.
    """

    name = "diffeomorphic"
    description = REPRESENTATIONS[name].description
    diffeomorphic = True
    compositive = True

    least_volume: ClassVar[float] = 0.3
    """Where the map shrinks volume below this, it is smoothed before it can fold."""

    most_volume: ClassVar[float] = 4.0
    """Where it expands volume beyond this, likewise: its inverse would be about to fold."""

    signs: ClassVar[tuple[int, ...]] = (1,)
    """Of the displacement, for each of the maps that are kept from folding."""

    @classmethod
    def half_way(cls, frame: Frame, device: torch.device | str, seed: int) -> HalfWayDiffeomorphic:
        return HalfWayDiffeomorphic.seeded(frame, device, seed)

    @torch.no_grad()
    def step(self, directions: list[Tensor], rate: float) -> None:
        (direction,) = directions
        self.compose_step(direction * (-rate * self.voxel(direction)))

    @torch.no_grad()
    def compose_step(self, v: Tensor) -> None:
        """w <- v + w o (id + v), v in normalised units (*S, d)."""
        points = self.frame.grid(self.device).add_(v)
        moved = sample(self.warp.detach().movedim(-1, 0)[None], points)[0].movedim(0, -1)
        torch.add(moved, v, out=self.warp.data)

    @torch.no_grad()
    def smooth(self, sigma: Sequence[float]) -> None:
        super().smooth(sigma)
        warp, d = self.warp.data, self.dimension
        excess: Tensor | None = None
        for volume in self._volumes():
            low, high = (float(extreme) for extreme in volume.aminmax())
            if low < self.least_volume or high > self.most_volume:
                found = torch.maximum(1 - volume / self.least_volume, volume / self.most_volume - 1)
                found.clamp_(0, 1)
                excess = found if excess is None else torch.maximum(excess, found)
        if excess is not None:
            missing = [warp.shape[dim] - excess.shape[dim] for dim in reversed(range(d))]
            _relax(warp, F.pad(excess, [value for count in missing for value in (0, count)]), 1)

    def _volumes(self) -> tuple[Tensor, ...]:
        """Determinants of the cells, of each map that is kept from folding."""
        # two opposite corners of each cell tell nearly as much as all of them, for a quarter of the price
        return (cell_determinant(self.warp.data, self._corners()),)

    def _corners(self) -> list[tuple[int, ...]]:
        return [(0,) * self.dimension, (1,) * self.dimension]

    @torch.no_grad()
    def finish(self) -> None:
        for attempt in range(_REPAIRS):
            folded = reduce(torch.logical_or, (self._folded(sign) for sign in self.signs))
            places = folded.nonzero()
            if len(places) == 0:
                return
            reach = 1 + attempt // 2
            margin = 4 * reach
            low, high = (
                (places.amin(0) - margin).clamp_min(0).tolist(),
                (places.amax(0) + margin + 1).tolist(),
            )
            window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            for _ in range(reach):
                _relax(self.warp.data[window], folded[window].float(), reach)

    def _folded(self, sign: int) -> Tensor:
        """Voxels (*S) no more than one away from a (nearly) folded corner of a cell.

        The cells just beyond the border count too: there the border's displacement goes on.
        """
        shape = self.frame.shape
        sides = [int(n > 1) for n in shape for _ in (0, 1)]
        padded = F.pad(self.warp.data.movedim(-1, 0)[None], sides[::-1], mode="replicate")[0].movedim(0, -1)
        # one voxel stays one voxel in the units of the larger lattice
        scale = [n / (n + 2 * (n > 1)) for n in self.frame.size]
        slabs = determinant_slabs(padded * padded.new_tensor(scale) * sign)
        folded = torch.cat([slab.smallest < _NO_FOLD for slab in slabs])
        if bool(folded.any()):
            folded = box_sum(folded.float(), (1,) * self.dimension) > 0
        return folded[tuple(slice(int(n > 1), int(n > 1) + n) for n in shape)]


class HalfWayDiffeomorphic(Diffeomorphic):
    """x -> x + w(x) beside its partner x -> x - w(x), both kept from folding.

    Every smooth map D near the identity is (id + w) o (id - w)^-1 for one w: half of what separates x from
    D(x), at the point half-way between them. Composing a small step v on the inside of the one map and -v on
    that of the other changes w by v and moves the half-way points themselves, both up to the second order
    in v; so the step is an addition.
    """

    signs = (1, -1)
    least_volume, most_volume = 0.45, 2.5
    """Of the halves: about the roots of what the whole map may do."""

    def _volumes(self) -> tuple[Tensor, ...]:
        return opposite_determinants(self.warp.data, self._corners())

    @torch.no_grad()
    def step(self, directions: list[Tensor], rate: float) -> None:
        (direction,) = directions
        self.warp.sub_(direction * (rate * self.voxel(direction)))


def _relax(warp: Tensor, share: Tensor, reach: int) -> None:
    """Smooth a displacement (*S, d) in place by one voxel where it is called for.

    Args:
        warp: (*S, d).
        share: (*S), how much to smooth each voxel, 0 to 1.
        reach: how far around, voxels; beyond 1 it fades out over as many voxels again, since a sharp edge
            would fold anew.
    """
    d = warp.shape[-1]
    spread = box_sum(share, (reach,) * d).clamp_(max=1)
    if reach > 1:
        spread = gaussian_smooth(spread, (reach / 2,) * d)
    warp.lerp_(gaussian_smooth(warp, (1.0,) * d, True, "replicate"), spread[..., None])
