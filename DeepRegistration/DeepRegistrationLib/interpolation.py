"""Reading an image between its voxels.

`sample` is the fast path: torch's own sampler, first derivatives only. `gather_sample` is the slow,
transparent one: integer gather and explicit weights, so that autograd can differentiate it twice
(torch's `grid_sample` has no second derivative); it also evaluates cubic B-splines.
Coordinates are normalised (see `frame`), in (x, y, z) order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

_SHARED = 1 << 13
"""From so many points on, threads share the work."""


def sample(image: Tensor, points: Tensor, padding: str = "border", mode: str = "bilinear") -> Tensor:
    """Linear (or nearest) interpolation.

    Args:
        image: (1, C, *S).
        points: (*T, d) normalised coordinates of the image.
        padding: ``border`` repeats the outermost voxel, ``zeros`` fades to zero.
        mode: ``bilinear`` (linear in any dimension) or ``nearest``.

    Returns:
        (1, C, *T).
    """
    d, target, channels = points.shape[-1], points.shape[:-1], image.shape[1]
    count = prod(target)
    # Torch's 3-D sampler runs one thread per batch item, so the points are dealt out to several.
    parts = 2 * torch.get_num_threads() if image.device.type == "cpu" and count >= _SHARED else 1
    flat = points.reshape(count, d)
    if count % parts:
        flat = F.pad(flat, (0, 0, 0, parts - count % parts))
    grid = flat.view(parts, *(1,) * (d - 1), -1, d)
    values = F.grid_sample(
        image.expand(parts, *image.shape[1:]), grid, mode=mode, padding_mode=padding, align_corners=False
    )
    values = values.view(parts, channels, -1).transpose(0, 1).reshape(channels, -1)
    return values[:, :count].reshape(1, channels, *target)


def read_at(images: Tensor, points: Tensor) -> Tensor:
    """Linear interpolation of a batch with the border repeated: (B, C, *S) at (B, *T, d) is (B, C, *T)."""
    b, *target, d = points.shape
    flat = points.reshape(b, *(1,) * (d - 1), -1, d)
    read = F.grid_sample(images, flat, padding_mode="border", align_corners=False)
    return read.reshape(b, images.shape[1], *target)


def voxel_centres(shape: Sequence[int], like: Tensor) -> Tensor:
    """Normalised coordinates of a lattice's voxel centres, (*shape, d); dtype and device of `like`."""
    axes = [(2 * torch.arange(n, device=like.device, dtype=torch.float64) + 1) / n - 1 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1).to(like.dtype)


def gather_sample(image: Tensor, points: Tensor, kernel: str = "linear") -> Tensor:
    """Twice differentiable interpolation with the border repeated.

    Args:
        image: (1, C, *S); for ``cubic`` these are B-spline coefficients (no prefilter is applied).
        points: (*T, d) normalised coordinates.
        kernel: ``linear`` or ``cubic`` (cubic B-spline).

    Returns:
        (1, C, *T), differentiable any number of times in `image` and `points` (almost everywhere for
        ``linear``; twice continuously for ``cubic``).
    """
    shape = image.shape[2:]
    flat = image[0].reshape(image.shape[1], -1)
    size = torch.tensor(shape[::-1], dtype=points.dtype, device=points.device)
    index = ((points + 1) * size - 1) / 2
    low = index.detach().floor()
    fraction = index - low
    weights, offsets = _WEIGHTS[kernel](fraction)
    strides = [prod(shape[k + 1 :]) for k in range(len(shape))][::-1]
    result = image.new_zeros(image.shape[1], *points.shape[:-1])
    for taps in product(range(len(offsets)), repeat=len(shape)):
        address = torch.zeros(points.shape[:-1], dtype=torch.long, device=points.device)
        weight: Tensor | float = 1.0
        for axis, tap in enumerate(taps):
            voxel = (low[..., axis].long() + offsets[tap]).clamp(0, shape[::-1][axis] - 1)
            address = address + voxel * strides[axis]
            weight = weight * weights[tap][..., axis]
        result = result + flat[:, address] * weight
    return result[None]


def _linear_weights(t: Tensor) -> tuple[list[Tensor], tuple[int, ...]]:
    return [1 - t, t], (0, 1)


def _cubic_weights(t: Tensor) -> tuple[list[Tensor], tuple[int, ...]]:
    """The four cubic B-spline weights at fraction `t` of a cell."""
    s = 1 - t
    return [
        s**3 / 6,
        (4 - 6 * t**2 + 3 * t**3) / 6,
        (4 - 6 * s**2 + 3 * s**3) / 6,
        t**3 / 6,
    ], (-1, 0, 1, 2)


_WEIGHTS = {"linear": _linear_weights, "cubic": _cubic_weights}


