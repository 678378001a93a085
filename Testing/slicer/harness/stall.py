"""How long the GUI thread was away from its event loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from PySide6.QtCore import Qt, QTimer


class StallMeter:
    """Beats every millisecond in the event loop; a gap between two beats is time in which nothing was drawn.

    Attributes:
        longest_ms: the longest gap, up to now or up to the end of the `with` block.
        beats: how often the loop came round; few beats mean that the block ran no event loop.
    """

    def __init__(self) -> None:
        self.longest_ms, self.beats = 0.0, 0
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.setTimerType(Qt.PreciseTimer)
        self._timer.setInterval(1)
        self._timer.timeout.connect(self.beat)

    def beat(self) -> None:
        now = time.perf_counter()
        self.longest_ms = max(self.longest_ms, 1000 * (now - self._last))
        self._last = now
        self.beats += 1


@contextlib.contextmanager
def stall_meter() -> Iterator[StallMeter]:
    """Measure while the block runs; everything in it has to run in the event loop (`qtbot.waitUntil`)."""
    meter = StallMeter()
    meter._timer.start()
    try:
        yield meter
    finally:
        meter._timer.stop()
        meter.beat()
