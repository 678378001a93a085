"""What a user hands to `register`, loaded and checked: every complaint is one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch
from torch import Tensor

from .cautions import landmark_cautions, noise_caution, start_caution
from .errors import InputError
from .frame import Frame, Volume
from .geometry_checks import geometry_cautions
from .initial import DEFORMABLE, TransformSource, check_initial, load_transform
from .io import check_contrast, read_labels, read_mask, read_volume
from .label_values import whole_labels
from .landmarks import Landmarks, LandmarkSource, as_landmarks, pair_landmarks, unused_landmarks
from .prepare import measurements, resampled, share_space
from .seen import filled
from .transforms import LinearTransform, Transform

ImageSource = str | Path | sitk.Image | Volume

_OUTSIDE_SHARE = 0.25
"""How far outside its image a landmark may lie, as a share of the image's largest side."""

_LEAST_VOXELS = 4
"""Along each axis of a written field, unless the image itself has fewer."""


_SAME_PLACE = 0.5
"""Voxels by which a mask's corners may miss those of its image."""


class Keep(Enum):
    """`KEEP` in place of a prompt: as it is."""

    KEEP = "keep"


KEEP = Keep.KEEP


@dataclass(frozen=True)
class Inputs:
    """A checked pair.

    Attributes:
        fixed, moving: (1, *S) float32.
        fixed_labels, moving_labels: (1, *S) int32, int64 for values beyond, on their image's lattice, both or
            neither.
        label_values: the labels both have.
        fixed_mask, moving_mask: (1, *S) float32 on their image's lattice.
        landmarks: fixed and moving points (N, d) float64, LPS mm, and their names; held-out ones apart.
        initial: a map to start from.
        warnings: sentences for the user.
    """

    fixed: Volume
    moving: Volume
    fixed_labels: Volume | None = None
    moving_labels: Volume | None = None
    label_values: tuple[int, ...] = ()
    fixed_mask: Volume | None = None
    moving_mask: Volume | None = None
    landmarks: tuple[Tensor, Tensor, tuple[str, ...]] | None = None
    held_out: tuple[Tensor, Tensor, tuple[str, ...]] | None = None
    initial: Transform | None = None
    warnings: list[str] = field(default_factory=list)


def load_inputs(
    fixed: ImageSource,
    moving: ImageSource,
    fixed_landmarks: LandmarkSource | None = None,
    moving_landmarks: LandmarkSource | None = None,
    fixed_labels: ImageSource | None = None,
    moving_labels: ImageSource | None = None,
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
    initial: TransformSource | None = None,
    held_out_landmarks: tuple[LandmarkSource, LandmarkSource] | None = None,
) -> Inputs:
    """Load a pair and its prompts.

    Raises:
        InputError: anything missing, unreadable or contradictory.
    """
    warnings: list[str] = []
    fixed_volume, moving_volume = _volume(fixed, "fixed", warnings), _volume(moving, "moving", warnings)
    if fixed_volume.frame.dimension != moving_volume.frame.dimension:
        raise InputError(
            f"The fixed image is {fixed_volume.frame.dimension}-D and the moving image "
            f"{moving_volume.frame.dimension}-D; both must have the same number of axes."
        )
    for role, volume in (("fixed", fixed_volume), ("moving", moving_volume)):
        if volume.frame.dimension == 3 and min(volume.frame.size) == 1:
            warnings.append(
                f"The {role} image is a single slice: movement across the slice cannot be measured."
            )
    labels_a = _labels(fixed_labels, fixed_volume.frame, "fixed", warnings)
    labels_b = _labels(moving_labels, moving_volume.frame, "moving", warnings)
    return Inputs(
        fixed_volume,
        moving_volume,
        labels_a,
        labels_b,
        _common_labels(labels_a, labels_b),
        _mask(fixed_mask, fixed_volume.frame, "fixed", warnings),
        _mask(moving_mask, moving_volume.frame, "moving", warnings),
        _landmarks(
            (fixed_landmarks, moving_landmarks),
            fixed_volume.frame,
            moving_volume.frame,
            warnings,
            fitted=True,
        ),
        _landmarks(
            held_out_landmarks or (None, None),
            fixed_volume.frame,
            moving_volume.frame,
            warnings,
            fitted=False,
        ),
        _initial(initial, fixed_volume.frame, moving_volume.frame, warnings),
        warnings,
    )


LandmarkPairs = tuple[LandmarkSource, LandmarkSource]
ImagePair = tuple[ImageSource | None, ImageSource | None]


