"""Stationary velocity: the map is the exponential of a velocity field (Arsigny et al., MICCAI 2006)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..catalogue import REPRESENTATIONS
from ..field import Field
from ..filters import gaussian_smooth, slide_smooth_
from ..frame import Frame
from ..interpolation import sample
from .base import Representation, Transform
from .coarse import halved, upsampled

_LEAST_SQUARINGS = 7
_FIT_ROUNDS = 30


class StationaryVelocity(Representation):
    """x -> exp(v)(x): flow for unit time along a velocity that does not change.

    The velocity and its exponential live on a frame with half the voxels per axis (see `coarse`), an
    eighth of the time and memory in 3-D; the displacement is read from there by linear interpolation.
    The inverse is exp(-v), exact up to the sampling of the exponential.

    Attributes:
        velocity: (*coarse.shape, d), normalised units, for unit time.
        coarse: the frame the velocity lives on.
    """

    name = "stationary-velocity"
    description = REPRESENTATIONS[name].description
    diffeomorphic = True
    signed = ("velocity",)

    def __init__(self, frame: Frame, device: torch.device | str = "cpu", full: bool = False) -> None:
        """
        Args:
            full: keep the velocity at the full resolution of `frame`.
        """
        super().__init__(frame, device)
        self.full = full
        self.coarse = frame if full else halved(frame)
        self._set(torch.zeros(*self.coarse.shape, frame.dimension))

    def parameters(self) -> list[Tensor]:
        return [self.velocity]

    def displacement(self) -> Tensor:
        return upsampled(exponential(self.velocity, self.coarse), self.frame)

    def smooth_gradients(self, gradients: list[Tensor], sigma: Sequence[float]) -> list[Tensor]:
        return [gaussian_smooth(g, self._here(sigma), channels_last=True) for g in gradients]

    @torch.no_grad()
    def smooth(self, sigma: Sequence[float]) -> None:
        slide_smooth_(self.velocity, self._here(sigma))

    @torch.no_grad()
    def fit(self, transform: Transform) -> float:
        """Repeated correction of the velocity by the displacement still missing.

        The residual r of a round is known at the fixed points x; to first order a change dv(exp(v/2) x)
        = r(x) of the velocity, half-way along the path, makes it vanish (midpoint rule for the
        derivative of the exponential).
        """
        target = transform.field(self.frame, self.device).displacement
        wanted = Field(target, self.frame).resampled(self.coarse).displacement
        grid = self.coarse.grid(self.device)
        velocity = wanted
        best, best_error, step = velocity, float("inf"), 1.0
        for _ in range(_FIT_ROUNDS):
            reached = exponential(velocity, self.coarse)
            left = Field(target - upsampled(reached, self.frame), self.frame).magnitude_mm()
            error = float(left.pow(2).mean().sqrt())
            if error < best_error:
                gained = best_error - error
                best, best_error = velocity, error
                if gained < 1e-3 * error:
                    break
            else:
                velocity, step = best, step / 2
                reached = exponential(velocity, self.coarse)
                if step < 0.1:
                    break
            back = exponential(-0.5 * velocity, self.coarse)
            left = Field(wanted - reached, self.coarse).at(grid + back)
            velocity = velocity + step * left
        self._set(best)
        return best_error

    def resized(self, frame: Frame) -> StationaryVelocity:
        other = StationaryVelocity(frame, self.device, self.full)
        other._set(Field(self.velocity.detach(), self.coarse).resampled(other.coarse).displacement)
        return other

    def inverse(self) -> StationaryVelocity:
        """exp(-v), on the same frame."""
        other = StationaryVelocity(self.frame, self.device, self.full)
        other._set(-self.velocity)
        return other

    def _set(self, velocity: Tensor) -> None:
        self.velocity = velocity.detach().to(self.device).clone().requires_grad_()

    def _here(self, sigma: Sequence[float]) -> list[float]:
        """Voxels of `frame` to voxels of `coarse`, per axis (x, y, z)."""
        return [s * m / n for s, m, n in zip(sigma, self.coarse.size, self.frame.size, strict=True)]


def exponential(velocity: Tensor, frame: Frame) -> Tensor:
    """exp(v) by scaling and squaring: (*frame.shape, d) velocity to displacement, normalised units.

    v / 2^n, n at least 7 and large enough for a first step below half a voxel, is composed n times with
    itself. Differentiable once.
    """
    half = torch.tensor(frame.size, dtype=velocity.dtype, device=velocity.device) / 2
    largest = float((velocity.detach().abs().amax(tuple(range(velocity.dim() - 1))) * half).max())
    squarings = max(_LEAST_SQUARINGS, math.ceil(math.log2(max(largest, 1e-6) / 0.5)))
    grid = frame.grid(velocity.device, velocity.dtype)
    displacement = velocity.movedim(-1, 0)[None] / 2**squarings
    for _ in range(squarings):
        displacement = displacement + sample(displacement, grid + displacement[0].movedim(0, -1))
    return displacement[0].movedim(0, -1)
