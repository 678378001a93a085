"""Local correlation in a Gaussian window, as GradICON's networks are trained with."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..filters import gaussian_smooth
from .common import Similarity, check_pair

_VARIANCE = 1e-5
"""Added to the windows' variances, for intensities in [0, 1]."""


class GaussianNCC(Similarity):
    """1 - mean local correlation (not squared) in a Gaussian window; in [0, 2].

    Tian et al., CVPR 2023, with standard deviation 5 voxels and the kernel cut at two of them. Windows
    are cut at the border and statistics taken over the voxels inside; the published zero border counts
    voxels outside as black, which lowers the correlation along the border.

    Args:
        sigma: standard deviation of the window, voxels.
    """

    def __init__(self, sigma: float = 5.0) -> None:
        if not sigma > 0:
            raise InputError("The correlation window must be positive.")
        self.sigma = sigma

    def __call__(self, warped: Tensor, fixed: Tensor, weight: Tensor | None = None) -> Tensor:
        """Scalar loss of `warped` and `fixed` (1, C, *S); `weight` (1, 1, *S) weighs windows, or None."""
        check_pair(warped, fixed, weight)
        widths = (self.sigma,) * (warped.ndim - 2)
        inside = gaussian_smooth(torch.ones_like(warped[:, :1]), widths, truncate=2.0)

        def mean(image: Tensor) -> Tensor:
            return gaussian_smooth(image, widths, truncate=2.0) / inside

        # The same for both images and constant, so it does not change the moments; rounding it does.
        a, b = warped - 0.5, fixed - 0.5
        of_a, of_b = mean(a), mean(b)
        spread_a = (mean(a * a) - of_a * of_a).clamp_min(0) + _VARIANCE
        spread_b = (mean(b * b) - of_b * of_b).clamp_min(0) + _VARIANCE
        correlation = (mean(a * b) - of_a * of_b) * torch.rsqrt(spread_a * spread_b)
        if weight is None:
            return 1 - correlation.mean()
        total = (weight.sum() * warped.shape[1]).clamp_min(torch.finfo(warped.dtype).tiny)
        return 1 - (correlation * weight).sum() / total
