"""Point lists as landmarks, paired as `DeepRegistrationLib.landmark_pairing` says."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.landmark_pairing import DESELECTED, NOT_PLACED, Listed, pairing

from .geometry import FLIP, Node, lies_under, world_matrix


@dataclass(frozen=True)
class Point:
    """A control point that is placed and selected: its place in the list, label and position (LPS mm)."""

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
        sentences: what the user has to know of the pairing.
    """

    pairs: tuple[LandmarkPair, ...]
    unpaired_fixed: tuple[str, ...]
    unpaired_moving: tuple[str, ...]
    by_label: bool
    sentences: tuple[str, ...] = ()

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


def read_points(node: Node | None, results: Collection[Node] = ()) -> list[Point]:
    """The control points of a markups node that are placed and selected, where they are seen in the world.

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
        if _why_not(node, k) is None:
            position = [0.0, 0.0, 0.0]
            read(k, position)
            x, y, z, _ = (matrix @ [*position, 1.0]).tolist()
            points.append(Point(k, node.GetNthControlPointLabel(k), (x, y, z)))
    return points


def _why_not(node: Node, k: int) -> str | None:
    """Why a control point is not used; None if it is."""
    if node.GetNthControlPointPositionStatus(k) != slicer.vtkMRMLMarkupsNode.PositionDefined:
        return NOT_PLACED
    return None if node.GetNthControlPointSelected(k) else DESELECTED


def _listed(node: Node, points: list[Point]) -> Listed:
    reasons = [(k, _why_not(node, k)) for k in range(node.GetNumberOfControlPoints())]
    return Listed(
        tuple(point.label for point in points),
        tuple(point.index for point in points),
        tuple((node.GetNthControlPointLabel(k) or f"point {k + 1}", why) for k, why in reasons if why),
    )


def pair_landmarks(
    fixed: Node, moving: Node, held_out: Collection[str] = (), results: Collection[Node] = ()
) -> LandmarkPairs:
    """Match two point lists, as `DeepRegistrationLib.landmark_pairing` says.

    Args:
        fixed, moving: markups nodes.
        held_out: names of pairs that only measure.
        results: as in `read_points`.

    Raises:
        InputError: not markups nodes, or names that do not tell which points belong together.
    """
    nodes = fixed, moving
    points = [read_points(node, results) for node in nodes]
    found = pairing(*(_listed(node, side) for node, side in zip(nodes, points, strict=True)))
    pairs = tuple(
        LandmarkPair(number, name, points[0][one], points[1][other], name in held_out)
        for number, ((one, other), name) in enumerate(zip(found.rows, found.names, strict=True), start=1)
    )
    return LandmarkPairs(pairs, *found.unpaired, found.by_name, found.sentences)
