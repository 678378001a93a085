"""From images as they come to what the solver works on: intensities, foreground, working frame."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .background import limits, padding_limit
from .errors import InputError
from .filters import downsample
from .frame import Frame, Volume, apply_matrix
from .interpolation import sample
from .label_values import LabelReader
from .seen import also_seen, filled, seen_values
from .transforms.linear import LinearTransform

_SAMPLES = 200_000
_FOREGROUND = 0.04
"""Normalised intensity above which a (smoothed) voxel belongs to the subject."""

_MARGIN_MM = 10.0

_ALIKE = 1.25
"""Ratio up to which two changes of scale are the same."""


Box = tuple[tuple[int, int], ...]
"""First and last-plus-one voxel along each axis (x, y, z)."""


def normalised(volume: Volume, mask: Volume | None = None, scale: Volume | None = None) -> Volume:
    """Intensities brought to [0, 1]: the 0.1th and 99.8th percentile become 0 and 1, beyond is clamped. What
    is no measurement (see `measurements`) does not count.

    Args:
        volume: one channel.
        mask: what may be looked at, on the volume's lattice; the rest is filled from that; all if missing.
        scale: where the percentiles are taken, a part of what the mask leaves; all of that if missing.

    Raises:
        InputError: the image (or what the mask leaves of it) is constant.
    """
    scale = mask if scale is None else scale
    volume = measurements(volume, mask=scale)
    values = seen_values(volume, scale)
    step = max(1, values.numel() // _SAMPLES)
    low, high = np.percentile(values[::step].double().cpu().numpy(), (0.1, 99.8))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    if high <= low:
        if mask is not None and values.numel() == 1:
            raise InputError(
                "The image's mask leaves a single voxel of it, with which nothing can be aligned."
            )
        where = "everywhere" if mask is None else "all over its mask"
        raise InputError(f"The image has the same value {where}, so there is nothing to align.")
    scaled = (volume.data - float(low)).mul_(1 / (float(high) - float(low))).clamp_(0, 1)
    return filled(Volume(scaled, volume.frame), mask)


def matched_pair(
    images: tuple[Volume, Volume], masks: tuple[Volume | None, Volume | None], linear: LinearTransform
) -> tuple[Volume, Volume] | None:
    """Both images as `normalised` makes them, their percentiles taken where both masks leave them: what only
    one mask leaves out gives them no different scales.

    Args:
        images: fixed and moving.
        masks: each on its image's lattice, or None.
        linear: fixed to moving points, LPS mm.

    Returns:
        None where the masks have too little in common to tell, or leave each image about the scale it has.
    """
    ways = linear, linear.inverse()
    both = [also_seen(masks[k], masks[1 - k], ways[k], images[k]) for k in (0, 1)]
    if not all(bool(seen.data.any()) for seen in both):
        return None
    shares = [_spread(images[k], both[k]) / max(_spread(images[k], masks[k]), 1e-30) for k in (0, 1)]
    if max(shares) <= _ALIKE * min(shares):
        return None
    try:
        fixed, moving = (normalised(images[k], masks[k], both[k]) for k in (0, 1))
    except InputError:
        return None
    return fixed, moving


def _spread(volume: Volume, mask: Volume | None) -> float:
    """From the 0.1th to the 99.8th percentile of what the mask leaves."""
    values = seen_values(measurements(volume, mask=mask), mask)
    step = max(1, values.numel() // _SAMPLES)
    low, high = np.percentile(values[::step].double().cpu().numpy(), (0.1, 99.8))
    return float(high - low)


def measurements(volume: Volume, source: Volume | None = None, mask: Volume | None = None) -> Volume:
    """The image with air where a CT scanner wrote padding outside its field of view, its least value where
    a mark says that nothing was measured, and outliers clamped; others as they are.

    Args:
        volume: an image.
        source: the one that it was resampled from, which tells what its values mean.
        mask: the voxels that tell it, on the lattice of `source` or else of `volume`.
    """
    values = seen_values(volume if source is None else source, mask).cpu().numpy()
    if not values.size:
        return volume
    data, found, least = volume.data, limits(values), -np.inf
    if found.unmeasured is not None:
        beyond = data >= found.unmeasured if found.unmeasured > 0 else data <= found.unmeasured
        data = data.masked_fill(beyond, found.low)
    else:
        padding = padding_limit(values)
        if padding is not None:
            found, least = limits(values.clip(min=padding)), padding
    least = max(found.low, least)
    if least == -np.inf and found.high == np.inf:
        return volume
    return Volume(data.clamp(min=least, max=found.high), volume.frame)


def foreground_box(volume: Volume) -> Box:
    """First and last-plus-one voxel of the subject along each axis (x, y, z), a margin of 10 mm kept.

    Args:
        volume: normalised intensities.
    """
    frame = volume.frame
    coarse = frame.resized(tuple(max(1, min(n, 64)) for n in frame.size))
    inside = downsample(volume.data[None], coarse.size)[0, 0] > _FOREGROUND
    box = []
    for axis, n in enumerate(frame.size):
        others = tuple(k for k in range(frame.dimension) if k != frame.dimension - 1 - axis)
        # a row of a few bright specks is noise, not subject
        seen = (inside.float().mean(others) > 0.004).nonzero().flatten().tolist()
        first, last = (seen[0], seen[-1] + 1) if seen else (0, coarse.size[axis])
        scale, margin = n / coarse.size[axis], _MARGIN_MM / frame.spacing[axis]
        box.append((max(0, int(first * scale - margin)), min(n, int(np.ceil(last * scale + margin)))))
    return tuple(box)


def cropped_frame(frame: Frame, box: Box) -> Frame:
    """The frame of the voxels of a box (first, last-plus-one along x, y, z)."""
    start = np.array([b[0] for b in box] + [1.0])
    origin = tuple(float(v) for v in (frame.index_to_world @ start)[:-1])
    return Frame(tuple(b[1] - b[0] for b in box), frame.spacing, origin, frame.direction)


def crop(volume: Volume, box: Box) -> Volume:
    """The voxels of a box (first, last-plus-one along x, y, z), as they are."""
    frame = volume.frame
    window = tuple(slice(*box[axis]) for axis in reversed(range(frame.dimension)))
    return Volume(volume.data[(slice(None), *window)], cropped_frame(frame, box))


def resampled(volume: Volume, frame: Frame, nearest: bool = False, outside: float = 0.0) -> Volume:
    """The volume read on another frame by its world positions; `outside` beyond its box.

    With `nearest`, whole numbers keep their type and are exact; all else becomes float32.
    """
    if volume.frame.same_lattice(frame):
        return Volume(volume.data, frame)
    matrix = volume.frame.world_to_normalised @ frame.normalised_to_world
    data, parts = volume.data, []
    whole = nearest and not data.is_floating_point() and data.dtype != torch.bool
    read = _reader(data, nearest) if not whole else partial(LabelReader(data), padding="border")
    for window in frame.slabs():
        points = apply_matrix(matrix, frame.grid(data.device, window=window))
        beyond = (points.abs() > 1).any(-1)
        parts.append(read(points).masked_fill_(beyond, outside))
    return Volume(torch.cat(parts, 1), frame)


def _reader(data: Tensor, nearest: bool) -> Callable[[Tensor], Tensor]:
    values, mode = data[None].float(), "nearest" if nearest else "bilinear"
    return lambda points: sample(values, points, mode=mode)[0]


def centred(frame: Frame, voxel: float, size: tuple[int, ...]) -> Frame:
    """A lattice of `size` cubes of `voxel` mm around the middle of a frame's box, on its axes."""
    half = np.asarray(frame.direction) @ (voxel * (np.array(size) - 1) / 2)
    return Frame(size, (voxel,) * len(size), tuple((frame.centre - half).tolist()), frame.direction)


