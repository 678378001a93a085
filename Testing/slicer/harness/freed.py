"""Whether VTK objects are freed: a node that something still holds is memory that nobody gets back."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any


class Watched:
    """Notes when each of some VTK objects is deleted, without keeping any of them.

    Args:
        objects: by the names to call them in a failure; give them up before asking.
    """

    def __init__(self, objects: Iterable[tuple[str, Any]]) -> None:
        self._there: set[str] = set()
        self._answers: list[Callable[..., None]] = []  # else they could be collected with what they watch
        for name, item in objects:
            self._there.add(name)
            item.AddObserver("DeleteEvent", self._gone(name))

    def _gone(self, name: str) -> Callable[..., None]:
        there = self._there
        self._answers.append(lambda *_: there.discard(name))
        return self._answers[-1]

    def left(self, collect: bool = True) -> list[str]:
        """The names of those still in memory, by default after Python's own garbage is collected."""
        if collect:
            gc.collect()
        return sorted(self._there)
