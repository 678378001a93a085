"""The one optimiser: any objective over any representation, coarse to fine.

Each iteration differentiates the objective with respect to the representation's parameters, smooths
the gradient where the parameters are dense, turns it into a direction of order one per component
(Adam or plain descent), and lets the representation take a step of at most
`rate` voxels along it: additive for most, compositive for the diffeomorphic one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .frame import Frame
from .progress import Reporter
from .sizes import SMALLEST, scaled_size

Displacements = Tensor | tuple[Tensor, Tensor]
"""(*S, d), normalised units: of one map, or of two, towards the moving and towards the fixed image."""

Energy = Callable[[Displacements], Tensor]
"""From displacements to the scalar to minimise."""


Model = TypeVar("Model", bound="Movable")

_SLACK = 0.01
"""Share of what a scale has gained by which its last iteration may be above its best: smoothing costs."""


class Movable(Protocol):
    """What can be optimised: a `transforms.base.Representation`, or the two maps of a `half_way.HalfWay`."""

    @property
    def frame(self) -> Frame: ...
    @property
    def dimension(self) -> int: ...
    @property
    def compositive(self) -> bool: ...
    def parameters(self) -> list[Tensor]: ...
    def displacement(self) -> Displacements: ...
    def resized(self: Model, frame: Frame) -> Model: ...
    def smooth_gradients(self, gradients: list[Tensor], sigma: Sequence[float]) -> list[Tensor]: ...
    def step(self, directions: list[Tensor], rate: float) -> None: ...
    def smooth(self, sigma: Sequence[float]) -> None: ...
    def finish(self) -> None: ...


class Objective(Protocol):
    """Something measurable at every scale."""

    def at(self, frame: Frame, for_update: bool) -> Energy:
        """The energy of displacements on `frame`; see `interpolation.warp` for `for_update`."""
        ...


@dataclass(frozen=True)
class Scale:
    """One level of the pyramid.

    Attributes:
        factor: voxels of the working frame per voxel of this scale, along each axis.
        iterations: the most it may take.
        stiffness: times the settings' `warp_sigma`, for scales that want a stiffer map.
    """

    factor: float
    iterations: int
    stiffness: float = 1.0


@dataclass(frozen=True)
class Settings:
    """How to optimise.

    Attributes:
        scales: from coarse to fine.
        rate: length of the largest step, voxels of the scale.
        gradient_sigma: smoothing of the gradient, voxels of the scale.
        warp_sigma: smoothing of the map after each step, voxels of the scale.
        optimiser: ``adam``; ``sgd``, steepest descent whose every step has length `rate`; or ``descent``,
            with one factor for all steps of a scale: `rate` over the longest gradient seen, so that steps
            shrink towards the optimum.
        betas: Adam's memory of the gradient and of its square.
        damping: Adam's constant, as a share of the mean size of the gradient.
        tolerance: a scale ends when the mean decrease of the energy per iteration over the last twenty,
            relative to the energy's change since the scale began, falls below this.
        patience: a scale also ends after so many iterations in a row that each lowered the energy by less
            than `decrease` of itself (Jena et al., arXiv 2406.07361: 4 and 1e-3); 0 is never.
        decrease: see `patience`.
        smallest: no axis is cut into fewer voxels than this by a coarse scale.
    """

    scales: tuple[Scale, ...] = (Scale(4, 100), Scale(2, 50), Scale(1, 15))
    rate: float = 0.5
    gradient_sigma: float = 1.0
    warp_sigma: float = 0.5
    optimiser: str = "adam"
    betas: tuple[float, float] = (0.9, 0.99)
    damping: float = 0.3
    tolerance: float = 1e-4
    patience: int = 0
    decrease: float = 1e-3
    smallest: int = SMALLEST


@dataclass(frozen=True)
class ScaleReport:
    """What happened at one scale: its frame, the energies seen, whether it converged."""

    frame: Frame
    energies: tuple[float, ...]
    converged: bool


def scale_frame(frame: Frame, factor: float, smallest: int) -> Frame:
    """The frame at `factor` times the spacing of its finest axis: see `sizes.scaled_size`."""
    return frame.resized(scaled_size(frame.size, frame.spacing, factor, smallest))


def solve(
    objective: Objective,
    representation: Model,
    settings: Settings,
    report: Reporter | None = None,
    stage: str = "Deformable registration",
    after_scale: Callable[[Model], None] | None = None,
) -> tuple[Model, list[ScaleReport]]:
    """Minimise `objective` over `representation`, starting from where it stands.

    The representation handed in is left as it is. Deterministic: the same input gives the same result
    bit for bit on one device with one number of threads. No scale ends at a higher energy than it began with.

    Args:
        objective: what to minimise.
        representation: where to start, on the working frame.
        settings: scales, steps and smoothing.
        report: progress and cancellation, looked at once per iteration.
        after_scale: shown the optimum of each scale, on that scale's frame; it must not change it.

    Returns:
        The optimised representation on the finest scale's frame, and a report per scale.

    Raises:
        Cancelled: within one iteration of the token being set.
    """
    report = report or Reporter()
    working = representation.frame
    work = [
        scale.iterations * scale_frame(working, scale.factor, settings.smallest).voxels
        for scale in settings.scales
    ]
    total, done = max(1, sum(work)), 0
    reports = []
    for scale, cost in zip(settings.scales, work, strict=True):
        frame = scale_frame(working, scale.factor, settings.smallest)
        representation = representation.resized(frame)
        energy = objective.at(frame, representation.compositive)
        progress = report.part(done / total, (done + cost) / total)
        label = f"{stage}, {' x '.join(map(str, frame.size))} voxels"
        reports.append(_run_scale(energy, representation, settings, scale, progress, label))
        done += cost
        if after_scale is not None:
            after_scale(representation)
    representation.finish()
    return representation, reports


def _run_scale(
    energy: Energy,
    representation: Movable,
    settings: Settings,
    scale: Scale,
    report: Reporter,
    label: str,
) -> ScaleReport:
    d = representation.dimension
    directions = _directions(settings)
    energies: list[float] = []
    best = _Best()
    converged = False
    sigma = (settings.warp_sigma * scale.stiffness,) * d
    for iteration in range(scale.iterations):
        report(label, iteration / scale.iterations, energies[-1] if energies else None)
        parameters = representation.parameters()
        value = energy(representation.displacement())
        energies.append(float(value.detach()))
        best.seen(energies[-1], parameters)
        gradients = list(torch.autograd.grad(value, parameters))
        gradients = representation.smooth_gradients(gradients, (settings.gradient_sigma,) * d)
        representation.step(directions(gradients), settings.rate)
        if sigma[0] > 0:
            representation.smooth(sigma)
        ended = _has_converged(energies, settings.tolerance) or _has_stalled(
            energies, settings.patience, settings.decrease
        )
        if ended:
            converged = energies[-1] <= energies[0]  # an energy that climbs has not arrived anywhere
            break
    if energies:
        best.restored(energies, energy, representation)
    return ScaleReport(representation.frame, tuple(energies), converged)


class _Best:
    """The parameters of the lowest energy so far."""

    def __init__(self) -> None:
        self.energy = float("inf")
        self.parameters: list[Tensor] = []

    def seen(self, energy: float, parameters: list[Tensor]) -> None:
        if energy < self.energy:
            self.energy = energy
            if self.parameters:
                for kept, parameter in zip(self.parameters, parameters, strict=True):
                    kept.copy_(parameter.detach())
            else:
                self.parameters = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def restored(self, energies: list[float], energy: Energy, representation: Movable) -> None:
        """Take the parameters back to the best ones, where the last ones seen are clearly worse, or where the
        last step, which nobody has looked at, does not end below the energy of the start."""
        gained = energies[0] - self.energy
        near = gained <= 0 or energies[-1] <= self.energy + _SLACK * gained
        if near and float(energy(representation.displacement())) < energies[0]:
            return
        for parameter, kept in zip(representation.parameters(), self.parameters, strict=True):
            parameter.copy_(kept)


def _directions(settings: Settings) -> Callable[[list[Tensor]], list[Tensor]]:
    if settings.optimiser == "adam":
        return _Adam(settings.betas, settings.damping)
    return _Descent() if settings.optimiser == "descent" else _normalised


class _Adam:
    """Adam's direction (Kingma & Ba 2015), shortened so that no component vector is longer than one.

    Adam's constant, here a share of the mean gradient's size, keeps places without information at rest;
    without it noise there would move as far as edges do.
    """

    def __init__(self, betas: tuple[float, float], damping: float) -> None:
        self.betas, self.damping = betas, damping
        self.count = 0
        self.first: list[Tensor] = []
        self.second: list[Tensor] = []

    def __call__(self, gradients: list[Tensor]) -> list[Tensor]:
        if not self.first:
            self.first = [torch.zeros_like(g) for g in gradients]
            self.second = [torch.zeros_like(g) for g in gradients]
        self.count += 1
        b1, b2 = self.betas
        result = []
        for g, first, second in zip(gradients, self.first, self.second, strict=True):
            first.mul_(b1).add_(g, alpha=1 - b1)
            second.mul_(b2).addcmul_(g, g, value=1 - b2)
            scale = (second / (1 - b2**self.count)).sqrt_()
            scale.add_(float(scale.mean()) * self.damping + torch.finfo(g.dtype).tiny)
            direction = torch.div(first, scale, out=scale).div_(1 - b1**self.count)
            result.append(direction.div_(max(1.0, _longest(direction))))
        return result


class _Descent:
    """Steepest descent with one factor: a gradient of the greatest length seen so far gets length one.

    Where a step was too long, the next gradient is longer, and the factor shrinks by itself.
    """

    def __init__(self) -> None:
        self.greatest: list[float] = []

    def __call__(self, gradients: list[Tensor]) -> list[Tensor]:
        lengths = [_longest(g) for g in gradients]
        self.greatest = [max(pair) for pair in zip(self.greatest or lengths, lengths, strict=True)]
        return [g / max(length, 1e-30) for g, length in zip(gradients, self.greatest, strict=True)]


def _normalised(gradients: list[Tensor]) -> list[Tensor]:
    """Steepest descent scaled so that the longest component vector has length one."""
    return [g / max(_longest(g), 1e-30) for g in gradients]


def _longest(vectors: Tensor) -> float:
    return float(vectors.square().sum(-1).max().sqrt())


def _has_stalled(energies: Sequence[float], patience: int, decrease: float) -> bool:
    """Whether each of the last `patience` iterations lowered the energy by less than that share of it."""
    if patience < 1 or len(energies) <= patience:
        return False
    last = energies[-patience - 1 :]
    return all(before - after < decrease * abs(before) for before, after in pairwise(last))


def _has_converged(energies: Sequence[float], tolerance: float, window: int = 20) -> bool:
    """Whether the last energies have stopped to fall, by their regression slope against what was gained."""
    if len(energies) < window:
        return False
    tail = torch.tensor(energies[-window:], dtype=torch.float64)
    time = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    slope = float((time * tail).sum() / (time * time).sum())
    gained = max(energies) - min(energies)
    return -slope <= tolerance * gained
