"""Which files of a folder are this program's own and unchanged, so that nobody loses them when replaced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from ..atomic import write_text
from ..errors import InputError


def check_own(record: Path, names: Iterable[str]) -> None:
    """Look at the files that are going to be written beside the record of an earlier run.

    Args:
        record: what `write_record` wrote, if anything.
        names: of the files.

    Raises:
        InputError: one is there, and is not in the record or was changed since.
    """
    known = _known(record)
    for name in names:
        path = record.with_name(name)
        if path.exists() and (name not in known or known[name] != _sha256(path)):
            raise InputError(
                f"{path} is there already, and not as this command left it; choose another folder with --out."
            )


def write_record(record: Path, names: Iterable[str]) -> None:
    """Note the files beside `record`, with the SHA-256 of each, and keep those noted before; raises
    OutputError."""
    known = _known(record) | {name: _sha256(record.with_name(name)) for name in names}
    write_text(record, json.dumps({"sha256": known}, indent=2) + "\n")


def _known(record: Path) -> dict[str, str]:
    try:
        return dict(json.loads(record.read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
