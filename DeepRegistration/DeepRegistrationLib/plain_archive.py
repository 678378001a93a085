"""What ``torch.save`` has written of plain values, read without running code or unpacking anything."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from .errors import InputError, NotAvailableError

_SAFE = (2, 10)
"""The first version of torch whose ``weights_only`` has no known hole (CVE-2025-32434, CVE-2026-24747)."""

_UNSAFE = ("weights_only", "unsupported global", "unsupported operand", "unsupported class")


def read_plain(path: Path, what: str, trusted: bool = False) -> Any:
    """What a ``torch.save`` of plain values holds, on the CPU, without running code from the file.

    Args:
        path: the file.
        what: it should be, for messages ("weights file").
        trusted: whether it came with the program.

    Raises:
        InputError: missing, closed to us, cut short, damaged, another kind of file, or one that holds code.
        NotAvailableError: this version of torch is not safe with files from elsewhere.
    """
    if not trusted and not _is_safe(torch.__version__):
        raise NotAvailableError(
            f"{path} is not read with PyTorch {torch.__version__}, which a file can make run code; install "
            f"PyTorch {'.'.join(map(str, _SAFE))} or newer."
        )
    if not os.path.isfile(path):  # which takes names of any length
        raise InputError(f"{path} is not a file." if os.path.exists(path) else f"{path} does not exist.")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}.") from error
    if not start.startswith(b"PK"):
        raise InputError(f"{path} is not a {what}.")
    if not _has_end(path):
        raise InputError(f"{path} is incomplete or damaged at its end; copy it again.")
    try:
        _check_archive(path, what)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is damaged, or not a {what}.") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        if any(word in str(error).lower() for word in _UNSAFE):
            raise InputError(
                f"{path} holds more than numbers and names, so it could run code; it was not loaded."
            ) from error
        raise InputError(f"{path} is damaged, or not a {what}.") from error
    except Exception as error:  # whatever the unpickler trips over in a damaged file
        raise InputError(f"{path} is damaged, or not a {what}.") from error


def _is_safe(version: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is None or (int(numbers[1]), int(numbers[2])) >= _SAFE


def _check_archive(path: Path, what: str) -> None:
    """Refuse what would become larger than its file when it is read, before it is.

    Raises:
        InputError: it is compressed, or its directory says that it holds more than it can.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise InputError(f"{path} is a compressed archive, which no {what} of this program is.")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise InputError(f"{path} is damaged, or not a {what}.")


def _has_end(path: Path) -> bool:
    """Whether the directory that ends an archive is there."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False
