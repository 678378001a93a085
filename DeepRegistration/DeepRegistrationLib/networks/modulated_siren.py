"""A network of the position whose sine layers are modulated by a latent code (NePhi's decoder)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OMEGA = 30.0


class ModulatedSiren(nn.Module):
    """From points and their latent codes to vectors, zero to begin with.

    Tian et al., NePhi (ECCV 2024, arXiv 2309.07322), section 3.2. Fourier features
    [sin 2 pi B x, cos 2 pi B x] of fixed Gaussian frequencies go two ways. The modulator, three sine layers
    of frequency 30 on code and features, adds its first layer's output to that of each later one: the
    gates. The synthesis, a sine layer of frequency 1 and two of frequency 30, has each of the latter
    multiplied by a gate. A linear layer that starts at zero gives the vectors.

    Args:
        dimension: of points and vectors.
        latents: components of a code.
        frequencies: random ones, each giving a sine and a cosine.
        hidden: width of all layers.
        generator: CPU random numbers for frequencies and weights; torch's global ones by default.
    """

    frequencies: Tensor

    def __init__(
        self,
        dimension: int,
        latents: int = 64,
        frequencies: int = 128,
        hidden: int = 128,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        features, again = 2 * frequencies, math.sqrt(6 / hidden) / _OMEGA
        self.register_buffer("frequencies", torch.randn(dimension, frequencies, generator=generator))
        self.modulator = nn.ModuleList(
            [
                SineLayer(latents + features, hidden, _OMEGA, 1 / (latents + features), generator),
                *(SineLayer(hidden, hidden, _OMEGA, again, generator) for _ in range(2)),
            ]
        )
        self.synthesis = nn.ModuleList(
            [
                SineLayer(features, hidden, 1.0, 1 / features, generator),
                *(SineLayer(hidden, hidden, _OMEGA, again, generator) for _ in range(2)),
            ]
        )
        self.last = nn.utils.skip_init(nn.Linear, hidden, dimension)  # which draws nothing
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, points: Tensor, codes: Tensor) -> Tensor:
        """Points (..., d) and codes (..., latents) to vectors (..., d); smooth in both."""
        phase = (2 * math.pi) * (points @ self.frequencies)
        features = torch.cat([phase.sin(), phase.cos()], -1)
        skip = gate = self.modulator[0](torch.cat([codes, features], -1))
        values = self.synthesis[0](features)
        for modulator, synthesis in zip(self.modulator[1:], self.synthesis[1:], strict=True):
            gate = modulator(gate) + skip
            values = synthesis(values) * gate
        return self.last(values)


class SineLayer(nn.Module):
    """x -> sin(omega (W x + b)) (Sitzmann et al., NeurIPS 2020); W uniform within `bound` to begin with."""

    def __init__(
        self, inputs: int, outputs: int, omega: float, bound: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.omega = omega
        self.weight = nn.Parameter(_uniform((outputs, inputs), bound, generator))
        self.bias = nn.Parameter(_uniform((outputs,), 1 / math.sqrt(inputs), generator))

    def forward(self, values: Tensor) -> Tensor:
        return (self.omega * F.linear(values, self.weight, self.bias)).sin()


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator | None) -> Tensor:
    return (2 * torch.rand(*shape, generator=generator) - 1) * bound
