"""Landmark files: Slicer markups (.mrk.json, .fcsv) and tables (.csv). Points come and go in LPS mm.

A .csv table has one point a line, separated by commas, semicolons or tabs; lines that start with # are
skipped. Its first line may name the columns, in any order and case: ``x,y,z`` or ``l,p,s`` (LPS),
``r,a,s`` (RAS), also as ``x_lps`` or ``x_ras``; ``label`` or ``name``; ``defined`` and ``selected``, as
Slicer exports them (0: left out). Two coordinates are enough for 2-D images. Without such a line a table has
the columns x,y,z or label,x,y,z, in LPS. Decimals may have commas where something else separates the cells.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

from .atomic import write_text
from .errors import InputError, OutputError
from .landmark_pairing import DESELECTED, NOT_PLACED

Points = list[list[float]]

_DAMAGED = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, csv.Error)
"""What the parsers below trip over in a damaged file."""

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
_FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
_FCSV_STATUS = (
    _FCSV_COLUMNS.count(",") + 1
)  # Slicer 5 appends the position's status, unnamed; 2 means defined
_DEFINED = "2"
_TABLE_AXES = {"xyz": (1, 1, 1), "lps": (1, 1, 1), "ras": (-1, -1, 1)}  # factors to LPS


@dataclass
class PointList:
    """What a landmark file holds.

    Attributes:
        points: N points, LPS mm.
        labels: N names; the number in the file where it gives none.
        places: N numbers, 0 for the first point of the file.
        left_out: name and reason of each point that is not placed or is deselected.
        named: whether the file gives any name.
    """

    points: Points = field(default_factory=list)
    labels: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    named: bool = False

    def next_name(self, given: object) -> str:
        """The name of the point that comes next, from what the file gives for one."""
        self.named = self.named or bool(given)
        return str(given or self._count + 1)

    def add(self, name: str, point: list[float]) -> None:
        self.places += (self._count,)
        self.labels += (name,)
        self.points.append(point)

    def leave_out(self, name: str, reason: str) -> None:
        self.left_out += ((name, reason),)

    @property
    def _count(self) -> int:
        return len(self.points) + len(self.left_out)


def read_points(path: Path) -> PointList:
    """The points of a landmark file; raises InputError."""
    readers = {".mrk.json": _read_markups, ".json": _read_markups, ".fcsv": _read_fcsv, ".csv": _read_csv}
    reader = next((readers[end] for end in readers if path.name.lower().endswith(end)), None)
    if reader is None:
        raise InputError(f"{path} is not a landmark file: .mrk.json, .fcsv and .csv can be read.")
    try:
        if path.exists() and not path.is_file():  # a folder, or a device that never ends
            raise InputError(f"{path} is not a file.")
        return reader(path.read_text(encoding="utf-8-sig"), path)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}.") from error
    except _DAMAGED as error:
        raise InputError(f"{path} is not a landmark file that can be read, or it is damaged.") from error


def write_points(points: Points, labels: tuple[str, ...], path: Path) -> None:
    """Write points (LPS mm) with their labels; raises OutputError."""
    writers = {".mrk.json": _markups_text, ".fcsv": _fcsv_text, ".csv": _csv_text}
    writer = next((writers[end] for end in writers if path.name.lower().endswith(end)), None)
    if writer is None:
        raise OutputError(f"{path} could not be written: landmarks are saved as .mrk.json, .fcsv or .csv.")
    if writer is not _csv_text and any(len(point) != 3 for point in points):
        raise OutputError(f"{path} could not be written: 2-D landmarks can only be saved as .csv.")
    write_text(path, writer(points, labels))


def _signs(system: object, path: Path) -> tuple[int, int, int]:
    """Factors to LPS of a coordinate system by name or by Slicer's number for it."""
    name = str(system).strip().upper()
    if name in ("LPS", "1"):
        return (1, 1, 1)
    if name in ("RAS", "0"):
        return (-1, -1, 1)
    raise InputError(f"{path} has its landmarks in the coordinate system {system}; LPS or RAS is needed.")


def _read_markups(text: str, path: Path) -> PointList:
    found = PointList()
    for markup in json.loads(text)["markups"]:
        signs = _signs(markup.get("coordinateSystem", "LPS"), path)
        units = markup.get("coordinateUnits", "mm")
        if any(unit != "mm" for unit in (units if isinstance(units, list) else [units])):
            raise InputError(f"{path} has its landmarks in {units}; millimetres are needed.")
        for point in markup["controlPoints"]:
            name = found.next_name(point.get("label"))
            if point.get("positionStatus", "defined") != "defined" or point.get("position") is None:
                found.leave_out(name, NOT_PLACED)
            elif point.get("selected", True) is False:
                found.leave_out(name, DESELECTED)
            else:
                x, y, z = point["position"]
                found.add(name, [s * float(v) for s, v in zip(signs, (x, y, z), strict=True)])
    return found


