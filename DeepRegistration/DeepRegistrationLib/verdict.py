"""What a registration's numbers mean, in plain words. Needs neither Slicer nor torch.

The thresholds say when a person should look, not when a result is right: only somebody who knows the
images can say that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .catalogue import ACROSS_CONTRASTS

GOOD, LOOK, BAD = "good", "look", "do not use"
LEVELS = (GOOD, LOOK, BAD)
"""From best to worst: nothing to do; worth a look; do not use it before having understood why."""

FAR_MM, FAR_BAD_MM = 3.0, 10.0
"""Landmarks farther apart than the first are named: about a voxel or two of most clinical images. Where they
are farther apart than the second on average, the result is bad."""
FOLDS_BAD_PERCENT = 0.1
"""More folded voxels than this are bad; fewer are worth a look."""
EXTREME = 0.1, 10.0
"""Changes of volume (Jacobian determinants) beyond these are hardly anatomy."""
EXTREME_LOOK_PERCENT, EXTREME_BAD_PERCENT = 0.1, 5.0
"""More voxels than this where volumes change so much are worth a look, or bad; single ones are common where
tissue of one image has no like in the other."""
INVERSE_MEAN_MM, INVERSE_MAX_MM, INVERSE_BAD_MM = 0.5, 3.0, 1.0
"""Going there and back again: a mean or a largest error above the first two is worth a look, a mean
above the third is bad."""
COVERED_LOOK_PERCENT, COVERED_BAD_PERCENT = 25.0, 5.0
"""Where less of either image than this lies within the other, one should look, or the result is bad."""
DICE_LOOK, DICE_LABEL_LOOK = 0.7, 0.5
"""A mean Dice, and the Dice of a single label, below which one should look."""
DICE_STEP = 0.01
"""Smaller changes of Dice are no change."""
SIMILARITY_STEP = {"ncc": 0.01, "nmi": 0.005}
"""Smaller changes of similarity are no change."""
BOTH_LESS = 0.1, 0.05
"""Mutual information of weakly related images is small. A loss of this share of it (of NMI - 1) is one,
however small, where the size of the correlation falls by more than the second, too."""
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
    other = quality.get("moving_space") or {}
    sentences = [Sentence(LOOK, str(text)) for text in quality.get("warnings") or ()]
    for kind, numbers in (quality.get("landmarks") or {}).items():
        if numbers:
            sentences.append(_landmarks(kind, numbers))
    if quality.get("regularity"):
        sentences += _regularity(quality["regularity"], other.get("regularity") or {})
    if quality.get("labels"):
        names = label_names if label_names is not None else quality.get("label_names") or {}
        sentences.append(_labels(quality["labels"], other.get("labels"), names))
    if quality.get("similarity"):
        sentences.append(_similarity(quality, other.get("similarity")))
    sentences += _inverse(quality.get("inverse_consistency") or {}, other.get("inverse_consistency") or {})
    return sorted(sentences, key=lambda s: -LEVELS.index(s.level))


def summed_up(quality: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict as quality.json has it: ``level``, the gravest of all findings, and ``sentences``, as
    `verdict` sorts them."""
    found = verdict(quality)
    return {"level": found[0].level if found else GOOD, "sentences": [sentence.text for sentence in found]}


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
    return Sentence(BAD if after["mean_mm"] > FAR_BAD_MM else LOOK, text)


def _regularity(numbers: Mapping[str, Any], inverse: Mapping[str, Any]) -> list[Sentence]:
    sentences = []
    for name, of in (("forward", numbers), ("inverse", inverse)):
        folds = of.get("folds_percent") or 0.0
        if folds > 0:
            share = f"{folds:.2g} %" if folds >= 0.001 else "less than 0.001 %"
            level = BAD if folds > FOLDS_BAD_PERCENT else LOOK
            text = f"The {name} transform folds in {share} of the voxels: tissue is turned inside out there."
            sentences.append(Sentence(level, text))
    if not sentences and numbers.get("folds_percent") is not None:
        sentences = [Sentence(GOOD, "No folding.")]
    return sentences + _volumes(numbers, inverse)


def _volumes(numbers: Mapping[str, Any], inverse: Mapping[str, Any]) -> list[Sentence]:
    """Whether volumes change beyond belief in more than a few voxels."""
    share = max(of.get("extreme_percent") or 0.0 for of in (numbers, inverse))
    if share <= EXTREME_LOOK_PERCENT:
        return []
    text = f"In {share:.2g} % of the voxels tissue swells or shrinks more than tenfold."
    return [Sentence(BAD if share > EXTREME_BAD_PERCENT else LOOK, text)]


