"""The signals by which a program is asked to end, besides the interrupt of the keyboard."""

from __future__ import annotations

import signal


def stop_signals() -> list[signal.Signals]:
    """The polite kill and, where there is one and nobody (as ``nohup``) has us ignore it, the end of the
    terminal."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [signal.Signals[name] for name in names]
    return [n for n in numbers if n == signal.SIGTERM or signal.getsignal(n) != signal.SIG_IGN]
