"""Local normalised cross-correlation with a closed-form gradient, streamed through the cache.

The measure is the mean over voxels of the squared correlation of the two images in a window around
the voxel (Avants et al., Medical Image Analysis 12, 2008). With the window means m and the
window (co)variances c, u (warped) and v (fixed), the voxel's term is c^2 / (u v), and the derivative of
their sum at voxel k gathers all windows i that contain k:

    sum_i (2 / n_i) [ c / (u v) (fixed_k - m_fixed) - c^2 / (u^2 v) (warped_k - m_warped) ]_i

that is, three more window sums. Planes pass through in stacks, so that the whole computation of a stack
happens in the cache and no full-size intermediate exists except the gradient itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import InputError
from ..filters import box_sum, box_sum_, window_count
from .common import Cached, Similarity, channel_volumes, check_pair
from .local_ncc_pair import LocalNccPair
from .running_window import RunningWindow

_STACK = 1 << 17
"""Voxels of a stack of planes on a processor; some twenty arrays of this size are in use at a time."""


class LocalNCC(Similarity):
    """1 - mean squared local correlation, in [0, 1]; 0 is a perfect local linear relation.

    Args:
        radius: window radius in voxels (window 2r+1), one number or (x, y, z). Default 2.
        window_mm: the window's width in mm instead; `at` turns it into voxels.
        gradient: "exact", or "centre": each voxel only sees the window centred on it, scaled as if its
            neighbours' windows agreed with it (the approximation of Avants et al. 2008); cheaper.
        epsilon: added to the window variances, as a fraction of each image's whole variance, and the root of
            both to the size of the covariance: flat regions contribute nothing, two of them agree, and of all
            images an image is most like itself.

    Windows are cut at the border and statistics taken over the voxels inside. `weight` weighs window
    centres, and `under_masks` also the voxels in windows. The statistics of the fixed image are kept for as
    long as the same tensor is passed.
    """

    def __init__(
        self,
        radius: int | Sequence[int] | None = None,
        window_mm: float | None = None,
        gradient: str = "exact",
        epsilon: float = 1e-4,
    ) -> None:
        if radius is not None and window_mm is not None:
            raise InputError("Give the correlation window in voxels or in millimetres, not both.")
        if gradient not in ("exact", "centre"):
            raise InputError(f"Unknown gradient of the local correlation: {gradient}.")
        smallest = min(radius) if isinstance(radius, Sequence) else radius
        if (smallest is not None and smallest < 0) or (window_mm is not None and window_mm <= 0):
            raise InputError("The correlation window must be positive.")
        self.radius = 2 if radius is None and window_mm is None else radius
        self.window_mm = window_mm
        self.gradient = gradient
        self.epsilon = epsilon
        self.masked = False
        self._cache: Cached[_FixedStatistics] = Cached(self._statistics)

    def at(self, spacing: Sequence[float]) -> LocalNCC:
        """The measure on a lattice of `spacing` mm, (x, y, z); a window in mm is rounded to odd voxels."""
        if self.window_mm is None:
            return self
        radius = [max(1, round((self.window_mm / s - 1) / 2)) for s in spacing]
        return self._like(radius, None, self.masked)

    def under_masks(self) -> LocalNCC:
        """The measure of which a window holds only what has weight; its gradient is the centred one."""
        return self._like(self.radius, self.window_mm, True)

    def _like(self, radius: int | Sequence[int] | None, window_mm: float | None, masked: bool) -> LocalNCC:
        measure = LocalNCC(radius, window_mm, self.gradient, self.epsilon)
        measure.masked = masked
        return measure

    def __call__(self, warped: Tensor, fixed: Tensor, weight: Tensor | None = None) -> Tensor:
        """Scalar loss of `warped` and `fixed` (1, C, *S); `weight` (1, 1, *S) in [0, 1] or None."""
        check_pair(warped, fixed, weight)
        if self.masked and weight is not None:
            return self._pair(warped, fixed.detach(), weight)
        return _LocalNCC.apply(warped, self._cache(fixed), weight, self.gradient == "exact", self.epsilon)

    def symmetric(self, a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
        """See `Similarity.symmetric`; in one pass where the gradient is the centred one."""
        if self.gradient == "exact" and not (self.masked and weight is not None):
            return super().symmetric(a, b, weight)
        check_pair(a, b, weight)
        return self._pair(a, b, weight)

    def _pair(self, a: Tensor, b: Tensor, weight: Tensor | None) -> Tensor:
        return LocalNccPair.apply(a, b, weight, self._window(a.ndim - 2), self.epsilon, self.masked)

    def _window(self, d: int) -> tuple[int, int, int]:
        """The window's radius, (x, y, z); zero across the one plane of a 2-D image."""
        if self.radius is None:
            raise InputError("A correlation window in millimetres needs the image's spacing.")
        radius = (self.radius,) * d if isinstance(self.radius, int) else tuple(self.radius)
        if len(radius) != d:
            raise InputError("The correlation window needs one radius per image axis.")
        x, y, z = (*radius, 0)[:3]
        return x, y, z

    def _statistics(self, fixed: Tensor) -> _FixedStatistics:
        radius = self._window(fixed.ndim - 2)
        values = channel_volumes(fixed)
        mean = values.mean((1, 2, 3), keepdim=True)
        centred = values - mean
        epsilon, _ = _regulariser(centred, mean, self.epsilon)
        share = window_count(values.shape[1:], radius, values).reciprocal_()
        local_mean = box_sum_(centred.clone(), radius).mul_(share)
        variance = box_sum(centred * centred, radius).mul_(share).addcmul_(local_mean, local_mean, value=-1)
        precision = variance.clamp_(min=0).add_(epsilon).reciprocal_()
        return _FixedStatistics(centred, local_mean, precision, share, radius, epsilon.flatten())


