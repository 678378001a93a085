"""Where to begin: centres, principal axes and a grid of rotations of any size, measured on few voxels.

Every set of starts holds the inverse of each of its members once the images are swapped, so that the search
favours neither of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import torch
from torch import Tensor

from ..frame import apply_matrix
from ..progress import Reporter
from ..transforms.rotation import rotation_matrix
from .looks import Look, Side
from .measure import FastMeasure

_BLOCK = 96
_SCALES = tuple(float(np.exp(x)) for x in (-0.4, -0.2, 0.2, 0.4))
_SIZE_TELLS = 0.13
"""Natural logarithm of the ratio of the subjects' radii from which on it counts in the search for turns."""

_TURN_SHARE = 0.35
"""Starts that differ by less than this part of the subject's radius are one."""


@dataclass(frozen=True)
class Body:
    """Centre of mass (d,), principal axes (d, d) in columns, largest first, and radius, LPS mm."""

    centre: Tensor
    axes: Tensor
    radius: float


def body(look: Look, labels: bool = False) -> Body:
    """Of an image's subject, or of all its labels together."""
    d = look.frame.dimension
    weights = look.values.flatten() * look.weights
    if labels and look.label_values is not None:
        weights = look.label_values.amax(0)
    weights = weights.double() + 1e-9
    points = apply_matrix(look.frame.normalised_to_world, look.grid.double())
    centre = (weights[:, None] * points).sum(0) / weights.sum()
    away = points - centre
    spread = (weights[:, None] * away).T @ away / weights.sum()
    values, axes = torch.linalg.eigh(spread)
    return Body(centre, axes.flip(1), float(values.clamp_min(0).sum().sqrt()) + 1e-6 * d)


def rotations(dimension: int) -> Tensor:
    """Rotations all over, about 20 degrees apart: (648, 3, 3), or (36, 2, 2) every 10 degrees.

    In 3-D the 24 right-angle turns, each followed by 27 smaller ones about the cube's axes, diagonals and
    edges: a set that holds its inverses.
    """
    if dimension == 2:
        angles = torch.arange(36, dtype=torch.float64) * (2 * np.pi / 36)
        return torch.stack([rotation_matrix(a[None]) for a in angles])
    turns = right_angle_turns()
    small = []
    for v in product((-1, 0, 1), repeat=3):
        length = float(np.linalg.norm(v))
        angle = np.radians({0: 0.0, 1: 30.0}.get(sum(map(abs, v)), 42.0))
        small.append(rotation_matrix(torch.tensor(v, dtype=torch.float64) * (angle / max(length, 1.0))))
    return torch.stack([a @ b for b in small for a in turns])


def right_angle_turns() -> list[Tensor]:
    """The 24 rotations that take the axes onto one another."""
    found = []
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        matrix = torch.zeros(3, 3, dtype=torch.float64)
        matrix[range(3), order] = torch.tensor(signs, dtype=torch.float64)
        if float(torch.linalg.det(matrix)) > 0:
            found.append(matrix)
    return found


def starts(
    pair: tuple[Look, Look], sides: tuple[Side, Side], stretch: bool, keep: int, report: Reporter
) -> list[Tensor]:
    """The most promising maps (d+1, d+1), first to second points, LPS mm, best first, no two near each other;
    after them the best of those that keep the images about as upright as their headers do.

    Args:
        pair: the images with few places.
        sides: for their boxes.
        stretch: whether the second image may be 0.67 to 1.5 times as large.
        keep: how many.
        report: progress and cancellation.
    """
    measure = FastMeasure(*pair)
    labelled = pair[0].labels is not None
    bodies = body(pair[0], labelled), body(pair[1], labelled)
    candidates = torch.cat([_turned(bodies), _by_axes(bodies), _centred(sides)])
    sizes = _scales(bodies) if stretch else []
    if stretch and abs(np.log(sizes[-1])) > _SIZE_TELLS:  # then only at that size can turns be told apart
        candidates = torch.cat([candidates, _scaled(_turned(bodies), bodies[0].centre, sizes[-1])])
    values = _measured(measure, candidates, report.part(0, 0.8))
    if stretch:
        best = candidates[values.argsort(descending=True, stable=True)[:12]]
        best = torch.cat([best, _upright(bodies)])
        scaled = torch.cat([_scaled(best, bodies[0].centre, s) for s in sizes])
        candidates = torch.cat([candidates, scaled])
        values = torch.cat([values, _measured(measure, scaled, report.part(0.8, 1))])
    upright = _near_upright(candidates, values)
    return [*_distinct(candidates, values, bodies, keep), upright]


