"""Findings in plain words, from numbers whose meaning is plain."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
from DeepRegistrationLib import register
from DeepRegistrationLib.demo.pair import demo_pair
from DeepRegistrationLib.verdict import BAD, GOOD, LOOK, Sentence, summed_up, verdict, worst_landmark


def errors(**each: float) -> dict[str, Any]:
    return {"mean_mm": sum(each.values()) / len(each), "max_mm": max(each.values()), "each_mm": each}


FINE: dict[str, Any] = {
    "similarity": {"before": {"ncc": 0.61, "nmi": 1.1}, "after": {"ncc": 0.93, "nmi": 1.3}},
    "regularity": {
        "folds_percent": 0.0,
        "folds_percent_central": 0.0,
        "determinant_min": 0.4,
        "determinant_max": 2.5,
        "log_determinant_sd": 0.2,
    },
    "inverse_consistency": {"mean_mm": 0.05, "max_mm": 0.6},
    "landmarks": {
        "fitted": {"before": errors(L1=8.0, L2=9.0), "after": errors(L1=0.4, L2=1.2)},
        "held_out": {"before": errors(H1=7.0, H2=6.0), "after": errors(H1=2.0, H2=2.9)},
    },
    "labels": {
        "before": {
            "dice_mean": 0.5,
            "hd95_mean_mm": 6.0,
            "dice": {"1": 0.4, "2": 0.6},
            "hd95_mm": {"1": 6.0},
        },
        "after": {
            "dice_mean": 0.85,
            "hd95_mean_mm": 2.0,
            "dice": {"1": 0.8, "2": 0.9},
            "hd95_mm": {"1": 2.0},
        },
    },
    "parameters": {"similarity_used": "lncc"},
    "warnings": [],
}


def changed(**values: Any) -> dict[str, Any]:
    """FINE with some numbers changed: "labels.after.dice_mean" is written labels__after__dice_mean."""
    quality = copy.deepcopy(FINE)
    for path, value in values.items():
        *way, last = path.split("__")
        place = quality
        for step in way:
            place = place[step]
        place[last] = value
    return quality


def only(quality: dict[str, Any], key: str) -> list[Sentence]:
    """The findings of one part of the numbers."""
    return verdict({k: quality[k] for k in (key, "parameters")})


def test_a_fine_result_has_nothing_to_look_at() -> None:
    sentences = verdict(FINE)
    assert {s.level for s in sentences} == {GOOD}
    texts = [s.text for s in sentences]
    assert "No folding." in texts
    assert "All 2 landmarks are within 3 mm; the largest distance is 1.2 mm." in texts
    assert "All 2 landmarks that were not used are within 3 mm; the largest distance is 2.9 mm." in texts
    assert "The images are more alike than before (correlation 0.610 before, 0.930 now)." in texts
    assert "The structures overlap with a mean Dice of 0.85 (0.50 before)." in texts
    assert len(texts) == 6


def test_nothing_measured_nothing_said() -> None:
    assert verdict({}) == [] and worst_landmark({}) is None
    assert (
        verdict({"landmarks": {"fitted": None, "held_out": None}, "inverse_consistency": {"mean_mm": None}})
        == []
    )


def test_far_landmarks_are_named_worst_first() -> None:
    before = errors(**{f"L{k}": 9.0 for k in range(1, 9)})
    after = errors(L1=1, L2=2, L3=5.24, L4=3.0, L5=0.1, L6=0.2, L7=3.41, L8=0.3)
    quality = {"landmarks": {"fitted": {"before": before, "after": after}, "held_out": None}}
    (sentence,) = verdict(quality)
    assert sentence.level == LOOK
    assert sentence.text == "2 of 8 landmarks are farther than 3 mm apart: L3 (5.2 mm), L7 (3.4 mm)."
    assert worst_landmark(quality) == ("L3", 5.24)


def test_landmarks_that_moved_away_are_bad() -> None:
    numbers = {"before": errors(a=2.0, b=2.0), "after": errors(a=1.0, b=6.0)}
    (sentence,) = verdict({"landmarks": {"held_out": numbers}})
    assert sentence.level == BAD
    assert sentence.text.startswith(
        "1 of 2 landmarks that were not used is farther than 3 mm apart: b (6.0 mm)."
    )
    assert "2.0 mm, now 3.5" in sentence.text


def test_many_far_landmarks_are_counted() -> None:
    after = errors(**{f"p{k}": 4.0 + k for k in range(8)})
    (sentence,) = verdict({"landmarks": {"given": {"before": errors(p0=99.0), "after": after}}})
    assert "p7 (11.0 mm)" in sentence.text and "p2" not in sentence.text
    assert sentence.text.endswith("and 3 more.")


def test_the_worst_landmark_may_be_one_that_was_not_used() -> None:
    assert worst_landmark(FINE) == ("H2", 2.9)


@pytest.mark.parametrize(("percent", "level"), [(0.0001, LOOK), (0.05, LOOK), (0.5, BAD)])
def test_folds(percent: float, level: str) -> None:
    (sentence,) = only(changed(regularity__folds_percent=percent), "regularity")
    assert sentence.level == level and "folds" in sentence.text
    assert ("less than 0.001 %" in sentence.text) == (percent < 0.001)


@pytest.mark.parametrize(
    ("here", "there", "levels"),
    [(0.05, 0.0, [GOOD]), (0.5, 0.0, [LOOK, GOOD]), (0.0, 0.5, [LOOK, GOOD]), (20.0, 0.0, [BAD, GOOD])],
)
def test_extreme_changes_of_volume_count_where_there_are_many(
    here: float, there: float, levels: list[str]
) -> None:
    quality = changed(regularity__extreme_percent=here)
    quality["moving_space"] = {"regularity": {**FINE["regularity"], "extreme_percent": there}}
    found = verdict({k: quality[k] for k in ("regularity", "moving_space")})
    assert [s.level for s in found] == levels
    assert len(levels) == 1 or f"In {max(here, there):.2g} % of the voxels" in found[0].text


def both_ways(**there: Any) -> dict[str, Any]:
    """FINE, and of the moving image's space the same with some numbers changed."""
    quality = copy.deepcopy(FINE)
    other = changed(**there)
    quality["moving_space"] = {
        key: other[key] for key in ("similarity", "regularity", "inverse_consistency", "labels")
    }
    return quality


