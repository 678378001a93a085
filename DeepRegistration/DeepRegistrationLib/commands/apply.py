"""`deepregistration apply`: an image, labels or landmarks along a transform, by SimpleITK."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import SimpleITK as sitk
import torch

from ..background import filling_value
from ..errors import InputError
from ..frame import Frame
from ..io import Source, frame_from_sitk, read_labels, read_volume, set_frame, volume_to_sitk, write_volume
from ..landmark_pairing import unused_points
from ..landmarks import Landmarks, read_landmarks, write_landmarks
from ..overwriting import check_overwriting
from ..transform_files import read_transform_file
from ..transform_parts import field_and_linear, outside_caution
from ..verdict import LOOK

_LOOK = 32
"""Points per axis at which a grid is looked at."""

_BEYOND_PERCENT = 1.0
_LANDMARK_FILES = (".json", ".fcsv", ".csv")


def run(options: argparse.Namespace) -> None:
    """Read, map, write."""
    inputs = ("transform", "input", "reference")
    check_overwriting([options.output], {key: getattr(options, key) for key in inputs})
    if str(options.input).lower().endswith(_LANDMARK_FILES):
        landmarks = read_landmarks(options.input)
        transform = read_transform_file(options.transform)
        mapped = mapped_landmarks(landmarks, transform)
        write_landmarks(mapped, options.output)
        if landmarks.left_out:
            _tell([f"Landmarks that are not used: {unused_points(landmarks.left_out)}."])
        _tell(outside_caution(transform, landmarks.points.numpy(), "landmarks"))
        return
    if options.reference is None:
        raise InputError("An image needs --reference: the image whose grid the result gets.")
    transform = read_transform_file(options.transform)
    image = resampled_image(options.input, options.reference, transform, options.labels)
    write_volume(image, Path(options.output))
    _tell(_beyond(transform, frame_from_sitk(image)))


def _tell(cautions: list[str]) -> None:
    for caution in cautions:
        print(f"deepregistration: {LOOK}: {caution}", file=sys.stderr)


def _beyond(transform: sitk.Transform, frame: Frame) -> list[str]:
    """A sentence if a good part of a grid lies where a displacement field, and all it does, has ended."""
    parts = field_and_linear(transform)
    if parts is None or parts[2] is not None:
        return []
    points = frame.resized(tuple(min(n, _LOOK) for n in frame.size)).points().flatten(0, -2)
    share = 100 * float((~parts[1].contains(points)).double().mean())
    if share < _BEYOND_PERCENT:
        return []
    return [
        f"About {share:.0f} % of the reference's voxels lie outside the transform's grid: there the image is "
        "shown where it lies, unmoved."
    ]


def mapped_landmarks(landmarks: Landmarks, transform: sitk.Transform) -> Landmarks:
    """The landmarks where the transform maps them, under their names."""
    check_dimension(transform, landmarks.points.shape[1], "landmarks")
    points = [transform.TransformPoint(point) for point in landmarks.points.tolist()]
    return Landmarks(torch.tensor(points, dtype=torch.float64), landmarks.labels)


def resampled_image(image: Source, reference: Source, transform: sitk.Transform, labels: bool) -> sitk.Image:
    """An image brought onto the reference's grid.

    Args:
        image: what to resample: linearly as float32, or labels by nearest neighbour in their own type.
        reference: whose grid to use.
        transform: reference points to image points.
        labels: whether it is a label image. Outside its box the result is 0 then, and otherwise the image's
            background, see `filling_value`.
    """
    volume = read_labels(image) if labels else read_volume(image)
    frame = read_volume(reference).frame
    if volume.frame.dimension != frame.dimension:
        raise InputError("The image and the reference do not have the same number of axes.")
    check_dimension(transform, frame.dimension, "images")
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(set_frame(sitk.Image(frame.size, sitk.sitkUInt8), frame))
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkNearestNeighbor if labels else sitk.sitkLinear)
    resampler.SetDefaultPixelValue(0.0 if labels else filling_value(volume.data[0].numpy()))
    return resampler.Execute(volume_to_sitk(volume))


def check_dimension(transform: sitk.Transform, dimension: int, what: str) -> None:
    """Raise InputError unless the transform has that many dimensions."""
    if transform.GetDimension() != dimension:
        raise InputError(f"The transform is {transform.GetDimension()}-D, but the {what} are {dimension}-D.")
