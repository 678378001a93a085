"""What is odd about a pair before anything is computed: each in a sentence for the user."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .frame import Frame, Volume
from .initial import likely_mistakes
from .interpolation import sample
from .metrics import correlation, mutual_information
from .prepare import measurements
from .transforms import LinearTransform, Transform
from .transforms.linear_fit import best_rigid

_NOISE = 0.25
"""Correlation of neighbouring voxels that the least smooth image has along its smoothest axis."""

_ROWS = 200_000
_LOOK = 32
"""Voxels per axis at which starts are compared."""

_CLEARLY, _AT_LEAST = 1.5, 0.02
"""Mutual information (NMI - 1) is clearly more if it is so many times as much, and so much besides."""

_AGREE = 0.5
"""Landmarks agree far better where their distances are less than this share."""

_CONTRADICTION, _OF_SPREAD = 5.0, 0.35
"""Landmarks contradict the others where they lie this many times the median distance from where those put
them, and farther than this share of the landmarks' spread: bodies deform, too."""

_ROUNDS = 20
_NAMED = 5


def noise_caution(volume: Volume, role: str) -> list[str]:
    """Whether neighbouring voxels have nothing to do with each other."""
    data, found = volume.data[0], []
    for dim, n in enumerate(data.shape):
        if n >= 8:
            rows = data.movedim(dim, -1).reshape(-1, n)
            rows = rows[:: max(1, rows.numel() // _ROWS)]
            found.append(correlation(rows[:, :-1], rows[:, 1:]))
    if not found or max(found) >= _NOISE:
        return []
    return [f"The {role} image looks like noise: neighbouring voxels have nothing to do with each other."]


def start_caution(fixed: Volume, moving: Volume, initial: Transform | None) -> list[str]:
    """Whether the images are clearly more alike without the initial transform, or with what it may have been
    meant to be, than with it."""
    if not isinstance(initial, LinearTransform):
        return []
    images = _coarse(measurements(fixed)), _coarse(measurements(moving))
    given = _information(*images, initial)
    nothing = {None: LinearTransform.identity(initial.dimension)}
    for mistake, other in (nothing | likely_mistakes(initial)).items():
        if _information(*images, other) > _CLEARLY * given + _AT_LEAST:
            if mistake is None:
                return ["The initial transform makes the images less alike than they are without it."]
            return [f"The initial transform would make the images far more alike if {mistake}."]
    return []


def _coarse(volume: Volume) -> Volume:
    """Means over blocks of voxels, about `_LOOK` along each axis."""
    frame = volume.frame
    blocks = tuple(max(1, n // _LOOK) for n in frame.size)
    pool = F.avg_pool3d if frame.dimension == 3 else F.avg_pool2d
    data = pool(volume.data[None].float(), tuple(reversed(blocks)))[0]
    middle = torch.tensor([(b - 1) / 2 for b in blocks] + [1.0], dtype=torch.float64).numpy()
    spacing = tuple(s * b for s, b in zip(frame.spacing, blocks, strict=True))
    origin = tuple((frame.index_to_world @ middle)[:-1].tolist())
    return Volume(data, Frame(tuple(reversed(data.shape[1:])), spacing, origin, frame.direction))


def _information(fixed: Volume, moving: Volume, linear: LinearTransform) -> float:
    """Mutual information of two coarse images under a map, less where they hardly overlap."""
    there = linear.map(fixed.frame.points())
    matrix = torch.as_tensor(moving.frame.world_to_normalised)
    points = (there @ matrix[:-1, :-1].T + matrix[:-1, -1]).float()
    inside = (points.abs() <= 1).all(-1)
    share = float(inside.float().mean())
    if int(inside.sum()) < 100:
        return 0.0
    read = sample(moving.data[None], points)[0, 0]
    return (mutual_information(read, fixed.data[0], inside) - 1) * min(1.0, 2 * share)


def landmark_cautions(fixed: Tensor, moving: Tensor, names: Sequence[str]) -> list[str]:
    """Whether one list is in RAS and the other in LPS, or single pairs contradict the others.

    Args:
        fixed, moving: points (N, d), LPS mm.
        names: N names.
    """
    if len(names) < 4:
        return []
    flip = torch.tensor([-1.0, -1.0, *[1.0] * (fixed.shape[1] - 2)], dtype=fixed.dtype)
    as_given, flipped = _apart(fixed, moving), _apart(fixed * flip, moving)
    if flipped < _AGREE * as_given:
        return [
            "The landmarks agree far better when x and y of one list change their signs "
            f"({flipped:.0f} mm apart instead of {as_given:.0f}, on average): is one file in RAS and the "
            "other in LPS?"
        ]
    return _contradictions(fixed, moving, names)


def _apart(fixed: Tensor, moving: Tensor) -> float:
    """Mean distance of pairs when their centres are matched, mm."""
    return float(((fixed - fixed.mean(0)) - (moving - moving.mean(0))).norm(dim=1).mean())


def _contradictions(fixed: Tensor, moving: Tensor, names: Sequence[str]) -> list[str]:
    transform = _robust_rigid(fixed, moving)
    there = transform.map(fixed)
    errors = (there - moving).norm(dim=1)
    spread = float((moving - moving.median(0).values).norm(dim=1).median())
    limit = max(_CONTRADICTION * float(errors.median()), _OF_SPREAD * spread)
    odd = (errors > limit).nonzero().flatten().tolist()
    if not odd or 2 * len(odd) > len(names):
        return []
    if len(odd) == 2:
        a, b = odd
        if (
            float((there[a] - moving[b]).norm() + (there[b] - moving[a]).norm())
            < float(errors[odd].sum()) / 2
        ):
            return [
                f"The landmarks {names[a]} and {names[b]} contradict the others; exchanged on one of the "
                "images they would agree."
            ]
    worst = sorted(odd, key=lambda k: -float(errors[k]))[:_NAMED]
    named = ", ".join(f"{names[k]} ({float(errors[k]):.0f} mm)" for k in worst)
    if len(odd) == 1:
        return [f"The landmark {named} contradicts the others: is it on the same place of both images?"]
    more = f" and {len(odd) - _NAMED} more" if len(odd) > _NAMED else ""
    return [f"The landmarks {named}{more} contradict the others: are they on the same places of both images?"]


def _robust_rigid(fixed: Tensor, moving: Tensor) -> LinearTransform:
    """The rigid map with about the smallest sum of distances, which single pairs hardly move."""
    weights = torch.ones(len(fixed), dtype=fixed.dtype)
    transform = best_rigid(fixed, moving, weights)
    for _ in range(_ROUNDS):
        errors = (transform.map(fixed) - moving).norm(dim=1)
        weights = 1 / errors.clamp_min(0.1 * float(errors.median()) + 1e-3)
        transform = best_rigid(fixed, moving, weights)
    return transform
