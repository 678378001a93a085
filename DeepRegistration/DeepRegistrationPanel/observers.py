"""VTK observers that keep no object longer than they observe it.

Slicer's `VTKObservationMixin` keeps every object it has ever observed until all its observers are removed at
once: a volume that was chosen once would stay in memory as long as the panel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Answer = Callable[[Any, Any], None]


class Observers:
    """Who listens to what."""

    def __init__(self) -> None:
        self._tags: list[tuple[Any, int, Answer, int]] = []

    def __len__(self) -> int:
        return len(self._tags)

    def add(self, item: Any, event: int, answer: Answer, priority: float = 0.0) -> None:
        """Call `answer(item, event)` at each such event; a second time changes nothing."""
        if not any(entry[:3] == (item, event, answer) for entry in self._tags):
            self._tags.append((item, event, answer, item.AddObserver(event, answer, priority)))

    def remove(self, item: Any, event: int, answer: Answer) -> None:
        """No longer; nothing happens where it was not listened to."""
        for entry in self._tags:
            if entry[:3] == (item, event, answer):
                item.RemoveObserver(entry[3])
                self._tags.remove(entry)
                return

    def clear(self) -> None:
        """Listen to nothing."""
        for item, _event, _answer, tag in self._tags:
            item.RemoveObserver(tag)
        self._tags.clear()