def test_both_ways_fine_is_fine() -> None:
    found = verdict(both_ways())
    assert {s.level for s in found} == {GOOD} and len(found) == 6
    texts = [s.text for s in found]
    assert "The structures overlap with a mean Dice of 0.85 (0.50 before), 0.85 on the moving image." in texts
    assert summed_up(both_ways()) == {"level": GOOD, "sentences": texts}


@pytest.mark.parametrize(
    ("there", "level", "words"),
    [
        ({"regularity__folds_percent": 0.02}, LOOK, "The inverse transform folds in 0.02 %"),
        ({"regularity__folds_percent": 40.0}, BAD, "The inverse transform folds in 40 %"),
        ({"similarity__after__ncc": 0.4}, BAD, "on the moving image 0.610 before, 0.400 now"),
        ({"labels__after__dice_mean": 0.4}, BAD, "they overlapped better before"),
        ({"inverse_consistency__mean_mm": 2.5}, BAD, "within 2.50 mm on average"),
        ({"inverse_consistency__max_mm": 9.5}, LOOK, "9.5 mm at worst"),
    ],
)
def test_what_is_wrong_with_the_inverse_alone_is_said(there: dict[str, Any], level: str, words: str) -> None:
    quality = both_ways(**there)
    assert summed_up(quality)["level"] == level
    assert words in summed_up(quality)["sentences"][0]


def test_landmarks_that_stay_far_apart_are_bad() -> None:
    numbers = {"before": errors(a=40.0, b=40.0), "after": errors(a=20.0, b=22.0)}
    (sentence,) = verdict({"landmarks": {"fitted": numbers}})
    assert sentence.level == BAD


@pytest.mark.parametrize(
    ("here", "there", "level"), [(100.0, 3.0, GOOD), (2.0, 60.0, GOOD), (20.0, 9.0, LOOK), (4.0, 1.0, BAD)]
)
def test_images_that_hardly_share_space(here: float, there: float, level: str) -> None:
    """A small image within a large one shares all of its own."""
    quality = both_ways(inverse_consistency__covered_percent=there)
    quality["inverse_consistency"]["covered_percent"] = here
    assert summed_up(quality)["level"] == level


def test_images_that_share_nothing_are_bad() -> None:
    nothing = {"mean_mm": None, "max_mm": None, "covered_percent": 0.0}
    (sentence,) = verdict({"inverse_consistency": nothing, "moving_space": {"inverse_consistency": nothing}})
    assert sentence.level == BAD
    assert sentence.text == "No part of either image comes to lie within the other."


def test_similarity() -> None:
    worse = only(changed(similarity__after__ncc=0.5), "similarity")
    assert [s.level for s in worse] == [BAD] and "less alike" in worse[0].text
    same = only(changed(similarity__after__ncc=0.612), "similarity")
    assert [s.level for s in same] == [LOOK]
    alike = changed(similarity__before__ncc=0.989, similarity__after__ncc=0.99)
    assert [s.level for s in only(alike, "similarity")] == [GOOD]


