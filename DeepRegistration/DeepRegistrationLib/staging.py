"""Files that appear in a folder together, or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .atomic import write_failure
from .errors import OutputError
from .folder_lock import abandoned, hold

_HIDDEN = ".saving-"
_OLDER = "older-"


@contextmanager
def staged(directory: Path, names: Sequence[str]) -> Iterator[list[Path]]:
    """Paths in a hidden folder, whose files all get their names in `directory` when all goes well. What runs
    that were killed have left of theirs is removed first.

    Raises:
        OutputError: one cannot be written, or a folder has its name; `directory` is as it was.
    """
    _remove_leftovers(directory)
    for name in names:
        if (directory / name).is_dir():
            raise OutputError(f"{directory / name} could not be written: a folder of that name is there.")
    hidden, target = directory / f"{_HIDDEN}{uuid.uuid4().hex[:12]}", directory / names[0]
    moved: list[str] = []
    try:
        hidden.mkdir()
        with hold(hidden):
            yield [hidden / name for name in names]
            try:
                for name in names:
                    target = directory / name
                    if target.exists():
                        _keep(target, hidden / f"{_OLDER}{name}")
                    moved.append(name)
                    os.replace(hidden / name, target)
            except BaseException:
                for name in moved:
                    _take_back(directory / name, hidden / f"{_OLDER}{name}")
                raise
    except OutputError as error:
        raise OutputError(str(error).replace(str(hidden), str(directory))) from error
    except OSError as error:
        raise write_failure(target, error.errno) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _keep(path: Path, older: Path) -> None:
    """Give an older result a second name; where the file system has no links, it is moved."""
    try:
        os.link(path, older)
    except OSError:
        os.replace(path, older)


def _take_back(path: Path, older: Path) -> None:
    with suppress(OSError):
        if older.exists():
            os.replace(older, path)
        else:
            path.unlink(missing_ok=True)


def _remove_leftovers(directory: Path) -> None:
    for hidden in directory.glob(f"{_HIDDEN}*"):
        if not abandoned(hidden):
            continue
        for older in hidden.glob(f"{_OLDER}*"):
            path = directory / older.name[len(_OLDER) :]
            if not path.exists():
                _take_back(path, older)
        shutil.rmtree(hidden, ignore_errors=True)
