"""What a registration minimises: the pair's channels, prompts and regularity, at any scale.

Everything is compared on the working frame: half-way between the two images, from where a displacement
leads to each of them, or, one-sided, a box of the fixed image, which then stays where it is. An image that
is moved keeps its own lattice and is read through the linear stage, never resampled beforehand (except
where a measure depends on the directions of the lattice, see `Similarity.oriented`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .field import Field, linear_part
from .filters import downsample, gaussian_smooth
from .frame import Frame, Volume, apply_matrix
from .interpolation import sample, sample_spread, warp
from .inversion import invert_at
from .objectives import LabelOverlap, LandmarkDistance, Similarity, combined_weight, diffusion
from .solver import Displacements, Energy
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
        finest: scales whose voxels are smaller than this, mm, leave the channel out, if there are others.
    """

    fixed: Volume | Pyramid
    moving: Volume | Pyramid
    similarity: Similarity
    weight: float = 1.0
    finest: float = 0.0


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
        linear: from the working frame's points, after the deformation, to the moving image's; LPS mm.
        prompts: the user's.
        regularity: weight of the diffusion of the displacement (mean squared gradient, unitless).
        landmark_pull: how strongly a landmark one voxel off pulls, against the images.
        label_pull: weight of 1 - soft Dice.
        landmark_reach: width of a landmark's pull, voxels of the scale.
        to_fixed: the same to the fixed image's; None is the identity.
    """

    channels: Sequence[Channel]
    linear: LinearTransform
    prompts: Prompts = field(default_factory=Prompts)
    regularity: float = 0.0
    landmark_pull: float = 4.0
    label_pull: float = 1.0
    landmark_reach: float = 4.0
    to_fixed: LinearTransform | None = None

    @property
    def to_fixed_frame(self) -> LinearTransform:
        """`to_fixed`, or the identity."""
        return self.to_fixed or LinearTransform.identity(self.linear.dimension)

    def at(self, frame: Frame, for_update: bool = False, twice: bool = False) -> Energy:
        """The energy of displacements on `frame`, a resized working frame.

        It takes one displacement (*S, d), normalised units, towards the moving image, while the fixed one is
        not moved, or a pair: towards the moving and towards the fixed image.

        Args:
            for_update: see `interpolation.warp`.
            twice: let the image terms be differentiated twice, in the displacement and in the channels'
                values (with measures that can be, such as the mean squared error; slower).
        """
        scale = _Scale(self, frame, for_update, twice)
        seen = [c for c in self.channels if min(frame.spacing) >= c.finest] or self.channels
        terms = [scale.channel(c) for c in seen]
        if self.prompts.fixed_labels is not None:
            terms.append(scale.labels())
        if self.prompts.landmarks is not None:
            terms.append(scale.landmarks())
        if self.regularity > 0:
            terms.append(scale.diffusion)
        return lambda u: torch.stack([term(u) for term in terms]).sum()


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


class _Side:
    """One image of the pair, as a scale reads it."""

    def __init__(self, scale: _Scale, linear: LinearTransform, mask: Volume | None) -> None:
        self.scale, self.linear = scale, linear
        self.mask = None if mask is None else self.source(mask)

    def source(self, image: Volume | Pyramid) -> tuple[Tensor, Tensor]:
        """What is read of an image or of features, (1, C, *T), and the matrix from the scale's to their
        normalised coordinates."""
        frame, like = self.scale.frame, self.scale.grid
        if isinstance(image, Pyramid):
            values, matrix = image.for_scale(frame, self.linear)
            return values, matrix.to(like)
        matrix = normalised_matrix(self.linear, frame, image.frame).to(like)
        return downsample(image.data[None], matching_size(image.frame, frame)), matrix

    def reader(self, source: tuple[Tensor, Tensor]) -> Callable[[Tensor | None], Tensor]:
        """A function from this side's displacement, None where it stands still, to its values (1, C, *S)."""
        values, matrix = source
        grid, for_update, twice = self.scale.grid, self.scale.for_update, self.scale.twice
        still: list[Tensor] = []  # read once: measures keep what they know of the same tensor

        def read(displacement: Tensor | None) -> Tensor:
            if displacement is not None:
                return warp(values, displacement, matrix, grid, for_update, twice)
            if not still:
                still.append(warp(values, torch.zeros_like(grid), matrix, grid, twice=twice))
            return still[0]

        return read

    def aligned(self, source: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The same values on the scale's own lattice: directions compare only on lattices that share axes."""
        values, matrix = source
        if _is_identity(matrix):
            return source
        eye = torch.eye(*matrix.shape).to(matrix)
        return sample(values, _moved(self.scale.grid, matrix)), eye

    def inside(self, frame: Frame) -> Tensor:
        """Where the undeformed map leads into the box of `frame`, (*S)."""
        matrix = normalised_matrix(self.linear, self.scale.frame, frame).to(self.scale.grid)
        return (_moved(self.scale.grid, matrix).abs() <= 1).all(-1)

    def masked(self, displacement: Tensor | None) -> Tensor | None:
        """The mask, (1, 1, *S), without gradient; a moved voxel that is masked in part does not count."""
        if self.mask is None:
            return None
        values, matrix = self.mask
        with torch.no_grad():
            points = self.scale.grid if displacement is None else self.scale.grid + displacement
            warped = sample(values, _moved(points, matrix), padding="zeros")
            whole = (warped > _WHOLLY_IN).to(warped)
        return whole if bool(whole.any()) else warped


class _Scale:
    """The terms of a `PairObjective` on one frame."""

    def __init__(self, objective: PairObjective, frame: Frame, for_update: bool, twice: bool) -> None:
        self.objective, self.frame, self.for_update, self.twice = objective, frame, for_update, twice
        first, prompts = objective.channels[0], objective.prompts
        data = (first.fixed.levels[0] if isinstance(first.fixed, Pyramid) else first.fixed).data
        self.grid = frame.grid(data.device, torch.promote_types(data.dtype, torch.float32))
        self.moving = _Side(self, objective.linear, prompts.moving_mask)
        self.fixed = _Side(self, objective.to_fixed_frame, prompts.fixed_mask)
        inside = self.moving.inside(first.moving.frame) & self.fixed.inside(first.fixed.frame)
        partly = float(inside.float().mean()) < 1 - _OUTSIDE and bool(inside.any())
        self.inside = inside[None, None].to(self.grid) if partly else None

    def channel(self, channel: Channel) -> Energy:
        # of its own, since it keeps what it needs to know of the fixed image
        similarity = deepcopy(channel.similarity.at(self.frame.spacing))
        if self.fixed.mask is not None or self.moving.mask is not None:
            similarity = similarity.under_masks()
        readers = []
        for side, image in ((self.fixed, channel.fixed), (self.moving, channel.moving)):
            source = side.source(image)
            if similarity.oriented:
                source = side.aligned(source)
            readers.append(side.reader((similarity.prepare(source[0]), source[1])))
        of_fixed, of_moving = readers

        def energy(displacement: Displacements) -> Tensor:
            towards_moving, towards_fixed = both(displacement)
            weight = self._weight(towards_moving, towards_fixed)
            measure = similarity if towards_fixed is None else similarity.symmetric
            return channel.weight * measure(of_moving(towards_moving), of_fixed(towards_fixed), weight)

        return energy

    def labels(self) -> Energy:
        prompts, d = self.objective.prompts, self.frame.dimension
        assert prompts.fixed_labels is not None and prompts.moving_labels is not None
        readers = []
        for side, image in ((self.fixed, prompts.fixed_labels), (self.moving, prompts.moving_labels)):
            values, matrix = side.source(image)
            readers.append(side.reader((gaussian_smooth(values, (1.0,) * d), matrix)))
        of_fixed, of_moving = readers
        overlap = LabelOverlap()

        def energy(displacement: Displacements) -> Tensor:
            towards_moving, towards_fixed = both(displacement)
            return self.objective.label_pull * overlap(of_moving(towards_moving), of_fixed(towards_fixed))

        return energy

    def landmarks(self) -> Energy:
        """Distances of the landmarks half-way: of where each image's map has them come from."""
        prompts, frame = self.objective.prompts, self.frame
        assert prompts.landmarks is not None
        device = self.grid.device
        distance = LandmarkDistance(*(p.to(device) for p in prompts.landmarks), prompts.landmark_weights)
        voxel = float(np.prod(frame.spacing) ** (1 / frame.dimension))
        count = len(prompts.landmarks[0])
        share = self.objective.landmark_pull * count / (2 * voxel**2 * frame.voxels)
        points = [p.to(device, torch.float64) for p in prompts.landmarks]
        one_sided, half_way = self._fixed_landmarks(*points), self._half_way_landmarks(*points)
        # a point's gradient is spread over so many voxels: as strongly as it pulls, it counts
        mass = (math.sqrt(2 * math.pi) * self.objective.landmark_reach) ** frame.dimension

        def energy(displacement: Displacements) -> Tensor:
            between = half_way if isinstance(displacement, tuple) else one_sided
            value = share * distance.of(between(displacement)).to(self.grid)
            return value + (mass - 1) * value.detach()

        return energy

    def _fixed_landmarks(self, fixed: Tensor, moving: Tensor) -> Callable[[Displacements], Tensor]:
        """Mapped fixed landmarks less the moving ones, (N, d) mm."""
        frame, reach = self.frame, (self.objective.landmark_reach,) * self.frame.dimension
        start = apply_matrix(frame.world_to_normalised, self.fixed.linear.inverse().map(fixed))
        total = self.objective.linear.matrix.cpu().numpy() @ frame.normalised_to_world
        offset = apply_matrix(total, start) - moving
        return lambda u: linear_part(total, sample_spread(u, start, reach)) + offset.to(u)

    def _half_way_landmarks(self, fixed: Tensor, moving: Tensor) -> Callable[[Displacements], Tensor]:
        """Where the fixed landmarks come from less where the moving ones come from, (N, d) mm half-way.

        A map's inverse moves against the map; the stretch of the deformation itself is left out of that.
        """
        frame, reach = self.frame, (self.objective.landmark_reach,) * self.frame.dimension
        images = [
            apply_matrix(frame.world_to_normalised, side.linear.inverse().map(points))
            for side, points in ((self.moving, moving), (self.fixed, fixed))
        ]
        places = [points.clone() for points in images]

        def between(displacement: Displacements) -> Tensor:
            origins = []
            for side, (u, points) in enumerate(zip(both(displacement), images, strict=True)):
                assert u is not None
                places[side] = _came_from(u.detach(), frame, points, places[side])
                moved = sample_spread(u, places[side], reach)
                origins.append(places[side].to(u) - (moved - moved.detach()))
            return linear_part(frame.normalised_to_world, origins[1] - origins[0])

        return between

    def diffusion(self, displacement: Displacements) -> Tensor:
        extent = tuple(float(e) for e in self.frame.extent)
        parts = [diffusion(u, extent) for u in both(displacement) if u is not None]
        return self.objective.regularity * torch.stack(parts).mean()

    def _weight(self, towards_moving: Tensor, towards_fixed: Tensor | None) -> Tensor | None:
        masks = [self.fixed.masked(towards_fixed), self.inside, self.moving.masked(towards_moving)]
        weight: Tensor | None = None
        for mask in masks:
            weight = combined_weight(weight, mask)
        return weight


def both(displacement: Displacements) -> tuple[Tensor, Tensor | None]:
    """Towards the moving image, and towards the fixed one where that is moved, too."""
    return displacement if isinstance(displacement, tuple) else (displacement, None)


def _came_from(displacement: Tensor, frame: Frame, images: Tensor, start: Tensor) -> Tensor:
    """Where a map has points (N, d) come from, normalised, given a first guess; outside the box too."""
    with torch.no_grad():
        voxel = 2 / torch.tensor(frame.size, dtype=images.dtype, device=images.device)
        known = Field(displacement.to(images.dtype), frame)
        v, _ = invert_at(known.at, images, voxel, lambda _: start - images, 0.01, 20)
        return images + v


def _moved(points: Tensor, matrix: Tensor) -> Tensor:
    """Normalised points (*S, d) by a (d, d+1) matrix."""
    flat = torch.addmm(matrix[:, -1], points.reshape(-1, points.shape[-1]), matrix[:, :-1].T)
    return flat.view(points.shape)


def _is_identity(matrix: Tensor) -> bool:
    return torch.equal(matrix, torch.eye(*matrix.shape).to(matrix))
