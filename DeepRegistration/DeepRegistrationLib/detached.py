"""Headers of NRRD and MetaImage files, looked at before ITK's readers are: those have crashed on some.

A header may name any file: one that is not there, a device that never ends, a pipe that nobody writes to.
Its readers open whatever it says, and take lists that are too short for complete ones. Formats: Kindlmann:
Definition of NRRD file format (teem); Schroeder et al.: MetaImage documentation (MetaIO).
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from .errors import InputError

_FIELD, _TEXT, _LINES = 400, 1 << 20, 100_000
"""The longest field line, the longest text, the most lines of a header."""

_DIMENSIONS = 9
_METAIMAGE = (".mha", ".mhd")
_NRRD_DATA = re.compile(r"\s*data\s*file\s*:\s*(.*)", re.IGNORECASE | re.DOTALL)
_NRRD_WORDS = re.compile(r"encoding\s*:\s*(ascii|text|txt)\s*", re.IGNORECASE)
_META_DATA = re.compile(r"ElementDataFile\s*[=:][ \t]*([^\n]*)")
_NUMBERED = re.compile(r"[^%\s]*%0?\d{0,2}d[^%\s]*")


def check_header(path: Path) -> None:
    """Look at a NRRD or MetaImage header and at the files it names; of other files, whether they are files.

    Raises:
        InputError: missing, closed to us, empty, not a file; a header that its reader does not survive;
            voxels in files that are missing, too few, or no files.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is not a file.")
        with path.open("rb") as file:
            start = file.read(4)
            if not start:
                raise InputError(f"{path} is an empty file.")
            file.seek(0)
            if start == b"NRRD":
                lines = list(_nrrd_lines(path, file))
                elsewhere = _nrrd_files(path, lines)
                if any(_NRRD_WORDS.fullmatch(line) for line in lines):
                    _check_words(path, [file] if elsewhere is None else _opened(path, elsewhere))
            elif path.name.lower().endswith(_METAIMAGE):
                elsewhere = _metaimage_files(path, _text(path, file.read(_TEXT)))
            else:
                return
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}.") from error
    for name in elsewhere or ():
        check_data_file(path, path.parent / name)


def check_data_file(header: Path, data: Path) -> None:
    """Raise InputError unless `data`, where `header` has its voxels, is a file that can be opened."""
    shown = _shown(str(data))
    try:
        if not stat.S_ISREG(data.stat().st_mode):
            raise InputError(f"{header} has its voxels in {shown}, which is not a file.")
        with data.open("rb"):
            return
    except FileNotFoundError as error:
        raise InputError(f"{header} has its voxels in {shown}, which does not exist.") from error
    except OSError as error:
        raise InputError(
            f"{header} has its voxels in {shown}, which cannot be opened: {error.strerror}."
        ) from error


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged: its header is not one of an image.")


def _shown(name: str) -> str:
    """A name for a sentence: one line, and not too long."""
    text = "".join(c if c.isprintable() else "?" for c in name)
    return text if len(text) <= _FIELD else f"{text[:_FIELD]}..."


