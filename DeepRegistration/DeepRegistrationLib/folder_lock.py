"""Folders that one run at a time works in: of a batch, a template, a training."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError, OutputError

_LOCK = ".lock"


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
