"""Writing a file so that it is either there whole or not there at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError

_TEMPORARY = re.compile(r"\.[0-9a-f]{12}(\.\w+){0,2}")

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A hidden temporary name beside `path`, with its extension, renamed to `path` at a clean exit.

    The body should only write the file: a system error or a library's RuntimeError in it becomes an
    OutputError. Whatever the body raises, the temporary file is removed and an older file at `path`
    stays as it was.

    Raises:
        OutputError: when the folder is missing or closed to us, the disk is full, or the writer failed.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(f"{path} could not be written: the folder {path.parent} does not exist.")
    if path.is_dir():
        raise OutputError(f"{path} could not be written: a folder of that name is already there.")
    extension = "".join(path.suffixes[-2:])
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}{extension}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise write_failure(path, error.errno) from error
    except RuntimeError as error:
        raise write_failure(path, None) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all; raises OutputError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def remove_temporaries(folder: Path) -> None:
    """Remove what `atomic_path` leaves in a folder when the program is killed. Nobody else may be writing."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def check_space(temporary: Path, size: int) -> None:
    """Raise OSError unless a file of `size` bytes fits at `temporary`; for writers that fail badly."""
    with temporary.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        elif shutil.disk_usage(temporary.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_failure(path: Path, code: int | None) -> OutputError:
    """Why a file could not be written, from the system's error number; None where that is not known."""
    folder = path.parent
    # ITK does not hand on the system's reason, so look at the disk while the temporary file still fills it.
    if code in _FULL or (code is None and shutil.disk_usage(folder).free < 1 << 20):
        return OutputError(f"{path} could not be written: the disk is full.")
    if code in _FORBIDDEN or not os.access(folder, os.W_OK):
        return OutputError(f"{path} could not be written: writing in the folder {folder} is not allowed.")
    reason = f": {os.strerror(code)}" if code else " completely"
    return OutputError(f"{path} could not be written{reason}.")
