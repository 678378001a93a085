"""Texts in labels that never make the panel wider: names of volumes and files may be as long as they like."""

from __future__ import annotations

import re
from typing import Any

_LONGEST = 24
"""Letters that may stand together without a place where a line can end."""
_BREAK = "\u200b"
"""A space without width: the line may end there, and nothing is seen of it."""
_WORD = re.compile(rf"\S{{{_LONGEST + 1},}}")
_PIECE = re.compile(rf"[^\s_\-./\\,:=]{{1,{_LONGEST}}}[_\-./\\,:=]?|.")


def breakable(text: str) -> str:
    """A text whose long words can be broken: where names have their joints, or else anywhere."""
    return _WORD.sub(lambda word: _BREAK.join(_PIECE.findall(word[0])), text)


def show_text(label: Any, text: str) -> None:
    """Show a plain text in a label, or hide the label where there is nothing to say."""
    label.setText(breakable(text))
    label.setVisible(bool(text))