def with_prompts(
    inputs: Inputs,
    landmarks: LandmarkPairs | Keep | None = KEEP,
    held_out: LandmarkPairs | Keep | None = KEEP,
    labels: ImagePair | Keep | None = KEEP,
    masks: ImagePair | Keep | None = KEEP,
) -> Inputs:
    """The same images with other prompts: pairs of fixed and moving ones.

    `KEEP` leaves a kind as it is; None, or two empty lists of landmarks, takes it away. Either mask of a
    pair may be None. The warnings are those of the new prompts.

    Raises:
        InputError: as `load_inputs`.
    """
    fixed_labels, moving_labels = _replaced(labels, (inputs.fixed_labels, inputs.moving_labels))
    fixed_mask, moving_mask = _replaced(masks, (inputs.fixed_mask, inputs.moving_mask))
    fitted, measured = (
        _replaced(None if _empty(new) else new, _as_pair(old))
        for new, old in ((landmarks, inputs.landmarks), (held_out, inputs.held_out))
    )
    return load_inputs(
        inputs.fixed,
        inputs.moving,
        *fitted,
        fixed_labels,
        moving_labels,
        fixed_mask,
        moving_mask,
        inputs.initial,
        None if measured == (None, None) else measured,
    )


def _replaced(new: Any, old: tuple[Any, Any]) -> tuple[Any, Any]:
    return old if new is KEEP else new or (None, None)


def _empty(pair: LandmarkPairs | Keep | None) -> bool:
    return isinstance(pair, tuple) and all(
        not isinstance(points, str | Path) and points is not None and len(points) == 0 for points in pair
    )


def _as_pair(pairs: tuple[Tensor, Tensor, tuple[str, ...]] | None) -> tuple[Any, Any]:
    if pairs is None:
        return None, None
    fixed, moving, names = pairs
    return Landmarks(fixed, names), Landmarks(moving, names)


def check_pair(inputs: Inputs, linear: str, output_spacing: float | None = None) -> None:
    """Complain, or warn, of what no registration could make good: images that share no space, noise, a start
    that leads astray, results too coarse to hold a deformation.

    Args:
        inputs: the pair, whose warnings grow.
        linear: the linear stage.
        output_spacing: of the written fields, mm; None is the images' own.

    Raises:
        InputError: nothing in the run could bring the images together, or the fields would be too coarse.
    """
    seen: list[Volume] = []
    for role, volume, mask in (
        ("fixed", inputs.fixed, inputs.fixed_mask),
        ("moving", inputs.moving, inputs.moving_mask),
    ):
        check_output_spacing(volume.frame, output_spacing, role)
        seen.append(filled(measurements(volume, mask=mask), mask))
        inputs.warnings.extend(noise_caution(seen[-1], role))
    if inputs.initial is not None:
        inputs.warnings.extend(start_caution(*seen, inputs.initial))
        return
    if share_space(inputs.fixed.frame, inputs.moving.frame) or inputs.landmarks is not None:
        return
    if linear == "none":
        raise InputError(
            "The two images do not overlap in space. "
            "Choose a linear stage, landmarks or an initial transform."
        )
    inputs.warnings.append("The two images did not overlap in space; their centres were aligned first.")


def check_output_spacing(frame: Frame, output_spacing: float | None, role: str) -> None:
    """Raise InputError where a field would have fewer than four voxels along an axis, and fewer than the
    image itself."""
    sides = [
        float(extent) / (min(n, _LEAST_VOXELS) - 0.5)
        for extent, n in zip(frame.extent, frame.size, strict=True)
        if n > 1
    ]
    if output_spacing is not None and sides and output_spacing > min(sides):
        raise InputError(
            f"An output spacing of {output_spacing:g} mm is too coarse for the {role} image: "
            f"choose at most {min(sides):.3g} mm."
        )


def _initial(
    source: TransformSource | None, fixed: Frame, moving: Frame, warnings: list[str]
) -> Transform | None:
    if source is None:
        return None
    initial = load_transform(source, fixed.dimension, fixed)
    check_initial(initial, fixed, moving)
    if not isinstance(initial, LinearTransform):
        warnings.append(DEFORMABLE)
    return initial


def _volume(source: ImageSource, role: str, warnings: list[str]) -> Volume:
    volume = source if isinstance(source, Volume) else read_volume(source)
    if isinstance(source, str | Path):
        warnings.extend(geometry_cautions(Path(source), role))
    if volume.channels != 1:
        raise InputError(f"The {role} image has {volume.channels} components per voxel; it must have one.")
    bad = int((~volume.data.isfinite()).sum())
    if bad:
        raise InputError(f"The {role} image has {bad} voxels that are not finite numbers.")
    check_contrast(volume, role)
    return volume


