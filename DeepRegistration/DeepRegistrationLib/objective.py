"""What a registration minimises: the pair's channels, prompts and regularity, at any scale.

Everything refers to the working frame, a box in the fixed image; the moving image stays on its own
lattice and is read through the linear stage, never resampled onto the fixed one (except where a
measure depends on the directions of the lattice, see `Similarity.oriented`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .filters import downsample, gaussian_smooth
from .frame import Frame, Volume
from .interpolation import sample, sample_spread, warp
from .objectives import LabelOverlap, LandmarkDistance, Similarity, combined_weight, diffusion
from .solver import Energy
from .transforms.linear import LinearTransform

_OUTSIDE = 0.02
"""Share of the working box that may lie outside the moving image before those voxels are left out."""

_COARSER = 1.5
"""A scale whose voxels are so many times a level's has that level smoothed and resized first."""

_WHOLLY_IN = 0.99
"""Share of a mask from which on a voxel counts."""


@dataclass(frozen=True)
class Pyramid:
    """Features of one image at several voxel sizes; each scale is served by the level nearest to its own.

    Attributes:
        levels: finest first, each on a frame of its own that covers the image's box and may reach beyond.
        frame: the image's own.
    """

    levels: tuple[Volume, ...]
    frame: Frame

    def for_scale(self, frame: Frame, linear: LinearTransform) -> tuple[Tensor, Tensor]:
        """What a scale reads: features (1, C, *T), and how to find them.

        Args:
            frame: the scale's.
            linear: from the frame's world points to the features'.

        Returns:
            The level whose voxels are nearest to the scale's, and the (d, d+1) matrix from the frame's
            normalised coordinates to its.
        """
        spacing = min(frame.spacing)
        level = min(self.levels, key=lambda v: abs(math.log(min(v.frame.spacing) / spacing)))
        values, lattice = level.data[None], level.frame
        if spacing > _COARSER * min(lattice.spacing):  # the coarsest level is finer than this scale
            sides = zip(lattice.size, lattice.extent, strict=True)
            values = downsample(values, tuple(max(min(n, 8), min(n, round(e / spacing))) for n, e in sides))
        return values, normalised_matrix(linear, frame, lattice, values.device)

    def detached(self) -> Pyramid:
        """The same values, out of any graph."""
        return Pyramid(tuple(Volume(v.data.detach(), v.frame) for v in self.levels), self.frame)


@dataclass(frozen=True)
class Channel:
    """A pair of images to compare, or of their features.

    Attributes:
        fixed: on the working frame, or features that cover it.
        moving: on the moving image's own frame, or features that cover it.
        similarity: the measure.
        weight: its share of the objective.
    """

    fixed: Volume | Pyramid
    moving: Volume | Pyramid
    similarity: Similarity
    weight: float = 1.0


@dataclass(frozen=True)
class Prompts:
    """What the user adds to the images; each may be missing.

    Attributes:
        fixed_mask, moving_mask: (1, *S) in [0, 1], where the images count; all that is fixed is on the
            working frame.
        fixed_labels, moving_labels: one channel a label, in [0, 1], of the same L labels.
        landmarks: fixed and moving points (N, d), LPS mm.
        landmark_weights: (N,), or None for equal ones.
    """

    fixed_mask: Volume | None = None
    moving_mask: Volume | None = None
    fixed_labels: Volume | None = None
    moving_labels: Volume | None = None
    landmarks: tuple[Tensor, Tensor] | None = None
    landmark_weights: Tensor | None = None


