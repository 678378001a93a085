"""Folders that one run at a time works in (a batch, a template, a training), or writes to."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError, OutputError

_LOCK = ".lock"
_LONGEST_WAIT = 60.0
"""Seconds another run may take to write what it has computed."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, and keep others out of it meanwhile; the system lets them in again however we end.

    Raises:
        InputError: another run works there.
        OutputError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be written to: {error.strerror}.") from error
    try:
        if not _lock(file):
            raise InputError(f"Another run is working in {folder}; wait for it, or choose another folder.")
        yield
    finally:
        os.close(file)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one run at a time put its files into a folder, so that they belong together; others wait.

    Nothing is left in the folder. Windows, which has no locks for folders, does without.

    Raises:
        OutputError: the other one takes too long.
    """
    if sys.platform == "win32":
        yield
        return
    try:
        place = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be written to: {error.strerror}.") from error
    try:
        end = time.monotonic() + _LONGEST_WAIT
        while not _lock(place):
            if time.monotonic() > end:
                raise OutputError(f"Another run is writing to {folder}; try again.")
            time.sleep(0.02)
        yield
    finally:
        os.close(place)


def _lock(file: int) -> bool:
    """Whether nobody else has it; a file system that knows no locks has none."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