@dataclass(frozen=True)
class _FixedStatistics:
    """Of the fixed image, all (C, Z, Y, X): values and window means less the whole mean, 1 / variance;
    `share` (Z, Y, X) is 1 / window voxels; `radius` is in (x, y, z) order; `epsilon` (C) is within the
    variances."""

    centred: Tensor
    mean: Tensor
    precision: Tensor
    share: Tensor
    radius: tuple[int, ...]
    epsilon: Tensor


class _LocalNCC(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, warped: Tensor, fixed: _FixedStatistics, weight: Tensor | None, exact: bool, epsilon: float
    ) -> Tensor:
        values = channel_volumes(warped)
        weights = None if weight is None else channel_volumes(weight)[0]
        total = values[0].numel() if weights is None else float(weights.sum())
        scale = 1 / max(total * len(values), torch.finfo(values.dtype).tiny)
        gradient = torch.empty_like(values, memory_format=torch.contiguous_format)
        wanted = ctx.needs_input_grad[0]
        similarity = torch.zeros((), dtype=torch.float64)
        for channel, image in enumerate(values):
            stream = _Stream(image, fixed, channel, weights, exact, epsilon, gradient[channel], wanted)
            similarity = similarity + stream.run()
        ctx.shape = warped.shape
        ctx.save_for_backward(gradient.mul_(-2 * scale) if wanted else None)
        return (1 - similarity * scale).to(warped)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream).view(ctx.shape), None, None, None, None


