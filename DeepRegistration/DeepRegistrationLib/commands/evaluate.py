"""`deepregistration evaluate`: the numbers of a transform file, whoever made it, both ways.

Images and labels are resampled and points mapped by SimpleITK, as the files say.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..errors import InputError
from ..field import Field
from ..frame import Frame, Volume
from ..geometry_checks import geometry_cautions
from ..initial import load_transform
from ..io import read_labels, read_volume, volume_to_sitk
from ..landmarks import pair_landmarks, read_landmarks, unused_landmarks
from ..metrics import FOLDS_MEASURED, fold_statistics, inverse_consistency
from ..prepare import measurements
from ..quality import label_numbers, landmark_numbers, similarity_numbers
from ..transform_files import displacement_from_sitk, displacement_to_sitk, read_transform_file
from ..transform_parts import field_and_linear, linear_beyond, linear_to_sitk, outside_caution
from ..transforms import LinearTransform
from ..verdict import summed_up
from .apply import check_dimension, resampled_image
from .tables import label_rows, quality_rows, table
from .told import tell


@dataclass(frozen=True)
class _Given:
    """What there is to measure with; None where there is nothing.

    Attributes:
        images, labels: fixed and moving.
        landmarks: fixed and moving points (N, d), LPS mm, and their names.
        warnings: sentences for the user.
    """

    images: tuple[Volume, Volume] | None
    labels: tuple[Volume, Volume] | None
    landmarks: tuple[Tensor, Tensor, tuple[str, ...]] | None
    warnings: tuple[str, ...] = ()

    @property
    def frames(self) -> tuple[Frame | None, Frame | None]:
        """Of the fixed and the moving image or labels."""
        pair = self.images or self.labels
        return (None, None) if pair is None else (pair[0].frame, pair[1].frame)

    def exchanged(self) -> _Given:
        points = self.landmarks
        return _Given(
            self.images and (self.images[1], self.images[0]),
            self.labels and (self.labels[1], self.labels[0]),
            points and (points[1], points[0], points[2]),
        )


def run(options: argparse.Namespace) -> None:
    """Measure what the given files allow and print it."""
    for name in ("", "_labels", "_landmarks"):
        if (getattr(options, f"fixed{name}") is None) != (getattr(options, f"moving{name}") is None):
            option = name.replace("_", "-")
            raise InputError(f"--fixed{option} and --moving{option} only make sense together.")
    numbers = measured(options)
    if options.json:
        print(json.dumps(numbers, indent=2))
        return
    print(table(quality_rows(numbers)))
    if "labels" in numbers:
        other = numbers.get("moving_space", {}).get("labels")
        print("\n" + table(label_rows(numbers["labels"], other)))
    tell(numbers, grave_only=True)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The numbers, in the form of quality.json; of the moving image's space where that is known."""
    transform = read_transform_file(options.transform)
    given = _given(options)
    field = sampled_field(transform, given.frames[0])
    numbers = _one_way(given, transform, field)
    numbers["warnings"] = [*given.warnings]
    if given.landmarks is not None:
        numbers["warnings"] += outside_caution(transform, given.landmarks[0].numpy(), "landmarks")
    inverse = None
    if options.inverse is not None:
        inverse = read_transform_file(options.inverse)
    elif given.frames[1] is not None:
        inverse = inverted(transform, field, given.frames[1])
    if inverse is not None:
        back = sampled_field(inverse, given.frames[1])
        numbers["inverse_consistency"] = inverse_consistency(field, back, linear_beyond(inverse))
        other = _one_way(given.exchanged(), inverse, back)
        consistency = inverse_consistency(back, field, linear_beyond(transform))
        numbers["moving_space"] = {**other, "inverse_consistency": consistency}
    numbers["verdict"] = summed_up(numbers)
    return numbers


def _given(options: argparse.Namespace) -> _Given:
    images = labels = landmarks = None
    warnings: list[str] = []
    if options.fixed is not None:
        images = read_volume(options.fixed), read_volume(options.moving)
        for role in ("fixed", "moving"):
            warnings += geometry_cautions(Path(getattr(options, role)), role)
    if options.fixed_labels is not None:
        labels = read_labels(options.fixed_labels), read_labels(options.moving_labels)
    if options.fixed_landmarks is not None:
        lists = read_landmarks(options.fixed_landmarks), read_landmarks(options.moving_landmarks)
        landmarks = pair_landmarks(*lists)
        warnings += unused_landmarks(*lists)
    return _Given(images, labels, landmarks, tuple(warnings))


