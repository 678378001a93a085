"""The linear stage: a start by headers, centres, axes, rotations or landmarks, then rigid and affine.

Mutual information of coarse images serves all pairs of modalities. Both images are treated alike, so that
swapping them inverts the map. The images stay where their headers put them unless another pose fits clearly
better; what the stage could not decide it says. See `linear` for its parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .frame import Frame, Volume
from .linear.consensus import Consensus, consensus, outlier_sentences
from .linear.contest import Contest, contest, overlaps
from .linear.looks import Look, Side, looks, side
from .linear.measure import SymmetricLoss
from .linear.refine import refined
from .objective import Prompts
from .progress import Reporter
from .transforms.affine import Affine
from .transforms.base import Representation
from .transforms.linear import LinearTransform
from .transforms.linear_fit import best_rigid
from .transforms.rigid import Rigid

STAGES: dict[str, tuple[type[Representation], ...]] = {
    "none": (),
    "rigid": (Rigid,),
    "affine": (Rigid, Affine),
}
"""What each choice of linear stage optimises, in order."""

_MANY = 30_000
_BINS = 32
_INFORMATIVE = 0.1
"""Mutual information (NMI - 1) that alignment must reach to be believed. Heads of one contrast reach 0.25
and more, skulls 0.2; prostate MR against ultrasound stays below 0.095 at poses that have nothing to do with
anatomy."""

_WORTHWHILE = 1.06
"""How much better than a rigid map an affine one has to fit, as a ratio: thin slabs hardly tell stretches
apart."""

_AS_WELL = 1e-3
"""Share of a fit that is not worth moving images for."""

_SAYS_LITTLE = "The intensities of the two images say little about each other, so the linear stage kept to "


@dataclass(frozen=True)
class LinearPair:
    """The two images of the linear stage: normalised, one channel, each on its own frame.

    Attributes:
        fixed, moving: the images, treated alike.
        prompts: the user's.
        whole: the frame the fixed image was cropped from, if it was: where boxes' centres count, they are
            the scanner's.
        landmark_names: what to call the landmark pairs; by their number if empty.
    """

    fixed: Volume
    moving: Volume
    prompts: Prompts
    whole: Frame | None = None
    landmark_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class LinearResult:
    """A linear map and what there is to say about it.

    Attributes:
        transform: fixed to moving points, LPS mm.
        informative: whether the intensities had a say in it (see `_INFORMATIVE`).
        warnings: sentences for the user; each is true of this pair.
    """

    transform: LinearTransform
    informative: bool = True
    warnings: tuple[str, ...] = ()


def linear_stage(
    pair: LinearPair, stage: str, start: LinearTransform | None, report: Reporter
) -> LinearResult:
    """The linear map that aligns a pair.

    Swapping fixed and moving, prompts too and with the start inverted, inverts the map.

    Args:
        pair: the images and prompts.
        stage: a key of `STAGES`.
        start: where to begin; None looks for a start by landmarks, or else by headers, centres and rotations.
        report: progress and cancellation.

    Returns:
        Fixed to moving points, LPS mm. With landmarks it starts from the rigid fit of those that agree; with
        ``none`` it is `start` or the identity. Where the intensities of the best alignment still say little
        about each other, they are not followed: the start, the landmarks' fit, the labels' centres or the
        headers stand, or the boxes' centres where the images share no space.
    """
    if not STAGES[stage]:
        return LinearResult(start or LinearTransform.identity(pair.fixed.frame.dimension))
    run = _Run.of(pair, stage)
    warnings = list(run.warnings)
    if start is not None or run.agreed is not None:
        begun = start or run.agreed.rigid
        informative, result = run.followed(begun.matrix, report.part(0, 1))
        if not informative:
            what = "the initial transform" if start is not None else "the landmarks"
            return LinearResult(begun, False, (*warnings, _little(what)))
        return LinearResult(result, True, tuple(warnings))
    found = contest(run.sides, "similarity" if stage == "affine" else "rigid", report.part(0, 0.6))
    if found.best.information < _INFORMATIVE:
        cautious, what = run.cautious()
        return LinearResult(cautious, False, (*warnings, _little(what)))
    _, result = run.followed(found.best.matrix, report.part(0.6, 1))
    return LinearResult(result, True, (*warnings, *_doubts(found)))


@dataclass(frozen=True)
class _Run:
    """One pair on its way.

    Attributes:
        sides: both images, small.
        agreed: the landmarks' rigid fit, where there are landmarks.
        landmarks: fixed and moving points and the weights of those that agree, or None.
        kinds: of map, in the order in which they are refined.
        warnings: what the landmarks gave reason to say.
    """

    sides: tuple[Side, Side]
    agreed: Consensus | None
    landmarks: tuple[Tensor, Tensor, Tensor] | None
    kinds: tuple[str, ...]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, pair: LinearPair, stage: str) -> _Run:
        prompts = pair.prompts
        sides = (
            side(pair.fixed, prompts.fixed_mask, prompts.fixed_labels, pair.whole),
            side(pair.moving, prompts.moving_mask, prompts.moving_labels),
        )
        kinds = tuple(kind.name for kind in STAGES[stage])
        if prompts.landmarks is None:
            return cls(sides, None, None, kinds, ())
        fixed, moving = (p.detach().cpu().double() for p in prompts.landmarks)
        agreed = consensus(fixed, moving, prompts.landmark_weights)
        weights = agreed.agreeing.double()
        if prompts.landmark_weights is not None:
            weights = weights * prompts.landmark_weights.detach().cpu().double()
        told = outlier_sentences(agreed, fixed, moving, pair.landmark_names)
        return cls(sides, agreed, (fixed, moving, weights), kinds, tuple(told))

    def cautious(self) -> tuple[LinearTransform, str]:
        """Where the images are left when their intensities do not tell, and what that is called."""
        one, other = self.sides
        d = one.whole.dimension
        if one.labels is not None and other.labels is not None:
            shift, what = _label_centre(other.labels) - _label_centre(one.labels), "the labels' centres"
        elif overlaps(self.sides):
            return LinearTransform.identity(d), "where the images lie by their headers"
        else:
            shift = torch.from_numpy(other.whole.centre - one.whole.centre)
            what = "the centres of the images' boxes, which do not overlap by their headers"
        return LinearTransform.from_parts(torch.eye(d, dtype=torch.float64), shift), what

    def followed(self, start: Tensor, report: Reporter) -> tuple[bool, LinearTransform]:
        """The refined map, and whether the intensities tell something there."""
        look = looks(self.sides, _MANY, False)
        loss = SymmetricLoss(*look, self.landmarks, _BINS)
        best, fit = None, 0.0
        for k, kind in enumerate(self.kinds):
            part = report.part(k / len(self.kinds), (k + 1) / len(self.kinds))
            found = _refined(loss, start, kind, look, part)
            if best is None or self.landmarks is not None or -found[1] > _WORTHWHILE * fit:
                best, fit = found[0], -found[1]
        with torch.no_grad():
            best = _or_identity(loss, best, fit)
            information = float(loss.information(best, torch.linalg.inv(best)))
        return information >= _INFORMATIVE, LinearTransform(best)


def _or_identity(loss: SymmetricLoss, matrix: Tensor, fit: float) -> Tensor:
    """The identity where that fits as well: an image onto itself, or images that are aligned, stay."""
    identity = torch.eye(len(matrix), dtype=matrix.dtype)
    return identity if -float(loss(identity)) >= (1 - _AS_WELL) * fit > 0 else matrix


def _refined(
    loss: SymmetricLoss, start: Tensor, kind: str, look: tuple[Look, Look], report: Reporter
) -> tuple[Tensor, float]:
    """Matrix and loss of the refined map of a kind."""
    if kind == "rigid":
        start = _nearest_rigid(start, look)
    words = f"{kind.capitalize()} alignment"
    found = refined(loss, start, kind, look, 20, lambda share, value: report(words, share, value))
    report(words, 1.0, found.loss)
    return found.matrix, found.loss


def _nearest_rigid(matrix: Tensor, look: tuple[Look, Look]) -> Tensor:
    """The rigid map nearest to a matrix, both images considered alike."""
    d = len(matrix) - 1
    size = (4,) * d
    here, there = (v.frame.resized(size).points().reshape(-1, d) for v in look)
    map_, back = LinearTransform(matrix), LinearTransform(matrix).inverse()
    first, second = torch.cat([here, back.map(there)]), torch.cat([map_.map(here), there])
    return best_rigid(first, second).matrix


def _label_centre(labels: Volume) -> Tensor:
    """Mean position of all labels together, LPS mm."""
    weights = labels.data.amax(0).double()
    total = weights.sum().clamp_min(1e-9)
    return (weights[..., None] * labels.frame.points()).flatten(0, -2).sum(0) / total


def _little(what: str) -> str:
    return f"{_SAYS_LITTLE}{what}. Check the result, or add landmarks."


def _doubts(found: Contest) -> list[str]:
    """What to say of a pose that was found."""
    if not found.doubtful:
        return []
    if found.by_headers:
        return [
            "Another pose of the images fits about as well as the one by their headers, which the linear "
            "stage kept. Check the result, or add landmarks."
        ]
    return [
        "Two different poses of the images fit about equally well, so the linear stage may have chosen the "
        "wrong one. Check the result, or add landmarks."
    ]