class _WarpForUpdate(torch.autograd.Function):
    """Warp whose gradient is taken with respect to an update composed on the inside of the map.

    With phi' = phi o (id + v), the derivative of I o phi' with respect to v at v = 0 is the spatial
    gradient of the *warped* image, which finite differences give for a fifth of the price of
    differentiating the sampler.
    """

    @staticmethod
    def forward(ctx, image: Tensor, displacement: Tensor, matrix: Tensor, grid: Tensor) -> Tensor:
        warped = sample(image, _moved(displacement, matrix, grid))
        ctx.save_for_backward(warped)
        return warped

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (warped,) = ctx.saved_tensors
        shape = warped.shape[2:]
        d = len(shape)
        result = torch.zeros(*shape, d, dtype=warped.dtype, device=warped.device)
        for axis, n in enumerate(reversed(shape)):
            if n < 3:
                continue
            dim = 1 + d - axis  # within (1, C, *S)
            slope = warped.narrow(dim, 2, n - 2) - warped.narrow(dim, 0, n - 2)
            slope *= upstream.narrow(dim, 1, n - 2)
            # one voxel is 2/n normalised units, and the difference spans two voxels
            inner = result[..., axis].narrow(d - 1 - axis, 1, n - 2)
            torch.mul(slope.sum((0, 1)) if slope.shape[1] > 1 else slope[0, 0], n / 4, out=inner)
        return None, result, None, None


def warp(
    image: Tensor,
    displacement: Tensor,
    matrix: Tensor,
    grid: Tensor,
    for_update: bool = False,
    twice: bool = False,
) -> Tensor:
    """The image read at the points a displacement leads to.

    Args:
        image: (1, C, *S) on the moving frame.
        displacement: (*T, d) normalised units of the fixed frame.
        matrix: (d, d+1) affine map from the fixed frame's normalised coordinates to the moving frame's.
        grid: (*T, d) the fixed frame's `Frame.grid`.
        for_update: take the gradient for an update composed on the inside (compositive representation)
            instead of for the displacement itself. Only first derivatives, and only in `displacement`.
        twice: make the result twice differentiable, in image and displacement (`gather_sample`, slower).
            Not with `for_update`.

    Returns:
        (1, C, *T).
    """
    if for_update:
        return _WarpForUpdate.apply(image, displacement, matrix, grid)
    return (gather_sample if twice else sample)(image, _moved(displacement, matrix, grid))


def _moved(displacement: Tensor, matrix: Tensor, grid: Tensor) -> Tensor:
    d = displacement.shape[-1]
    points = grid + displacement
    if torch.equal(matrix, torch.eye(d, d + 1, dtype=matrix.dtype, device=matrix.device)):
        return points
    return torch.addmm(matrix[:, d], points.view(-1, d), matrix[:, :d].T).view(points.shape)


class _SpreadSample(torch.autograd.Function):
    """Displacement at points, whose gradient acts on the points' surroundings too."""

    @staticmethod
    def forward(ctx, displacement: Tensor, points: Tensor, sigma: tuple[float, ...]) -> Tensor:
        ctx.save_for_backward(points)
        ctx.shape, ctx.sigma = displacement.shape[:-1], sigma
        return sample(displacement.movedim(-1, 0)[None], points.to(displacement))[0].movedim(0, -1)

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (points,) = ctx.saved_tensors
        d = points.shape[-1]
        bumps = []
        for axis, n in enumerate(reversed(ctx.shape)):
            index = torch.arange(n, dtype=upstream.dtype, device=upstream.device)
            centre = ((points[:, axis : axis + 1].to(upstream) + 1) * n - 1) / 2
            bumps.append(torch.exp(-0.5 * ((index - centre) / ctx.sigma[axis]) ** 2))
        pulled = (bumps[0][:, :, None] * upstream[:, None, :]).flatten(1)  # (N, X d)
        rows = bumps[1]
        if d == 3:
            rows = (bumps[2][:, :, None] * bumps[1][:, None, :]).flatten(1)  # (N, Z Y)
        return (rows.T @ pulled).view(*ctx.shape, d), None, None


def sample_spread(displacement: Tensor, points: Tensor, sigma: tuple[float, ...]) -> Tensor:
    """A displacement at a few points, pulling the neighbourhood along when it is optimised.

    The value is plain linear interpolation; the gradient of each point is spread over the lattice by a
    Gaussian of peak one (a kernel-preconditioned gradient), so that landmarks move the tissue around
    them instead of single voxels.

    Args:
        displacement: (*S, d).
        points: (N, d) normalised coordinates.
        sigma: width of the Gaussian in voxels per axis, (x, y, z) order.

    Returns:
        (N, d), in the displacement's units and dtype.
    """
    return _SpreadSample.apply(displacement, points, sigma)
