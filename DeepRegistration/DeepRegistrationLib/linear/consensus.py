"""Landmark pairs that agree about one rigid motion, and those that do not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from ..frame import apply_matrix
from ..transforms.linear import LinearTransform
from ..transforms.linear_fit import best_rigid

_FAR = 0.15
"""Distance beyond which a pair is an outlier, as a part of the landmarks' spread; people differ by less."""

_TIMES_USUAL = 4.0
"""... and as a multiple of the usual distance of the others."""

_MISPLACED, _TIMES_MISPLACED = 0.4, 6.0
"""The same beyond which a pair is left out of the deformation, too."""

_SUBSETS = 2000


@dataclass(frozen=True)
class Consensus:
    """The rigid fit of the landmark pairs that agree.

    Attributes:
        rigid: fixed to moving points, LPS mm.
        agreeing: (N,) bool.
        distances: (N,) mm, of mapped fixed points to moving ones.
    """

    rigid: LinearTransform
    agreeing: Tensor
    distances: Tensor


def consensus(fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> Consensus:
    """The rigid motion on which most landmark pairs agree.

    Every three pairs (or an even choice of so many threes) propose a motion; the one whose distances, cut
    off at what counts as far, are smallest names the outliers (MSAC: Torr and Zisserman, CVIU 78, 2000).
    The others are then fitted by least squares. Where nobody is far, that is the fit of all. Distances of a
    rigid motion are the same in both spaces, so swapping the lists inverts the fit.

    Args:
        fixed, moving: (N, d), LPS mm, row by row the same place.
        weights: (N,), not negative, or None.

    Raises:
        InputError: see `best_rigid`.
    """
    fixed, moving = fixed.detach().cpu().double(), moving.detach().cpu().double()
    everyone = torch.ones(len(fixed), dtype=torch.bool)
    whole = _fitted(fixed, moving, weights, everyone)
    spread = (_spread(fixed) * _spread(moving)) ** 0.5
    d = fixed.shape[1]
    if len(fixed) <= d or spread == 0 or float(whole.distances.max()) <= _FAR * spread:
        return whole
    best, smallest = whole, _cost(whole.distances, _FAR * spread)
    for chosen in _subsets(len(fixed), d):
        member = torch.zeros_like(everyone)
        member[list(chosen)] = True
        proposal = _fitted(fixed, moving, weights, member)
        cost = _cost(proposal.distances, _FAR * spread)
        if cost < smallest - 1e-9 * spread**2:
            best, smallest = proposal, cost
    for _ in range(5):
        near = best.distances <= _FAR * spread
        usual = float(best.distances[near].median()) if bool(near.any()) else 0.0
        agreeing = best.distances <= max(_FAR * spread, _TIMES_USUAL * usual)
        # fewer than these agree by chance
        if int(agreeing.sum()) < d:
            return whole
        again = _fitted(fixed, moving, weights, agreeing)
        if torch.equal(again.agreeing, best.agreeing):
            break
        best = again
    return again


def agreeing(fixed: Tensor, moving: Tensor) -> Tensor | None:
    """Weights (N,) that leave out pairs which no deformation explains; None where there are none.

    A pair counts as misplaced beyond 0.4 of the landmarks' spread and six times the others' usual distance
    from the rigid motion on which most agree: exchanged points are, a deformation's own are not.

    Args:
        fixed, moving: (N, d), LPS mm, row by row the same place.
    """
    found = consensus(fixed, moving)
    if len(fixed) <= fixed.shape[1] + 1:
        return None
    spread = (_spread(fixed) * _spread(moving)) ** 0.5
    usual = float(found.distances.median())
    misplaced = found.distances > max(_MISPLACED * spread, _TIMES_MISPLACED * usual)
    return None if not bool(misplaced.any()) else (~misplaced).double()


def outlier_sentences(
    found: Consensus, fixed: Tensor, moving: Tensor, names: tuple[str, ...] = ()
) -> list[str]:
    """What to tell the user about landmark pairs that do not agree with the others."""
    apart = (~found.agreeing).nonzero().flatten().tolist()
    if not apart:
        spread = (_spread(fixed) * _spread(moving)) ** 0.5
        if len(fixed) > 1 and float(found.distances.max()) > 2 * _FAR * max(spread, 1e-9):
            return [
                f"The landmark pairs contradict each other: the best rigid fit leaves up to "
                f"{float(found.distances.max()):.1f} mm. Check them."
            ]
        return []
    names = names or tuple(str(k + 1) for k in range(len(fixed)))
    exchanged = _exchanged(found, fixed, moving, apart)
    if exchanged is not None:
        a, b = (names[k] for k in exchanged)
        return [
            f"The landmark pairs {a} and {b} look exchanged, so the linear stage set them aside. Check them."
        ]
    told = ", ".join(f"{names[k]} ({float(found.distances[k]):.1f} mm off)" for k in apart)
    pairs, agree, them = ("pairs", "do", "them") if len(apart) > 1 else ("pair", "does", "it")
    return [
        f"The landmark {pairs} {told} {agree} not agree with the others, so the linear stage set {them} "
        f"aside. Check {them}."
    ]


def _exchanged(found: Consensus, fixed: Tensor, moving: Tensor, apart: list[int]) -> tuple[int, int] | None:
    """The two outliers, if each lies where the other should."""
    if len(apart) != 2:
        return None
    a, b = apart
    mapped = found.rigid.map(fixed.cpu().double())
    crossed = max(float((mapped[a] - moving.cpu()[b]).norm()), float((mapped[b] - moving.cpu()[a]).norm()))
    return (a, b) if crossed < 0.5 * float(found.distances[apart].min()) else None


def _fitted(fixed: Tensor, moving: Tensor, weights: Tensor | None, member: Tensor) -> Consensus:
    """The least squares fit of some pairs."""
    w = None if weights is None else weights.detach().cpu().double()[member]
    if w is not None and float(w.sum()) <= 0:
        w = None
    rigid = best_rigid(fixed[member], moving[member], w)
    return Consensus(rigid, member, (apply_matrix(rigid.matrix, fixed) - moving).norm(dim=1))


def _cost(distances: Tensor, far: float) -> float:
    return float(distances.clamp(max=far).square().sum())


def _subsets(count: int, size: int) -> list[tuple[int, ...]]:
    every = list(combinations(range(count), size)) if count <= 24 else []
    if not every:  # an even, repeatable choice
        random = np.random.default_rng(0)
        every = [tuple(sorted(random.choice(count, size, replace=False))) for _ in range(_SUBSETS)]
    return every[:: max(1, len(every) // _SUBSETS)]


def _spread(points: Tensor) -> float:
    """Root mean square distance from the centre, mm."""
    points = points.detach().cpu().double()
    return float((points - points.mean(0)).square().sum(1).mean().sqrt())
