"""Texts in the language of the application, where there is one.

Call `_` with a text that is written out at that very place: translators are given what stands there, and
nothing else is ever found again.
"""

from __future__ import annotations

try:
    from slicer.i18n import tr as _
except ImportError:  # outside the application

    def _(text: str) -> str:
        return text


__all__ = ["_"]
