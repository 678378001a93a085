"""A neural field: the displacement is a small network of the coordinates (NePhi's decoder)."""

from __future__ import annotations

import math
from copy import copy

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..catalogue import REPRESENTATIONS
from ..field import Field
from ..frame import Frame
from .base import Representation, Transform
from .coarse import halved, upsampled

_OMEGA = 30.0
_STEP = 1e-3
"""Weight change per voxel asked for: the usual learning rate of such networks."""

_CHUNK = 1 << 16
_FIT_STEPS = 300
_FIT_POINTS = 8192


class NeuralField(Representation):
    """x -> x + f(x), f sine layers on fixed random Fourier features of the position.

    The synthesis network of NePhi without its latent codes: features [sin 2 pi B x, cos 2 pi B x], a sine
    layer of frequency 1, one of frequency 30, and a linear layer that starts at zero (the identity).
    Smooth, but may fold. A continuous function of the box, so the same weights serve every frame of it;
    evaluated, a chunk of points at a time, on a frame with half the voxels per axis (see `coarse`).

    Attributes:
        weights: matrix and bias of each layer in turn; matrices (out, in).
        frequencies: (d, features) the matrix B, not moved by the solver; positions are relative to half
            the box's longest side.
    """

    name = "neural-field"
    description = REPRESENTATIONS[name].description
    diffeomorphic = False
    half_way_rate = 1.0  # a rate of learning, not a distance

    def __init__(
        self,
        frame: Frame,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        features: int = 64,
        hidden: int = 64,
    ) -> None:
        """
        Args:
            generator: CPU random numbers for features and weights; by default a fresh one with seed 0.
            features: random frequencies, each giving a sine and a cosine.
            hidden: width of the two hidden layers.
        """
        super().__init__(frame, device)
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        self.coarse = halved(frame)
        self.sides = torch.from_numpy(frame.extent / frame.extent.max())
        self.frequencies = torch.randn(self.dimension, features, generator=generator).to(self.device)
        first, second = 1 / (2 * features), math.sqrt(6 / hidden) / _OMEGA
        self._take(
            [
                _uniform((hidden, 2 * features), first, generator),
                _uniform((hidden,), first, generator),
                _uniform((hidden, hidden), second, generator),
                _uniform((hidden,), second, generator),
                torch.zeros(self.dimension, hidden),
                torch.zeros(self.dimension),
            ]
        )

    @classmethod
    def seeded(cls, frame: Frame, device: torch.device | str, seed: int) -> NeuralField:
        return cls(frame, device, torch.Generator().manual_seed(seed))

    def parameters(self) -> list[Tensor]:
        return self.weights

    def at(self, points: Tensor) -> Tensor:
        """Displacement at normalised points (..., d), normalised units; differentiable at will."""
        sides = self.sides.to(points)
        w1, b1, w2, b2, w3, b3 = self.weights
        phase = (2 * math.pi) * ((points * sides) @ self.frequencies.to(points))
        values = torch.cat([phase.sin(), phase.cos()], -1)
        values = (values @ w1.T + b1).sin()
        values = (_OMEGA * (values @ w2.T + b2)).sin()
        return (values @ w3.T + b3) / sides

    def displacement(self) -> Tensor:
        points = self.coarse.grid(self.device, self.weights[0].dtype).reshape(-1, self.dimension)
        parts = [self._chunk(part) for part in points.split(_CHUNK)]
        return upsampled(torch.cat(parts).reshape(*self.coarse.shape, self.dimension), self.frame)

    def _chunk(self, points: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self.at(points)
        return checkpoint(self.at, points, use_reentrant=False, preserve_rng_state=False)

    def partner(self) -> NeuralField:
        """Only the last, linear layer changes its sign: the network's value does, then."""
        other = copy(self)
        other.weights = [*self.weights[:-2], *(-w for w in self.weights[-2:])]
        return other

    @torch.no_grad()
    def step(self, directions: list[Tensor], rate: float) -> None:
        """Move the weights by `rate` thousandths against `directions`: a learning rate of 1e-3 rate."""
        for parameter, direction in zip(self.parameters(), directions, strict=True):
            parameter.sub_(direction, alpha=_STEP * rate)

    def fit(self, transform: Transform) -> float:
        """Adam on the squared distance at random points, always the same ones."""
        field = transform.field(self.frame, self.device)
        generator = torch.Generator().manual_seed(0)
        optimiser = torch.optim.Adam(self.weights, lr=2e-3)
        half = torch.as_tensor(self.frame.extent / 2, dtype=torch.float32, device=self.device)
        for k in range(_FIT_STEPS):
            for group in optimiser.param_groups:
                group["lr"] = 2e-3 * (1 + math.cos(math.pi * k / _FIT_STEPS)) / 2
            points = 2 * torch.rand(_FIT_POINTS, self.dimension, generator=generator).to(self.device) - 1
            with torch.enable_grad():
                loss = ((self.at(points) - field.at(points)) * half).pow(2).mean()
                gradients = torch.autograd.grad(loss, self.weights)
            for weight, gradient in zip(self.weights, gradients, strict=True):
                weight.grad = gradient
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            left = Field(field.displacement - self.displacement(), self.frame)
            return float(left.magnitude_mm().pow(2).mean().sqrt())

    def resized(self, frame: Frame) -> NeuralField:
        other = NeuralField(frame, self.device)
        other.frequencies = self.frequencies
        other._take(self.weights)
        return other

    def _take(self, weights: list[Tensor]) -> None:
        self.weights = [w.detach().to(self.device).clone().requires_grad_() for w in weights]


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(*shape, generator=generator) - 1) * bound