class _Stream:
    """One channel's pass: similarity summed over voxels, and half its derivative into `gradient`."""

    def __init__(
        self,
        image: Tensor,
        fixed: _FixedStatistics,
        channel: int,
        weights: Tensor | None,
        exact: bool,
        epsilon: float,
        gradient: Tensor,
        wanted: bool,
    ) -> None:
        self.image, self.weights, self.gradient = image, weights, gradient
        self.fixed, self.mean_fixed = fixed.centred[channel], fixed.mean[channel]
        self.precision, self.share = fixed.precision[channel], fixed.share
        self.in_plane = (*fixed.radius[:2], 0)
        self.through = fixed.radius[2]
        self.exact, self.wanted = exact, wanted
        # Correlation does not change with a constant, and small values lose less to rounding.
        self.shift = image.mean()
        self.epsilon, self.slope = _regulariser(image - self.shift, self.shift, epsilon)
        self.common = self.epsilon.sqrt() * fixed.epsilon[channel].sqrt()
        self.similarity = torch.zeros((), dtype=torch.float64, device=image.device)
        self.flattening = torch.zeros((), dtype=torch.float64, device=image.device)

    def run(self) -> Tensor:
        depth = self.image.shape[0]
        moments = RunningWindow(self.image, 3, self.through)
        spread = RunningWindow(self.image, 3, self.through)
        step = depth
        if self.image.device.type == "cpu":
            step = max(1, 2 * self.through, _STACK // max(1, self.image[0].numel()))
        for start in [*range(0, depth, step), depth]:
            if start < depth:
                warped = self.image[start : start + step] - self.shift
                fixed = self.fixed[start : start + step]
                stack = torch.stack([warped, warped * warped, warped * fixed])
                ready = moments.push(box_sum_(stack, self.in_plane))
            else:
                ready = moments.flush()
            terms = self._terms(*ready)
            if self.wanted and self.exact:
                self._gather(*spread.push(box_sum_(terms, self.in_plane)))
        if self.wanted and self.exact:
            self._gather(*spread.flush())
            # The regularising share of the image's own variance depends on the image too.
            self.gradient.sub_(self.image - self.shift, alpha=float(self.flattening) * self.slope)
        return self.similarity.cpu()

    def _terms(self, start: int, sums: Tensor) -> Tensor:
        """The derivative's factors of fixed, of minus warped, and of one, per window: (3, planes, Y, X)."""
        part = slice(start, start + sums.shape[1])
        share, mean_fixed = self.share[part], self.mean_fixed[part]
        mean, square, product = sums.mul_(share)
        variance = square.addcmul_(mean, mean, value=-1).clamp_(min=0).add_(self.epsilon)
        covariance = product.addcmul_(mean, mean_fixed, value=-1)
        common = torch.copysign(self.common, covariance)  # an inverted image is as like as the image
        covariance.add_(common)
        slope = covariance / variance
        factor = slope * self.precision[part]
        if self.weights is not None:
            factor.mul_(self.weights[part])
        self.similarity += torch.dot(factor.view(-1), covariance.view(-1))
        terms = sums
        if not self.wanted:
            return terms
        if self.exact:
            self.flattening += torch.dot(factor.view(-1), slope.view(-1))
            self.flattening -= torch.dot(factor.view(-1), common.view(-1)) / self.epsilon
            factor.mul_(share)
        slope.mul_(factor)
        torch.mul(slope, mean, out=terms[2]).addcmul_(factor, mean_fixed, value=-1)
        terms[0], terms[1] = factor, slope
        if not self.exact:
            self._gather(start, terms)
        return terms

    def _gather(self, start: int, terms: Tensor) -> None:
        part = slice(start, start + terms.shape[1])
        warped = self.image[part] - self.shift
        target = torch.addcmul(terms[2], terms[0], self.fixed[part], out=self.gradient[part])
        target.addcmul_(terms[1], warped, value=-1)


def _regulariser(centred: Tensor, mean: Tensor, fraction: float) -> tuple[Tensor, float]:
    """Fraction of the variance of each (..., Z, Y, X) plus its rounding level, and the slope by which
    a derivative with respect to it is carried to the image (half of it, as the rest of the gradient)."""
    dims = (-3, -2, -1)
    least = torch.finfo(centred.dtype).tiny ** 0.5  # the product of two has to be a number above zero
    rounding = (16 * torch.finfo(centred.dtype).eps * mean) ** 2 + least
    variance = (centred * centred).mean(dims, keepdim=mean.ndim > 0)
    voxels = centred.shape[-3] * centred.shape[-2] * centred.shape[-1]
    return fraction * variance + rounding, fraction / voxels
