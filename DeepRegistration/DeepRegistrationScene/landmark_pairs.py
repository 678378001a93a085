"""Point lists as landmarks, and which point of the fixed list belongs to which of the moving list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from DeepRegistrationLib.errors import InputError

from .geometry import FLIP, Node, lies_under, world_matrix


@dataclass(frozen=True)
class Point:
    """A control point that has been placed: its place in the list, its label, and where it is (LPS mm)."""

    index: int
    label: str
    position: tuple[float, float, float]


@dataclass(frozen=True)
class LandmarkPair:
    """Two points that mark the same place.

    Attributes:
        number: 1, 2, ... in the fixed list's order.
        name: of the fixed point, made unique.
        fixed, moving: the points.
        held_out: measured only, not followed.
    """

    number: int
    name: str
    fixed: Point
    moving: Point
    held_out: bool


@dataclass(frozen=True)
class LandmarkPairs:
    """What two point lists have in common, and what they have not.

    Attributes:
        pairs: in the fixed list's order.
        unpaired_fixed, unpaired_moving: labels of the points without a partner.
        by_label: whether labels decided; otherwise the order did.
    """

    pairs: tuple[LandmarkPair, ...]
    unpaired_fixed: tuple[str, ...]
    unpaired_moving: tuple[str, ...]
    by_label: bool

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(pair.name for pair in self.pairs)

    @property
    def held_out(self) -> np.ndarray:
        """(N,) bool."""
        return np.array([pair.held_out for pair in self.pairs], dtype=bool)

    @property
    def fixed(self) -> np.ndarray:
        """(N, 3) float64, LPS mm."""
        return np.array([pair.fixed.position for pair in self.pairs], dtype=np.float64).reshape(-1, 3)

    @property
    def moving(self) -> np.ndarray:
        """(N, 3) float64, LPS mm."""
        return np.array([pair.moving.position for pair in self.pairs], dtype=np.float64).reshape(-1, 3)

    def request(self) -> dict[str, list[Any]]:
        """The pairs as the worker wants them."""
        return {
            "fixed": self.fixed.tolist(),
            "moving": self.moving.tolist(),
            "names": list(self.names),
            "held_out": self.held_out.tolist(),
        }

    def warnings(self) -> list[str]:
        """A sentence for each side that has points without a partner."""
        return [
            f"{'Landmark' if len(labels) == 1 else 'Landmarks'} {', '.join(labels)} on the {side} image "
            f"{'has' if len(labels) == 1 else 'have'} no partner and will not be used."
            for side, labels in (("fixed", self.unpaired_fixed), ("moving", self.unpaired_moving))
            if labels
        ]


def read_points(node: Node | None, results: Collection[Node] = ()) -> list[Point]:
    """The control points of a markups node that have been placed, where they are seen in the world.

    Args:
        node: a markups node.
        results: transform nodes at which the world is taken to begin (see `geometry.world_matrix`).

    Raises:
        InputError: not a markups node.
    """
    if node is None or not node.IsA("vtkMRMLMarkupsNode"):
        raise InputError("Landmarks must come from a point list.")
    below = [result for result in results if lies_under(node, result)]
    matrix = FLIP @ world_matrix(node, below) if below else FLIP
    read = node.GetNthControlPointPosition if below else node.GetNthControlPointPositionWorld
    points = []
    for k in range(node.GetNumberOfControlPoints()):
        if node.GetNthControlPointPositionStatus(k) == slicer.vtkMRMLMarkupsNode.PositionDefined:
            position = [0.0, 0.0, 0.0]
            read(k, position)
            x, y, z, _ = (matrix @ [*position, 1.0]).tolist()
            points.append(Point(k, node.GetNthControlPointLabel(k), (x, y, z)))
    return points


def pair_landmarks(
    fixed: Node, moving: Node, held_out: Collection[str] = (), results: Collection[Node] = ()
) -> LandmarkPairs:
    """Match two point lists.

    Points are matched by label when each list's labels are all different and the lists share any;
    otherwise by their place in the list. A control point that is listed but not placed has no partner,
    and keeps its place.

    Args:
        fixed, moving: markups nodes.
        held_out: names of pairs that only measure.
        results: as in `read_points`.

    Raises:
        InputError: not markups nodes.
    """
    points = [read_points(node, results) for node in (fixed, moving)]
    labels = [[point.label for point in side] for side in points]
    distinct = all(len(set(side)) == len(side) for side in labels)
    by_label = distinct and bool(set(labels[0]) & set(labels[1]))
    keys: list[dict[Any, Point]] = [
        {point.label if by_label else point.index: point for point in side} for side in points
    ]
    shared = [key for key in keys[0] if key in keys[1]]
    counts = Counter(keys[0][key].label for key in shared)
    pairs: list[LandmarkPair] = []
    for number, key in enumerate(shared, start=1):
        label = keys[0][key].label
        name = label if label and counts[label] == 1 else f"{label or 'point'} ({number})"
        while any(pair.name == name for pair in pairs):
            name += f" ({number})"
        pairs.append(LandmarkPair(number, name, keys[0][key], keys[1][key], name in held_out))
    alone = [
        tuple(p.label or f"point {p.index + 1}" for key, p in mine.items() if key not in others)
        for mine, others in (keys, keys[::-1])
    ]
    return LandmarkPairs(tuple(pairs), *alone, by_label)
