"""Progress for people (a bar on a terminal) and for programs (JSON lines)."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from ..progress import Progress, ProgressCallback
from ..streams import StreamError

_INTERVAL = 0.1
"""Seconds between two pictures of the bar."""

_CELLS = 24


@contextmanager
def shown_progress(quiet: bool, json_lines: bool) -> Iterator[ProgressCallback | None]:
    """The callback a command hands to the engine: JSON lines on standard output if asked for, otherwise a
    bar on standard error where that is a terminal, otherwise none. The bar is gone at the end."""
    if json_lines:
        yield json_reporter(sys.stdout)
    elif quiet or not sys.stderr.isatty():
        yield None
    else:
        bar = ProgressBar(sys.stderr)
        try:
            yield bar
        finally:
            bar.clear()


def json_reporter(stream: TextIO, clock: Callable[[], float] = time.perf_counter) -> ProgressCallback:
    """A callback that writes one line {"stage", "fraction", "objective", "seconds"} each time."""
    start = clock()

    def report(progress: Progress) -> None:
        value = progress.objective
        line = {
            "stage": progress.stage,
            "fraction": round(progress.fraction, 5),
            "objective": value if value is not None and math.isfinite(value) else None,
            "seconds": round(clock() - start, 3),
        }
        with suppress(StreamError):  # the results do not depend on who hears of the steps
            stream.write(json.dumps(line) + "\n")
            stream.flush()

    return report


class ProgressBar:
    """One line, rewritten in place: bar, percent, stage, time left."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.perf_counter) -> None:
        self._stream, self._clock = stream, clock
        self._start = self._last = clock()
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        if progress.stage == self._stage and now - self._last < _INTERVAL:
            return
        self._last, self._stage = now, progress.stage
        full = round(progress.fraction * _CELLS)
        text = f"[{'#' * full}{'.' * (_CELLS - full)}] {progress.fraction:4.0%}  {progress.stage}"
        if progress.fraction > 0.02:
            left = (now - self._start) * (1 - progress.fraction) / progress.fraction
            text += f", {_duration(left)} left"
        # \x1b[K clears what a longer line left behind
        self._stream.write("\r" + text[: shutil.get_terminal_size().columns - 1] + "\x1b[K")
        self._stream.flush()

    def clear(self) -> None:
        self._stream.write("\r\x1b[K")
        self._stream.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