def _one_way(given: _Given, transform: sitk.Transform, field: Field) -> dict[str, Any]:
    """The numbers of the fixed image's space."""
    maps = {"before": sitk.Transform(transform.GetDimension(), sitk.sitkIdentity), "after": transform}
    numbers: dict[str, Any] = {}
    if given.images is not None:
        fixed, moving = given.images
        warped = _carried(fixed, moving, maps, labels=False)
        numbers["similarity"] = {
            when: similarity_numbers(measurements(fixed), measurements(image, moving))
            for when, image in warped.items()
        }
    if given.labels is not None:
        values = common_labels(*(volume.data for volume in given.labels))
        warped = _carried(*given.labels, maps, labels=True)
        numbers["labels"] = {w: label_numbers(i, given.labels[0], values) for w, i in warped.items()}
    if given.landmarks is not None:
        check_dimension(transform, given.landmarks[0].shape[1], "landmarks")
        numbers["landmarks"] = {
            "given": {when: landmark_numbers(_PointMap(by), given.landmarks) for when, by in maps.items()}
        }
    numbers["regularity"] = {**fold_statistics(field), "folds_measured": FOLDS_MEASURED}
    return numbers


def _carried(
    fixed: Volume, moving: Volume, maps: Mapping[str, sitk.Transform], labels: bool
) -> dict[str, Volume]:
    """The moving image or labels on the fixed grid, by each of the transforms."""
    read = read_labels if labels else read_volume
    images = volume_to_sitk(moving), volume_to_sitk(fixed)
    return {when: read(resampled_image(*images, by, labels)) for when, by in maps.items()}


def common_labels(fixed: Tensor, moving: Tensor) -> tuple[int, ...]:
    """The labels but 0 that both maps have, in order.

    Raises:
        InputError: there is none.
    """
    common = sorted((set(fixed.unique().tolist()) & set(moving.unique().tolist())) - {0})
    if not common:
        raise InputError("The fixed and the moving labels have no value in common.")
    return tuple(int(value) for value in common)


def sampled_field(transform: sitk.Transform, frame: Frame | None) -> Field:
    """The transform as a field: a displacement field, also with linear maps after it, on its own lattice,
    others on the fixed image's.

    Raises:
        InputError: a deformation of another kind, and no fixed image.
    """
    if transform.IsLinear() and frame is None:
        frame = Frame.regular((3,) * transform.GetDimension())
    own = field_and_linear(transform) is not None
    if frame is None and not own:
        raise InputError(
            "This transform needs --fixed and --moving: it has no grid of its own to measure it on."
        )
    vectors, where = displacement_from_sitk(transform, None if own else frame)
    return Field.from_mm(torch.from_numpy(vectors).float(), where)


def inverted(transform: sitk.Transform, field: Field, frame: Frame) -> sitk.Transform:
    """The inverse of a transform, solved for on a frame where it is not linear.

    Args:
        transform: fixed to moving points.
        field: the same, sampled.
        frame: of the moving image.

    Raises:
        InputError: it presses space flat.
    """
    inverse = load_transform(transform, frame.dimension, field.frame).inverse()
    if isinstance(inverse, LinearTransform):
        return linear_to_sitk(inverse.matrix.numpy())
    linear = linear_beyond(transform)
    beyond = None if linear is None else np.linalg.inv(linear)
    return displacement_to_sitk(inverse.field(frame).mm_slabs(), frame, beyond)


class _PointMap:
    """A SimpleITK transform as a map of points."""

    def __init__(self, transform: sitk.Transform) -> None:
        self._transform = transform

    def map(self, points: Tensor) -> Tensor:
        """World points (N, d) to world points, LPS mm."""
        mapped = [self._transform.TransformPoint(point) for point in points.tolist()]
        return torch.tensor(mapped, dtype=points.dtype)
