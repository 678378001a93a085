"""What the linear stage sees of an image: few voxels about its subject.

Both images are treated alike, so that nothing here knows which of them is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..filters import downsample
from ..frame import Frame, Volume
from ..interpolation import sample
from ..prepare import crop, foreground_box, resampled

_KEPT_VOXELS = 400_000
_SOURCE_FACTOR = 40
"""An image may have so many times more voxels than places where it is compared, and no more."""

_GROUND = 0.02
"""Grey values below this are background, which has no part in how the others are spread."""

_KNOTS = 65
_WHOLE_MASK = 0.99


@dataclass(frozen=True)
class Side:
    """One image of a pair, small, on the processor, cropped to its subject, with its prompts.

    Attributes:
        image: one channel in [0, 1].
        mask: where the image counts, on the image's frame, or None.
        labels: one channel a label, in [0, 1], on the image's frame, or None.
        whole: the frame of the image before any crop.
    """

    image: Volume
    mask: Volume | None
    labels: Volume | None
    whole: Frame


@dataclass(frozen=True)
class Look:
    """A side at one coarseness.

    Attributes:
        frame: of `image`.
        image: (1, 1, *S) in [0, 1].
        grid: (N, d) where it is compared, normalised coordinates of `frame`.
        values: (1, 1, 1, N) the image there.
        mask: (1, 1, *S) or None, and
        weights: (N,) the mask at the grid, or ones.
        labels: (1, L, *S) or None, and
        label_values: (L, N) them at the grid, or None.
    """

    frame: Frame
    image: Tensor
    grid: Tensor
    values: Tensor
    mask: Tensor | None
    weights: Tensor
    labels: Tensor | None
    label_values: Tensor | None

    @property
    def spacing(self) -> float:
        """Geometric mean of the distances between the places of comparison, mm."""
        volume = float(np.prod(self.frame.extent))
        return (volume / len(self.grid)) ** (1 / self.frame.dimension)


def side(image: Volume, mask: Volume | None, labels: Volume | None, whole: Frame | None = None) -> Side:
    """A side of a pair, from an image as it was prepared: normalised, on any device.

    Args:
        image: one channel, in [0, 1].
        mask, labels: on the image's lattice, or on another one.
        whole: the frame the image was cropped from, if it was.
    """
    frame = _coarsened(image.frame, _spacing(image.frame, _KEPT_VOXELS))
    small = Volume(downsample(image.data[None], frame.size)[0].cpu().float(), frame)
    box = foreground_box(small)
    prompts = [None if v is None else crop(_on(v, image.frame, frame), box) for v in (mask, labels)]
    return Side(crop(small, box), *prompts, whole or image.frame)


def looks(sides: tuple[Side, Side], places: int, spread: bool) -> tuple[Look, Look]:
    """Both sides with voxels of one size, each compared at about `places` places.

    The size is that of the smaller image's places; the larger image is compared at places further apart.

    Args:
        spread: whether grey values are spread evenly, which helps to find a pose; they are left as they are
            for the last refinement, which contours should lead.
    """
    natural = [_spacing(s.image.frame, places) for s in sides]
    spacing = max(min(natural), *(_spacing(s.image.frame, _SOURCE_FACTOR * places) for s in sides))
    one, other = (_look(s, spacing, apart, spread) for s, apart in zip(sides, natural, strict=True))
    return one, other


def _look(side: Side, spacing: float, apart: float, spread: bool) -> Look:
    frame = _coarsened(side.image.frame, spacing)
    places = frame if apart < 1.3 * spacing else _coarsened(side.image.frame, apart)
    grid = places.grid().reshape(-1, frame.dimension)

    def prepared(volume: Volume | None) -> tuple[Tensor | None, Tensor | None]:
        if volume is None:
            return None, None
        small = downsample(volume.data[None], frame.size)
        return small, small.flatten(2) if places is frame else sample(small, grid)

    image = downsample(side.image.data[None], frame.size)
    image = _spread(image) if spread else image
    values = (image.flatten(2) if places is frame else sample(image, grid))[:, :, None]
    mask, weights = prepared(side.mask)
    labels, label_values = prepared(side.labels)
    whole = torch.ones(len(grid)) if weights is None else (weights[0, 0] > _WHOLE_MASK).float()
    return Look(
        frame, image, grid, values, mask, whole, labels, None if label_values is None else label_values[0]
    )


def _spread(image: Tensor) -> Tensor:
    """Grey values by their mean with their rank among the subject's, in [0, 1].

    Bone, which has few bright voxels, and soft tissue then fill the bins of a histogram alike.
    """
    flat = image.flatten()
    subject = flat[flat > _GROUND]
    if len(subject) < _KNOTS or float(subject.max() - subject.min()) < 1e-6:
        return image
    knots = torch.quantile(subject, torch.linspace(0, 1, _KNOTS))
    upper = torch.searchsorted(knots, flat).clamp(1, _KNOTS - 1)
    below, above = knots[upper - 1], knots[upper]
    part = ((flat - below) / (above - below).clamp_min(1e-9)).clamp(0, 1)
    rank = (upper - 1 + part) / (_KNOTS - 1)
    rank = torch.where(flat > _GROUND, rank, torch.zeros_like(rank))
    return rank.reshape(image.shape)


def _on(volume: Volume, lattice: Frame, frame: Frame) -> Volume:
    """A prompt on a frame that is the lattice's coarsened."""
    volume = volume if volume.frame.same_lattice(lattice) else resampled(volume, lattice)
    return Volume(downsample(volume.data[None].float(), frame.size)[0].cpu(), frame)


def _spacing(frame: Frame, voxels: int) -> float:
    """The isotropic spacing, mm, at which a box has about so many voxels; its smallest if it has fewer."""
    spacing = min(frame.spacing)
    while np.prod(_coarsened(frame, spacing).size) > voxels:
        spacing *= 1.05
    return spacing


def _coarsened(frame: Frame, spacing: float) -> Frame:
    """The box with voxels of that size, along axes where they were not larger."""
    steps = zip(frame.size, frame.extent, frame.spacing, strict=True)
    return frame.resized(tuple(min(n, max(1, round(e / max(spacing, s)))) for n, e, s in steps))
