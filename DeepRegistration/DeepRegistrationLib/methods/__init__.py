"""The methods, by name."""

from __future__ import annotations

from ..errors import InputError
from .base import Method, MethodInput, Prediction
from .classical import Classical
from .dio import Dio
from .gradicon import GradIcon
from .nephi import NePhi
from .r2net import NsvfR2Net, SvfR2Net
from .sitreg import SitReg

METHODS: dict[str, Method] = {
    method.name: method
    for method in (Dio(), GradIcon(), SitReg(), NePhi(), SvfR2Net(), NsvfR2Net(), Classical())
}


def method_by_name(name: str) -> Method:
    """The method of that name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in METHODS:
        raise InputError(f"There is no method '{name}'; choose {', '.join(METHODS)}.")
    return METHODS[name]


__all__ = ["METHODS", "Method", "MethodInput", "Prediction", "method_by_name"]
