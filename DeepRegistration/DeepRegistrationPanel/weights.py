"""Which trained weights come with a method, and what they were trained for, in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

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
        data = data_in_words((told.get("record") or {}).get("data") or "")
        if told.get("error"):
            text = f"{text}: {told['error']}"
        elif data:
            text = _("for {dimension}-D images, trained on {data}").format(dimension=dimension, data=data)
        found.append(text)
    return found


def data_in_words(data: str) -> str:
    """What training pairs were, from the text that described them; "" where nobody has said."""
    kind, _colon, recipe = data.partition(":")
    if kind != "generated":
        name = Path(data).name
        return _("the images of a folder named {name}").format(name=name) if name else ""
    generator, _mark, options = recipe.partition("?")
    if generator != "anatomy":
        return _("made-up shapes")
    contrast = dict(parse_qsl(options)).get("contrast", "mixed")
    return {
        "same": _("made-up anatomy, both volumes of one contrast"),
        "different": _("made-up anatomy, the two volumes of different contrasts"),
    }.get(contrast, _("made-up anatomy, of one contrast and of two"))
