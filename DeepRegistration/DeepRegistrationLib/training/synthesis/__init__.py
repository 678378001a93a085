"""Generated pairs: made-up bodies, deformed by known maps and seen by made-up scanners.

``generated:anatomy``  two images of one body that was drawn for the pair (plans.py), each bent another
    way (deformation.py) and taken by a scanner of its own (appearance.py). The true map, labels of the
    structures and landmarks on their borders come with the pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...interpolation import sample, voxel_centres
from ..base import Batch
from ..generated import GeneratedPairs, choice
from .appearance import random_contrast, render, texture
from .canvas import MARGIN, Canvas
from .deformation import Deformation, random_deformation
from .plans import PLANS

_SHARES = {"head": 0.25, "trunk": 0.3, "limb": 0.1, "gland": 0.15, "abstract": 0.2}
_HELD_OUT = 128

_SLABS = 2
"""Sets the draws that decide on slabs apart from all others (`PairSource`)."""

_THICKNESS = (1 / 11, 1 / 3)
"""Of a slab, as a share of its width; as likely by any factor."""

_LEAST_VOXELS = 0.0005
"""A structure smaller than this share of an image is not among its labels."""


@dataclass(frozen=True)
class Pair:
    """One pair; tensors as in `Batch`, without the leading axis. Labels are whole numbers (*S)."""

    fixed: Tensor
    moving: Tensor
    fixed_labels: Tensor
    moving_labels: Tensor
    displacement: Tensor


@dataclass(frozen=True)
class Cut:
    """What of a body an image shows.

    Attributes:
        drawn: shape of the lattice that body and deformation are drawn on.
        whole: shape of one that would show all of the body; None where `drawn` does.
        kept: the part of `drawn` that is the image.
    """

    drawn: tuple[int, ...]
    whole: tuple[int, ...] | None = None
    kept: tuple[slice, ...] = ()

    @classmethod
    def slab(cls, shape: tuple[int, ...], draw: np.random.Generator) -> Cut:
        """A slab across any axis; more is drawn, since a deformation moves parts into it and out of it.

        It has about as many voxels as the other images, which is what a slab is cut into for a network to
        look at. Its sides are multiples of four, as networks that halve them twice need.
        """
        axis, share = int(draw.integers(3)), float(np.exp(draw.uniform(*np.log(_THICKNESS))))
        wide = [max(8, 4 * round(n / share ** (1 / 3) / 4)) for n in shape]
        thick, beyond = max(8, 4 * round(share * wide[axis] / 4)), -(-wide[axis] // 10)
        drawn, kept = list(wide), [slice(None)] * 3
        drawn[axis], kept[axis] = thick + 2 * beyond, slice(beyond, beyond + thick)
        return cls(tuple(drawn), tuple(wide), tuple(kept))

    def of(self, moved: Deformation) -> Deformation:
        """The part of a deformation; its displacement in units of the image's own lattice."""
        if not self.kept:
            return moved
        fixed, moving, displacement = (
            v[self.kept].contiguous() for v in (moved.fixed, moved.moving, moved.displacement)
        )
        sides = zip(self.drawn[::-1], fixed.shape[-2::-1], strict=True)
        return Deformation(fixed, moving, displacement * displacement.new_tensor([n / m for n, m in sides]))