@dataclass(frozen=True)
class PairObjective:
    """The objective of one pair. Implements `solver.Objective`.

    Attributes:
        channels: at least one.
        linear: the linear stage's map, applied after the deformation.
        prompts: the user's.
        regularity: weight of the diffusion of the displacement (mean squared gradient, unitless).
        landmark_pull: how strongly a landmark one voxel off pulls, against the images.
        label_pull: weight of 1 - soft Dice.
        landmark_reach: width of a landmark's pull, voxels of the scale.
    """

    channels: Sequence[Channel]
    linear: LinearTransform
    prompts: Prompts = field(default_factory=Prompts)
    regularity: float = 0.0
    landmark_pull: float = 4.0
    label_pull: float = 1.0
    landmark_reach: float = 4.0

    def at(self, frame: Frame, for_update: bool = False, twice: bool = False) -> Energy:
        """The energy of displacements (*S, d), normalised units of `frame`, a resized working frame.

        Args:
            twice: let the image terms be differentiated twice, in the displacement and in the channels'
                values (with measures that can be, such as the mean squared error; slower).
        """
        scale = _Scale(self, frame, for_update, twice)
        terms = [scale.channel(c) for c in self.channels]
        if self.prompts.fixed_labels is not None:
            terms.append(scale.labels())
        if self.prompts.landmarks is not None:
            terms.append(scale.landmarks())
        if self.regularity > 0:
            extent = tuple(float(e) for e in frame.extent)
            terms.append(lambda u: self.regularity * diffusion(u, extent))
        return lambda u: torch.stack([term(u) for term in terms]).sum()

    def matrix(self, frame: Frame, moving: Frame, like: Tensor | None = None) -> Tensor:
        """(d, d+1) from the frame's normalised coordinates to the moving frame's; typed as `like`."""
        matrix = normalised_matrix(self.linear, frame, moving)
        return matrix if like is None else matrix.to(like)


def normalised_matrix(
    linear: LinearTransform, frame: Frame, moving: Frame, device: torch.device | str = "cpu"
) -> Tensor:
    """A linear map of world points as a (d, d+1) map between two frames' normalised coordinates."""
    matrix = moving.world_to_normalised @ linear.matrix.cpu().numpy() @ frame.normalised_to_world
    tidy = np.where(np.abs(matrix - np.round(matrix)) < 1e-9, np.round(matrix), matrix)[:-1]
    return torch.tensor(tidy, dtype=torch.float32, device=device)


def matching_size(moving: Frame, frame: Frame) -> tuple[int, ...]:
    """Voxels to cut the moving box into so that they are about as coarse as `frame`'s, never finer."""
    cosines = np.abs(np.linalg.inv(np.asarray(frame.direction)) @ np.asarray(moving.direction))
    target = (cosines / cosines.sum(0)).T @ np.asarray(frame.spacing)
    return tuple(
        max(min(n, 8), min(n, round(e / t)))
        for n, e, t in zip(moving.size, moving.extent, target, strict=True)
    )


