"""What every part of the panel has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import qt
import slicer
from DeepRegistrationLib.errors import RegistrationError

from .binding import Binding


class Section:
    """One part of the panel: shows the parameters, writes what the user chooses into them.

    Attributes:
        panel: gives `ui` (the widgets by name), `parameters`, `logic` and `listening`.
        bindings: widgets that are one parameter each.
    """

    bindings: Sequence[Binding] = ()

    def __init__(self, panel: Any) -> None:
        self.panel = panel
        self.ui = panel.ui

    def update(self) -> None:
        """Show what the parameters and the scene say now; only called while there are parameters."""
        for binding in self.bindings:
            binding.show()

    def problem(self) -> str | None:
        """Why a registration cannot be started, as far as this part knows; None when it can."""
        return None

    def close(self) -> None:
        """Let go of everything that outlives the widgets; called between scenes too."""


@contextmanager
def failures_told(
    message: str, tell: Callable[[RegistrationError], object], wait_cursor: bool = False
) -> Iterator[None]:
    """Around work that may fail: what has a sentence of its own is told by `tell`, and is over with that.

    Anything else is shown in a message box, headed `message`, and raised again for Python's console: whoever
    has to clear up does so in a `finally` or `except`, for nothing after the block is reached.
    """
    with slicer.util.tryWithErrorDisplay(message, waitCursor=wait_cursor):
        try:
            yield
        except RegistrationError as error:
            tell(error)


class Watch:
    """Hears of changes of some nodes, which may be others tomorrow; answers once they rest.

    Args:
        panel: keeps the observers.
        answer: called without arguments, `delay_ms` after the last of a burst of changes.
    """

    def __init__(self, panel: Any, answer: Callable[[], None], delay_ms: int) -> None:
        self._panel, self._answer = panel, answer
        self._observed: list[tuple[Any, int]] = []
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(delay_ms)
        self._timer.connect("timeout()", self._rested)

    def follow(self, wanted: Sequence[tuple[Any, int]]) -> None:
        """Listen to these nodes and events, and no longer to others; nodes may be None."""
        wanted = [(node, event) for node, event in wanted if node is not None]
        for entry in self._observed:
            if entry not in wanted:
                self._panel.observers.remove(*entry, self._changed)
        for entry in wanted:
            if entry not in self._observed:
                self._panel.observers.add(*entry, self._changed)
        self._observed = wanted

    def stop(self) -> None:
        self._timer.stop()
        self.follow([])

    def touch(self) -> None:
        """As if something that is followed had changed."""
        self._timer.start()

    def _changed(self, caller: Any = None, event: Any = None) -> None:
        self.touch()

    def _rested(self) -> None:
        if self._panel.parameters is not None:
            self._answer()
