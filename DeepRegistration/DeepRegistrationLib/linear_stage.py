"""The linear stage: a start by centres, moments or landmarks, then rigid and affine refinement.

Mutual information of coarse images serves all pairs of modalities. A grid of rotations about the
matched centres is tried first, so that a turned head is found from 30 degrees and further away.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from .filters import downsample
from .frame import Frame, Volume
from .interpolation import sample
from .objective import Channel, PairObjective, Prompts, matching_size, normalised_matrix
from .objectives import NormalisedMutualInformation
from .prepare import centre_of_mass
from .progress import Reporter
from .solver import Scale, Settings, scale_frame, solve
from .transforms.affine import Affine
from .transforms.base import Representation
from .transforms.linear import LinearTransform
from .transforms.rigid import Rigid

STAGES = {"none": (), "rigid": (Rigid,), "affine": (Rigid, Affine)}
"""What each choice of linear stage optimises, in order."""

_SEARCH_VOXELS = 6_000
_ANGLES_3D = (-30.0, -15.0, 0.0, 15.0, 30.0)
_ANGLES_2D = tuple(float(a) for a in range(-60, 61, 10))
_INFORMATIVE = 0.1
"""Mutual information (NMI - 1) that alignment must reach to be believed. Heads of one contrast reach 0.2
and more; prostate MR against ultrasound stays below 0.09 at poses that have nothing to do with anatomy."""

_WORTHWHILE = 1.06
"""How much better than leaving things as they are a step has to be, as a ratio of mutual information."""


@dataclass(frozen=True)
class LinearPair:
    """The two images of the linear stage: normalised, one channel, each on its own frame.

    `whole` is the frame the fixed image was cropped from, if it was: its centre is the scanner's choice, as
    the moving frame's is, while a crop's centre is the subject's.
    """

    fixed: Volume
    moving: Volume
    prompts: Prompts
    whole: Frame | None = None


@dataclass(frozen=True)
class LinearResult:
    """A linear map, and whether the intensities had a say in it (see `_INFORMATIVE`)."""

    transform: LinearTransform
    informative: bool = True


def linear_stage(
    pair: LinearPair, stage: str, start: LinearTransform | None, report: Reporter
) -> LinearResult:
    """The linear map that aligns a pair.

    Args:
        pair: the images and prompts; the fixed image is the working one.
        stage: a key of `STAGES`.
        start: where to begin; None looks for a start by landmarks, centres and rotations.
        report: progress and cancellation.

    Returns:
        Fixed to moving points, LPS mm. With landmarks it starts from their rigid fit; with ``none`` it is
        `start` or the identity. Where the intensities of the best alignment still say little about each
        other, they are not followed: the landmarks' fit, the labels' or the boxes' centres stand.
    """
    if not STAGES[stage]:
        return LinearResult(start or LinearTransform.identity(pair.fixed.frame.dimension))
    cautious = start or _landmark_start(pair) or _centred(pair)
    images = _Images(pair)
    best = start or _landmark_start(pair) or _search(pair, images, report.part(0, 0.3))
    measure = _Measure(images, 30_000)
    representations = STAGES[stage]
    for k, kind in enumerate(representations):
        share = 0.7 / len(representations)
        part = report.part(0.3 + share * k, 0.3 + share * (k + 1))
        candidate = _refined(pair, images, kind, best, part)
        # stretching has to pay, where turning only has to help: thin slabs hardly tell stretches apart
        needed = 1.0 if kind is Rigid else _WORTHWHILE
        if pair.prompts.landmarks is not None or measure(candidate) < needed * measure(best):
            best = candidate
        if measure(best) > -_INFORMATIVE:
            return LinearResult(cautious, informative=False)
    return LinearResult(best)


def _centred(pair: LinearPair) -> LinearTransform:
    """The shift that matches the labels' centres, or the boxes' if there are none."""
    prompts = pair.prompts
    if prompts.fixed_labels is not None and prompts.moving_labels is not None:
        whole = [
            Volume(v.data.amax(0, keepdim=True), v.frame)
            for v in (prompts.fixed_labels, prompts.moving_labels)
        ]
        shift = centre_of_mass(whole[1]) - centre_of_mass(whole[0])
    else:
        shift = torch.tensor(pair.moving.frame.centre - (pair.whole or pair.fixed.frame).centre)
    return LinearTransform.from_parts(torch.eye(len(shift), dtype=torch.float64), shift)


def _landmark_start(pair: LinearPair) -> LinearTransform | None:
    if pair.prompts.landmarks is None:
        return None
    rigid = Rigid(pair.fixed.frame)
    fixed, moving = pair.prompts.landmarks
    rigid.fit_points(fixed.cpu(), moving.cpu(), pair.prompts.landmark_weights)
    return rigid.linear()


def _refined(
    pair: LinearPair, images: _Images, kind: type[Representation], start: LinearTransform, report: Reporter
) -> LinearTransform:
    """Intensity-driven refinement of a rigid or affine map."""
    frame = _coarse(pair.fixed.frame, 70_000)
    representation = kind(frame, pair.fixed.data.device)
    representation.fit(start)
    straight = LinearTransform.identity(frame.dimension)
    stage = f"{kind.name.capitalize()} alignment"
    schedule = ((2.0, 0.5, 30), (1.0, 0.5, 25), (1.0, 0.1, 15))
    for k, (factor, rate, iterations) in enumerate(schedule):
        settings = Settings(
            scales=(Scale(factor, iterations),), rate=rate, warp_sigma=0, betas=(0.7, 0.95), smallest=8
        )
        channel = Channel(*images.at(scale_frame(frame, factor, settings.smallest)), _mutual_information())
        objective = PairObjective([channel], straight, pair.prompts, landmark_reach=8.0)
        representation = representation.resized(frame)
        part = report.part(k / len(schedule), (k + 1) / len(schedule))
        representation, _ = solve(objective, representation, settings, part, stage)
    return representation.linear()


def _search(pair: LinearPair, images: _Images, report: Reporter) -> LinearTransform:
    """The best of the identity, the matched centres, and rotations about them."""
    d = pair.fixed.frame.dimension
    measure = _Measure(images, _SEARCH_VOXELS)
    fixed_mass, moving_mass = centre_of_mass(measure.fixed), centre_of_mass(measure.moving)
    identity = LinearTransform.identity(d)
    centred = _centred(pair)
    middle = torch.tensor(pair.fixed.frame.centre.copy())
    shifts = [moving_mass - fixed_mass, centred.map(middle) - middle]
    angles = _rotations(d)
    best, best_value = identity, measure(identity) / _WORTHWHILE
    total = len(shifts) * len(angles)
    for k, (shift, rotation) in enumerate(product(shifts, angles)):
        report("Looking for a start", k / total)
        candidate = LinearTransform.from_parts(rotation, fixed_mass + shift - rotation @ fixed_mass)
        value = measure(candidate)
        if value < best_value:
            best, best_value = candidate, value
    return best


class _Images:
    """A pair's images at the few coarse sizes that are looked at, computed once each: originals are large."""

    def __init__(self, pair: LinearPair) -> None:
        self.fixed, self.moving = pair.fixed, pair.moving
        self.known: dict[tuple[int, ...], tuple[Volume, Volume]] = {}

    def at(self, frame: Frame) -> tuple[Volume, Volume]:
        """Both, about as coarse as a frame of the fixed box."""
        if frame.size not in self.known:
            moving = self.moving.frame.resized(matching_size(self.moving.frame, frame))
            self.known[frame.size] = _resized(self.fixed, frame), _resized(self.moving, moving)
        return self.known[frame.size]