class AnatomyPairs(GeneratedPairs):
    """Made-up anatomy.

    Args:
        contrast: of the two images of a pair: ``same``, ``different``, or ``mixed``, half of each.
        body: the plan of the bodies, or ``any``.
        strength: of the deformation; at 1 points move by some 5 % of the image's side.
        affine: of the part of the map that turns, scales and shifts, as a linear stage leaves behind.
        labels: structures with a label, drawn anew for each pair.
        landmarks: points on borders of structures; 0 for none.
        ultrasound: share of the images that are of that kind, where contrasts differ.
        thin: share of the steps (3-D) whose pairs are slabs: the middle of a wider body, from a third of
            its width down to an eleventh, in about as many voxels as the other images.
    """

    size = 64
    options: ClassVar[Mapping[str, Callable]] = {
        "size": int,
        "contrast": choice("same", "different", "mixed"),
        "body": choice("any", *PLANS),
        "strength": float,
        "affine": float,
        "labels": int,
        "landmarks": int,
        "ultrasound": float,
        "thin": float,
    }

    def __init__(
        self,
        spec: str,
        shape: tuple[int, ...],
        contrast: str = "mixed",
        body: str = "any",
        strength: float = 1.0,
        affine: float = 1.0,
        labels: int = 8,
        landmarks: int = 16,
        ultrasound: float = 0.12,
        thin: float = 0.0,
    ) -> None:
        super().__init__(spec, shape)
        shares = {"ultrasound": (ultrasound, 1), "thin": (thin, 1)}
        for name, (value, most) in {"strength": (strength, 2), "affine": (affine, 4), **shares}.items():
            if not 0 <= value <= most:
                raise InputError(f"The {name} of '{spec}' has to be 0 to {most}.")
        if not 1 <= labels <= 32 or not 0 <= landmarks <= 1000:
            raise InputError(f"'{spec}' can have 1 to 32 labels and 0 to 1000 landmarks.")
        self._contrast, self._body = contrast, body
        self._strength, self._affine = strength, affine
        self._labels, self._landmarks = labels, landmarks
        if thin and self.dimension != 3:
            raise InputError(f"'{spec}' asks for slabs, which only images of three dimensions can be.")
        self._ultrasound, self._thin, self._cut = ultrasound, thin, Cut(shape)

    @property
    def held_out_count(self) -> int:
        return _HELD_OUT

    def batch(self, count: int, seed: int, step: int, first: int = 0) -> Batch:
        return super(AnatomyPairs, self._cut_for(_SLABS, seed, step)).batch(count, seed, step, first)

    def held_out(self, index: int) -> Batch:
        return super(AnatomyPairs, self._cut_for(_SLABS, index)).held_out(index)

    def _cut_for(self, *key: int) -> AnatomyPairs:
        """This source, or what draws slabs; all pairs of a step, in all processes, are of one size."""
        draw = np.random.default_rng(key)
        if not self._thin or draw.random() >= self._thin:
            return self
        slabs = copy(self)
        slabs._cut = Cut.slab(self.shape, draw)
        return slabs

    @torch.no_grad()
    def _pairs(self, draws: Sequence[np.random.Generator], held_out: bool, index: int = 0) -> Batch:
        pairs, of_fixed, of_moving, on_fixed, on_moving = [], [], [], [], []
        for draw in draws:
            pair = self.pair(draw)
            pairs.append(pair)
            values = self._chosen(pair, draw)
            of_fixed.append(_channels(pair.fixed_labels, values))
            of_moving.append(_channels(pair.moving_labels, values))
            if self._landmarks:
                start, goal = _border_points(pair, self._landmarks, draw)
                on_fixed.append(start)
                on_moving.append(goal)
        return Batch(
            torch.stack([p.fixed for p in pairs]),
            torch.stack([p.moving for p in pairs]),
            torch.stack(of_fixed),
            torch.stack(of_moving),
            torch.stack(on_fixed) if on_fixed else None,
            torch.stack(on_moving) if on_moving else None,
            (1.0,) * self.dimension,
            torch.stack([p.displacement for p in pairs]),
        )

    def pair(self, draw: np.random.Generator) -> Pair:
        """Draw a body, a deformation and two images."""
        body = self._body
        if body == "any":
            body = str(draw.choice(list(_SHARES), p=list(_SHARES.values())))
        canvas = Canvas(self._cut.drawn, draw, self.device, self._cut.whole)
        PLANS[body](canvas)
        moved = random_deformation(self._cut.drawn, draw, self._strength, self._affine, self.device)
        moved = self._cut.of(moved)
        same = self._contrast == "same" or (self._contrast == "mixed" and draw.random() < 0.5)
        sound = 0.0 if same else self._ultrasound
        first = random_contrast(canvas.tissues, draw, sound)
        second = first.varied(draw) if same else random_contrast(canvas.tissues, draw, sound)
        pattern = texture(canvas)
        # what one modality shows of the tissues' fine pattern another one does not
        other = pattern if same else texture(canvas)
        return Pair(
            render(canvas, pattern, first, moved.fixed, draw),
            render(canvas, other, second, moved.moving, draw),
            _labels(canvas, moved.fixed),
            _labels(canvas, moved.moving),
            moved.displacement,
        )

    def _chosen(self, pair: Pair, draw: np.random.Generator) -> list[int]:
        """Labels that both images show enough of: as many as wanted, or fewer; 0 stands for none."""
        counts = [torch.bincount(v.flatten(), minlength=256) for v in (pair.fixed_labels, pair.moving_labels)]
        least = _LEAST_VOXELS * pair.fixed_labels.numel()
        there = (torch.minimum(*counts)[1:] >= least).nonzero().flatten().add(1).tolist()
        chosen = draw.permutation(there)[: self._labels].astype(int).tolist()
        return chosen + [0] * (self._labels - len(chosen))


def _labels(canvas: Canvas, points: Tensor) -> Tensor:
    """The label at points (*S, d) in normalised units of the image; (*S) int64."""
    return sample(canvas.labels[None, None].float(), points / MARGIN, mode="nearest")[0, 0].long()


def _channels(labels: Tensor, values: Sequence[int]) -> Tensor:
    """(L, *S) one channel for each value; empty for 0."""
    return torch.stack(
        [labels == v if v else torch.zeros_like(labels, dtype=torch.bool) for v in values]
    ).float()


def _border_points(pair: Pair, count: int, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Points (N, d) of the fixed image where structures meet and their partners in the moving image,
    both within their image."""
    labels, d = pair.fixed_labels, pair.displacement.shape[-1]
    grid = voxel_centres(labels.shape, pair.displacement)
    goal = grid + pair.displacement
    border = torch.zeros_like(labels, dtype=torch.bool)
    for dim in range(d):
        border.narrow(dim, 0, labels.shape[dim] - 1).logical_or_(labels.diff(dim=dim) != 0)
    candidates = (border & (goal.abs() < 1).all(-1)).flatten().nonzero().flatten()
    if not len(candidates):
        candidates = (goal.abs() < 1).all(-1).flatten().nonzero().flatten()
    drawn = torch.from_numpy(draw.integers(0, 2**31, count)).to(candidates.device) % len(candidates)
    chosen = candidates[drawn]
    return grid.reshape(-1, d)[chosen], goal.reshape(-1, d)[chosen]