def test_less_alike_than_the_initial_transform_made_them() -> None:
    """More alike than the untouched images is not enough where the run began with more."""
    (worse,) = only(
        changed(similarity__after__ncc=0.8, similarity__start={"ncc": 0.95, "nmi": 1.0}), "similarity"
    )
    assert worse.level == BAD
    assert (
        "less alike than by the initial transform alone (correlation 0.950 with it, 0.800 now)" in worse.text
    )
    (fine,) = only(
        changed(similarity__after__ncc=0.8, similarity__start={"ncc": 0.79, "nmi": 1.9}), "similarity"
    )
    assert fine.level == GOOD


def test_across_contrasts_mutual_information_counts() -> None:
    quality = changed(similarity__after__ncc=-0.4, parameters__similarity_used="mind")
    (sentence,) = only(quality, "similarity")
    assert sentence.level == GOOD and "mutual information 1.100 before, 1.300 now" in sentence.text


def test_weakly_related_images_are_less_alike_where_both_measures_say_so() -> None:
    weak = {
        "similarity__before__nmi": 1.012,
        "similarity__after__nmi": 1.009,
        "parameters__similarity_used": "mind",
    }
    for before, after, level in ((-0.4, -0.1, BAD), (0.3, -0.35, LOOK), (0.1, 0.08, LOOK)):
        changes = {"similarity__before__ncc": before, "similarity__after__ncc": after}
        (sentence,) = only(changed(**weak, **changes), "similarity")
        assert sentence.level == level, sentence


@pytest.mark.parametrize(
    ("mean", "largest", "level"), [(0.1, 1.0, GOOD), (0.6, 1.0, LOOK), (0.1, 4.0, LOOK), (1.2, 5.0, BAD)]
)
def test_inverse_consistency(mean: float, largest: float, level: str) -> None:
    quality = changed(inverse_consistency__mean_mm=mean, inverse_consistency__max_mm=largest)
    (sentence,) = only(quality, "inverse_consistency")
    assert (
        sentence.level == level and f"{mean:.2f} mm" in sentence.text and f"{largest:.1f} mm" in sentence.text
    )


def test_labels_are_called_by_their_names() -> None:
    quality = changed(labels__after__dice={"1": 0.31, "2": 0.95}, labels__after__dice_mean=0.63)
    (sentence,) = verdict({"labels": quality["labels"]}, {"1": "prostate"})
    assert sentence.level == LOOK and "prostate with 0.31" in sentence.text
    (sentence,) = verdict({"labels": quality["labels"], "label_names": {"1": "gland"}})
    assert "gland with 0.31" in sentence.text
    (sentence,) = verdict({"labels": quality["labels"]})
    assert "label 1 with 0.31" in sentence.text
    (worse,) = only(changed(labels__after__dice_mean=0.4), "labels")
    assert worse.level == BAD


def test_the_gravest_comes_first_and_warnings_are_passed_on() -> None:
    quality = changed(warnings=["Slices are thick."], regularity__folds_percent=3.0)
    sentences = verdict(quality)
    assert [s.level for s in sentences[:2]] == [BAD, LOOK] and sentences[1].text == "Slices are thick."


def test_it_reads_what_the_engine_writes() -> None:
    pair = demo_pair(spacing=8.0)
    quality = register(
        pair.fixed,
        pair.moving,
        preset="fast",
        fixed_landmarks=pair.fixed_landmarks[:4],
        moving_landmarks=pair.moving_landmarks[:4],
        held_out_landmarks=(pair.fixed_landmarks[4:], pair.moving_landmarks[4:]),
        fixed_labels=pair.fixed_labels,
        moving_labels=pair.moving_labels,
    ).quality
    texts = " ".join(s.text for s in verdict(quality))
    for word in ("landmarks", "not used", "fold", "Dice", "alike", "undo each other"):
        assert word in texts
    name, error = worst_landmark(quality) or ("", 0.0)
    numbers = quality["landmarks"]
    assert error == max(numbers[kind]["after"]["max_mm"] for kind in ("fitted", "held_out"))
    assert name in numbers["held_out"]["after"]["each_mm"]


def test_verdict_needs_neither_slicer_nor_torch() -> None:
    program = (
        "import sys\n"
        "for name in ('slicer', 'vtk', 'torch', 'qt'): sys.modules[name] = None\n"
        "from DeepRegistrationLib.verdict import verdict\n"
        "from DeepRegistrationScene.environment import state_from\n"
        "print(len(verdict({'warnings': ['x']})), state_from({}).ready)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1", "False"], done.stderr