def _labels(
    numbers: Mapping[str, Any], other: Mapping[str, Any] | None, names: Mapping[str, str]
) -> Sentence:
    before, after = numbers["before"], numbers["after"]
    mean, change = after["dice_mean"], after["dice_mean"] - before["dice_mean"]
    text = f"The structures overlap with a mean Dice of {mean:.2f} ({before['dice_mean']:.2f} before)"
    if other:
        there = other["after"]["dice_mean"]
        text += f", {there:.2f} on the moving image"
        mean, change = min(mean, there), min(change, there - other["before"]["dice_mean"])
    value, lowest = min(after["dice"].items(), key=lambda item: item[1])
    if len(after["dice"]) > 1 and lowest < DICE_LABEL_LOOK:
        text += f"; the least is {names.get(value, f'label {value}')} with {lowest:.2f}"
    if change < -DICE_STEP:
        return Sentence(BAD, f"{text}: they overlapped better before.")
    return Sentence(LOOK if mean < DICE_LOOK or lowest < DICE_LABEL_LOOK else GOOD, f"{text}.")


def _similarity(quality: Mapping[str, Any], other: Mapping[str, Any] | None) -> Sentence:
    used = (quality.get("parameters") or {}).get("similarity_used")
    key = "nmi" if used in ACROSS_CONTRASTS else "ncc"  # where correlation says little
    before, after = (quality["similarity"][when][key] for when in ("before", "after"))
    numbers = f"{_SIMILARITY_NAMES[key]} {before:.3f} before, {after:.3f} now"
    gains = [after - before]
    if other:
        gains.append(other["after"][key] - other["before"][key])
        if gains[1] < -SIMILARITY_STEP[key]:
            numbers += (
                f"; on the moving image {other['before'][key]:.3f} before, {other['after'][key]:.3f} now"
            )
    start = (quality["similarity"].get("start") or {}).get(key)
    if start is not None and after - start < -SIMILARITY_STEP[key]:
        name = _SIMILARITY_NAMES[key]
        text = f"The images are less alike than by the initial transform alone ({name} {start:.3f} with it, "
        return Sentence(BAD, f"{text}{after:.3f} now).")
    if min(gains) < -SIMILARITY_STEP[key] or (key == "nmi" and _both_less(quality["similarity"])):
        return Sentence(BAD, f"The images are less alike than before ({numbers}).")
    if max(gains) > SIMILARITY_STEP[key]:
        return Sentence(GOOD, f"The images are more alike than before ({numbers}).")
    if key == "ncc" and after > ALIKE_NCC:
        return Sentence(GOOD, f"The images were alike from the start ({numbers}).")
    return Sentence(LOOK, f"The images are hardly more alike than before ({numbers}).")


def _both_less(similarity: Mapping[str, Any]) -> bool:
    """Whether both measures say that the images are less alike than before."""
    before, after = similarity["before"], similarity["after"]
    share, step = BOTH_LESS
    lost = before["nmi"] - after["nmi"] > share * (before["nmi"] - 1)
    return lost and abs(before["ncc"]) - abs(after["ncc"]) > step


def _inverse(there: Mapping[str, Any], back: Mapping[str, Any]) -> list[Sentence]:
    """Of going from the fixed image to the moving one and back, and the other way round."""
    sentences = []
    covered = [way["covered_percent"] for way in (there, back) if way.get("covered_percent") is not None]
    if covered and max(covered) < COVERED_LOOK_PERCENT:
        level = BAD if max(covered) < COVERED_BAD_PERCENT else LOOK
        share = f"At most {max(covered):.2g} %" if max(covered) > 0 else "No part"
        sentences.append(Sentence(level, f"{share} of either image comes to lie within the other."))
    means = [way["mean_mm"] for way in (there, back) if way.get("mean_mm") is not None]
    if means:
        mean, largest = max(means), max(way.get("max_mm") or 0.0 for way in (there, back))
        text = (
            f"Forward and inverse transform undo each other within {mean:.2f} mm on average, "
            f"{largest:.1f} mm at worst."
        )
        good = mean <= INVERSE_MEAN_MM and largest <= INVERSE_MAX_MM
        sentences.append(Sentence(BAD if mean > INVERSE_BAD_MM else GOOD if good else LOOK, text))
    return sentences
