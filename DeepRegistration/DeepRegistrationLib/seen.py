"""What is seen of an image under a mask: nothing that lies under it reaches any filter, window or measure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError
from .filters import box_sum
from .frame import Volume, apply_matrix
from .interpolation import sample
from .transforms.linear import LinearTransform

_WHOLE = 0.99
"""Share of a mask, read between its voxels, from which on a place counts as seen."""

_MARGIN_MM = 10.0
"""How far a deformation may move what a mask leaves out, where the scale of intensities is looked for."""


def seen_values(volume: Volume, mask: Volume | None) -> Tensor:
    """The values (N,) of the voxels that the mask leaves; all of them without a mask."""
    values = volume.data.reshape(-1)
    return values if mask is None else values[mask.data.reshape(-1) > 0.5]


def filled(volume: Volume, mask: Volume | None) -> Volume:
    """The image with what the mask leaves out replaced by a smooth continuation of what it leaves.

    It is made of means over blocks of seen voxels, 2, 4, 8 ... voxels a side, the smallest there are.

    Args:
        volume: (1, *S) floating.
        mask: (1, *S) on the same lattice, seen where it is above 0.5; None leaves the image as it is.

    Raises:
        InputError: the mask leaves nothing.
    """
    if mask is None:
        return volume
    seen = mask.data.to(volume.data.device) > 0.5
    if not bool(seen.any()):
        raise InputError("The mask leaves out the whole image.")
    if bool(seen.all()):
        return volume
    weight = seen[None].to(volume.data)
    known = torch.where(seen, volume.data, torch.zeros_like(volume.data))[None]
    around = _continued(known, weight)[0]
    return Volume(torch.where(seen, volume.data, around), volume.frame)


def _continued(total: Tensor, weight: Tensor) -> Tensor:
    """Means total / weight (1, 1, *S) where there is weight, and beyond those of ever larger blocks."""
    here = total / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    if bool((weight > 0).all()):
        return here
    pool = F.avg_pool3d if total.ndim == 5 else F.avg_pool2d
    block = tuple(min(2, n) for n in total.shape[2:])
    coarse = _continued(*(pool(v, block, ceil_mode=True) for v in (total, weight)))
    mode = "trilinear" if total.ndim == 5 else "bilinear"
    wide = F.interpolate(coarse, size=total.shape[2:], mode=mode, align_corners=False)
    return torch.where(weight > 0, here, wide)


def also_seen(mask: Volume | None, other: Volume | None, linear: LinearTransform, like: Volume) -> Volume:
    """The part of an image that both masks leave.

    Args:
        mask: the image's own, on its lattice; None is everywhere.
        other: the other image's; None is everywhere.
        linear: from the image's points to the other's, LPS mm.
        like: the image.

    Returns:
        (1, *S), 0 or 1. What leads out of the other mask's box, or near the rim of what either leaves, is not
        seen: a deformation may yet move it.
    """
    frame = like.frame
    seen = torch.ones_like(like.data) if mask is None else _inner(mask).to(like.data)
    if other is None:
        return Volume(seen, frame)
    matrix = other.frame.world_to_normalised @ linear.matrix.cpu().numpy() @ frame.normalised_to_world
    inner = _inner(other).to(seen)[None]
    for window in frame.slabs():
        points = apply_matrix(matrix, frame.grid(seen.device, window=window))
        there = sample(inner, points, padding="zeros")[0]
        seen[:, window[0]] *= there > _WHOLE
    return Volume(seen, frame)


def _inner(mask: Volume) -> Tensor:
    """(1, *S), 1 where the mask leaves everything within the margin; the mask where it does so nowhere."""
    away = (mask.data <= 0.5).float()
    sides = zip(mask.frame.spacing, mask.frame.size, strict=True)
    radius = [round(_MARGIN_MM / spacing) if n > 1 else 0 for spacing, n in sides]
    inner = (box_sum(away, radius) < 0.5).float()
    return inner if bool(inner.any()) else 1 - away
