"""Geodesic shooting: LDDMM from an initial momentum, by integrating EPDiff."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..catalogue import REPRESENTATIONS
from ..errors import InputError
from ..field import Field, cell_determinant
from ..filters import gaussian_smooth, spatial_gradient
from ..frame import Frame
from ..interpolation import sample
from .base import FieldTransform, Representation, Transform
from .coarse import upsampled

_CELLS = 32
"""The kernel's default standard deviation is the box's longest side over this."""

_SHORTENINGS = 60
_FIT_ROUNDS = 15

_KEPT_NUMBERS = 1_000_000
"""A larger momentum has its steps' intermediates computed again for the gradient instead of kept."""


class Geodesic(Representation):
    """The end of a geodesic of diffeomorphisms, given by its initial momentum m_0.

    A flow phi_t with velocity v_t moves the moving anatomy onto the fixed; the pull-back map is its
    inverse psi_t = phi_t^-1. Momentum is conserved along the flow, so EPDiff has the closed form
    (Miller, Trouvé & Younes, J. Math. Imaging Vis. 24, 2006; Vialard et al., Int. J. Comput. Vis. 97, 2012)

        m_t = |D psi_t| (D psi_t)^T m_0 o psi_t,    v_t = K * m_t,    d psi_t / dt = -D psi_t v_t,

    with K a Gaussian, or a mean of several. psi is advanced by psi_{t+dt} = psi_t o s_t, where s_t goes
    back along v for dt (midpoint rule), v at half-time by extrapolation from the last two (Adams-Bashforth);
    phi, the inverse map, is integrated along. Against the same momentum carried by particles the error is
    that of the lattice, second order in its spacing.

    The momentum lives on a frame of the box whose voxels are not finer than half the kernel's
    standard deviation: the velocity has no finer detail. That resolves motions of up to about three
    standard deviations; beyond five a rough momentum outruns the lattice and the sampled map can fold.

    Attributes:
        momentum: (*coarse.shape, d), with the metric's units taken out: where it is constant, v_0 is
            equal to it, in normalised units for unit time.
        coarse: the frame it lives on.
        sigma_mm: standard deviations of the kernel's Gaussians.
    """

    name = "geodesic"
    description = REPRESENTATIONS[name].description
    diffeomorphic = True
    signed = ("momentum",)

    def __init__(
        self,
        frame: Frame,
        device: torch.device | str = "cpu",
        sigma_mm: tuple[float, ...] | None = None,
        steps: int = 10,
    ) -> None:
        """
        Args:
            sigma_mm: standard deviations of the Gaussians whose mean is the kernel; by default one, the
                box's longest side over 32.
            steps: time steps at least; more are taken where points move by over half a voxel in one.

        Raises:
            InputError: no kernel width, or one not above zero; no steps.
        """
        super().__init__(frame, device)
        self.sigma_mm = (float(frame.extent.max()) / _CELLS,) if sigma_mm is None else tuple(sigma_mm)
        if not self.sigma_mm or min(self.sigma_mm) <= 0 or steps < 1:
            raise InputError("The geodesic's kernel width and number of steps must be above zero.")
        self.steps = steps
        finest = min(self.sigma_mm) / 2
        self.coarse = frame.with_spacing(tuple(max(s, finest) for s in frame.spacing))
        # covectors and vectors differ by the metric, mm^2 per normalised unit squared and axis
        self._metric = (torch.from_numpy(self.coarse.extent) / 2) ** 2
        self._set(torch.zeros(*self.coarse.shape, frame.dimension))

    def parameters(self) -> list[Tensor]:
        return [self.momentum]

    def displacement(self) -> Tensor:
        psi, _ = self._shoot(self.momentum)
        return upsampled(psi[0].movedim(0, -1), self.frame)

    def regulariser(self) -> Tensor:
        """Half the squared length of the geodesic, 1/2 <m_0, K m_0> per volume of the box; mm^2."""
        return self._energy(self._channels(self.momentum))

    @torch.no_grad()
    def energies(self) -> list[float]:
        """1/2 <m_t, K m_t> (mm^2 per volume) at the start of every time step; constant on a geodesic."""
        path: list[float] = []
        self._shoot(self.momentum, path=path)
        return path

    @torch.no_grad()
    def fit(self, transform: Transform) -> float:
        """Repeated correction of the momentum by the displacement still missing.

        The momentum sits in moving space, so the residual, known at fixed points x, is carried there by
        phi_1; to first order a change of it moves points by the opposite (Richardson iteration of K).
        """
        target = transform.field(self.frame, self.device).displacement
        wanted = self._channels(Field(target, self.frame).resampled(self.coarse).displacement)
        grid = self.coarse.grid(self.device)
        momentum = -wanted
        best, best_error, step = momentum, float("inf"), 1.0
        correction = torch.zeros_like(momentum)
        for _ in range(_FIT_ROUNDS):
            psi, phi = self._shoot(momentum[0].movedim(0, -1))
            reached = upsampled(psi[0].movedim(0, -1), self.frame)
            error = float(Field(target - reached, self.frame).magnitude_mm().pow(2).mean().sqrt())
            if error < best_error:
                gained = best_error - error
                best, best_error = momentum, error
                if gained < 0.02 * error:
                    break
                correction = sample(wanted - psi, grid + phi[0].movedim(0, -1))
            else:
                step /= 2
                if step < 0.1:
                    break
            momentum = best - step * correction
        self._set(best[0].movedim(0, -1))
        return best_error

    def resized(self, frame: Frame) -> Geodesic:
        other = Geodesic(frame, self.device, self.sigma_mm, self.steps)
        other._set(Field(self.momentum.detach(), self.coarse).resampled(other.coarse).displacement)
        return other

    @torch.no_grad()
    def inverse(self) -> FieldTransform:
        """phi_1, the same geodesic the other way, polished by fixed-point iteration on the frame.

        `inversion_error` of the result is the largest error left on the frame, in voxels.
        """
        psi, phi = (upsampled(u[0].movedim(0, -1), self.frame) for u in self._shoot(self.momentum))
        return FieldTransform(*Field(psi, self.frame).inverse(start=Field(phi, self.frame)))

    @torch.no_grad()
    def finish(self) -> None:
        """Shorten the geodesic until its map, sampled on the frame, has no fold."""
        for _ in range(_SHORTENINGS):
            if float(cell_determinant(self.displacement()).min()) > 0:
                return
            self.momentum.mul_(0.95)

    def _set(self, momentum: Tensor) -> None:
        self.momentum = (
            momentum.detach().to(self.device).clone(memory_format=torch.contiguous_format).requires_grad_()
        )

    @staticmethod
    def _channels(field: Tensor) -> Tensor:
        return field.movedim(-1, 0)[None]

    def _kernel(self, momentum: Tensor) -> Tensor:
        """K * m for (1, d, *S), each Gaussian of sum one."""
        parts = [
            gaussian_smooth(momentum, [s / h for h in self.coarse.spacing], truncate=3.0)
            for s in self.sigma_mm
        ]
        return torch.stack(parts).mean(0) if len(parts) > 1 else parts[0]

    def _carried(self, initial: Tensor, psi: Tensor, grid: Tensor) -> Tensor:
        """|D psi| (D psi)^T m_0 o psi, all (1, d, *S), with the metric's units taken out."""
        per_voxel = spatial_gradient(psi)[0]
        slopes = [
            [per_voxel[b, a] * (n / 2) + float(a == b) for a, n in enumerate(self.coarse.size)]
            for b in range(self.dimension)
        ]
        # nothing flows in from outside the box
        there = sample(initial, grid + psi[0].movedim(0, -1), padding="zeros")[0]
        g = self._metric.tolist()
        turned = [
            sum(row[a] * ((g[b] / g[a]) * there[b]) for b, row in enumerate(slopes))
            for a in range(self.dimension)
        ]
        return (_determinant(slopes) * torch.stack(turned))[None]

    def _energy(self, momentum: Tensor) -> Tensor:
        metric = self._metric.to(momentum).view(-1, *(1,) * self.dimension)
        return 0.5 * (momentum * self._kernel(momentum) * metric).sum(1).mean()

    def _shoot(self, momentum: Tensor, path: list[float] | None = None) -> tuple[Tensor, Tensor]:
        """psi_1 and, without gradients, phi_1, (1, d, *S); each step's energy at its start goes to `path`."""
        initial = self._channels(momentum).contiguous()
        grid = self.coarse.grid(momentum.device, momentum.dtype)
        steps = self._step_count(initial)
        psi, phi, velocity = torch.zeros_like(initial), torch.zeros_like(initial), None
        for _ in range(steps):
            if path is not None:
                path.append(float(self._energy(self._carried(initial, psi, grid))))
            arguments = (initial, psi, velocity, grid, 1 / steps)
            if torch.is_grad_enabled() and initial.numel() > _KEPT_NUMBERS:
                psi, velocity, middle = checkpoint(
                    self._advance, *arguments, use_reentrant=False, preserve_rng_state=False
                )
            else:
                psi, velocity, middle = self._advance(*arguments)
            if not torch.is_grad_enabled():  # nobody differentiates the inverse
                along = middle / steps
                along = sample(along, grid + 0.5 * along[0].movedim(0, -1))
                phi = phi + sample(along, grid + phi[0].movedim(0, -1))
        return psi, phi

    def _advance(
        self, initial: Tensor, psi: Tensor, earlier: Tensor | None, grid: Tensor, dt: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One time step: psi at its end, the velocity at its start and the velocity at half-time."""
        velocity = self._kernel(self._carried(initial, psi, grid))
        if earlier is None:  # no step behind the first: half a step ahead instead, from the identity
            middle = self._kernel(self._carried(initial, -0.5 * dt * velocity, grid))
        else:
            middle = 1.5 * velocity - 0.5 * earlier
        back = dt * middle
        back = sample(back, grid - 0.5 * back[0].movedim(0, -1))
        return sample(psi, grid - back[0].movedim(0, -1)) - back, velocity, middle

    @torch.no_grad()
    def _step_count(self, momentum: Tensor) -> int:
        half = torch.tensor(self.coarse.size, dtype=momentum.dtype, device=momentum.device) / 2
        largest = self._kernel(momentum)[0].abs().flatten(1).amax(1) * half
        return max(self.steps, math.ceil(2 * float(largest.max())))


def _determinant(rows: list[list[Tensor]]) -> Tensor:
    if len(rows) == 2:
        return rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    a, b, c = rows
    return (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )
