"""A few steps of training on the very pair that is registered, on a copy of the network."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from ...progress import Reporter
from .loss import PairLoss
from .steps import Step

STEPS, RATE = 50, 2e-5
"""As published: Adam on all weights (Tian et al., CVPR 2023, section 5)."""


def optimised(
    network: Step,
    moving: Tensor,
    fixed: Tensor,
    loss: PairLoss,
    steps: int = STEPS,
    rate: float = RATE,
    seed: int = 0,
    report: Reporter | None = None,
) -> Step:
    """A copy of the network, trained further on one pair; deterministic on the processor.

    A step costs one prediction in both directions with its derivative, about three times the prediction
    alone. Batch statistics are not touched: the network stays in evaluation mode, as a batch of one has
    none worth having.

    Args:
        network: not changed in any way, not even its mode.
        moving, fixed: (1, 1, *S) in [0, 1] on one lattice.
        loss: what it was trained with.
        seed: of the penalty's points.
        report: told at every step.

    Raises:
        Cancelled: before the next step once asked to; the network is as it was.
    """
    report = report or Reporter()
    copy = deepcopy(network).eval().requires_grad_()
    optimiser = torch.optim.Adam(copy.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    value: float | None = None
    with torch.enable_grad():
        for step in range(steps):
            report("Adapting the network to the pair", step / steps, value)
            optimiser.zero_grad(set_to_none=True)
            total = loss(copy, moving, fixed, generator)["loss"]
            total.backward()
            optimiser.step()
            value = float(total.detach())
    report("Adapting the network to the pair", 1.0, value)
    return copy.requires_grad_(False)
