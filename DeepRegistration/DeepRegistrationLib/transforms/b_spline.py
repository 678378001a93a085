"""Cubic B-spline: a lattice of control points, by default bounded so that nothing can fold."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from ..catalogue import REPRESENTATIONS
from ..errors import InputError
from ..field import Field
from ..frame import Frame
from .b_spline_basis import ControlLattice
from .b_spline_bound import control_point_bound
from .base import FieldTransform, Representation, Transform

_SAFETY = 0.99
_CHAIN_SAFETY = 0.75
"""A chain of levels, sampled, can fold a little where every level is at its limit; at 0.75 it does not."""

_FIT_ROUNDS = 20
_CELLS = 48
"""Control cells along the box's longest side on the finest level, unless a rate is asked for."""


class BSpline(Representation):
    """Bounded: x -> (id + u_1) o ... o (id + u_L), one spline u_l per level, each free of folds.

    Level l has control points every 2^(L-l) `rate` voxels (coarse to fine) and coefficients
    safety bound tanh(raw) (SITReg, arXiv 2303.10211): each level is a contraction in the maximum norm, so it
    cannot fold, and moves points by less than 0.4 of its control spacing; the chain reaches further.
    Coarse levels are evaluated on coarser frames of the box, at least four voxels per control cell, and
    read from there by linear interpolation, for which the bound holds.
    Unbounded: x -> x + u(x) with one level of free coefficients; it may fold.

    Control points belong to the box, not to its voxels, so the map goes to other frames of the box
    (`resized`) as it is. No prefilter is applied.

    Attributes:
        lattices: control lattice of each level, coarse to fine, each with the frame it is evaluated on.
        coefficients: per level (*lattice.shape, d): raw values (bounded), or normalised units.
    """

    name = "b-spline"
    description = REPRESENTATIONS[name].description
    diffeomorphic = True
    signed = ("coefficients",)
    half_way_rate = 0.3  # its bounds are all that keeps it smooth

    def __init__(
        self,
        frame: Frame,
        device: torch.device | str = "cpu",
        rate: int | tuple[int, ...] | None = None,
        bounded: bool = True,
        levels: int | None = None,
    ) -> None:
        """
        Args:
            rate: voxels of `frame` per control cell on the finest level, one or one per axis (x, y, z);
                by default as many as make about 48 cells along the box's longest side.
            levels: 4 by default when bounded; 1, the only choice, when not.

        Raises:
            InputError: rate or number of levels not usable.
        """
        super().__init__(frame, device)
        levels = (4 if bounded else 1) if levels is None else levels
        if rate is None:
            cell = float(frame.extent.max()) / _CELLS
            rate = tuple(max(1, round(cell / s)) for s in frame.spacing)
        rates = rate if isinstance(rate, tuple) else (rate,) * frame.dimension
        if len(rates) != frame.dimension or min(rates) < 1 or levels < 1 or (levels > 1 and not bounded):
            raise InputError("The B-spline's control spacing or number of levels is not usable.")
        self.bounded = bounded
        self.diffeomorphic = bounded  # type: ignore[misc]
        scales = [2 ** (levels - 1 - k) for k in range(levels)]
        self._place([ControlLattice.with_rate(frame, tuple(int(r) * s for r in rates)) for s in scales])
        self._take([torch.zeros(*lattice.shape, self.dimension) for lattice in self.lattices])

    def parameters(self) -> list[Tensor]:
        return self.coefficients

    def levels(self) -> list[Field]:
        """The displacement u_l of each level on its own frame, coarse to fine; differentiable."""
        values = self.coefficients
        if self.bounded:
            values = [limit.to(raw) * raw.tanh() for limit, raw in zip(self.limits, values, strict=True)]
        pairs = zip(self.lattices, values, strict=True)
        return [Field(lattice.evaluate(v), lattice.frame) for lattice, v in pairs]

    def displacement(self) -> Tensor:
        return reduce(_composed, self.levels()).displacement

    @torch.no_grad()
    def step(self, directions: list[Tensor], rate: float) -> None:
        share = rate / len(directions)  # the levels' movements add up
        for level, (parameter, direction) in enumerate(zip(self.parameters(), directions, strict=True)):
            unit = self.voxel(parameter)
            if self.bounded:
                unit = unit / self.limits[level].to(parameter)
            parameter.sub_(direction * (share * unit))

    @torch.no_grad()
    def fit(self, transform: Transform) -> float:
        """Least squares per level, coarse to fine, repeated on what is left (bounded maps only)."""
        target = transform.field(self.frame, self.device).displacement
        lattices = [lattice.on(self.frame) for lattice in self.lattices]
        if not self.bounded:
            self._take([lattices[0].least_squares(target)])
            return self._distance(target, self.displacement())
        best, best_error = self.coefficients, float("inf")
        values = [torch.zeros_like(c, requires_grad=False) for c in self.coefficients]
        for _ in range(_FIT_ROUNDS):
            self._take([_raw(v, limit.to(v)) for v, limit in zip(values, self.limits, strict=True)])
            left = target - self.displacement()
            error = self._distance(left, torch.zeros_like(left))
            if error < best_error:
                best, best_error = self.coefficients, error
            for k, (lattice, limit) in enumerate(zip(lattices, self.limits, strict=True)):
                top = 0.995 * limit.to(left)  # further out tanh is too flat to come back from
                moved = (values[k] + lattice.least_squares(left)).clamp(-top, top)
                left = left - lattice.evaluate(moved - values[k])
                values[k] = moved
        self._take(best)
        return best_error

    def resized(self, frame: Frame) -> BSpline:
        """The same function of the box; exact unless a coarser frame asks for a tighter bound."""
        other = BSpline(frame, self.device, bounded=self.bounded, levels=len(self.lattices))
        other._place([lattice.on(frame) for lattice in self.lattices])
        values = self.coefficients
        if self.bounded:
            pairs = zip(values, self.limits, other.limits, strict=True)
            values = [_raw(old.to(raw) * raw.detach().tanh(), new.to(raw)) for raw, old, new in pairs]
        other._take(values)
        return other

    @torch.no_grad()
    def inverse(self) -> FieldTransform:
        """By fixed-point iteration level by level, composed, then polished as a whole on the frame.

        `inversion_error` of the result is the largest error left on the frame, in voxels.
        """
        inverses = [level.inverse()[0] for level in self.levels()]
        start = inverses[0].resampled(self.frame)  # (f1 o f2)^-1 = f2^-1 o f1^-1, f1 the coarsest
        for finer in inverses[1:]:
            start = _composed(finer, start)
        return FieldTransform(*self.field(self.frame).inverse(start=start))

    def _place(self, lattices: list[ControlLattice]) -> None:
        if self.bounded:
            lattices = [_coarsened(lattice) for lattice in lattices]
        self.lattices = lattices
        safety = _SAFETY if len(lattices) == 1 else _CHAIN_SAFETY
        # normalised units: the bound is in control cells, a cell is `spacing` wide
        self.limits = [
            torch.tensor(lattice.spacing, dtype=torch.float64)
            * (safety * control_point_bound(lattice.rate, self.dimension))
            for lattice in lattices
        ]

    def _take(self, coefficients: list[Tensor]) -> None:
        self.coefficients = [c.detach().to(self.device).clone().requires_grad_() for c in coefficients]

    def _distance(self, target: Tensor, reached: Tensor) -> float:
        mm = Field(target - reached, self.frame).magnitude_mm()
        return float(mm.pow(2).mean().sqrt())


def _composed(outer: Field, inner: Field) -> Field:
    """outer o inner on the inner field's frame, both on frames of one box."""
    moved = outer.at(
        inner.frame.grid(inner.displacement.device, inner.displacement.dtype) + inner.displacement
    )
    return Field(inner.displacement + moved, inner.frame)


def _coarsened(lattice: ControlLattice) -> ControlLattice:
    """The lattice on the coarsest frame of its box that has about four voxels per control cell."""
    size = tuple(-(-n // max(1, int(r / 4))) for n, r in zip(lattice.frame.size, lattice.rate, strict=True))
    return lattice.on(lattice.frame.resized(size))


def _raw(coefficients: Tensor, limit: Tensor) -> Tensor:
    """The raw values whose bounded coefficients these are; clamped just inside the bound."""
    return (coefficients / limit).clamp(-0.9999, 0.9999).atanh()
