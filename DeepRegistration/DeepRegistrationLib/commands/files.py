"""Result folders: looked at before the work begins, and left as they were when it fails."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError, OutputError
from ..file_checks import itk_name


def check_folder(folder: Path, names: Sequence[str] = ()) -> None:
    """Complain early about a result folder that cannot be used.

    Args:
        folder: for the results.
        names: of their files.

    Raises:
        InputError: there is a file of that name.
        OutputError: it cannot be written to, or has a folder in the place of a file.
    """
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise InputError(f"{folder} cannot be used for the results: {error.strerror}.") from error
    itk_name(folder)
    if not nearest.is_dir():
        raise InputError(f"{nearest} is a file; the results need a folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"Writing in the folder {nearest} is not allowed.")
    for name in names:
        if (folder / name).is_dir():
            raise OutputError(f"The results need a file {folder / name}, but that is a folder.")


@contextmanager
def results(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Make `folder` for files of these names; when the body fails, those that are new are removed
    again, and so are the folders that were made.

    Raises:
        OutputError: the folder cannot be made.
    """
    new_files = [folder / name for name in names if not (folder / name).exists()]
    new_folders = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"The folder {folder} could not be made: {error.strerror}.") from error
        yield
    except BaseException:
        for path in new_files:
            path.unlink(missing_ok=True)
        for path in new_folders:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise
