"""Which point of one list belongs to which of another: the one rule for files, Python and the panel. Needs no
torch.

Points that are not placed or are deselected are left out first. The others are paired by the names that both
lists share. Where they share none, the place in the list decides, if the lists are equally long or number
their points by place ("F-3", "M-3"). Points without a partner are left out, and named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import InputError

NOT_PLACED, DESELECTED, ALONE = "not placed", "deselected", "no partner"
"""Why a point is not used."""

_NAMED = 5
"""How many points a sentence names."""
_NUMBER = re.compile(r"(\d+)\)?\s*$")


@dataclass(frozen=True)
class Listed:
    """The points of a list.

    Attributes:
        labels: N names, not necessarily different; empty where a point has none.
        places: N numbers, 0 for the first of the list: those that are left out count, too.
        left_out: name and reason of each point that is left out.
        named: whether the labels are names; otherwise they only count the points.
    """

    labels: tuple[str, ...]
    places: tuple[int, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    named: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The labels as far as they are names; empty for the others."""
        return self.labels if self.named else ("",) * len(self.labels)

    @property
    def length(self) -> int:
        """Of the list, with the points that are left out."""
        return len(self.labels) + len(self.left_out)

    @property
    def numbered(self) -> bool:
        """Whether the names are the places' numbers."""
        return all(_is_number(*item) for item in zip(self.names, self.places, strict=True))

    def name(self, row: int) -> str:
        return self.labels[row] or f"point {self.places[row] + 1}"


@dataclass(frozen=True)
class Pairing:
    """What two lists have in common.

    Attributes:
        rows: of the points of each pair, in the fixed list's order.
        names: of the pairs: those of the fixed points, made unique.
        unpaired: for either list the names of the points without a partner.
        by_name: whether names decided; otherwise the places did.
        sentences: what the user has to know: at most one of the points that are not used, and one where
            names that differ were paired by their order.
    """

    rows: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    unpaired: tuple[tuple[str, ...], tuple[str, ...]]
    by_name: bool
    sentences: tuple[str, ...]


def pairing(fixed: Listed, moving: Listed) -> Pairing:
    """Match two lists by the rule above.

    Raises:
        InputError: a name that both lists have stands for several points; no names in common and lists of
            different lengths.
    """
    lists = (fixed, moving)
    shared = (set(fixed.names) & set(moving.names)) - {""}
    repeated = sorted(n for n in shared if max(one.names.count(n) for one in lists) > 1)
    by_name = bool(shared) and not repeated
    if repeated and not _agree(fixed, moving, shared):
        raise InputError(
            f"Several landmarks of one list are called {repeated[0]}, so that it is not clear which belong "
            "together; give each a name of its own."
        )
    by_place = fixed.length == moving.length or (fixed.numbered and moving.numbered)
    if fixed.labels and moving.labels and not shared and not by_place:
        raise InputError(
            f"There are {fixed.length} landmarks on the fixed image but {moving.length} on the moving image, "
            "and no names that both lists share; each needs its partner."
        )
    keys = [
        [name if by_name else place for name, place in zip(one.names, one.places, strict=True)]
        for one in lists
    ]
    partner = {key: row for row, key in enumerate(keys[1]) if key != ""}
    rows = tuple((row, partner[key]) for row, key in enumerate(keys[0]) if key in partner)
    unpaired = tuple(
        tuple(one.name(row) for row in range(len(one.labels)) if row not in {pair[side] for pair in rows})
        for side, one in enumerate(lists)
    )
    sentences = [*_unused(lists, unpaired)]
    if rows and not shared and not any(one.numbered or not any(one.names) for one in lists):
        sentences.append("The landmarks are paired by their order, since their names differ.")
    return Pairing(rows, _unique([fixed.labels[row] for row, _ in rows]), unpaired, by_name, tuple(sentences))


def unused_points(points: Sequence[tuple[str, str]]) -> str:
    """Names and reasons as a sentence has them: "a (deselected), b (not placed)"."""
    more = f" and {len(points) - _NAMED} more" if len(points) > _NAMED else ""
    return ", ".join(f"{name} ({why})" for name, why in points[:_NAMED]) + more


def _unused(lists: tuple[Listed, Listed], unpaired: Sequence[Sequence[str]]) -> list[str]:
    sides = [
        f"{unused_points([*((name, ALONE) for name in alone), *one.left_out])} on the {side} image"
        for side, one, alone in zip(("fixed", "moving"), lists, unpaired, strict=True)
        if alone or one.left_out
    ]
    return [f"Landmarks that are not used: {'; '.join(sides)}."] if sides else []


def _agree(fixed: Listed, moving: Listed, shared: set[str]) -> bool:
    """Whether names that repeat stand at the same places of both lists."""
    there = dict(zip(moving.places, moving.names, strict=True))
    return fixed.length == moving.length and all(
        there.get(place, name) == name or not {name, there[place]} & shared
        for name, place in zip(fixed.names, fixed.places, strict=True)
    )


def _is_number(label: str, place: int) -> bool:
    number = _NUMBER.search(label)
    return number is not None and int(number[1]) == place + 1


def _unique(labels: list[str]) -> tuple[str, ...]:
    names: list[str] = []
    for number, label in enumerate(labels, start=1):
        name = label if label and labels.count(label) == 1 else f"{label or 'point'} ({number})"
        while name in names:
            name += f" ({number})"
        names.append(name)
    return tuple(names)
