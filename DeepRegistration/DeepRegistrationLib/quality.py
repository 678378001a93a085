"""The numbers that say whether a registration can be trusted."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from .background import filling_value
from .field import Field
from .frame import Frame, Volume
from .inputs import Inputs
from .label_values import LabelReader, whole_labels
from .metrics import (
    FOLDS_MEASURED,
    PointMap,
    correlation,
    dice,
    fold_statistics,
    hausdorff95,
    inverse_consistency,
    landmark_errors,
    mutual_information,
)
from .prepare import measurements, resampled
from .registration import warped_volume
from .transforms import Transform
from .written_map import WrittenMap

_SIMILARITY_POINTS = 500_000


def similarity_numbers(fixed: Volume, moving: Volume) -> dict[str, float]:
    """NCC (-1 to 1) and NMI (1 to 2) of two images on one lattice, over every so many voxels."""
    a, b = thinned(fixed).data[0], thinned(moving).data[0]
    return {"ncc": correlation(a, b), "nmi": mutual_information(a, b)}


def thinned(volume: Volume) -> Volume:
    """Every so many voxels of a large image along each axis, about half a million in all."""
    frame = volume.frame
    stride = max(1, round((frame.voxels / _SIMILARITY_POINTS) ** (1 / frame.dimension)))
    steps = tuple(stride if n > stride else 1 for n in frame.size)
    data = volume.data[(slice(None), *(slice(None, None, step) for step in reversed(steps)))]
    spacing = tuple(s * step for s, step in zip(frame.spacing, steps, strict=True))
    return Volume(data, Frame(tuple(reversed(data.shape[1:])), spacing, frame.origin, frame.direction))


def landmark_numbers(
    transform: PointMap | None, pairs: tuple[Tensor, Tensor, tuple[str, ...]]
) -> dict[str, Any]:
    """Mean, largest and each landmark's error in mm; of the untouched points if there is no transform."""
    fixed, moving, names = pairs
    errors = (fixed - moving).norm(dim=1) if transform is None else landmark_errors(transform, fixed, moving)
    return {
        "mean_mm": float(errors.mean()),
        "max_mm": float(errors.max()),
        "each_mm": dict(zip(names, errors.tolist(), strict=True)),
    }


def label_numbers(warped: Volume, fixed: Volume, values: tuple[int, ...]) -> dict[str, Any]:
    """Dice and 95 % Hausdorff distance (mm) per label and their means."""
    overlap = dice(warped.data, fixed.data, values)
    distance = hausdorff95(warped, fixed, values)
    return {
        "dice_mean": float(np.mean(list(overlap.values()))),
        "hd95_mean_mm": float(np.mean(list(distance.values()))) if distance else None,
        "dice": {str(k): v for k, v in overlap.items()},
        "hd95_mm": {str(k): v for k, v in distance.items()},
    }


def warped_labels(labels: Volume, field: Field | WrittenMap, frame: Frame) -> Volume:
    """Labels carried onto a frame by nearest neighbour, exactly; 0 outside their box."""
    read = LabelReader(whole_labels(labels.data.cpu()))
    parts = [read(points.cpu()) for _, points in field.pulled(frame, labels.frame)]
    return Volume(torch.cat(parts, 1), frame)


class Untouched:
    """The numbers of a pair before anything was aligned, measured once each while its inputs stay.

    Attributes:
        exchanged: the same with fixed and moving exchanged.
    """

    def __init__(self, exchanged: Untouched | None = None) -> None:
        self.exchanged = exchanged or Untouched(self)
        self._images: tuple[Volume, Volume, dict[str, float]] | None = None
        self._labels: tuple[Volume, Volume, dict[str, Any]] | None = None

    def similarity(self, inputs: Inputs) -> dict[str, float]:
        """As `similarity_numbers`, of the moving image read at the fixed image's voxels; what is no
        measurement as `prepare.measurements` has it."""
        if self._images is None or not _same(self._images, inputs.fixed, inputs.moving):
            fixed = thinned(inputs.fixed)
            fill = filling_value(inputs.moving.data[0].cpu().numpy())
            start = resampled(inputs.moving, fixed.frame, outside=fill)
            numbers = similarity_numbers(
                measurements(fixed, inputs.fixed), measurements(start, inputs.moving)
            )
            self._images = (inputs.fixed, inputs.moving, numbers)
        return self._images[2]

    def labels(self, inputs: Inputs) -> dict[str, Any]:
        """As `label_numbers`; the inputs have labels."""
        fixed, moving = inputs.fixed_labels, inputs.moving_labels
        assert fixed is not None and moving is not None
        if self._labels is None or not _same(self._labels, fixed, moving):
            start = resampled(moving, fixed.frame, nearest=True)
            self._labels = (fixed, moving, label_numbers(start, fixed, inputs.label_values))
        return self._labels[2]