def _text(path: Path, content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _nrrd_lines(path: Path, file: BinaryIO) -> Iterator[str]:
    """The lines of a NRRD header, which are short except for comments and key/value pairs. A carriage return
    ends a line, too."""
    for _ in range(_LINES):
        line = file.readline(_TEXT)
        if not line.strip():
            return
        for part in line.rstrip(b"\r\n").split(b"\r"):
            if len(line) >= _TEXT or (len(part) > _FIELD and b":=" not in part and part[:1] != b"#"):
                raise _damaged(path)
            yield _text(path, part)
    raise _damaged(path)


def _nrrd_files(path: Path, lines: Sequence[str]) -> list[str] | None:
    """Where a NRRD header has the voxels; None if behind itself."""
    found = [(k, match[1]) for k, line in enumerate(lines) if (match := _NRRD_DATA.fullmatch(line))]
    if not found:
        return None
    if len(found) > 1:
        raise _damaged(path)
    where, value = found[0]
    if value.startswith("LIST"):
        return _usable(path, lines[where + 1 :])
    pattern, *numbers = value.split()[:4] or [""]
    if _NUMBERED.fullmatch(pattern) and len(numbers) == 3:
        return _usable(path, _numbered(path, pattern, numbers, None))
    if re.search("%.*d", value):
        raise _damaged(path)
    return _usable(path, [value])


def _metaimage_files(path: Path, text: str) -> list[str] | None:
    """Where a MetaImage header has the voxels; None if behind itself."""
    last = re.search(rf"^\s*{_META_DATA.pattern}", text, re.MULTILINE)
    if last is None:
        raise _damaged(path)
    header = text[: last.end()]
    values = [match[1].strip() for match in _META_DATA.finditer(header)]
    if len(values) > 1:  # also in a comment, which no program writes
        raise _damaged(path)
    size, words = _meta_size(path, header), values[0].split()
    if not words:
        raise _damaged(path)
    if words[0].upper() == "LOCAL":
        return None
    if not words[0].startswith("LIST") and "%" not in values[0]:
        return _usable(path, words if len(words) == 1 else [values[0]])
    if "%" in values[0]:
        numbers = words[1:] or ["1", str(size[-1]), "1"]
        names: Iterable[str] = _numbered(path, words[0], numbers, size[-1])
        count = size[-1]
    else:
        within = re.fullmatch(r"LIST(?:\s+(\d)D?)?", values[0])
        dimension = len(size) - 1 if within is None or within[1] is None else int(within[1])
        if within is None or not 0 < dimension < len(size):
            raise _damaged(path)
        names = [line for line in map(str.strip, text[last.end() :].splitlines()) if line]
        count = math.prod(size[dimension:])
    files = _usable(path, list(names)[:count])
    if len(files) < count:
        raise InputError(f"{path} has its voxels in {count} files, but names {len(files)}.")
    return files


def _meta_size(path: Path, header: str) -> list[int]:
    """The numbers of voxels, as many as the header says there are dimensions."""
    header, found = header.replace("\r", ""), []
    for key in ("NDims", "DimSize"):
        values = re.findall(rf"^[ \t]*{key}[ \t]*[=:]([ \t\d]+)$", header, re.MULTILINE)
        if len(values) != 1 or any(len(number) > 18 for number in values[0].split()):
            raise _damaged(path)
        found.append([int(number) for number in values[0].split()])
    dimensions, size = found
    if dimensions != [len(size)] or len(size) > _DIMENSIONS or not 0 < math.prod(size) < 1 << 62:
        raise _damaged(path)
    return size


def _numbered(path: Path, pattern: str, numbers: Sequence[str], most: int | None) -> list[str]:
    """The names that a pattern such as ``slice%03d.raw`` and the first, last and step of its number give."""
    if len(numbers) != 3 or not _NUMBERED.fullmatch(pattern):
        raise _damaged(path)
    if not all(re.fullmatch(r"-?\d{1,9}", n) for n in numbers):
        raise _damaged(path)
    first, last, step = map(int, numbers)
    if step == 0 or (most is not None and step < 0):
        raise _damaged(path)
    counted = range(first, last + (1 if step > 0 else -1), step)[:most]
    if len(counted) > _LINES:
        raise _damaged(path)
    return [pattern % number for number in counted]


def _usable(path: Path, names: Sequence[str]) -> list[str]:
    """The names, unless one is none: ``-`` would be standard input, ``~`` somebody's home."""
    if any(not name or "\0" in name or name == "-" or name[0] == "~" for name in names):
        raise _damaged(path)
    return list(names)


def _opened(header: Path, names: Sequence[str]) -> Iterator[BinaryIO]:
    for name in names:
        check_data_file(header, header.parent / name)
        with (header.parent / name).open("rb") as file:
            yield file


def _check_words(path: Path, files: Iterable[BinaryIO]) -> None:
    """Raise InputError unless the numbers that are written out are as short as numbers are."""
    for file in files:
        rest = b""
        while chunk := file.read(_TEXT):
            if re.search(rb"\S{%d}" % _FIELD, rest + chunk):
                raise _damaged(path)
            rest = chunk[-_FIELD:]
