"""Local correlation of two images that are both moved: one pass for the value and both gradients.

The measure of `local_ncc` with, for either image, the approximate gradient of Avants et al. (Medical Image
Analysis 12, 2008): with window means m, (co)variances c, u and v of a and b at the voxel,

    d/da = 2 c / (u v) [(b - m_b) - c / u (a - m_a)],   d/db = 2 c / (u v) [(a - m_a) - c / v (b - m_b)].

Exchanging the images exchanges the gradients, to the last bit. Under masks, windows hold what is weighed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..filters import box_sum, box_sum_, window_count
from .common import channel_volumes
from .running_window import RunningWindow

_STACK = 1 << 17
"""Voxels of a stack of planes on a processor; some twenty arrays of this size are in use at a time."""

_LEAST = 1e-6
"""Sum of weights in a window that holds nothing."""


class LocalNccPair(torch.autograd.Function):
    """1 - mean squared local correlation of a and b (1, C, *S), differentiable once in both."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        weight: Tensor | None,
        radius: tuple[int, ...],
        epsilon: float,
        masked: bool = False,
    ) -> Tensor:
        one, other = channel_volumes(a), channel_volumes(b)
        weights = None if weight is None else channel_volumes(weight)[0]
        total = one[0].numel() if weights is None else float(weights.sum())
        scale = 1 / max(total * len(one), torch.finfo(torch.float32).tiny)
        gradients = torch.empty_like(one), torch.empty_like(other)
        similarity = torch.zeros((), dtype=torch.float64)
        inside = weights if masked else None
        for channel, images in enumerate(zip(one, other, strict=True)):
            targets = gradients[0][channel], gradients[1][channel]
            similarity = similarity + _summed(images, weights, inside, targets, radius, epsilon)
        ctx.shape = a.shape
        ctx.save_for_backward(*(g.mul_(-2 * scale) for g in gradients))
        return (1 - similarity * scale).to(a)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        one, other = ((g * upstream).view(ctx.shape) for g in ctx.saved_tensors)
        return one, other, None, None, None, None


def _summed(
    images: tuple[Tensor, Tensor],
    weights: Tensor | None,
    inside: Tensor | None,
    gradients: tuple[Tensor, Tensor],
    radius: tuple[int, ...],
    epsilon: float,
) -> Tensor:
    """Squared correlation of volumes (Z, Y, X), summed over voxels; half its derivatives in `gradients`. Only
    what is `inside`, (Z, Y, X) in [0, 1], has a part in a window; None is all."""
    means = [_mean(image, inside) for image in images]
    centred = [image - mean for image, mean in zip(images, means, strict=True)]
    floors = [_floor(mean, centre, inside, epsilon) for mean, centre in zip(means, centred, strict=True)]
    common = floors[0].sqrt() * floors[1].sqrt()
    counts = window_count(images[0].shape, radius, images[0]) if inside is None else box_sum(inside, radius)
    shares = counts.clamp_(min=_LEAST).reciprocal_()
    similarity = torch.zeros((), dtype=torch.float64, device=images[0].device)
    for part, sums in _window_sums(centred[0], centred[1], inside, radius):
        mean_a, mean_b, square_a, square_b, product = sums.mul_(shares[part])
        a, b = centred[0][part], centred[1][part]
        of_a = square_a.addcmul_(mean_a, mean_a, value=-1).clamp_(min=0).add_(floors[0])
        of_b = square_b.addcmul_(mean_b, mean_b, value=-1).clamp_(min=0).add_(floors[1])
        covariance = product.addcmul_(mean_a, mean_b, value=-1)
        covariance.add_(torch.copysign(common, covariance))
        factor = covariance / (of_a * of_b)
        if weights is not None:
            factor.mul_(weights[part])
        similarity += torch.dot(factor.view(-1), covariance.view(-1))
        a, b = mean_a.neg_().add_(a), mean_b.neg_().add_(b)
        # c / u (a - m_a), in the place of the variances
        along_a = torch.div(covariance, of_a, out=of_a).mul_(a)
        along_b = torch.div(covariance, of_b, out=of_b).mul_(b)
        torch.sub(b, along_a, out=gradients[0][part]).mul_(factor)
        torch.sub(a, along_b, out=gradients[1][part]).mul_(factor)
    return similarity.cpu()


def _window_sums(
    a: Tensor, b: Tensor, inside: Tensor | None, radius: tuple[int, ...]
) -> Iterator[tuple[slice, Tensor]]:
    """Window sums of a, b, a^2, b^2 and a b, (5, planes, Y, X), of what is inside, by stacks of planes."""
    through, depth = radius[2], a.shape[0]
    step = depth
    if a.device.type == "cpu":
        step = max(1, 2 * through, _STACK // max(1, a[0].numel()))
    window = RunningWindow(a, 5, through)
    for start in [*range(0, depth, step), depth]:
        if start < depth:
            one, other = a[start : start + step], b[start : start + step]
            stack = torch.stack([one, other, one * one, other * other, one * other])
            if inside is not None:
                stack.mul_(inside[start : start + step])
            first, sums = window.push(box_sum_(stack, (*radius[:2], 0)))
        else:
            first, sums = window.flush()
        yield slice(first, first + sums.shape[1]), sums


def _mean(image: Tensor, inside: Tensor | None) -> Tensor:
    if inside is None:
        return image.mean()
    return (image * inside).sum() / inside.sum().clamp_min(_LEAST)


def _floor(mean: Tensor, centred: Tensor, inside: Tensor | None, fraction: float) -> Tensor:
    """What is added to the window variances: a fraction of the whole variance and the rounding level."""
    least = torch.finfo(centred.dtype).tiny ** 0.5  # the product of two has to be a number above zero
    rounding = (16 * torch.finfo(centred.dtype).eps * mean) ** 2 + least
    return fraction * _mean(centred * centred, inside) + rounding
