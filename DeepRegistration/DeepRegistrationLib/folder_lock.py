"""Folders that one run at a time works in (a batch, a template, a training), or writes to, and temporary ones
that are nobody's once their process has ended."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

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
        if _lock(file) is False:
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
        while _lock(place) is False:
            if time.monotonic() > end:
                raise OutputError(f"Another run is writing to {folder}; try again.")
            time.sleep(0.02)
        yield
    finally:
        os.close(place)


def hold(folder: Path) -> BinaryIO:
    """Mark a new folder as in use until the file that is returned is closed, or the process ends, however.

    Raises:
        OSError: the folder cannot be written to.
    """
    file = (folder / _LOCK).open("wb", buffering=0)
    try:
        if _lock(file.fileno()):
            file.write(b"1")  # before, `abandoned` could be faster than the lock
    except BaseException:
        file.close()
        raise
    return file


def abandoned(folder: Path) -> bool:
    """Whether a folder that `hold` has marked is no longer in use; false where the system cannot tell.

    Unlike the number of a process, which means nothing in another container and is given to another process
    later, the lock ends with its process.
    """
    try:
        with (folder / _LOCK).open("rb+", buffering=0) as file:
            return os.fstat(file.fileno()).st_size > 0 and _lock(file.fileno()) is True
    except OSError:
        return False


def _lock(file: int) -> bool | None:
    """Whether nobody else has it; None on a file system that knows no locks."""
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
        return None
    return True