def _read_fcsv(text: str, path: Path) -> PointList:
    signs, columns, found = (-1, -1, 1), _FCSV_COLUMNS.split(","), PointList()
    for line in text.splitlines():
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            if key.strip().lower() == "coordinatesystem":
                signs = _signs(value, path)
            elif key.strip().lower() == "columns":
                columns = [name.strip() for name in value.split(",")]
            continue
        if not line.strip():
            continue
        cells = next(csv.reader([line]))
        row = dict(zip(columns, cells, strict=False))
        name = found.next_name(row.get("label"))
        if cells[_FCSV_STATUS : _FCSV_STATUS + 1] not in ([], [""], [_DEFINED]):
            found.leave_out(name, NOT_PLACED)
        elif row.get("sel") == "0":
            found.leave_out(name, DESELECTED)
        else:
            found.add(name, [s * float(row[axis]) for s, axis in zip(signs, "xyz", strict=True)])
    return found


def _read_csv(text: str, path: Path) -> PointList:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        return PointList()
    separator = next((mark for mark in ";\t" if mark in lines[0]), ",")
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    columns = [_column_name(cell.lower()) for cell in rows[0]]
    if all(_is_number(name) for name in columns[1:]):
        columns = _unnamed_columns(columns, path)
    else:
        rows = rows[1:]
    axes = [axes for axes in _TABLE_AXES if set(axes[:2]) <= set(columns)]
    if len(axes) != 1:
        raise InputError(f"{path} must name its columns x,y,z (LPS), l,p,s or r,a,s, and perhaps label.")
    where = [
        (columns.index(axis), sign)
        for axis, sign in zip(axes[0], _TABLE_AXES[axes[0]], strict=True)
        if axis in columns
    ]
    found = PointList()
    for row in rows:
        if any(row[len(columns) :]):
            raise InputError(
                f"{path} has more cells in a line than columns ({','.join(row)}). Where decimals have "
                "commas, semicolons have to separate the cells."
            )
        cells = dict(zip(columns, row, strict=False))
        name = found.next_name(cells.get("label"))
        if cells.get("defined") == "0":
            found.leave_out(name, NOT_PLACED)
        elif cells.get("selected") == "0":
            found.leave_out(name, DESELECTED)
        else:
            found.add(name, [sign * _number(row[k]) for k, sign in where])
    return found


def _column_name(cell: str) -> str:
    """One name for each meaning: coordinates by the letters of their system, names as "label"."""
    letter, _, system = cell.partition("_")
    if letter in ("x", "y", "z") and system in ("lps", "ras"):
        return system["xyz".index(letter)]
    return "label" if cell == "name" else cell


def _unnamed_columns(cells: list[str], path: Path) -> list[str]:
    numbers = [_is_number(cell) for cell in cells]
    if all(numbers) and len(cells) in (2, 3):
        return list("xyz"[: len(cells)])
    if not numbers[0] and all(numbers[1:]) and len(cells) in (3, 4):
        return ["label", *"xyz"[: len(cells) - 1]]
    raise InputError(f"{path} needs a first line that names its columns, such as label,x,y,z.")


def _number(cell: str) -> float:
    """A cell's number, perhaps with a decimal comma; raises ValueError."""
    return float(cell.replace(",", ".") if cell.count(",") == 1 else cell)


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _markups_text(points: Points, labels: tuple[str, ...]) -> str:
    control_points = [
        {"id": str(k), "label": label, "position": point, "positionStatus": "defined"}
        for k, (point, label) in enumerate(zip(points, labels, strict=True), 1)
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": control_points,
    }
    return json.dumps({"@schema": _SCHEMA, "markups": [markup]}, indent=1) + "\n"


def _fcsv_text(points: Points, labels: tuple[str, ...]) -> str:
    header = f"# Markups fiducial file version = 5.0\n# CoordinateSystem = LPS\n# columns = {_FCSV_COLUMNS}\n"
    rows = [
        [k, *map(repr, point), 0, 0, 0, 1, 1, 1, 0, label, "", "", _DEFINED, 0]
        for k, (point, label) in enumerate(zip(points, labels, strict=True), 1)
    ]
    return header + _table(rows)


def _csv_text(points: Points, labels: tuple[str, ...]) -> str:
    axes = list("lps"[: len(points[0]) if points else 3])
    rows = [[label, *map(repr, point)] for point, label in zip(points, labels, strict=True)]
    return _table([["label", *axes], *rows])


def _table(rows: list[list[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
