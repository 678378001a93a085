"""Residual blocks in the place of an integrator (Joshi and Hong, MIDL 2022)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...networks.spectral import SpectralConv

STEPS = 7
"""Blocks a velocity passes through."""

LARGEST_STEP = 0.5
"""Voxels that one block can change a component of the velocity by."""

_HIDDEN = 3
"""Channels within a block, in 2-D too."""

_SLOPE = 0.2


class LipschitzBlock(nn.Module):
    """v + tanh(B * leaky(A * v)) / 2, with A of 3 voxels and B of one, both spectrally normalised.

    As a function of the field's values the added part has a Lipschitz constant of a half where A and B are
    1-Lipschitz (the strict normalisation), and the block is then invertible. Zero stays zero.
    """

    def __init__(self, dimension: int, strict: bool = False) -> None:
        super().__init__()
        self.first = SpectralConv(dimension, dimension, _HIDDEN, 3, strict)
        self.second = SpectralConv(dimension, _HIDDEN, dimension, 1, strict)

    def kernels(self) -> tuple[Tensor, Tensor]:
        """Both normalised kernels."""
        return self.first.kernel(), self.second.kernel()

    def forward(self, velocity: Tensor, kernels: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(B, d, *S) to the same, voxels; `kernels` are those that `kernels()` gave before."""
        first, second = kernels or self.kernels()
        hidden = F.leaky_relu(self.first(velocity, first), _SLOPE)
        return velocity + LARGEST_STEP * torch.tanh(self.second(hidden, second))


class ResidualFlow(nn.Module):
    """`STEPS` blocks one after the other: one that is used again and again, or one for each step.

    Between the passes each step keeps the velocity it was given, and nothing else: what a block has inside is
    four times as much, and is computed again, at little cost, on the way back.

    Args:
        dimension: 2 or 3.
        shared: one block for all steps (a velocity that does not change in time).
        strict: see `SpectralConv`.
    """

    def __init__(self, dimension: int, shared: bool, strict: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(LipschitzBlock(dimension, strict) for _ in range(1 if shared else STEPS))

    def forward(self, velocity: Tensor, watch: Callable[[], None] | None = None) -> Tensor:
        """Initial velocity (B, d, *S), voxels, to the displacement; `watch` is called before each step."""
        # once for each block: a shared one is normalised once in a training step too
        kernels = [block.kernels() for block in self.blocks]
        for step in range(STEPS):
            if watch is not None:
                watch()
            which = step % len(self.blocks)
            block, kernel = self.blocks[which], kernels[which]
            if torch.is_grad_enabled():
                velocity = checkpoint(block, velocity, kernel, use_reentrant=False, preserve_rng_state=False)
            else:  # the first checkpoint of a process takes a second of importing
                velocity = block(velocity, kernel)
        return velocity
