"""What every map can do, and what every optimisable map can do besides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from ..field import Field, linear_part
from ..frame import Frame, apply_matrix


class Transform(ABC):
    """A pull-back map of world points (fixed to moving), LPS mm."""

    dimension: int

    @abstractmethod
    def map(self, points: Tensor) -> Tensor:
        """World points (..., d) to world points (..., d), LPS mm, in the points' dtype."""

    @abstractmethod
    def inverse(self) -> Transform:
        """The inverse map; exact where the class says so, otherwise by fixed-point iteration."""

    def compose(self, inner: Transform) -> Transform:
        """The map x -> self(inner(x)), evaluated lazily."""
        return Composite(self, inner)

    def field(self, frame: Frame, device: torch.device | str = "cpu") -> Field:
        """This map sampled on a frame."""
        parts = []
        for window in frame.slabs():
            points = frame.points(device, torch.float32, window)
            parts.append(linear_part(frame.world_to_normalised, self.map(points) - points))
        return Field(torch.cat(parts), frame)

    def jacobian_determinant(self, frame: Frame, strict: bool = False) -> Tensor:
        """Determinant of the Jacobian at the frame's voxels; see `Field.jacobian_determinant`."""
        return self.field(frame).jacobian_determinant(strict)


class Composite(Transform):
    """The map x -> outer(inner(x))."""

    def __init__(self, outer: Transform, inner: Transform) -> None:
        self.outer, self.inner = outer, inner
        self.dimension = outer.dimension

    def map(self, points: Tensor) -> Tensor:
        return self.outer.map(self.inner.map(points))

    def inverse(self) -> Transform:
        return Composite(self.inner.inverse(), self.outer.inverse())


class FieldTransform(Transform):
    """The map of a displacement field.

    Attributes:
        inversion_error: largest error, in voxels, left by the inversion that made this map, or None
            where it was not made by one.
    """

    def __init__(self, field: Field, inversion_error: float | None = None) -> None:
        self.stored = field
        self.dimension = field.frame.dimension
        self.inversion_error = inversion_error

    def map(self, points: Tensor) -> Tensor:
        return self.stored.map(points)

    def field(self, frame: Frame, device: torch.device | str = "cpu") -> Field:
        return Field(self.stored.displacement.to(device, torch.float32), self.stored.frame).resampled(frame)

    def inverse(self) -> InverseField:
        return InverseField(self.stored)


class InverseField(Transform):
    """The inverse of a displacement field, solved for at whatever points it is asked for.

    So it is as exact outside the field's box, where the border's displacement goes on, as inside.

    Attributes:
        inversion_error: largest error so far, in voxels of the field; None before the first use.
    """

    def __init__(self, field: Field) -> None:
        self.forward = field
        self.dimension = field.frame.dimension
        self.inversion_error: float | None = None

    @cached_property
    def guess(self) -> Field:
        """A coarse inverse to start from."""
        frame = self.forward.frame
        coarse = frame.resized(tuple(max(min(n, 8), n // 3) for n in frame.size))
        field, _ = self.forward.inverse(frame=coarse)
        return field

    def map(self, points: Tensor) -> Tensor:
        frame = self.forward.frame
        here = apply_matrix(frame.world_to_normalised, points)
        v, error = self.forward.inverse_at(here, start=self.guess)
        self.inversion_error = max(error, self.inversion_error or 0.0)
        return apply_matrix(frame.normalised_to_world, here + v)

    def inverse(self) -> FieldTransform:
        return FieldTransform(self.forward)


class Representation(Transform):
    """A map with parameters the solver can move, living on a frame of its own.

    The solver asks for `displacement`, differentiates an objective of it, hands the gradients to
    `smooth_gradients`, turns them into directions of order one per component (Adam or normalised
    descent) and gives those to `step`.

    Class attributes:
        name: the name users type.
        description: one line for people who choose.
        diffeomorphic: whether folds are excluded by construction.
        compositive: whether `step` composes its update on the inside of the map, so that gradients are
            to be taken with respect to such an update (`interpolation.warp`).
        half_way_rate: times the rate of a step, where this map and its `partner` make it together.
        signed: attributes, tensors or lists of them, whose sign makes a map its `partner`.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    diffeomorphic: ClassVar[bool]
    compositive: ClassVar[bool] = False
    half_way_rate: ClassVar[float] = 0.5
    signed: ClassVar[tuple[str, ...]]

    def __init__(self, frame: Frame, device: torch.device | str = "cpu") -> None:
        """The identity on `frame`."""
        self.frame = frame
        self.device = torch.device(device)
        self.dimension = frame.dimension

    @classmethod
    def seeded(cls, frame: Frame, device: torch.device | str, seed: int) -> Representation:
        """The identity on `frame`; `seed` fixes the random numbers of those that start from some."""
        return cls(frame, device)

    @classmethod
    def half_way(cls, frame: Frame, device: torch.device | str, seed: int) -> Representation:
        """The same, to be moved together with its `partner`."""
        return cls.seeded(frame, device, seed)

    def partner(self) -> Representation:
        """The map whose parameters have the other sign: near the inverse, and the inverse of a flow.

        From a frame half-way between two images the one map leads to the moving image and the other to the
        fixed one, so that exchanging the images changes the parameters' sign and nothing else. It is
        differentiable in this map's parameters, but has none of its own to move.
        """
        other = copy(self)
        for name in self.signed:
            value = getattr(self, name)
            setattr(other, name, [-v for v in value] if isinstance(value, list) else -value)
        return other

    @abstractmethod
    def parameters(self) -> list[Tensor]:
        """The leaf tensors the solver moves, each with requires_grad."""

    @abstractmethod
    def displacement(self) -> Tensor:
        """(*frame.shape, d), normalised units of `frame`, differentiable in the parameters."""

    @abstractmethod
    def fit(self, transform: Transform) -> float:
        """Move the parameters to where this map is nearest to `transform` on the frame.

        Returns:
            The root mean square distance left, mm.
        """

    @abstractmethod
    def resized(self, frame: Frame) -> Representation:
        """The same map on a frame of the same box and other size (another scale)."""

    def smooth_gradients(self, gradients: list[Tensor], sigma: Sequence[float]) -> list[Tensor]:
        """Smooth gradients by `sigma` voxels per axis (x, y, z) where the parameters are dense."""
        return gradients

    @torch.no_grad()
    def step(self, directions: list[Tensor], rate: float) -> None:
        """Move the parameters against `directions` so that points move by at most about `rate` voxels."""
        for parameter, direction in zip(self.parameters(), directions, strict=True):
            parameter.sub_(direction * (rate * self.voxel(parameter)))

    def voxel(self, like: Tensor) -> Tensor:
        """One voxel in the parameters' (normalised) units, per component: (d,)."""
        return 2 / torch.tensor(self.frame.size, dtype=like.dtype, device=like.device)

    def smooth(self, sigma: Sequence[float]) -> None:
        """Smooth the map itself by `sigma` voxels per axis (x, y, z), where it is dense."""

    def finish(self) -> None:
        """Called once when the solver is done, to make good what the map promises."""

    def map(self, points: Tensor) -> Tensor:
        return self.field(self.frame).map(points)

    def field(self, frame: Frame, device: torch.device | str = "cpu") -> Field:
        with torch.no_grad():
            return Field(self.displacement().detach(), self.frame).resampled(frame)

    def inverse(self) -> Transform:
        return FieldTransform(self.field(self.frame)).inverse()
