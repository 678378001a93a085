"""Optimising codes and networks of the position for one pair; the encoder takes no part."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from ...networks.latent_encoder import LatentCode
from ...progress import Reporter
from .loss import Images, SampledLoss
from .maps import MapPair
from .predictor import LOCAL, WHOLE, field_networks, size_of

STEPS = 200
"""As published (Tian et al., NePhi, ECCV 2024, section 3.4)."""

NETWORK_RATE, CODE_RATE = 1e-4, 1e-3
"""Of Adam. Ours: the publication leaves them to a supplement."""

_CELLS = {2: 16, 3: 16}
"""Of the code's grid along each axis, where no encoder says."""


def optimised(
    maps: MapPair,
    images: Images,
    loss: SampledLoss,
    steps: int = STEPS,
    rates: tuple[float, float] = (NETWORK_RATE, CODE_RATE),
    seed: int = 0,
    report: Reporter | None = None,
    stage: str = "Fitting the neural field to the pair",
) -> MapPair:
    """Copies of networks and code, trained further on one pair; deterministic on the processor.

    Args:
        maps: where to start; not changed in any way.
        images: the pair.
        loss: as in training.
        rates: of the networks and of the code.
        seed: of the points.
        report: told at every term of every step.

    Raises:
        Cancelled: at the next term once asked to; `maps` is as it was.
    """
    report = report or Reporter()
    networks = deepcopy(maps.networks).requires_grad_()
    whole, grid = (t.detach().clone().requires_grad_() for t in (maps.code.whole, maps.code.grid))
    fitted = MapPair(networks, LatentCode(whole, grid))
    optimiser = torch.optim.Adam(
        [{"params": networks.parameters(), "lr": rates[0]}, {"params": [whole, grid], "lr": rates[1]}]
    )
    generator = torch.Generator().manual_seed(seed)
    value: float | None = None
    with torch.enable_grad():
        for step in range(steps):
            report(stage, step / steps, value)
            optimiser.zero_grad(set_to_none=True)
            total = 0.0
            for name, share, term in loss.terms(fitted, images, generator):  # the graph of one at a time
                part = loss.weights[name] * share * term
                report(stage, step / steps, value)
                part.backward()
                total += float(part.detach())
            optimiser.step()
            value = total
    report(stage, 1.0, value)
    return MapPair(networks.requires_grad_(False), LatentCode(whole.detach(), grid.detach()))


def from_scratch(
    dimension: int,
    configuration: str = "small",
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> MapPair:
    """The identity, ready to be optimised: fresh networks and a random code, as an auto-decoder begins.

    The code's components are normal with variance 1 over their number.

    Raises:
        InputError: there is no such configuration.
    """
    generator = torch.Generator().manual_seed(seed)
    networks: nn.ModuleList = field_networks(size_of(configuration, dimension), dimension, generator)
    whole = torch.randn(1, WHOLE, generator=generator) / WHOLE**0.5
    grid = torch.randn(1, LOCAL, *(_CELLS[dimension],) * dimension, generator=generator) / LOCAL**0.5
    return MapPair(networks.to(device).requires_grad_(False), LatentCode(whole.to(device), grid.to(device)))
