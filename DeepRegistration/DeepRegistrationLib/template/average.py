"""Images averaged through their maps, the mean deformation taken out, and how good the average is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..field import Field
from ..frame import Frame, Volume, apply_matrix
from ..interpolation import sample
from ..io import read_labels, read_volume
from ..label_values import LabelReader
from ..metrics import correlation, dice
from ..prepare import normalised
from ..transforms import FieldTransform, LinearTransform, Transform

_SUBJECT = 0.1
"""Intensity of a template (0 to 1) above which it shows something."""


@dataclass(frozen=True)
class Source:
    """An image to be averaged, and its labels if there are any; `name` is unlike any other's."""

    name: str
    image: Path
    labels: Path | None = None


@dataclass(frozen=True)
class Numbers:
    """How good an average is.

    Attributes:
        sharpness: root mean square of its gradient, per mm, of intensities between 0 and 1.
        similarity: correlation of each image with the mean of the others, their mean.
        dice: overlap of each image's labels with the vote of the others, the mean over labels and images;
            None without labels.
        shift_mm: mean length of the mean deformation that was taken out, where there is something to see.
    """

    sharpness: float
    similarity: float
    dice: float | None
    shift_mm: float


Maps = Callable[[int], Transform]
"""The map of an image by its index, template to image points, LPS mm; read when needed, not kept."""


def mean_deformation(maps: Maps, affine: Sequence[LinearTransform], frame: Frame) -> Field:
    """The mean over images of what a map does before its image's affine map, on the template's frame.

    With map_i = affine_i after deformation_i this is x -> mean_i deformation_i(x).
    """
    points = frame.points(dtype=torch.float32)
    total = torch.zeros_like(points)
    for index, linear in enumerate(affine):
        total += linear.inverse().map(maps(index).map(points)) - points
    return Field.from_mm(total / len(affine), frame)


def unbiased(maps: Maps, affine: Sequence[LinearTransform], template: Volume) -> tuple[Maps, float]:
    """The maps after the inverse of their mean deformation, so that the new mean is the identity; and the
    mean length of what was taken out, mm, where the template shows something."""
    mean = mean_deformation(maps, affine, template.frame)
    inverse = FieldTransform(mean.inverse()[0])
    subject = template.data[0] > _SUBJECT
    shift = float(mean.magnitude_mm()[subject].mean()) if bool(subject.any()) else 0.0
    return lambda index: maps(index).compose(inverse), shift


@dataclass(frozen=True)
class Average:
    """An average and what is known of it.

    Attributes:
        image: (1, *S) float32, intensities between 0 and 1; a voxel is the mean of the images that show it.
        labels: (1, *S) int32 or int64, the label most images have there (the smallest of several), or None.
        numbers: how good it is.
    """

    image: Volume
    labels: Volume | None
    numbers: Numbers


def averaged(sources: Sequence[Source], maps: Maps, frame: Frame, shift_mm: float = 0.0) -> Average:
    """The average of images seen through their maps.

    Every image counts the same: its intensities are brought to 0 to 1 first (`prepare.normalised`).
    The images are read twice, one after the other, so memory does not grow with their number.

    Raises:
        InputError: an image or labels that cannot be used.
    """
    total, count = torch.zeros(frame.shape), torch.zeros(frame.shape)
    votes = _Votes(frame.shape)
    for image, inside, labels in _carried(sources, maps, frame):
        total += image
        count += inside
        if labels is not None:
            votes.add(labels)
    mean = total / count.clamp_min(1)
    similarities, overlaps = [], []
    for image, inside, labels in _carried(sources, maps, frame):
        others = (total - image) / (count - inside).clamp_min(1)
        both = inside.bool() & (count > inside)
        similarities.append(correlation(image, others, both))
        if labels is not None:
            overlaps += dice(labels, votes.winner(without=labels), votes.values).values()
    numbers = Numbers(
        sharpness(Volume(mean[None], frame)),
        float(np.mean(similarities)),
        float(np.mean(overlaps)) if overlaps else None,
        shift_mm,
    )
    labels = Volume(votes.winner()[None], frame) if votes.values else None
    return Average(Volume(mean[None], frame), labels, numbers)


def sharpness(image: Volume) -> float:
    """Root mean square length of the gradient (central differences), intensity per mm."""
    total = torch.zeros(image.frame.shape)
    for axis, spacing in enumerate(image.frame.spacing):
        dim = image.frame.dimension - 1 - axis
        if image.frame.size[axis] > 1:
            total += torch.gradient(image.data[0], spacing=spacing, dim=dim)[0] ** 2
    return float(total.mean().sqrt())


def _carried(
    sources: Sequence[Source], maps: Maps, frame: Frame
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Each image on the frame, 0 where it does not reach; where it reaches (0 or 1); its labels. All (*S)."""
    for index, source in enumerate(sources):
        points = maps(index).map(frame.points(dtype=torch.float32))
        image = normalised(read_volume(source.image))
        values, inside = _read(image, points)
        labels = None
        if source.labels is not None:
            found = read_labels(source.labels)
            labels = LabelReader(found.data)(apply_matrix(found.frame.world_to_normalised, points))[0]
        yield values, inside, labels


def _read(volume: Volume, points: Tensor) -> tuple[Tensor, Tensor]:
    normal = apply_matrix(volume.frame.world_to_normalised, points)
    inside = (normal.abs() <= 1).all(-1).float()
    return sample(volume.data[None].float(), normal)[0, 0] * inside, inside


class _Votes:
    """How many images have which label at each voxel."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._counts: dict[int, Tensor] = {0: torch.zeros(shape, dtype=torch.int16)}

    @property
    def values(self) -> tuple[int, ...]:
        """The labels seen, but 0."""
        return tuple(sorted(self._counts.keys() - {0}))

    def add(self, labels: Tensor) -> None:
        for value in labels.unique().tolist():
            known = self._counts.setdefault(value, torch.zeros(self._shape, dtype=torch.int16))
            known += labels == value

    def winner(self, without: Tensor | None = None) -> Tensor:
        """The label with the most votes, the smallest of several, in the type that holds them all (int32 or
        int64); not counting one image's own."""
        limits = torch.iinfo(torch.int32)
        fits = all(limits.min <= value <= limits.max for value in self.values)
        best = torch.zeros(self._shape, dtype=torch.int32 if fits else torch.int64)
        most = torch.full(self._shape, -1).short()
        for value in (0, *self.values):
            count = self._counts[value]
            if without is not None:
                count = count - (without == value).short()
            best, most = torch.where(count > most, value, best), torch.maximum(count, most)
        return best
