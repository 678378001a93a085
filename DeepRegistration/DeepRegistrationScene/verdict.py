"""What a registration's numbers mean, in plain words. Needs neither Slicer nor torch.

The thresholds say when a person should look, not when a result is right: only somebody who knows the
images can say that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from DeepRegistrationLib.catalogue import ACROSS_CONTRASTS

GOOD, LOOK, BAD = "good", "look", "bad"
LEVELS = (GOOD, LOOK, BAD)
"""From best to worst: nothing to do; worth a look; do not use it before having understood why."""

FAR_MM = 3.0
"""Landmarks farther apart than this are named: about a voxel or two of most clinical images."""
FOLDS_BAD_PERCENT = 0.1
"""More folded voxels than this are bad; fewer are worth a look."""
SHRUNK, GROWN = 0.1, 10.0
"""Changes of volume (Jacobian determinants) beyond these are worth a look."""
INVERSE_MEAN_MM, INVERSE_MAX_MM, INVERSE_BAD_MM = 0.5, 3.0, 1.0
"""Going there and back again: a mean or a largest error above the first two is worth a look, a mean
above the third is bad."""
DICE_LOOK, DICE_LABEL_LOOK = 0.7, 0.5
"""A mean Dice, and the Dice of a single label, below which one should look."""
DICE_STEP = 0.01
"""Smaller changes of Dice are no change."""
SIMILARITY_STEP = {"ncc": 0.01, "nmi": 0.005}
"""Smaller changes of similarity are no change."""
ALIKE_NCC = 0.98
"""Images that correlate this well need not get any more alike."""

_NAMED = 5
"""How many landmarks a sentence names."""
_SIMILARITY_NAMES = {"ncc": "correlation", "nmi": "mutual information"}
_LANDMARK_KINDS = {"held_out": "landmarks that were not used", "fitted": "landmarks", "given": "landmarks"}


@dataclass(frozen=True)
class Sentence:
    """One finding: its level, one of `LEVELS`, and a sentence."""

    level: str
    text: str


def verdict(quality: Mapping[str, Any], label_names: Mapping[str, str] | None = None) -> list[Sentence]:
    """The findings of quality.json's numbers, the most important first; what was not measured is left out.

    Args:
        quality: as `Registration.quality` and quality.json have it.
        label_names: what label values ("1", "2", ...) are called; by default as the numbers say.
    """
    sentences = [Sentence(LOOK, str(text)) for text in quality.get("warnings") or ()]
    for kind, numbers in (quality.get("landmarks") or {}).items():
        if numbers:
            sentences.append(_landmarks(kind, numbers))
    if quality.get("regularity"):
        sentences += _regularity(quality["regularity"])
    if quality.get("labels"):
        names = label_names if label_names is not None else quality.get("label_names") or {}
        sentences.append(_labels(quality["labels"], names))
    if quality.get("similarity"):
        sentences.append(_similarity(quality))
    consistency = quality.get("inverse_consistency") or {}
    if consistency.get("mean_mm") is not None:
        sentences.append(_inverse(consistency))
    return sorted(sentences, key=lambda s: -LEVELS.index(s.level))


def worst_landmark(quality: Mapping[str, Any]) -> tuple[str, float] | None:
    """Name and error (mm) of the landmark that is farthest off after the registration, if there is one."""
    errors = [
        item
        for numbers in (quality.get("landmarks") or {}).values()
        if numbers
        for item in numbers["after"]["each_mm"].items()
    ]
    return max(errors, key=lambda item: item[1], default=None)


def _landmarks(kind: str, numbers: Mapping[str, Any]) -> Sentence:
    what = _LANDMARK_KINDS.get(kind, "landmarks")
    before, after = numbers["before"], numbers["after"]
    errors = sorted(after["each_mm"].items(), key=lambda item: -item[1])
    far = [item for item in errors if item[1] > FAR_MM]
    n = len(errors)
    if not far:
        largest = f"the largest distance is {after['max_mm']:.1f} mm"
        if n == 1:
            where = f"The only one of the {what} is" if kind == "held_out" else "The landmark pair is"
            return Sentence(GOOD, f"{where} within {FAR_MM:g} mm ({after['max_mm']:.1f} mm).")
        return Sentence(GOOD, f"All {n} {what} are within {FAR_MM:g} mm; {largest}.")
    named = ", ".join(f"{name} ({error:.1f} mm)" for name, error in far[:_NAMED])
    more = f" and {len(far) - _NAMED} more" if len(far) > _NAMED else ""
    are = "is" if len(far) == 1 else "are"
    text = f"{len(far)} of {n} {what} {are} farther than {FAR_MM:g} mm apart: {named}{more}."
    if after["mean_mm"] > before["mean_mm"]:
        text += (
            f" On average they were closer before ({before['mean_mm']:.1f} mm, now {after['mean_mm']:.1f})."
        )
        return Sentence(BAD, text)
    return Sentence(LOOK, text)


def _regularity(numbers: Mapping[str, Any]) -> list[Sentence]:
    folds = numbers.get("folds_percent")
    if folds is None:
        return []
    if folds > 0:
        share = f"{folds:.2g} %" if folds >= 0.001 else "less than 0.001 %"
        level = BAD if folds > FOLDS_BAD_PERCENT else LOOK
        return [
            Sentence(level, f"The map folds in {share} of the voxels: tissue is turned inside out there.")
        ]
    sentences = [Sentence(GOOD, "No folding.")]
    smallest, largest = numbers.get("determinant_min"), numbers.get("determinant_max")
    extremes = []
    # the map goes from fixed to moving points: a determinant below 1 shows tissue of the moving image larger
    if smallest is not None and smallest < SHRUNK:
        extremes.append(f"swells to {1 / smallest:.0f} times its volume")
    if largest is not None and largest > GROWN:
        extremes.append(f"shrinks to {100 / largest:.1g} % of its volume")
    if extremes:
        sentences.append(Sentence(LOOK, f"Somewhere the moving image {' and elsewhere '.join(extremes)}."))
    return sentences


def _labels(numbers: Mapping[str, Any], names: Mapping[str, str]) -> Sentence:
    before, after = numbers["before"], numbers["after"]
    mean, change = after["dice_mean"], after["dice_mean"] - before["dice_mean"]
    text = f"The structures overlap with a mean Dice of {mean:.2f} ({before['dice_mean']:.2f} before)"
    value, lowest = min(after["dice"].items(), key=lambda item: item[1])
    if len(after["dice"]) > 1 and lowest < DICE_LABEL_LOOK:
        text += f"; the least is {names.get(value, f'label {value}')} with {lowest:.2f}"
    if change < -DICE_STEP:
        return Sentence(BAD, f"{text}: they overlapped better before.")
    return Sentence(LOOK if mean < DICE_LOOK or lowest < DICE_LABEL_LOOK else GOOD, f"{text}.")


def _similarity(quality: Mapping[str, Any]) -> Sentence:
    used = (quality.get("parameters") or {}).get("similarity_used")
    key = "nmi" if used in ACROSS_CONTRASTS else "ncc"  # where correlation says little
    before, after = (quality["similarity"][when][key] for when in ("before", "after"))
    numbers = f"({_SIMILARITY_NAMES[key]} {before:.3f} before, {after:.3f} now)"
    if after - before > SIMILARITY_STEP[key]:
        return Sentence(GOOD, f"The images are more alike than before {numbers}.")
    if after - before < -SIMILARITY_STEP[key]:
        return Sentence(BAD, f"The images are less alike than before {numbers}.")
    if key == "ncc" and after > ALIKE_NCC:
        return Sentence(GOOD, f"The images were alike from the start {numbers}.")
    return Sentence(LOOK, f"The images are hardly more alike than before {numbers}.")


def _inverse(numbers: Mapping[str, Any]) -> Sentence:
    mean, largest = numbers["mean_mm"], numbers["max_mm"]
    text = (
        f"Forward and inverse transform undo each other within {mean:.2f} mm on average, "
        f"{largest:.1f} mm at worst."
    )
    if mean > INVERSE_BAD_MM:
        return Sentence(BAD, text)
    return Sentence(LOOK if mean > INVERSE_MEAN_MM or largest > INVERSE_MAX_MM else GOOD, text)
