"""Going on from a map that stands: a few iterations, coarse to fine, for prompts that have changed."""

from __future__ import annotations

from dataclasses import replace

from .half_way import HalfWay
from .objective import PairObjective
from .progress import Reporter
from .solver import ScaleReport, Settings, scale_frame, solve
from .transforms.base import Representation

_ITERATIONS = (30, 20, 5)
"""At four, two and one times the finest scale's voxel."""

_RATES = (1.0, 0.8, 0.6)
"""Times the settings' rate: finer scales only settle what coarser ones have moved."""

_HURRY = {"neural-field": 1.5}
"""Times the rates, for representations that would not arrive in so few iterations."""

_BETAS = (0.7, 0.95)
"""Adam begins anew: with a long memory so few iterations would be mostly its first, noisy ones."""

_PULL = 2.0
"""Times the landmarks' pull: who moves a landmark wants to see the map follow."""


def refine(
    objective: PairObjective, representation: Representation | HalfWay, settings: Settings, report: Reporter
) -> tuple[Representation | HalfWay, list[ScaleReport]]:
    """A representation that has been optimised, moved on to where an objective with new prompts wants it.

    Args:
        objective: with the prompts as they are now.
        representation: as the solver left it; stays as it is.
        settings: those it was optimised with; their scales' iterations do not matter.
        report: progress and cancellation.

    Returns:
        The representation moved, on the same frame, and a report per scale.
    """
    objective = replace(objective, landmark_pull=_PULL * objective.landmark_pull)
    working, reports = representation.frame, []
    hurry = _HURRY.get(representation.name, 1.0)
    for k, (scale, iterations, rate) in enumerate(zip(settings.scales, _ITERATIONS, _RATES, strict=True)):
        frame = scale_frame(working, scale.factor, settings.smallest)
        here = replace(
            settings,
            scales=(replace(scale, factor=1.0, iterations=iterations),),
            rate=hurry * rate * settings.rate,
            betas=_BETAS,
        )
        part = report.part(k / len(settings.scales), (k + 1) / len(settings.scales))
        representation, reached = solve(objective, representation.resized(frame), here, part, "Refinement")
        reports += reached
    return representation, reports
