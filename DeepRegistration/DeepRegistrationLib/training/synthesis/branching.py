"""Trees of vessels or airways and winding bowels, as lists of tubes."""

from __future__ import annotations

import numpy as np

Line = list[tuple[float, ...]]
"""A tube's nodes: coordinates and the radius there."""


def tree(
    draw: np.random.Generator,
    start: np.ndarray,
    heading: np.ndarray,
    length: float,
    radius: float,
    generations: int = 5,
    thinnest: float = 0.012,
) -> list[Line]:
    """A tube that forks again and again; the two branches share the flow, so their radii fulfil Murray's
    law r^3 = r1^3 + r2^3 (Murray, PNAS 12, 1926)."""
    lines: list[Line] = []
    open_ends = [(np.asarray(start, float), _unit(heading), length, radius, generations)]
    while open_ends:
        place, heading, length, radius, left = open_ends.pop()
        line: Line = [(*place, radius)]
        for _ in range(2):
            heading = _unit(heading + 0.25 * draw.standard_normal(len(heading)))
            place = place + heading * length / 2
            line.append((*place, radius * 0.92))
        lines.append(line)
        if left <= 0 or radius < thinnest:
            continue
        side = draw.standard_normal(len(heading))
        side = _unit(side - heading * (side @ heading))
        share = draw.uniform(0.3, 0.7)
        for part, sign in ((share, 1.0), (1 - share, -1.0)):
            away = np.tan(draw.uniform(0.35, 0.95)) * sign * (1.3 - part)
            shorter = draw.uniform(0.65, 0.95)
            open_ends.append(
                (place, _unit(heading + away * side), length * shorter, radius * part ** (1 / 3), left - 1)
            )
    return lines


def winding(
    draw: np.random.Generator, centre: np.ndarray, reach: np.ndarray, radius: float, steps: int
) -> list[Line]:
    """A tube of even width that wanders about within an ellipsoid."""
    place = centre + reach * draw.uniform(-0.6, 0.6, len(centre))
    heading = _unit(draw.standard_normal(len(centre)))
    line: Line = [(*place, radius)]
    for _ in range(steps):
        home = (centre - place) / reach
        heading = _unit(heading + 0.8 * draw.standard_normal(len(centre)) + 1.2 * home * float(home @ home))
        place = place + heading * radius * 1.6
        line.append((*place, radius * draw.uniform(0.85, 1.15)))
    return [line]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(1e-6, float(np.linalg.norm(vector)))
