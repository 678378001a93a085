"""Which of the possible poses: refined from many starts, the headers' own among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..prepare import share_space
from ..progress import Reporter
from .looks import Look, Side, looks
from .measure import SymmetricLoss
from .refine import Refined, refined
from .search import Body, body, same, starts

FEW, SOME = 3_000, 9_000
"""Places of comparison while there are many poses, and while there are two or three."""

BINS = {FEW: 12, SOME: 16}
_STARTS = 8
_FINALISTS = 2
_CLEARLY = 1.1
"""How much better another pose has to fit than the one by the headers, as a ratio of mutual information.
Two slices of a head fit elsewhere in it 1.09 times as well; a head the right way round fits 1.15 times as
well as one turned by half, another skull's pose 1.4 times."""

_RIVAL = 0.93
"""A pose that fits so nearly as well as the best one makes that doubtful."""


@dataclass(frozen=True)
class Pose:
    """A refined pose.

    Attributes:
        matrix: (d+1, d+1) first to second points, LPS mm.
        fit: what it reaches, the loss with its sign turned; higher is better.
        information: NMI - 1.
    """

    matrix: Tensor
    fit: float
    information: float


@dataclass(frozen=True)
class Contest:
    """How the poses came out.

    Attributes:
        best: the one to go on from.
        by_headers: whether it is where the headers put the images, but for a refinement.
        rival: the best of those that lie elsewhere, where there is one.
        bodies: both subjects.
    """

    best: Pose
    by_headers: bool
    rival: Pose | None
    bodies: tuple[Body, Body]

    @property
    def doubtful(self) -> bool:
        """Whether another pose fits about as well."""
        if self.rival is None:
            return False
        return self.rival.fit > (1.0 if self.by_headers else _RIVAL) * self.best.fit


def contest(sides: tuple[Side, Side], kind: str, report: Reporter) -> Contest:
    """The best pose of a pair.

    Args:
        sides: the images.
        kind: of the map, see `refine.generators`: rigid or similarity.
        report: progress and cancellation.
    """
    d = sides[0].whole.dimension
    few, some = looks(sides, FEW, True), looks(sides, SOME, True)
    bodies = body(few[0]), body(few[1])
    straight = torch.eye(d + 1, dtype=torch.float64)
    begun = starts(few, sides, kind == "similarity", _STARTS, report.part(0, 0.4))
    headers = overlaps(sides)
    # as rigid, so that a stretch which few slices invent does not speak for or against the headers
    kinds = ["rigid"] * headers + [kind] * len(begun)
    first = refined_all([straight] * headers + begun, kinds, few, FEW, 12, report.part(0.4, 0.8))
    others = _distinct(first, bodies, _FINALISTS)
    if headers and not any(one is first[0] for one in others):
        others.append(first[0])
    kinds = ["rigid" if headers and r is first[0] else kind for r in others]
    poses = refined_all([r.matrix for r in others], kinds, some, SOME, 15, report.part(0.8, 1))
    found = [_pose(r, some, SOME) for r in poses]
    ranked = sorted(found, key=lambda p: -p.fit)
    best, by_headers = ranked[0], False
    if headers:
        lain = found[next(k for k, one in enumerate(others) if one is first[0])]
        by_headers = same(lain.matrix, best.matrix, bodies)
        if not by_headers and best.fit < _CLEARLY * lain.fit:
            best, by_headers = lain, True
    away = [p for p in ranked if not same(p.matrix, best.matrix, bodies)]
    return Contest(best, by_headers, away[0] if away else None, bodies)


def overlaps(sides: tuple[Side, Side]) -> bool:
    """Whether the images share space by their headers."""
    return share_space(sides[0].whole, sides[1].whole)


def refined_all(
    matrices: list[Tensor],
    kinds: list[str],
    pair: tuple[Look, Look],
    places: int,
    iterations: int,
    report: Reporter,
) -> list[Refined]:
    """Each start's nearest minimum among the maps of its kind."""
    loss = SymmetricLoss(*pair, None, BINS[places])
    found = []
    for k, (matrix, kind) in enumerate(zip(matrices, kinds, strict=True)):
        part = report.part(k / len(matrices), (k + 1) / len(matrices))
        found.append(refined(loss, matrix, kind, pair, iterations, _told(part)))
    return found


def _told(report: Reporter) -> Callable[[float, float], None]:
    return lambda share, value: report("Looking for a start", share, value)


def _pose(found: Refined, pair: tuple[Look, Look], places: int) -> Pose:
    loss = SymmetricLoss(*pair, None, BINS[places])
    with torch.no_grad():
        information = loss.information(found.matrix, torch.linalg.inv(found.matrix))
    return Pose(found.matrix, -found.loss, float(information))


def _distinct(found: list[Refined], bodies: tuple[Body, Body], count: int) -> list[Refined]:
    """The best of each pose."""
    kept: list[Refined] = []
    for one in sorted(found, key=lambda r: r.loss):
        if len(kept) < count and not any(same(one.matrix, other.matrix, bodies) for other in kept):
            kept.append(one)
    return kept
