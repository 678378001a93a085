"""Smooth random functions on a lattice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...filters import gaussian_smooth, gaussian_taps

_SIGMA = 1.2
"""Smoothing of the coarse lattice that the noise is drawn on, its voxels."""

_EDGE = 3
"""Voxels drawn beyond the coarse lattice, so that its border is as rough as its middle."""


def smooth_noise(
    shape: Sequence[int],
    sigma: float,
    channels: int,
    draw: np.random.Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Gaussian noise smoothed by about `sigma` voxels, mean zero and variance one: (channels, *shape).

    It is drawn on a lattice as coarse as the smoothing allows and read from there, so a smooth function
    costs little; the few numbers come from the processor, so that all devices see the same function.
    """
    coarse = [max(2, math.ceil(n * _SIGMA / sigma)) if n * _SIGMA / sigma < n else n for n in shape]
    drawn = draw.standard_normal((channels, *(m + 2 * _EDGE for m in coarse)), dtype=np.float32)
    d = len(shape)
    smooth = gaussian_smooth(torch.from_numpy(drawn).to(device), (_SIGMA,) * d)
    inner = smooth[(slice(None), *(slice(_EDGE, _EDGE + m) for m in coarse))]
    centre, *sides = gaussian_taps(_SIGMA)
    deviation = (centre**2 + 2 * sum(tap**2 for tap in sides)) ** (d / 2)
    return enlarged(inner / deviation, shape)


def enlarged(functions: Tensor, shape: Sequence[int]) -> Tensor:
    """Functions (C, *S) on a coarse lattice read on a finer one of the same box, (C, *shape)."""
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    return F.interpolate(functions[None], size=tuple(shape), mode=mode, align_corners=False)[0]
