"""Separable filters of images and displacements: window sums, Gaussian smoothing, resizing, gradients.

Windows are sums of shifted views, added in place block by block so that a block stays in the cache:
on a processor this is several times faster than pooling or convolving in 3-D, and needs no scratch
volume. Spatial parameters are in (x, y, z) order, tensors in array order (z, y, x).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .errors import InputError

AxisFilter = Callable[[Tensor, Tensor, int], None]
"""Filter `source` into `target` (no overlap) along one dimension."""

_BLOCK = 1 << 19
"""Numbers handled at a time on a processor: small enough for the cache, large enough for the threads."""

_DIRECT_RADIUS = 3
"""Up to here 2r shifted additions are cheaper than padding and doubling."""


def box_sum(image: Tensor, radius: Sequence[int]) -> Tensor:
    """Sum of `image` over a window of 2r+1 voxels per axis; voxels outside count as zero.

    Args:
        image: (..., *S), floating.
        radius: r per spatial axis in (x, y, z) order; its length tells how many trailing axes are spatial.

    Returns:
        Tensor of the image's shape. Differentiable once (the zero-padded sum is its own adjoint).
    """
    return _BoxSum.apply(image, _checked(radius, image, False))


def box_sum_(image: Tensor, radius: Sequence[int]) -> Tensor:
    """`box_sum` written over `image`, which must be contiguous; without gradient."""
    radius = _checked(radius, image, False)
    with torch.no_grad():
        return _separable(image, image, [_box_filter(r) for r in radius], False)


def valid_sum(values: Tensor, dim: int, width: int) -> Tensor:
    """Sums of `width` neighbours along `dim`, only where all of them exist: n - width + 1 along it.

    Sums of 1, 2, 4, ... neighbours are built by doubling; the window is made of those its width needs.
    """
    length = values.shape[dim] - width + 1
    total: Tensor | None = None
    power, covered = 1, 0
    while True:
        if width & power:
            piece = values.narrow(dim, covered, length)
            total = piece.clone() if total is None else total.add_(piece)
            covered += power
        if covered == width and total is not None:
            return total
        kept = values.shape[dim] - power
        values = values.narrow(dim, 0, kept) + values.narrow(dim, power, kept)
        power *= 2


def window_count(shape: Sequence[int], radius: Sequence[int], like: Tensor) -> Tensor:
    """How many voxels of a lattice (*S) lie in each voxel's window; (*S), dtype and device of `like`."""
    count = like.new_ones(())
    for n, r in zip(shape, reversed(radius), strict=True):
        i = torch.arange(n, device=like.device, dtype=like.dtype)
        count = count[..., None] * (torch.clamp(i + r, max=n - 1) - torch.clamp(i - r, min=0) + 1)
    return count


def gaussian_smooth(
    image: Tensor,
    sigma: Sequence[float],
    channels_last: bool = False,
    border: str = "zero",
    truncate: float = 2.5,
) -> Tensor:
    """Gaussian smoothing, separable; each tap is the Gaussian's integral over a voxel, taps sum to one.

    Args:
        image: (..., *S), or (..., *S, C) with `channels_last`.
        sigma: standard deviation in voxels per axis, (x, y, z) order; 0 leaves an axis alone.
        channels_last: whether the last axis holds components instead of space (displacements).
        border: "zero" (outside is zero; the filter is its own adjoint) or "replicate".
        truncate: taps beyond this many standard deviations are dropped.

    Returns:
        Tensor of the image's shape. Differentiable once.
    """
    sigma = _checked(sigma, image, channels_last)
    return _GaussianSmooth.apply(image, sigma, channels_last, _border(border), truncate)


def gaussian_smooth_(
    image: Tensor,
    sigma: Sequence[float],
    channels_last: bool = False,
    border: str = "zero",
    truncate: float = 2.5,
) -> Tensor:
    """`gaussian_smooth` written over `image`, which must be contiguous; without gradient."""
    sigma = _checked(sigma, image, channels_last)
    filters = [_gaussian_filter(s, truncate, _border(border), False) for s in sigma]
    with torch.no_grad():
        return _separable(image, image, filters, channels_last)


def slide_smooth_(vectors: Tensor, sigma: Sequence[float]) -> Tensor:
    """Gaussian smoothing of a displacement in place, without gradient, whose border is a wall to slide along.

    Outside, what leads along a side of the box goes on as it is at the border, and what leads across is zero:
    so the outer slices of an image are not pulled back, nor is more of it pulled out of the box.

    Args:
        vectors: (*S, d), components in (x, y, z) order.
        sigma: standard deviation in voxels per axis, (x, y, z) order; 0 leaves an axis alone.
    """
    sigma = _checked(sigma, vectors, True)
    for k in range(len(sigma)):
        along, across = ([s if (axis == k) == own else 0.0 for axis, s in enumerate(sigma)] for own in (0, 1))
        component = vectors[..., k].contiguous()
        gaussian_smooth_(component, along, border="replicate")
        vectors[..., k] = gaussian_smooth_(component, across)
    return vectors