def on_lattice(volume: Volume, frame: Frame) -> Volume:
    """The volume on a coarser or equally fine frame, smoothed where it is finer; zero outside its box."""
    spacing = tuple(max(s, min(frame.spacing)) for s in volume.frame.spacing)
    coarse = volume.frame.with_spacing(spacing)
    return resampled(Volume(downsample(volume.data[None], coarse.size)[0], coarse), frame)


def overlap_share(fixed: Frame, moving: Frame) -> float:
    """Share of the fixed box that lies inside the moving box, by a coarse lattice of points."""
    coarse = fixed.resized(tuple(max(2, min(n, 24)) for n in fixed.size))
    return float(moving.contains(coarse.points()).double().mean())


def share_space(one: Frame, other: Frame) -> bool:
    """Whether the boxes overlap, by a coarse lattice of points in either: a thin one may lie between those
    of the other."""
    return overlap_share(one, other) > 0 or overlap_share(other, one) > 0


def centre_of_mass(volume: Volume) -> Tensor:
    """Intensity-weighted mean position of the subject, LPS mm, (d,) float64."""
    weights = volume.data[0].double()
    weights = weights * (weights > _FOREGROUND)
    points = volume.frame.points(volume.data.device)
    total = weights.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return (weights[..., None] * points).flatten(0, -2).sum(0) / total
