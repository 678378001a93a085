"""What a batch is to do: rows from a table or from file patterns, checked before anything begins.

No torch here: mistakes are told at once.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from glob import escape, glob
from pathlib import Path
from typing import Any

from .. import catalogue
from ..errors import InputError
from ..thread_count import check_threads
from .names import name_complaint, pair_name

FILES = (
    "fixed",
    "moving",
    "fixed_landmarks",
    "moving_landmarks",
    "fixed_labels",
    "moving_labels",
    "fixed_mask",
    "moving_mask",
    "initial",
    "weights",
)
CHOICES: dict[str, Sequence[str]] = {
    "method": tuple(catalogue.METHODS),
    "representation": tuple(catalogue.REPRESENTATIONS),
    "similarity": tuple(catalogue.SIMILARITIES),
    "preset": tuple(catalogue.PRESETS),
    "linear": tuple(catalogue.LINEAR_STAGES),
    "device": ("auto", "cpu", "cuda"),
    "symmetric": catalogue.SYMMETRIC,
}
NUMBERS: dict[str, type] = {"threads": int, "seed": int, "output_spacing": float} | dict.fromkeys(
    catalogue.STRENGTHS, float
)
OPTIONS = (*FILES, *CHOICES, *NUMBERS, "features")
"""Keyword options of `pipeline.register` that a row may set."""

_TOGETHER = (("fixed_landmarks", "moving_landmarks"), ("fixed_labels", "moving_labels"))
_YES, _NO = ("1", "yes", "true", "x"), ("0", "no", "false")
_IMAGES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
_TOLD = 5
"""Complaints that are told in full; of more, the number."""


@dataclass(frozen=True)
class Row:
    """One registration.

    Attributes:
        number: its line in the table (the header is line 1), or its place in the list.
        name: of the folder its results get; unlike any other row's.
        options: keyword options of `pipeline.register`; files as absolute paths.
    """

    number: int
    name: str
    options: dict[str, Any]


def read_table(path: str | Path, defaults: Mapping[str, Any]) -> list[Row]:
    """The rows of a table with the columns ``name`` and those of `OPTIONS` (hyphens do as well).

    Args:
        path: comma- or semicolon-separated, or tab-separated if it ends in .tsv; UTF-8. Paths in it are
            relative to its folder. What a row leaves empty is the default's.
        defaults: options for every row, as from the command line; their paths are relative to where we are.

    Raises:
        InputError: no such file, not a table, unknown columns, or a row that says nothing useful.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The table {path} does not exist.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text table in UTF-8; save it as CSV (UTF-8).") from error
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, text), strict=True))
    except csv.Error as error:
        raise InputError(f"{path} is not a table that can be read: {error}.") from error
    header = [cell.strip().replace("-", "_") for cell in lines[0]] if lines else []
    _check_header(path, header)
    rows, complaints = [], []
    for number, cells in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        try:
            if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
                raise InputError(f"it has {len(cells)} cells, but there are {len(header)} columns")
            given = {key: cell.strip() for key, cell in zip(header, cells, strict=False) if cell.strip()}
            rows.append(_row(number, given, defaults, path.parent))
        except InputError as error:
            complaints.append((number, str(error).removesuffix(".")))
    _complain(f"of {path}", complaints)
    if not rows:
        raise InputError(f"{path} has no rows.")
    return rows


def rows_of_files(fixed: str, moving: Sequence[str], defaults: Mapping[str, Any]) -> list[Row]:
    """One fixed image and many moving ones; the fixed image itself is left out of them.

    Args:
        fixed: path.
        moving: files, one folder (all images in it), or one pattern with ``*``.
        defaults: options for every row. In those of the moving image, each ``*`` stands for what the star
            of the same place in the moving pattern stood for; if `moving` is a folder, a folder means the
            file of the same name in it.

    Raises:
        InputError: no moving image, or stars that do not match.
    """
    rows, complaints = [], []
    for path, fill in matched(moving):
        if os.path.abspath(path) == os.path.abspath(fixed):
            continue
        number = len(rows) + len(complaints) + 1
        given = {"fixed": fixed, "moving": path}
        try:
            for key in ("moving_landmarks", "moving_labels", "moving_mask", "initial"):
                if defaults.get(key) is not None:
                    given[key] = fill(str(defaults[key]))
            rows.append(_row(number, given, defaults, Path()))
        except InputError as error:
            complaints.append((number, str(error).removesuffix(".")))
    _complain("", complaints)
    if not rows:
        raise InputError("There is no moving image besides the fixed one.")
    return rows


def matched(sources: Sequence[str]) -> list[tuple[str, Callable[[str], str]]]:
    """Files, the images of a folder or the matches of a pattern, sorted, each with what fills another
    option's stars (or folder) for it.

    Raises:
        InputError: nothing matches.
    """
    if len(sources) == 1 and "*" in sources[0] and not os.path.exists(sources[0]):
        return _by_pattern(sources[0])
    if len(sources) == 1 and _is_folder_of_images(Path(sources[0])):
        names = sorted(p.name for p in Path(sources[0]).iterdir() if _is_image(p))

        def beside(name: str) -> Callable[[str], str]:
            return lambda option: os.path.join(option, name) if os.path.isdir(option) else option

        return [(os.path.join(sources[0], name), beside(name)) for name in names]

    def plain(option: str) -> str:
        if "*" in option:
            raise InputError(f"the star in {option} needs one in the images' pattern (in quotes)")
        return option

    return [(source, plain) for source in sources]


