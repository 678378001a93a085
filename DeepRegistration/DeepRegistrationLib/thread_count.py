"""How many processor threads there can be. Needs no torch."""

from __future__ import annotations

import os

from .errors import InputError

_ALWAYS = 64
"""Threads that any machine may be told to use, so that another one's results can be had again."""


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(count: int | None, what: str = "The number of threads") -> None:
    """Raise InputError for a number of threads that is none, or makes the machine wait for itself.

    Args:
        count: how many; None, nobody has said, is fine.
        what: begins the sentence.
    """
    most = max(_ALWAYS, processors())
    if count is not None and count < 1:
        raise InputError(f"{what} must be at least 1.")
    if count is not None and count > most:
        raise InputError(f"{what} must be at most {most}; this machine has {processors()} processors.")