def _resized(image: Volume, frame: Frame) -> Volume:
    return Volume(downsample(image.data[None], frame.size)[0], frame)


class _Measure:
    """Mutual information of a linear map on coarse images, minus one where they hardly overlap."""

    def __init__(self, images: _Images, voxels: int) -> None:
        self.fixed, self.moving = images.at(_coarse(images.fixed.frame, voxels))
        self.grid = self.fixed.frame.grid(self.fixed.data.device)
        self.similarity = _mutual_information()

    def __call__(self, linear: LinearTransform) -> float:
        matrix = normalised_matrix(linear, self.fixed.frame, self.moving.frame, self.grid.device)
        points = self.grid @ matrix[:, :-1].T + matrix[:, -1]
        inside = (points.abs() <= 1).all(-1).float()
        warped = sample(self.moving.data[None], points)
        loss = float(self.similarity(warped, self.fixed.data[None], inside[None, None]))
        # negative, lower is better; a sliver of overlap can look informative by chance
        return (loss - 1) * min(1.0, 2 * float(inside.mean()))


def _mutual_information() -> NormalisedMutualInformation:
    return NormalisedMutualInformation(warped_range=(0.0, 1.0), fixed_range=(0.0, 1.0))


def _coarse(frame: Frame, voxels: int) -> Frame:
    """The frame at an isotropic spacing that gives about `voxels` voxels."""
    spacing = min(frame.spacing)
    size = frame.size
    while np.prod(size) > voxels:
        spacing *= 1.1
        size = tuple(
            max(1, round(e / max(spacing, s))) for e, s in zip(frame.extent, frame.spacing, strict=True)
        )
    return frame.resized(size)


def _rotations(dimension: int) -> list[Tensor]:
    angles = [(a,) for a in _ANGLES_2D] if dimension == 2 else list(product(_ANGLES_3D, repeat=3))
    angles.sort(key=lambda a: float(np.linalg.norm(a)))
    return [_rotation(np.radians(a)) for a in angles]


def _rotation(vector: np.ndarray) -> Tensor:
    """Rotation matrix of an angle (1,) or a rotation vector (3,), radians."""
    generator = torch.zeros(2, 2, dtype=torch.float64)
    if len(vector) == 1:
        generator[1, 0], generator[0, 1] = vector[0], -vector[0]
    else:
        x, y, z = vector
        generator = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(generator)