def check_rows(rows: Iterable[Row]) -> None:
    """Look at what can be known before the work begins.

    Raises:
        InputError: a file that is not there, a name that is not possible or used twice, prompts without
            their partner; with the row.
    """
    complaints: list[tuple[int, str]] = []
    seen: dict[str, int] = {}
    for row in rows:
        complaints += [(row.number, f"{sentence} ({row.name})") for sentence in _complaints(row)]
        first = seen.setdefault(row.name.casefold(), row.number)
        if first != row.number:
            sentence = f"its results would have the name '{row.name}', as row {first}'s; give it another name"
            complaints.append((row.number, sentence))
    _complain("", complaints)


def _complaints(row: Row) -> Iterable[str]:
    why = name_complaint(row.name)
    if why is not None:
        yield f"'{row.name}' cannot be the name of its results: {why}"
    for key in FILES:
        path = row.options.get(key)
        if path is not None and not os.path.exists(path):
            yield f"the {key.replace('_', ' ')} {path} does not exist"
    for fixed, moving in _TOGETHER:
        given = [key for key in (fixed, moving) if row.options.get(key) is not None]
        if len(given) == 1:
            missing = moving if given == [fixed] else fixed
            yield f"there is no {missing}, which {given[0]} needs"


def _row(number: int, given: Mapping[str, str], defaults: Mapping[str, Any], folder: Path) -> Row:
    options: dict[str, Any] = {}
    for key in OPTIONS:
        cell, default = given.get(key), defaults.get(key)
        if cell is not None:
            options[key] = _value(key, cell, folder)
        elif default is not None:
            options[key] = os.path.abspath(os.path.expanduser(default)) if key in FILES else default
    for key in ("fixed", "moving"):
        if options.get(key) is None:
            raise InputError(f"there is no {key} image")
    options["threads"] = options.get("threads") or 1
    return Row(number, given.get("name") or pair_name(options["fixed"], options["moving"]), options)


def _value(key: str, cell: str, folder: Path) -> Any:
    if key in FILES:
        return os.path.abspath(os.path.join(folder, os.path.expanduser(cell)))
    if key in CHOICES:
        if cell not in CHOICES[key]:
            raise InputError(f"there is no {key} '{cell}'; choose {', '.join(CHOICES[key])}")
        return cell
    if key in NUMBERS:
        try:
            value = NUMBERS[key](cell)
        except ValueError:
            what = "a whole number" if NUMBERS[key] is int else "a number"
            raise InputError(f"{key} is '{cell}', which is not {what}") from None
        if key == "threads":
            check_threads(value, key)
        if key == "output_spacing" and not 0 < value < 1000:
            raise InputError("output_spacing must be a positive number of millimetres")
        return value
    if cell.lower() not in (*_YES, *_NO):
        raise InputError(f"{key} is '{cell}'; write yes or no")
    return cell.lower() in _YES


def _check_header(path: Path, header: list[str]) -> None:
    known = ("name", *OPTIONS)
    for column in header:
        if column and column not in known:
            raise InputError(
                f"{path} has the column '{column}', which is no option; there are {', '.join(known)}."
            )
        if column and header.count(column) > 1:
            raise InputError(f"{path} has the column '{column}' more than once.")
    if not {"fixed", "moving"} & set(header):
        raise InputError(f"{path} needs the columns 'fixed' and 'moving' in its first line.")


def _delimiter(path: Path, text: str) -> str:
    first = text.split("\n", 1)[0]
    if path.suffix.lower() == ".tsv" or ("\t" in first and "," not in first):
        return "\t"
    return ";" if ";" in first and "," not in first else ","


def _complain(where: str, complaints: list[tuple[int, str]]) -> None:
    if not complaints:
        return
    told = [f"Row {number}{' ' + where if where else ''}: {text}." for number, text in complaints[:_TOLD]]
    more = len(complaints) - _TOLD
    raise InputError(" ".join(told) + (f" And {more} more." if more > 0 else ""))


def _by_pattern(pattern: str) -> list[tuple[str, Callable[[str], str]]]:
    # ? and [ in file names are themselves: only the star is special
    pieces = pattern.split("*")
    if "" in pieces[1:-1]:
        raise InputError(f"The pattern {pattern} has stars next to each other.")
    expression = re.compile("([^/\\\\]*)".join(map(re.escape, pieces)), re.DOTALL)
    paths = sorted(p for p in glob("*".join(map(escape, pieces))) if expression.fullmatch(p))
    if not paths:
        raise InputError(f"No file matches {pattern}.")

    def filler(groups: tuple[str, ...]) -> Callable[[str], str]:
        def fill(option: str) -> str:
            parts = option.split("*")
            if len(parts) - 1 not in (0, len(groups)):
                raise InputError(f"{option} has not as many stars as {pattern}")
            return "".join(a + b for a, b in zip(parts, (*groups[: len(parts) - 1], ""), strict=True))

        return fill

    return [(path, filler(expression.fullmatch(path).groups())) for path in paths]  # type: ignore[union-attr]


def _is_folder_of_images(path: Path) -> bool:
    """A folder with image files in it; one without is taken for a DICOM series."""
    return path.is_dir() and any(_is_image(p) for p in path.iterdir())


def _is_image(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(_IMAGES) and not path.name.startswith(".")