class _Scale:
    """The terms of a `PairObjective` on one frame."""

    def __init__(self, objective: PairObjective, frame: Frame, for_update: bool, twice: bool) -> None:
        self.objective, self.frame, self.for_update, self.twice = objective, frame, for_update, twice
        first = objective.channels[0]
        data = (first.fixed.levels[0] if isinstance(first.fixed, Pyramid) else first.fixed).data
        self.grid = frame.grid(data.device, torch.promote_types(data.dtype, torch.float32))
        self.identity = torch.eye(frame.dimension, frame.dimension + 1).to(self.grid)
        self.matrix = objective.matrix(frame, first.moving.frame, self.grid)
        prompts = objective.prompts
        self.fixed_weight = None if prompts.fixed_mask is None else self._fixed(prompts.fixed_mask)
        self.moving_mask = None if prompts.moving_mask is None else self._moving(prompts.moving_mask)
        inside = (self._points(0.0).abs() <= 1).all(-1)
        if float(inside.float().mean()) < 1 - _OUTSIDE:
            self.fixed_weight = combined_weight(self.fixed_weight, inside[None, None].float())

    def channel(self, channel: Channel) -> Energy:
        if isinstance(channel.fixed, Pyramid):
            # read as the moving features are, so that equal images compare as equal to the last bit
            straight = LinearTransform.identity(self.frame.dimension)
            level, matrix = channel.fixed.for_scale(self.frame, straight)
            zero = torch.zeros_like(self.grid)
            fixed = warp(level, zero, matrix.to(self.grid), self.grid, twice=self.twice)
        else:
            fixed = self._fixed(channel.fixed)
        if isinstance(channel.moving, Pyramid):
            moving, matrix = channel.moving.for_scale(self.frame, self.objective.linear)
            matrix = matrix.to(self.grid)
        else:
            moving, matrix = self._moving(channel.moving), self.matrix
        if channel.similarity.oriented and not torch.equal(matrix, self.identity):
            # descriptors of directions compare only on lattices that share their axes
            moving, matrix = sample(moving, self._points(0.0)), self.identity
        # of its own, since it keeps what it needs to know of the fixed image
        similarity = deepcopy(channel.similarity.at(self.frame.spacing))
        fixed, moving = similarity.prepare(fixed), similarity.prepare(moving)

        def energy(displacement: Tensor) -> Tensor:
            warped = warp(moving, displacement, matrix, self.grid, self.for_update, self.twice)
            return channel.weight * similarity(warped, fixed, self._weight(displacement))

        return energy

    def labels(self) -> Energy:
        prompts, d = self.objective.prompts, self.frame.dimension
        assert prompts.fixed_labels is not None and prompts.moving_labels is not None
        fixed = gaussian_smooth(self._fixed(prompts.fixed_labels), (1.0,) * d)
        moving = gaussian_smooth(self._moving(prompts.moving_labels), (1.0,) * d)
        matrix = self.objective.matrix(self.frame, prompts.moving_labels.frame, self.grid)
        overlap = LabelOverlap()

        def energy(displacement: Tensor) -> Tensor:
            warped = warp(moving, displacement, matrix, self.grid, self.for_update, self.twice)
            return self.objective.label_pull * overlap(warped, fixed)

        return energy

    def landmarks(self) -> Energy:
        prompts, frame = self.objective.prompts, self.frame
        assert prompts.landmarks is not None
        fixed, moving = (p.to(self.grid.device) for p in prompts.landmarks)
        to_frame, to_world = frame.world_to_normalised, frame.normalised_to_world
        start = fixed @ _linear(to_frame, fixed).T + _shift(to_frame, fixed)
        total = torch.as_tensor(self.objective.linear.matrix.cpu().numpy() @ to_world)
        linear, shift = (
            _linear(total, fixed).float(),
            (start @ _linear(total, fixed).T + _shift(total, fixed)).float(),
        )
        distance = LandmarkDistance(fixed, moving, prompts.landmark_weights)
        voxel = float(np.prod(frame.spacing) ** (1 / frame.dimension))
        share = self.objective.landmark_pull * len(fixed) / (2 * voxel**2 * frame.voxels)
        reach = (self.objective.landmark_reach,) * frame.dimension

        def energy(displacement: Tensor) -> Tensor:
            mapped = sample_spread(displacement, start, reach) @ linear.T + shift
            return share * distance(mapped).to(displacement)

        return energy

    def _weight(self, displacement: Tensor) -> Tensor | None:
        if self.moving_mask is None:
            return self.fixed_weight
        with torch.no_grad():
            warped = sample(self.moving_mask, self._points(displacement), padding="zeros")
            # a voxel partly masked would let in what the mask is to keep out
            whole = (warped > _WHOLLY_IN).to(warped)
        return combined_weight(self.fixed_weight, whole if bool(whole.any()) else warped)

    def _points(self, displacement: Tensor | float) -> Tensor:
        points = self.grid + displacement
        return (points.view(-1, points.shape[-1]) @ self.matrix[:, :-1].T + self.matrix[:, -1]).view(
            points.shape
        )

    def _fixed(self, volume: Volume) -> Tensor:
        return downsample(volume.data[None], self.frame.size)

    def _moving(self, volume: Volume) -> Tensor:
        return downsample(volume.data[None], matching_size(volume.frame, self.frame))


def _linear(matrix: np.ndarray | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(matrix, dtype=like.dtype, device=like.device)[:-1, :-1]


def _shift(matrix: np.ndarray | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(matrix, dtype=like.dtype, device=like.device)[:-1, -1]
