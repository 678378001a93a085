"""What a result comes to in one line, before the sentences that say why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from DeepRegistrationLib.verdict import BAD, LEVELS, LOOK, Sentence

from .words import _


def verdict_line(quality: Mapping[str, Any], sentences: Sequence[Sentence]) -> Sentence:
    """The verdict as a whole: as bad as the worst sentence, and no better than what was measured allows.

    Args:
        quality: the numbers, as quality.json has them.
        sentences: what they mean, one by one (see `verdict`).
    """
    if not sentences:
        return Sentence(LOOK, _("Look here: nothing could be measured, so only your eyes can tell."))
    level = max((sentence.level for sentence in sentences), key=LEVELS.index)
    count = sum(sentence.level == level for sentence in sentences)
    if level == BAD:
        text = (
            _("Do not use it as it is: one finding below speaks against it.")
            if count == 1
            else _("Do not use it as it is: {count} findings below speak against it.").format(count=count)
        )
    elif level == LOOK:
        text = (
            _("Look here before you use it: one finding below asks for it.")
            if count == 1
            else _("Look here before you use it: {count} findings below ask for it.").format(count=count)
        )
    elif _compared_places(quality):
        text = _("Good: nothing that was measured speaks against it.")
    else:
        text = _("Good, as far as the images alone can tell: no landmarks or structures were measured.")
    return Sentence(level, text)


def _compared_places(quality: Mapping[str, Any]) -> bool:
    """Whether anything was measured that says which place belongs to which: images that look alike do not."""
    landmarks = (quality.get("landmarks") or {}).values()
    return any(landmarks) or bool(quality.get("labels"))
