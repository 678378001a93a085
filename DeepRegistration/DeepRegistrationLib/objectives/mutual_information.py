"""Normalised mutual information from a Parzen-windowed joint histogram, with a closed-form gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import InputError
from .common import Cached, Similarity, check_pair


class NormalisedMutualInformation(Similarity):
    """2 - (H(warped) + H(fixed)) / H(warped, fixed), mean over channels; in [0, 1], 1 when independent.

    The overlap-invariant ratio of Studholme et al. (Pattern Recognition 32, 1999). The warped image's
    values are spread over bins by a cubic B-spline, so that the measure is smooth in them; the fixed
    image's are assigned to single bins (Mattes et al., IEEE TMI 22, 2003). Logarithms are natural, which
    cancels in the ratio.

    Args:
        bins: for either image, at least 5.
        warped_range: intensities of the warped image that the bins span; values outside count as the
            nearest end. None takes the extremes of each call's image, as if they did not depend on it.
        fixed_range: the same for the fixed image; None takes its extremes.
        stride: only every stride-th voxel along each axis is counted.
    """

    across_contrasts = True
    pointwise = True

    def __init__(
        self,
        bins: int = 32,
        warped_range: tuple[float, float] | None = None,
        fixed_range: tuple[float, float] | None = None,
        stride: int = 1,
    ) -> None:
        if bins < 5 or stride < 1:
            raise InputError("Mutual information needs at least five bins and a stride of at least one.")
        self.bins, self.stride = bins, stride
        self.warped_range, self.fixed_range = warped_range, fixed_range
        self._rows = Cached(self._fixed_rows)

    def __call__(self, warped: Tensor, fixed: Tensor, weight: Tensor | None = None) -> Tensor:
        check_pair(warped, fixed, weight)
        values = self._sampled(warped)
        weights = None if weight is None else self._sampled(weight)[0]
        losses = []
        for channel, rows in zip(values, self._rows(fixed), strict=True):
            low, high = self.warped_range or _extremes(channel)
            # A bin at the lower and two at the upper end are left to the spline's support.
            step = _density(self.bins - 3, low, high)
            histogram = _Binning(rows, weights, low, step, self.bins)
            losses.append(_NMI.apply(channel, histogram))
        return torch.stack(losses).mean()

    def _sampled(self, image: Tensor) -> Tensor:
        """(1, C, *S) as (C, voxels), thinned."""
        thin = (slice(None, None, self.stride),) * (image.ndim - 2)
        return image[(slice(None), slice(None), *thin)].flatten(2)[0]

    def _fixed_rows(self, fixed: Tensor) -> list[Tensor]:
        """Per channel, each voxel's fixed bin times the number of bins."""
        rows = []
        for channel in self._sampled(fixed):
            low, high = self.fixed_range or _extremes(channel)
            scale = _density(self.bins, low, high)
            bins = ((channel - low) * scale).clamp_(0, self.bins - 1).int()
            rows.append(bins.mul_(self.bins))
        return rows


@dataclass(frozen=True)
class _Binning:
    """Where voxels fall: `rows` (N) int32 fixed bin times bins; the warped value's bin is
    1 + (value - low) * step; `weights` (N) or None."""

    rows: Tensor
    weights: Tensor | None
    low: float
    step: float
    bins: int

    def place(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First of four cells (N) int32, the fraction of a bin (N), and whether a value is in range (N)."""
        position = (values - self.low).mul_(self.step)
        inside = (position >= 0) & (position <= self.bins - 3)
        position.clamp_(0, self.bins - 3)
        whole = position.floor().clamp_(max=self.bins - 4)
        fraction = position.sub_(whole)
        return whole.int().add_(self.rows), fraction, inside


class _NMI(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, binning: _Binning) -> Tensor:
        cells, fraction, inside = binning.place(values)
        size = binning.bins**2
        joint = torch.zeros(size, dtype=torch.float64, device=values.device)
        for k, share in enumerate(_spline(fraction)):
            if binning.weights is not None:
                share = share.mul_(binning.weights)
            joint[k:] += _counted(cells, share, size)[: size - k]
        total = joint.sum().clamp_min(1e-30)
        loss, slope = _loss_and_slope(joint.view(binning.bins, binning.bins) / total)
        ctx.binning = binning
        ctx.save_for_backward(cells, fraction, inside, (slope.view(-1) * (binning.step / total)).to(values))
        return loss.to(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        cells, fraction, inside, slope = ctx.saved_tensors
        gradient = torch.zeros_like(fraction)
        padded = torch.cat([slope, slope.new_zeros(3)])
        for k, share in enumerate(_spline_slope(fraction)):
            gradient.addcmul_(share, padded[k:].index_select(0, cells))
        gradient.mul_(inside).mul_(upstream)
        if ctx.binning.weights is not None:
            gradient.mul_(ctx.binning.weights)
        return gradient, None


def _counted(cells: Tensor, share: Tensor, size: int) -> Tensor:
    """Sum of the shares in each of `size` cells, float64: single precision would lose large counts."""
    share = share.double()
    if cells.device.type == "cpu":
        return torch.bincount(cells, share, minlength=size)
    # Accelerators add in any order; whole numbers have the same sum in all of them.
    return torch.bincount(cells, (share * 2**28).round_(), minlength=size) / 2**28


def _loss_and_slope(joint: Tensor) -> tuple[Tensor, Tensor]:
    """2 - NMI of probabilities (fixed bins, warped bins), and its derivative by each of them."""
    tiny = 1e-30
    log_joint = joint.clamp_min(tiny).log()
    of_fixed, of_warped = joint.sum(1), joint.sum(0)
    log_fixed, log_warped = of_fixed.clamp_min(tiny).log(), of_warped.clamp_min(tiny).log()
    entropy = -(joint * log_joint).sum()
    apart = -(of_fixed * log_fixed).sum() - (of_warped * log_warped).sum()
    if entropy <= tiny:
        return torch.ones_like(entropy), torch.zeros_like(joint)
    # The derivatives' constants cancel: each voxel's spline weights sum to one whatever its value.
    slope = (log_fixed[:, None] + log_warped) / entropy - apart / entropy**2 * log_joint
    return 2 - apart / entropy, slope


def _spline(t: Tensor) -> Iterator[Tensor]:
    """The four cubic B-spline weights at the fraction t between the second and the third knot."""
    s = 1 - t
    yield s * s * s / 6
    yield (t * t * (0.5 * t - 1)).add_(2 / 3)
    yield (s * s * (0.5 * s - 1)).add_(2 / 3)
    yield t * t * t / 6


def _spline_slope(t: Tensor) -> Iterator[Tensor]:
    """Derivatives of the four weights by t."""
    s = 1 - t
    yield s * s * -0.5
    yield t * (1.5 * t - 2)
    yield s * (2 - 1.5 * s)
    yield t * t * 0.5


def _density(bins: int, low: float, high: float) -> float:
    """Bins per unit of intensity; zero where all intensities are one, which then share a bin."""
    return bins / (high - low) if high - low > 1e-12 else 0.0


def _extremes(values: Tensor) -> tuple[float, float]:
    low, high = values.detach().aminmax()
    return float(low), float(high)
