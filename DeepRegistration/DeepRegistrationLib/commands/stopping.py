"""Stopping on request: long commands end in order at the first interrupt and at once at the second."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..progress import CancelToken
from ..stop_signals import stop_signals

INTERRUPTED = 130
"""The exit code."""


@contextmanager
def stoppable() -> Iterator[CancelToken]:
    """A token that the first interrupt, polite kill or end of the terminal sets; the second one interrupts at
    once."""
    cancel = CancelToken()
    if threading.current_thread() is not threading.main_thread():
        yield cancel
        return

    def stop(number: int, frame: object) -> None:
        if cancel.cancelled:
            raise KeyboardInterrupt
        cancel.cancel()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, *stop_signals())}
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
