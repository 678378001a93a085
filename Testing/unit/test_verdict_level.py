"""The verdict in one line: good, look here, or do not use."""

from __future__ import annotations

import pytest
from DeepRegistrationLib.verdict import BAD, GOOD, LOOK, Sentence
from DeepRegistrationScene.verdict_level import verdict_line

FINE = {"landmarks": {"held_out": {"after": {}}}}


@pytest.mark.parametrize(
    ("levels", "level", "begins"),
    [
        ([GOOD, GOOD], GOOD, "Good: nothing that was measured"),
        ([LOOK, GOOD], LOOK, "Look here before you use it: one finding"),
        ([LOOK, LOOK, GOOD], LOOK, "Look here before you use it: 2 findings"),
        ([BAD, LOOK, GOOD], BAD, "Do not use it as it is: one finding"),
        ([BAD, BAD], BAD, "Do not use it as it is: 2 findings"),
        ([], LOOK, "Look here: nothing could be measured"),
    ],
)
def test_it_is_as_bad_as_the_worst(levels: list[str], level: str, begins: str) -> None:
    line = verdict_line(FINE, [Sentence(name, "Something.") for name in levels])
    assert line.level == level and line.text.startswith(begins) and line.text.endswith(".")


@pytest.mark.parametrize("quality", [{}, {"landmarks": {}, "labels": None}, {"landmarks": {"given": None}}])
def test_images_that_look_alike_are_not_all_there_is_to_say(quality: dict) -> None:
    line = verdict_line(quality, [Sentence(GOOD, "The images are more alike than before.")])
    assert line.level == GOOD and "as far as the images alone can tell" in line.text
    assert "images alone" not in verdict_line({"labels": {"after": {}}}, [Sentence(GOOD, "x")]).text
