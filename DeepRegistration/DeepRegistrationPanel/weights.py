"""Which trained weights come with a method, and what they were trained for, in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

_SHIPPED = Path(__file__).resolve().parents[1] / "Resources" / "Weights"


def shipped_weights(method: str) -> list[str]:
    """What the files' names say; the worker knows more, once it has read them."""
    return [
        _("for {dimension}-D images").format(dimension=dimension)
        for dimension in (2, 3)
        if (_SHIPPED / f"{method}-{dimension}d.pt").is_file()
    ]


def weights_in_words(weights: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """What the worker's "methods" task says of one method's weights, by number of dimensions."""
    found = []
    for dimension, told in weights.items():
        if told is None:
            continue
        text = _("for {dimension}-D images").format(dimension=dimension)
        if told.get("error"):
            found.append(f"{text}: {told['error']}")
            continue
        data = (told.get("record") or {}).get("data")
        trained = _(", trained on {data}").format(data=data) if data else ""
        found.append(f"{text} ({told.get('configuration')}{trained})")
    return found