def _labels(source: ImageSource | None, frame: Frame, role: str, warnings: list[str]) -> Volume | None:
    if source is None:
        return None
    labels = source if isinstance(source, Volume) else read_labels(source)
    labels = Volume(whole_labels(labels.data), labels.frame)
    if labels.frame.dimension != frame.dimension:
        raise InputError(f"The {role} labels and the {role} image do not have the same number of axes.")
    if not labels.frame.same_lattice(frame):
        warnings.append(_other_grid("labels", ("are", "were"), role))
        labels = resampled(labels, frame, nearest=True)
    if not bool((labels.data != 0).any()):
        raise InputError(f"The {role} labels contain no label inside the {role} image.")
    return labels


def _other_grid(kind: str, verb: str, role: str) -> str:
    return (
        f"The {role} {kind} {verb[0]} on another grid than the {role} image and {verb[1]} resampled onto it."
    )


def _common_labels(fixed: Volume | None, moving: Volume | None) -> tuple[int, ...]:
    if fixed is None and moving is None:
        return ()
    if fixed is None or moving is None:
        missing = "fixed" if fixed is None else "moving"
        raise InputError(f"Labels come in pairs, but there are none for the {missing} image.")
    common = sorted({*fixed.data.unique().tolist()} & {*moving.data.unique().tolist()} - {0})
    if not common:
        raise InputError("The fixed and the moving labels have no label value in common.")
    return tuple(common)


def _mask(source: ImageSource | None, frame: Frame, role: str, warnings: list[str]) -> Volume | None:
    if source is None:
        return None
    mask = source if isinstance(source, Volume) else read_mask(source)
    if mask.frame.dimension != frame.dimension:
        raise InputError(f"The {role} mask and the {role} image do not have the same number of axes.")
    if mask.frame.size == frame.size and not mask.frame.same_lattice(frame, _SAME_PLACE):
        raise InputError(
            f"The {role} mask has as many voxels along each axis as the {role} image, but does not lie where "
            "that lies: was the mask saved without its geometry?"
        )
    if not mask.frame.same_lattice(frame):
        warnings.append(_other_grid("mask", ("is", "was"), role))
    mask = Volume((resampled(mask, frame, nearest=True).data > 0).float(), frame)
    if not bool(mask.data.any()):
        raise InputError(f"The {role} mask leaves out the whole {role} image.")
    return mask


def _landmarks(
    pair: tuple[LandmarkSource | None, LandmarkSource | None],
    a: Frame,
    b: Frame,
    warnings: list[str],
    fitted: bool,
) -> tuple[Tensor, Tensor, tuple[str, ...]] | None:
    fixed, moving = pair
    if fixed is None and moving is None:
        return None
    if fixed is None or moving is None:
        missing = "fixed" if fixed is None else "moving"
        raise InputError(f"Landmarks come in pairs, but there are none for the {missing} image.")
    lists = as_landmarks(fixed), as_landmarks(moving)
    points_a, points_b, names = pair_landmarks(*lists)
    warnings.extend(unused_landmarks(*lists))
    if points_a.shape[1] != a.dimension:
        raise InputError(f"The landmarks are {points_a.shape[1]}-D, but the images are {a.dimension}-D.")
    _check_inside(points_a, names, a, "fixed")
    _check_inside(points_b, names, b, "moving")
    if not fitted:
        return points_a, points_b, names
    if len(names) < 3:
        warnings.append(
            f"With only {len(names)} landmark pair{'s' if len(names) > 1 else ''} "
            "the rotation between the images is not determined by landmarks."
        )
    warnings.extend(landmark_cautions(points_a, points_b, names))
    return points_a, points_b, names


def _check_inside(points: Tensor, names: Sequence[str], frame: Frame, role: str) -> None:
    limit = _OUTSIDE_SHARE * float(frame.extent.max())
    matrix = torch.as_tensor(frame.world_to_normalised, dtype=points.dtype)
    beyond = ((points @ matrix[:-1, :-1].T + matrix[:-1, -1]).abs() - 1).clamp_min(0)
    distance = (beyond * torch.as_tensor(frame.extent.copy()) / 2).norm(dim=1)
    worst = int(distance.argmax())
    if float(distance[worst]) > limit:
        raise InputError(
            f"The {role} landmark {names[worst]} lies {float(distance[worst]):.0f} mm outside the {role} "
            "image. Is the file's coordinate system (LPS or RAS) right?"
        )
