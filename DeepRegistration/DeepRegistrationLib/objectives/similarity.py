"""Similarity over whole images: mean squared error and the global correlation."""

from __future__ import annotations

import torch
from torch import Tensor

from .common import Similarity, check_pair

_FLAT = 1e-10
"""An image whose variance is below this fraction of the other's is taken to be constant."""


class MeanSquaredError(Similarity):
    """Weighted mean of the squared difference, over voxels and channels; squared intensity units, >= 0."""

    pointwise = True

    def __call__(self, warped: Tensor, fixed: Tensor, weight: Tensor | None = None) -> Tensor:
        check_pair(warped, fixed, weight)
        if weight is None:
            return torch.nn.functional.mse_loss(warped, fixed)
        difference = warped - fixed
        total = (weight.sum() * warped.shape[1]).clamp_min(torch.finfo(warped.dtype).tiny)
        return (difference * difference * weight).sum() / total


class GlobalNCC(Similarity):
    """1 - the weighted correlation coefficient over all voxels, mean over channels; in [0, 2].

    0 is a perfect increasing linear relation, 1 none (also where an image is constant), 2 a perfect
    decreasing one.
    """

    pointwise = True

    def __call__(self, warped: Tensor, fixed: Tensor, weight: Tensor | None = None) -> Tensor:
        check_pair(warped, fixed, weight)
        a, b = warped.flatten(2)[0], fixed.flatten(2)[0]
        if weight is None:
            share = None
            a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        else:
            share = weight.flatten()
            share = share / share.sum().clamp_min(torch.finfo(share.dtype).tiny)
            a, b = a - (a @ share)[:, None], b - (b @ share)[:, None]
        covariance = _mean(a * b, share)
        of_warped, of_fixed = _mean(a * a, share), _mean(b * b, share)
        floor_warped = (_FLAT * of_fixed).detach() + 1e-20
        floor_fixed = (_FLAT * of_warped).detach() + 1e-20
        scale = torch.rsqrt(of_warped + floor_warped) * torch.rsqrt(of_fixed + floor_fixed)
        return 1 - (covariance * scale).mean()


def _mean(values: Tensor, share: Tensor | None) -> Tensor:
    return values.mean(1) if share is None else values @ share
