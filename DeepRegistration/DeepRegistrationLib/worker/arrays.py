"""Arrays between the worker process and its parent: .npy files in the job's folder. No torch here."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import InputError, OutputError

NAME = r"[a-z][a-z_]{0,40}"
"""What an array may be called, as a regular expression: never a path."""


def job_folder(root: Path, number: int) -> Path:
    """Where the arrays of job `number` lie."""
    return root / f"job-{number}"


def save_array(folder: Path, prefix: str, name: str, array: np.ndarray) -> None:
    """Write an array without a further copy in memory, whole or not at all.

    Args:
        folder: the job's.
        prefix: ``in`` or ``out``.
        name: of the array.

    Raises:
        OutputError: the folder is gone or the disk full.
        InputError: an array of Python objects.
    """
    if array.dtype.hasobject:
        raise InputError(f"The array {name} does not hold numbers.")
    path, hidden = _path(folder, prefix, name), folder / f".{prefix}-{name}.npy"
    try:
        with hidden.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        os.replace(hidden, path)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise OutputError(
            f"The temporary folder {folder.parent.parent} cannot take the images: {error.strerror or error}. "
            "Free some space there."
        ) from error


def load_array(folder: Path, prefix: str, name: str) -> np.ndarray:
    """Read a whole array into memory.

    Raises:
        InputError: it is not there, outside the folder, damaged, or not plain numbers.
    """
    path = _path(folder, prefix, name)
    try:
        if path.resolve().parent != folder.resolve():
            raise ValueError("outside the job's folder")
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"The array {name} could not be read.") from error


def _path(folder: Path, prefix: str, name: str) -> Path:
    return folder / f"{prefix}-{name}.npy"
