"""How good a registration is: overlap, distances of surfaces and landmarks, folds, consistency, similarity.

Everything here only measures. World coordinates are LPS mm; tensors are in array order (z, y, x).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from .errors import InputError
from .field import Field, linear_part
from .frame import Frame, Volume, apply_matrix
from .jacobian import determinant_slabs
from .objectives import LocalNCC, NormalisedMutualInformation
from .verdict import EXTREME
from .written_map import border_part

FOLDS_MEASURED = (
    "percent of voxels where the smallest of the 2^d Jacobian determinants by one-sided differences is <= 0: "
    "the exact Jacobians of the linearly interpolated field at the corners of its cells"
)
"""What `fold_statistics` calls a fold, in words for a report."""


class PointMap(Protocol):
    """Anything that maps world points (..., d) to world points, LPS mm."""

    def map(self, points: Tensor) -> Tensor: ...


def dice(a: Tensor, b: Tensor, values: Iterable[int] | None = None) -> dict[int, float]:
    """Dice overlap 2|A and B| / (|A| + |B|) of each label.

    Args:
        a, b: integer label maps of one shape, on one lattice.
        values: the labels wanted; by default all but 0 that either map has.

    Returns:
        Label to overlap in [0, 1]; labels that neither map has are left out.

    Raises:
        InputError: the maps differ in shape.
    """
    if a.shape != b.shape:
        raise InputError("Labels can only be compared on the same grid.")
    of_a, of_b, common = _counts(a), _counts(b), _counts(a[a == b])
    wanted = sorted({*of_a, *of_b} - {0}) if values is None else [int(value) for value in values]
    totals = {value: of_a.get(value, 0) + of_b.get(value, 0) for value in wanted}
    return {value: 2 * common.get(value, 0) / total for value, total in totals.items() if total}


def hausdorff95(a: Volume, b: Volume, values: Iterable[int] | None = None) -> dict[int, float]:
    """95 % Hausdorff distance of each label: the larger of the two 95th percentiles of the distances
    from one surface's voxels to the nearest voxel of the other's, mm.

    A surface voxel is one of the label with a face neighbour that is not; beyond the image nothing is.

    Args:
        a, b: integer label maps (1, *S) on one lattice.
        values: the labels wanted; by default all but 0 that both maps have.

    Returns:
        Label to distance in mm; labels that either map lacks are left out: they have no distance.

    Raises:
        InputError: the maps are on different lattices.
    """
    if not a.frame.same_lattice(b.frame):
        raise InputError("Labels can only be compared on the same grid.")
    one, other = a.data[0].cpu().numpy(), b.data[0].cpu().numpy()
    if values is None:
        values = sorted((_counts(a.data).keys() & _counts(b.data).keys()) - {0})
    result = {}
    for value in values:
        masks = one == value, other == value
        if masks[0].any() and masks[1].any():
            result[int(value)] = _surface_distance(*masks, a.frame)
    return result


def landmark_errors(transform: PointMap, fixed_points: Tensor, moving_points: Tensor) -> Tensor:
    """Distance |T(fixed) - moving| of each pair, (N,) mm, for points (N, d) in LPS mm.

    Raises:
        InputError: the two lists differ in shape.
    """
    if fixed_points.shape != moving_points.shape:
        raise InputError("Each landmark needs its partner on the other image.")
    return (transform.map(fixed_points) - moving_points.to(fixed_points)).norm(dim=-1)


def fold_statistics(field: Field, mask: Tensor | None = None) -> dict[str, Any]:
    """Folds and volume changes of a dense field.

    Args:
        field: 2-D or 3-D; an axis of one voxel counts as not deformed.
        mask: bool (*field.frame.shape), the voxels to count; by default all.

    Returns:
        ``folds_percent`` as `FOLDS_MEASURED` says; ``folds_percent_central`` of voxels whose determinant
        by central differences (one-sided at the border) is <= 0; ``determinant_min`` and
        ``determinant_max`` over all one-sided determinants; ``determinant_min_at``, where the former is,
        LPS mm; ``extreme_percent`` of voxels whose central determinant is not between 0.1 and 10;
        ``log_determinant_sd``, the standard deviation of the natural logarithm of the positive central
        determinants.

    Raises:
        InputError: the mask has another shape or selects nothing.
    """
    if mask is not None and tuple(mask.shape) != field.frame.shape:
        raise InputError("The mask and the deformation field do not have the same size.")
    inside = field.frame.voxels if mask is None else int(mask.sum())
    if inside == 0:
        raise InputError("The mask selects no voxel of the deformation field.")
    folds = central_folds = extremes = 0
    lowest, highest, logs = float("inf"), float("-inf"), []
    strongest = [0] * field.frame.dimension
    for slab in determinant_slabs(field.displacement):
        smallest, largest, central = slab.smallest, slab.largest, slab.central
        places = None
        if mask is not None:
            chosen = mask[slab.start : slab.start + len(central)]
            smallest, largest, central = smallest[chosen], largest[chosen], central[chosen]
            places = chosen.flatten().nonzero().flatten()
        if central.numel() == 0:
            continue
        folds += int((smallest <= 0).sum())
        here_lowest, highest = float(smallest.min()), max(highest, float(largest.max()))
        if here_lowest < lowest:
            lowest, place = here_lowest, int(smallest.argmin())
            place = place if places is None else int(places[place])
            strongest = [int(i) for i in np.unravel_index(place, slab.central.shape)]
            strongest[0] += slab.start
        extremes += int(((central < EXTREME[0]) | (central > EXTREME[1])).sum())
        positive = central > 0
        here = int(central.numel() - positive.sum())
        central_folds += here
        values = (central[positive] if here else central).log()
        if values.numel():
            mean = values.mean(dtype=torch.float64)
            logs.append(
                (
                    values.numel(),
                    float(mean),
                    float((values - mean.to(values)).square_().sum(dtype=torch.float64)),
                )
            )
    return {
        "folds_percent": 100 * folds / inside,
        "folds_percent_central": 100 * central_folds / inside,
        "determinant_min": lowest,
        "determinant_max": highest,
        "determinant_min_at": (field.frame.index_to_world @ [*strongest[::-1], 1.0])[:-1].tolist(),
        "extreme_percent": 100 * extremes / inside,
        "log_determinant_sd": _pooled_sd(logs),
    }


def inverse_consistency(
    forward: Field, inverse: Field, linear: np.ndarray | None = None
) -> dict[str, float | None]:
    """|inverse(forward(x)) - x| over every voxel of the first field whose image lies in the second's box.

    Args:
        forward: fixed to moving points, on any lattice of the fixed box.
        inverse: moving to fixed points, on any lattice of the moving box.
        linear: homogeneous (d+1, d+1) linear part of the inverse, LPS mm, by which its file goes on beyond
            the outermost voxel centres, see `WrittenMap`; None keeps the border's displacement.

    Returns:
        ``mean_mm`` and ``max_mm``, None where no voxel's image lies in the box; ``covered_percent``, the
        share of voxels whose image does.
    """
    frame, displacement = forward.frame, forward.displacement
    to_inverse = inverse.frame.world_to_normalised @ frame.normalised_to_world
    back = inverse.frame.normalised_to_world
    total, count, largest = 0.0, 0, 0.0
    for window in frame.slabs():
        moved = displacement[window]
        image = apply_matrix(to_inverse, frame.grid(displacement.device, window=window).add_(moved))
        # the two displacements cancel in a perfect inverse; both in mm, no coordinates are needed
        returning = inverse.at(image)
        if linear is not None:
            returning = returning + border_part(image, inverse.frame, linear)
        errors = linear_part(frame.normalised_to_world, moved).add_(linear_part(back, returning))
        inside = (image.abs_() <= 1).all(-1)
        errors = torch.linalg.vector_norm(errors, dim=-1).mul_(inside)
        total, count = total + float(errors.sum(dtype=torch.float64)), count + int(inside.sum())
        largest = max(largest, float(errors.max()))
    return {
        "mean_mm": total / count if count else None,
        "max_mm": largest if count else None,
        "covered_percent": 100 * count / frame.voxels,
    }


def correlation(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """Pearson's correlation of two images of one shape, over the voxels of a bool mask of that shape;
    in [-1, 1], 0 where an image is constant."""
    if mask is not None:
        a, b = a[mask], b[mask]
    if a.numel() == 0:
        return 0.0
    a, b = _scaled(a), _scaled(b)
    a, b = a.float() - a.mean(dtype=torch.float64).float(), b.float() - b.mean(dtype=torch.float64).float()
    covariance, of_a, of_b = (float((p * q).sum(dtype=torch.float64)) for p, q in ((a, b), (a, a), (b, b)))
    scale = (of_a * of_b) ** 0.5
    return max(-1.0, min(1.0, covariance / scale)) if scale > 0 else 0.0


def local_correlation(a: Tensor, b: Tensor, mask: Tensor | None = None, radius: int = 2) -> float:
    """Mean squared correlation in windows of 2 * radius + 1 voxels (see `LocalNCC`), in [0, 1].

    Args:
        a, b: images (*S) of one shape, the second the fixed one.
        mask: bool (*S), the window centres to count.
    """
    a, b = _scaled(a), _scaled(b)
    return 1 - float(LocalNCC(radius)(a[None, None], b[None, None], _weight(mask, a)))


def mutual_information(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """Normalised mutual information (H(a) + H(b)) / H(a, b) of two images (*S), from 1 (independent) to 2;
    over the voxels of a bool mask (*S)."""
    a, b = _scaled(a), _scaled(b)
    return 2 - float(NormalisedMutualInformation()(a[None, None], b[None, None], _weight(mask, a)))


def _scaled(image: Tensor) -> Tensor:
    """The image divided by a power of two, so that squares of its values neither overflow nor vanish."""
    peak = float(image.abs().amax()) if image.is_floating_point() else 0.0
    return image / 2.0 ** (math.frexp(peak)[1] - 1) if 0 < peak < math.inf else image


def _weight(mask: Tensor | None, image: Tensor) -> Tensor | None:
    return None if mask is None else mask.to(image)[None, None]


def _counts(labels: Tensor) -> dict[int, int]:
    """How often each label occurs."""
    labels = labels.flatten()
    if labels.numel() == 0:
        return {}
    low, high = int(labels.min()), int(labels.max())
    if high - low < 1 << 20:  # counting spares a sort of all voxels
        numbers = torch.bincount(labels.long() - low)
        present = numbers.nonzero().flatten()
        return dict(zip((present + low).tolist(), numbers[present].tolist(), strict=True))
    present, numbers = labels.unique(return_counts=True)
    return dict(zip(present.tolist(), numbers.tolist(), strict=True))


def _surface_distance(one: np.ndarray, other: np.ndarray, frame: Frame) -> float:
    either = one | other
    axes = range(either.ndim)
    filled = [np.flatnonzero(either.any(tuple(b for b in axes if b != a))) for a in axes]
    box = tuple(slice(f[0], f[-1] + 1) for f in filled)
    surfaces = [_surface(np.pad(mask[box], 1)) for mask in (one, other)]
    distances = [
        _distance_to(surfaces[1], frame)[surfaces[0]],
        _distance_to(surfaces[0], frame)[surfaces[1]],
    ]
    return max(float(np.percentile(d, 95)) for d in distances)


def _surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of a mask, which leaves the array's border free, with a face neighbour outside of it."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    return mask & ~inner


def _distance_to(surface: np.ndarray, frame: Frame) -> np.ndarray:
    """Distance of every voxel to the nearest one of a thin surface, mm."""
    image = sitk.GetImageFromArray(surface.astype(np.uint8))
    image.SetSpacing(frame.spacing)
    distance = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    return np.abs(sitk.GetArrayViewFromImage(distance))


def _pooled_sd(parts: list[tuple[int, float, float]]) -> float:
    """Standard deviation of all values from (count, mean, sum of squares about it) of parts of them."""
    count = sum(n for n, _, _ in parts)
    if count == 0:
        return 0.0
    mean = sum(n * m for n, m, _ in parts) / count
    return (sum(s + n * (m - mean) ** 2 for n, m, s in parts) / count) ** 0.5
