"""The methods, by name."""

from __future__ import annotations

from ..errors import InputError
from .base import Method, MethodInput, PlannedMethod, Prediction
from .dio import Dio


class GradIcon(PlannedMethod):
    """Multi-step networks regularised by gradient inverse consistency (arXiv 2206.05897)."""

    name = "gradicon"
    title = "GradICON"
    description = "Multi-step networks regularised by gradient inverse consistency."
    guarantee = "Approximately inverse consistent by its loss."


class SitReg(PlannedMethod):
    """Symmetric by construction (MELBA 2024, arXiv 2303.10211)."""

    name = "sitreg"
    title = "SITReg"
    description = "A symmetric network whose maps are inverse consistent by construction."
    guarantee = "Exact symmetry, inverse consistency and topology preservation by construction."


class NePhi(PlannedMethod):
    """Neural deformation fields (ECCV 2024, arXiv 2309.07322)."""

    name = "nephi"
    title = "NePhi"
    description = "Neural deformation fields: memory that does not grow with the image."
    guarantee = "Approximately diffeomorphic by its loss."


class SvfR2Net(PlannedMethod):
    """Residual networks as integrators, shared weights (MIDL 2022)."""

    name = "svf-r2net"
    title = "SVF-R2Net"
    description = "A Lipschitz residual network integrates a stationary velocity."
    guarantee = "Each residual block is a contraction of the velocity values."


class NsvfR2Net(PlannedMethod):
    """Residual networks as integrators, separate weights (MIDL 2022)."""

    name = "nsvf-r2net"
    title = "NSVF-R2Net"
    description = "A Lipschitz residual network integrates a time-varying velocity."
    guarantee = "Each residual block is a contraction of the velocity values."


METHODS: dict[str, Method] = {
    method.name: method for method in (Dio(), GradIcon(), SitReg(), NePhi(), SvfR2Net(), NsvfR2Net())
}


def method_by_name(name: str) -> Method:
    """The method of that name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in METHODS:
        raise InputError(f"There is no method '{name}'; choose {', '.join(METHODS)}.")
    return METHODS[name]


__all__ = ["METHODS", "Method", "MethodInput", "PlannedMethod", "Prediction", "method_by_name"]