def _same(known: tuple[Volume, Volume, Any], fixed: Volume, moving: Volume) -> bool:
    return known[0].data is fixed.data and known[1].data is moving.data


def quality_of(
    inputs: Inputs, maps: tuple[WrittenMap, WrittenMap], warped: Volume, before: Untouched
) -> dict[str, Any]:
    """What `quality.json` says about the maps and images: of the fixed image's space, where the forward field
    lives, and under ``moving_space`` the same of the moving image's, where the inverse one does. The
    similarity that the initial transform gives by itself, if there is one, is its ``start``.

    Args:
        inputs: the pair.
        maps: forward and inverse, as they are written.
        warped: the moving image on the fixed lattice.
        before: measures, or knows, the pair before anything was aligned.
    """
    forward, inverse = (WrittenMap(Field(m.field.displacement.cpu(), m.field.frame), m.linear) for m in maps)
    other = _exchanged(inputs)
    back = warped_volume(inputs.fixed, inverse, thinned(inputs.moving).frame)
    numbers = _one_way(inputs, (forward, inverse), warped, before)
    if inputs.initial is not None:
        numbers["similarity"]["start"] = _by_initial(inputs, inputs.initial)
    numbers["moving_space"] = _one_way(other, (inverse, forward), back, before.exchanged)
    return numbers


def _by_initial(inputs: Inputs, initial: Transform) -> dict[str, float]:
    """As `similarity_numbers`, of the moving image by the initial transform alone."""
    fixed = thinned(inputs.fixed)
    start = warped_volume(inputs.moving, initial.field(fixed.frame), fixed.frame)
    return similarity_numbers(measurements(fixed, inputs.fixed), measurements(start, inputs.moving))


def _exchanged(inputs: Inputs) -> Inputs:
    """Fixed and moving the other way round."""
    pairs = {
        kind: None if pair is None else (pair[1], pair[0], pair[2])
        for kind, pair in (("landmarks", inputs.landmarks), ("held_out", inputs.held_out))
    }
    return replace(
        inputs,
        fixed=inputs.moving,
        moving=inputs.fixed,
        fixed_labels=inputs.moving_labels,
        moving_labels=inputs.fixed_labels,
        **pairs,
    )


def _one_way(
    inputs: Inputs, maps: tuple[WrittenMap, WrittenMap], warped: Volume, before: Untouched
) -> dict[str, Any]:
    """The numbers of the fixed image's space; `warped` may be thinned."""
    linear = None if maps[1].linear is None else maps[1].linear.matrix.numpy()
    fixed = inputs.fixed if warped.frame == inputs.fixed.frame else thinned(inputs.fixed)
    numbers: dict[str, Any] = {
        "similarity": {
            "before": before.similarity(inputs),
            "after": similarity_numbers(
                measurements(fixed, inputs.fixed), measurements(warped, inputs.moving)
            ),
        },
        "regularity": {**fold_statistics(maps[0].field), "folds_measured": FOLDS_MEASURED},
        "inverse_consistency": inverse_consistency(maps[0].field, maps[1].field, linear),
    }
    if inputs.landmarks is not None or inputs.held_out is not None:
        numbers["landmarks"] = {
            kind: None
            if pairs is None
            else {"before": landmark_numbers(None, pairs), "after": landmark_numbers(maps[0], pairs)}
            for kind, pairs in (("fitted", inputs.landmarks), ("held_out", inputs.held_out))
        }
    if inputs.fixed_labels is not None and inputs.moving_labels is not None:
        after = warped_labels(inputs.moving_labels, maps[0], inputs.fixed.frame)
        numbers["labels"] = {
            "before": before.labels(inputs),
            "after": label_numbers(after, inputs.fixed_labels, inputs.label_values),
        }
    return numbers


def environment(device: torch.device) -> dict[str, Any]:
    """Peak memory of this process so far, the device and the versions."""
    return {
        "peak_memory_mb": _peak_memory(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or "cpu",
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "simpleitk": sitk.Version.VersionString(),
            "numpy": np.__version__,
        },
    }


def _peak_memory() -> float | None:
    """Largest resident size of this process so far, MB; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1024**2 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