@lru_cache(maxsize=256)
def gaussian_taps(sigma: float, truncate: float = 2.5) -> tuple[float, ...]:
    """Half of the symmetric kernel, centre first: integrals over whole voxels, full kernel sum one."""
    if sigma <= 0:
        return (1.0,)
    radius = max(1, math.ceil(truncate * sigma - 0.5))
    scale = 1 / (sigma * math.sqrt(2))
    edge = [math.erf((k + 0.5) * scale) for k in range(radius + 1)]
    taps = [2 * edge[0]] + [edge[k] - edge[k - 1] for k in range(1, radius + 1)]
    total = taps[0] + 2 * sum(taps[1:])
    return tuple(tap / total for tap in taps)


def downsample(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize onto `size` voxels of the same box, smoothing before along the axes that shrink.

    The smoothing is half the shrink factor in voxels (none where an axis does not shrink), the
    resampling linear on whole-voxel boxes (``align_corners=False``).

    Args:
        image: (B, C, *S).
        size: voxels per axis, (x, y, z) order.

    Returns:
        (B, C, *reversed(size)); the image itself where nothing changes.
    """
    size = tuple(int(n) for n in size)
    old = tuple(reversed(image.shape[2:]))
    if len(size) != len(old) or min(size) < 1:
        raise InputError("The requested image size is not usable.")
    if size == old:
        return image
    sigma = [0.5 * n / m if m < n else 0.0 for n, m in zip(old, size, strict=True)]
    smooth = gaussian_smooth(image, sigma, border="replicate")
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return F.interpolate(smooth, size=size[::-1], mode=mode, align_corners=False)


def spatial_gradient(image: Tensor) -> Tensor:
    """Derivatives per voxel: central differences, one-sided at the border, zero on axes of one voxel.

    Args:
        image: (B, C, *S).

    Returns:
        (B, C, d, *S), components in (x, y, z) order.
    """
    parts = []
    for dim in range(image.ndim - 1, 1, -1):
        n = image.shape[dim]
        if n == 1:
            parts.append(torch.zeros_like(image))
            continue
        first = image.narrow(dim, 1, 1) - image.narrow(dim, 0, 1)
        middle = (image.narrow(dim, 2, n - 2) - image.narrow(dim, 0, n - 2)) / 2
        last = image.narrow(dim, n - 1, 1) - image.narrow(dim, n - 2, 1)
        parts.append(torch.cat([first, middle, last], dim))
    return torch.stack(parts, 2)


class _BoxSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, radius: tuple[int, ...]) -> Tensor:
        ctx.radius = radius
        return _separable(
            image,
            torch.empty_like(image, memory_format=torch.contiguous_format),
            [_box_filter(r) for r in radius],
            False,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _BoxSum.apply(gradient, ctx.radius), None


class _GaussianSmooth(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        sigma: tuple[float, ...],
        channels_last: bool,
        replicate: bool,
        truncate: float,
    ) -> Tensor:
        ctx.setting = (sigma, channels_last, replicate, truncate)
        return _smoothed(image, *ctx.setting, adjoint=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _smoothed(gradient, *ctx.setting, adjoint=True), None, None, None, None


def _smoothed(
    image: Tensor,
    sigma: tuple[float, ...],
    channels_last: bool,
    replicate: bool,
    truncate: float,
    adjoint: bool,
) -> Tensor:
    filters = [_gaussian_filter(s, truncate, replicate, adjoint) for s in sigma]
    target = torch.empty_like(image, memory_format=torch.contiguous_format)
    return _separable(image, target, filters, channels_last)


def _checked(values: Sequence[float], image: Tensor, channels_last: bool) -> tuple:
    if not 1 <= len(values) <= image.ndim - channels_last or len(values) > 3 or min(values) < 0:
        raise InputError("A filter needs one non-negative width per image axis.")
    return tuple(values)


def _border(name: str) -> bool:
    if name not in ("zero", "replicate"):
        raise InputError(f"Unknown border rule: {name}.")
    return name == "replicate"


def _box_filter(radius: int) -> AxisFilter | None:
    if radius == 0:
        return None
    return lambda source, target, dim: _box_axis(source, target, dim, radius)


def _box_axis(source: Tensor, target: Tensor, dim: int, radius: int) -> None:
    n = source.shape[dim]
    radius = min(radius, n - 1)
    if radius > _DIRECT_RADIUS:
        padding = list(source.shape)
        padding[dim] = radius
        zeros = source.new_zeros(padding)
        target.copy_(valid_sum(torch.cat([zeros, source, zeros], dim), dim, 2 * radius + 1))
        return
    if radius == 0:
        target.copy_(source)
        return
    torch.add(source.narrow(dim, 0, n - 1), source.narrow(dim, 1, n - 1), out=target.narrow(dim, 0, n - 1))
    target.narrow(dim, n - 1, 1).copy_(source.narrow(dim, n - 1, 1))
    for k in range(1, radius + 1):
        if k > 1:
            target.narrow(dim, 0, n - k).add_(source.narrow(dim, k, n - k))
        target.narrow(dim, k, n - k).add_(source.narrow(dim, 0, n - k))


def _gaussian_filter(sigma: float, truncate: float, replicate: bool, adjoint: bool) -> AxisFilter | None:
    if sigma <= 0:
        return None
    taps = gaussian_taps(float(sigma), float(truncate))
    return lambda source, target, dim: _taps_axis(source, target, dim, taps, replicate, adjoint)


def _taps_axis(
    source: Tensor, target: Tensor, dim: int, taps: tuple[float, ...], replicate: bool, adjoint: bool
) -> None:
    n = source.shape[dim]
    torch.mul(source, taps[0], out=target)
    for k, tap in enumerate(taps[1:], start=1):
        inside = max(0, n - k)
        if inside:
            target.narrow(dim, 0, inside).add_(source.narrow(dim, k, inside), alpha=tap)
            target.narrow(dim, k, inside).add_(source.narrow(dim, 0, inside), alpha=tap)
        if replicate:
            for start, edge in ((inside, n - 1), (0, 0)):
                if adjoint:
                    spread = source.narrow(dim, start, n - inside).sum(dim, keepdim=True)
                    target.narrow(dim, edge, 1).add_(spread, alpha=tap)
                else:
                    target.narrow(dim, start, n - inside).add_(source.narrow(dim, edge, 1), alpha=tap)


def _separable(
    source: Tensor, target: Tensor, filters: Sequence[AxisFilter | None], channels_last: bool
) -> Tensor:
    """Apply one filter per axis, (x, y, z) order, from `source` into contiguous `target` (may be one)."""
    shape = source.shape
    inner = shape[-1] if channels_last else 1
    spatial = list(shape[: len(shape) - channels_last][-len(filters) :])
    spatial = [1] * (3 - len(spatial)) + spatial
    along_x, along_y, along_z = [*filters, None, None][:3]
    view = (-1, *spatial, inner)
    if not target.is_contiguous():
        raise InputError("A filter cannot write over a tensor with gaps.")
    if not source.numel():
        return target
    sources, targets = source.reshape(view), target.view(view)
    for old, new in zip(sources, targets, strict=True):
        _plane_filters(old, new, along_x, along_y)
        if along_z is not None:
            _through_filter(new, along_z)
    return target


def _plane_filters(
    source: Tensor, target: Tensor, along_x: AxisFilter | None, along_y: AxisFilter | None
) -> None:
    """Filter (Z, Y, X, I) along x and y, a stack of planes at a time."""
    step = _blocks(source, 0)
    for start in range(0, source.shape[0], step):
        old, new = source[start : start + step], target[start : start + step]
        if along_x is None and along_y is None:
            if old.data_ptr() != new.data_ptr():
                new.copy_(old)
            continue
        between = torch.empty_like(old)
        if along_x is not None and along_y is not None:
            along_x(old, between, 2)
            along_y(between, new, 1)
        elif along_x is not None:
            along_x(old, between, 2)
            new.copy_(between)
        elif along_y is not None:
            along_y(old, between, 1)
            new.copy_(between)


def _through_filter(volume: Tensor, along_z: AxisFilter) -> None:
    """Filter (Z, Y, X, I) along z in place, a band of rows at a time."""
    step = _blocks(volume, 1)
    for start in range(0, volume.shape[1], step):
        band = volume[:, start : start + step]
        between = torch.empty(band.shape, dtype=band.dtype, device=band.device)
        along_z(band, between, 0)
        band.copy_(between)


def _blocks(volume: Tensor, dim: int) -> int:
    """How many slices along `dim` to handle at a time."""
    n = volume.shape[dim]
    if volume.device.type != "cpu":
        return n
    return max(1, min(n, _BLOCK * n // max(1, volume.numel())))