def _near_upright(candidates: Tensor, values: Tensor) -> Tensor:
    """The best of the candidates that are turned by less than 45 degrees."""
    d = candidates.shape[1] - 1
    linear = candidates[:, :d, :d]
    scale = torch.linalg.det(linear).abs() ** (1 / d)
    cosine = (linear.diagonal(dim1=1, dim2=2).sum(1) / scale - (d - 2)) / 2
    return candidates[values.masked_fill(cosine < 0.7, -1.0).argmax()]


def same(one: Tensor, other: Tensor, bodies: tuple[Body, Body], share: float = _TURN_SHARE) -> bool:
    """Whether two maps differ by less than a part of the subjects' radius, both ways."""
    return _apart(one, other, bodies) < share


def _apart(one: Tensor, other: Tensor, bodies: tuple[Body, Body]) -> float:
    """Largest distance of the two maps' images of the subject's poles, in radii, the mean of both ways."""
    total = 0.0
    pairs = (one, other), (torch.linalg.inv(one), torch.linalg.inv(other))
    for (a, b), here, there in zip(pairs, bodies, bodies[::-1], strict=True):
        d = len(here.centre)
        poles = torch.cat([here.centre[None], here.centre + here.radius * torch.eye(d, dtype=torch.float64)])
        distance = (apply_matrix(a, poles) - apply_matrix(b, poles)).norm(dim=1).max()
        total += float(distance) / there.radius
    return total / 2


def _distinct(candidates: Tensor, values: Tensor, bodies: tuple[Body, Body], keep: int) -> list[Tensor]:
    found: list[Tensor] = []
    for k in values.argsort(descending=True, stable=True).tolist()[:_BLOCK]:
        if not any(same(candidates[k], other, bodies) for other in found):
            found.append(candidates[k])
            if len(found) == keep:
                break
    return found


def _measured(measure: FastMeasure, candidates: Tensor, report: Reporter) -> Tensor:
    values, done = [], 0
    for some in candidates.split(_BLOCK):
        report("Looking for a start", done / len(candidates))
        values.append(measure(some))
        done += len(some)
    return torch.cat(values)


def _turned(bodies: tuple[Body, Body]) -> Tensor:
    """Every rotation, the centres of mass on one another."""
    return _about(rotations(len(bodies[0].centre)), bodies[0].centre, bodies[1].centre)


def _upright(bodies: tuple[Body, Body]) -> Tensor:
    """The centres of mass on one another, turned as the headers say."""
    return _about(
        torch.eye(len(bodies[0].centre), dtype=torch.float64)[None], bodies[0].centre, bodies[1].centre
    )


def _by_axes(bodies: tuple[Body, Body]) -> Tensor:
    """The principal axes on one another, in every order and direction that does not mirror."""
    d = len(bodies[0].centre)
    turns = (
        right_angle_turns() if d == 3 else [rotation_matrix(torch.tensor([k * np.pi / 2])) for k in range(4)]
    )
    frames = []
    for b in bodies:
        axes = b.axes.clone()
        axes[:, -1] *= torch.sign(torch.linalg.det(axes))
        frames.append(axes)
    found = torch.stack([frames[1] @ t.double() @ frames[0].T for t in turns])
    return _about(found, bodies[0].centre, bodies[1].centre)


def _centred(sides: tuple[Side, Side]) -> Tensor:
    """Small rotations and right angles with the boxes' centres, and the subjects' boxes', on one another."""
    d = sides[0].whole.dimension
    few = rotations(3)[::24] if d == 3 else rotations(2)
    if d == 3:
        few = torch.cat([few, torch.stack(right_angle_turns())])
    found = []
    for frames in ([s.whole for s in sides], [s.image.frame for s in sides]):
        centres = [torch.from_numpy(f.centre.copy()) for f in frames]
        found.append(_about(few, centres[0], centres[1]))
    return torch.cat(found)


def _scales(bodies: tuple[Body, Body]) -> list[float]:
    ratio = bodies[1].radius / bodies[0].radius
    return [*_SCALES, min(1.6, max(0.625, ratio))]


def _scaled(matrices: Tensor, centre: Tensor, scale: float) -> Tensor:
    """Maps that stretch about a centre first."""
    d = len(centre)
    stretch = torch.eye(d + 1, dtype=torch.float64)
    stretch[:d, :d] *= scale
    stretch[:d, d] = (1 - scale) * centre
    return matrices @ stretch


def _about(turns: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """x -> R (x - first) + second for rotations (B, d, d): (B, d+1, d+1)."""
    d = len(first)
    found = torch.eye(d + 1, dtype=torch.float64).repeat(len(turns), 1, 1)
    found[:, :d, :d], found[:, :d, d] = turns, second - turns @ first
    return found
