"""How well transforms carry one image, its labels and landmarks onto another: the same code for every method.

Run as a program it prints a line of JSON::

    python Testing/benchmarks/scoring.py --fixed FILE --moving FILE [--labels FIXED MOVING]
        [--landmarks FIXED MOVING] [--forward FILE ...] [--inverse FILE ...]

Transforms map fixed points to moving points (forward) or moving to fixed ones (inverse), LPS mm; of several,
the first is applied last. Keys of the result, where there is what they need: ``dice`` and ``hd95``
(label: value), ``mean_dice``, ``mean_hd95`` (mm), ``tre`` (mm, mean), ``nmi``, ``folds_percent``,
``inverse_mm`` (mean) and ``inverse_mm_95``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

_BINS = 32
_POINTS = 4000


def label_scores(
    fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform
) -> tuple[dict[int, float], dict[int, float]]:
    """Dice and HD95 (mm) of every label both maps have, after moving labels are brought onto the fixed grid.

    Args:
        fixed, moving: label maps, each on its own grid; 0 is background, other values are rounded.
        transform: maps fixed points to moving points, LPS mm. Nearest neighbour is used.

    Returns:
        Of HD95 only the labels that are not empty afterwards.
    """
    there, here = (
        sitk.Cast(sitk.Round(sitk.Cast(v, sitk.sitkFloat32)), sitk.sitkInt32) for v in (fixed, moving)
    )
    known = np.intersect1d(*(np.unique(sitk.GetArrayViewFromImage(v)) for v in (there, here)))
    here = sitk.Resample(here, there, transform, sitk.sitkNearestNeighbor, 0)
    overlaps, distances = {}, {}
    for label in (int(v) for v in known if v != 0):
        a, b = there == label, here == label
        overlaps[label] = dice(sitk.GetArrayViewFromImage(a) > 0, sitk.GetArrayViewFromImage(b) > 0)
        if overlaps[label] > 0:
            distances[label] = hausdorff_95(a, b)
    return overlaps, distances


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two masks of one shape; 1 when both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2.0 * int((one & other).sum()) / total if total else 1.0


def hausdorff_95(one: sitk.Image, other: sitk.Image) -> float:
    """95th percentile of the distances between the borders of two masks, both ways taken together, mm.

    The border is the mask's voxels that have a face neighbour outside; outside the image counts as inside.
    """
    borders = [sitk.LabelContour(mask, fullyConnected=False) for mask in (one, other)]
    far = [
        sitk.Abs(sitk.SignedMaurerDistanceMap(b, squaredDistance=False, useImageSpacing=True))
        for b in borders
    ]
    values = [
        sitk.GetArrayViewFromImage(to)[sitk.GetArrayViewFromImage(of) > 0]
        for to, of in zip(far, reversed(borders), strict=True)
    ]
    return float(np.percentile(np.concatenate(values), 95))


def normalised_mutual_information(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> float:
    """(H(A) + H(B)) / H(A, B) of the fixed and the resampled moving image (Studholme et al., 1999).

    32 bins between the 0.5th and the 99.5th percentile of each, over the fixed image's voxels that land in
    the moving image's box and are not among its darkest (its lowest value).
    """
    a = sitk.GetArrayFromImage(sitk.Cast(fixed, sitk.sitkFloat32))
    warped = sitk.Resample(moving, fixed, transform, sitk.sitkLinear, float("nan"), sitk.sitkFloat32)
    b = sitk.GetArrayFromImage(warped)
    inside = np.isfinite(b) & (a > a.min())
    edges = [np.linspace(*np.percentile(v[inside], (0.5, 99.5)), _BINS + 1) for v in (a, b)]
    clipped = [np.clip(v[inside], e[0], e[-1]) for v, e in zip((a, b), edges, strict=True)]
    joint = np.histogram2d(*clipped, bins=edges)[0]
    joint /= joint.sum()
    return (_entropy(joint.sum(1)) + _entropy(joint.sum(0))) / _entropy(joint)


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def folds_percent(transform: sitk.Transform, fixed: sitk.Image) -> float:
    """Voxels of the fixed grid where the transform folds, in per cent.

    The transform is sampled at every voxel centre; its Jacobian is taken by central differences, so at
    the voxels that have two neighbours along every axis, and a determinant <= 0 is a fold.
    """
    field = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        fixed.GetSize(),
        fixed.GetOrigin(),
        fixed.GetSpacing(),
        fixed.GetDirection(),
    )
    d = fixed.GetDimension()
    axes = np.asarray(fixed.GetDirection()).reshape(d, d) * np.asarray(fixed.GetSpacing())
    voxels = (sitk.GetArrayFromImage(field) @ np.linalg.inv(axes).T).astype(np.float32)
    inner = (slice(1, -1),) * d
    jacobian = np.empty((*voxels[inner].shape, d), dtype=np.float32)
    for a in range(d):  # image axis a (x first) is array axis d - 1 - a
        after, before = list(inner), list(inner)
        after[d - 1 - a], before[d - 1 - a] = slice(2, None), slice(None, -2)
        jacobian[..., a] = (voxels[tuple(after)] - voxels[tuple(before)]) / 2
        jacobian[..., a, a] += 1
    return 100.0 * float((np.linalg.det(jacobian) <= 0).mean())


def inverse_errors(
    forward: sitk.Transform, inverse: sitk.Transform, fixed: sitk.Image, moving: sitk.Image
) -> np.ndarray:
    """|inverse(forward(x)) - x| in mm at 4000 voxels of the fixed subject that land in the moving image.

    The subject is what is brighter than the mean; which of its voxels is a matter of a fixed seed.
    """
    values = sitk.GetArrayViewFromImage(fixed)
    indices = np.argwhere(values > values.mean())[:, ::-1]
    chosen = indices[np.random.default_rng(0).permutation(len(indices))[:_POINTS]]
    errors = []
    for index in chosen.tolist():
        point = fixed.TransformIndexToPhysicalPoint(index)
        there = forward.TransformPoint(point)
        landed = np.asarray(moving.TransformPhysicalPointToContinuousIndex(there))
        if (landed >= 0).all() and (landed <= np.asarray(moving.GetSize()) - 1).all():
            errors.append(np.subtract(inverse.TransformPoint(there), point))
    return np.linalg.norm(np.asarray(errors).reshape(len(errors), -1), axis=1)


def target_errors(fixed: np.ndarray, moving: np.ndarray, transform: sitk.Transform) -> np.ndarray:
    """Distance in mm of transformed fixed landmarks from their partners, both (N, d) in LPS mm."""
    mapped = np.asarray([transform.TransformPoint(point) for point in fixed.tolist()])
    return np.linalg.norm(mapped - moving, axis=1)


def composed(files: Sequence[str], d: int) -> sitk.Transform:
    """The transforms of files, the first applied last; the identity of none."""
    chain = sitk.CompositeTransform(d)
    for file in files:
        chain.AddTransform(sitk.ReadTransform(file))
    return chain


def main() -> int:
    """Score the transforms of one pair."""
    parser = argparse.ArgumentParser(description="Judge the transforms of one pair.")
    for name in ("--fixed", "--moving"):
        parser.add_argument(name, required=True)
    for name in ("--labels", "--landmarks"):
        parser.add_argument(name, nargs=2)
    for name in ("--forward", "--inverse"):
        parser.add_argument(name, nargs="+", default=[])
    arguments = parser.parse_args()
    fixed, moving = (sitk.ReadImage(path) for path in (arguments.fixed, arguments.moving))
    forward = composed(arguments.forward, fixed.GetDimension())
    result: dict[str, Any] = {
        "nmi": normalised_mutual_information(fixed, moving, forward),
        "folds_percent": folds_percent(forward, fixed),
    }
    if arguments.labels:
        overlaps, distances = label_scores(*(sitk.ReadImage(p) for p in arguments.labels), forward)
        result |= {"dice": overlaps, "hd95": distances, "mean_dice": float(np.mean(list(overlaps.values())))}
        if distances:
            result["mean_hd95"] = float(np.mean(list(distances.values())))
    if arguments.landmarks:
        from DeepRegistrationLib.landmarks import pair_landmarks

        one, other, _ = pair_landmarks(*arguments.landmarks)
        result["tre"] = float(target_errors(one.numpy(), other.numpy(), forward).mean())
    if arguments.inverse:
        errors = inverse_errors(forward, composed(arguments.inverse, fixed.GetDimension()), fixed, moving)
        if len(errors):
            result |= {"inverse_mm": float(errors.mean()), "inverse_mm_95": float(np.percentile(errors, 95))}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
