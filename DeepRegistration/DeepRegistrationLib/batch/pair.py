"""One pair, from files to a finished folder, which appears whole or not at all: a worker process does it."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..atomic import atomic_path, remove_temporaries, write_text
from ..errors import InputError, OutputError
from ..progress import CancelToken, ProgressCallback
from .names import PICTURE, RECORD, file_names
from .rows import FILES, Row

RUNNING = ".running-"
_HIDDEN = ".unfinished-"
_CELL_PIXELS = 150
_JPEG_QUALITY = 75
_PICTURE_VOXELS = 1 << 20
"""The picture's grid and Jacobian are drawn from a field of at most this many voxels."""


@dataclass(frozen=True)
class Task:
    """A row and the folder its results get.

    Attributes:
        name: the row's, and the folder's.
        options: keyword options of `pipeline.register`; absolute paths.
        parent: the batch's folder, an absolute path.
        picture: whether to draw one.
        minutes: after which the pair is given up; None is never.
    """

    name: str
    options: Mapping[str, Any]
    parent: str
    picture: bool = True
    minutes: float | None = None

    @classmethod
    def of(cls, row: Row, parent: Path, picture: bool = True, minutes: float | None = None) -> Task:
        return cls(row.name, row.options, str(parent.resolve()), picture, minutes)

    @property
    def folder(self) -> Path:
        return Path(self.parent) / self.name

    def record(self) -> dict[str, Any]:
        """What is kept beside the results, so that they are known again: options, and the inputs' sizes
        (bytes) and times of change (ns).

        Raises:
            InputError: an input is gone.
        """
        inputs = {}
        for key in FILES:
            if self.options.get(key) is not None:
                try:
                    state = os.stat(self.options[key])
                except OSError as error:
                    raise InputError(f"{self.options[key]} cannot be opened: {error.strerror}.") from error
                inputs[key] = {"bytes": state.st_size, "changed": state.st_mtime_ns}
        return {"options": dict(self.options), "inputs": inputs}


def finished(task: Task) -> bool:
    """Whether the task's results are there, each file of the size in which it was written.

    Raises:
        InputError: there is something else of that name: other options, other inputs, no results at all.
    """
    folder = task.folder
    if not folder.exists():
        return False
    try:
        known = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        there = {key: dict(known[key]) for key in ("options", "inputs")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{folder} is there already, but not from a batch; choose another folder."
        ) from error
    wanted = json.loads(json.dumps(task.record()))
    if there == wanted:
        return _whole(folder, known)
    what = next((k for k in there["inputs"] if there["inputs"][k] != wanted["inputs"].get(k)), None)
    if there["options"] != wanted["options"] or what is None:
        raise InputError(f"{folder} was made with other options; choose another folder, or remove it.")
    raise InputError(f"The {what.replace('_', ' ')} has changed since {folder} was made; remove that folder.")


def _whole(folder: Path, record: Mapping[str, Any]) -> bool:
    try:
        sizes = {str(name): int(size) for name, size in record["bytes"].items()}
        names = {str(name) for name in record["files"].values()}
        return names == sizes.keys() and all((folder / n).stat().st_size == s for n, s in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return False


def register_pair(task: Task, progress: ProgressCallback, cancel: CancelToken) -> None:
    """Register the pair, and let its folder appear, complete: the results under their names
    (`names.file_names`), the picture and the record. A folder that is there and complete stays; in one that
    has lost files, or parts of them, they are replaced.

    Raises:
        RegistrationError: as `pipeline.register` and `Registration.save`.
    """
    import SimpleITK as sitk

    from ..io import read_volume
    from ..pipeline import register

    if finished(task):
        return
    options = dict(task.options)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options["threads"])  # the process is the program's own
    record = task.record()
    fixed, moving = (read_volume(options.pop(role)) for role in ("fixed", "moving"))
    registration = register(fixed, moving, **options, progress=progress, cancel=cancel)
    names = file_names(task.options["fixed"], task.options["moving"])
    with _published(task) as hidden:
        registration.save(hidden)
        written = {name: names[name] for name in sorted(os.listdir(hidden))}
        for name, final in written.items():
            os.replace(hidden / name, hidden / final)
        if task.picture:
            _draw(hidden / PICTURE, fixed, moving, registration)
        sizes = {name: (hidden / name).stat().st_size for name in written.values()}
        record |= {"files": written, "bytes": sizes, "version": __version__}
        write_text(hidden / RECORD, json.dumps(record, indent=2) + "\n")


@contextmanager
def _published(task: Task) -> Iterator[Path]:
    """A hidden folder beside the task's, which gets its name when all goes well and is removed otherwise."""
    folder = task.folder
    hidden = folder.with_name(f"{_HIDDEN}{uuid.uuid4().hex[:12]}")
    try:
        hidden.mkdir(parents=True)
        yield hidden
        try:
            os.rename(hidden, folder)
        except OSError:
            if not (folder / RECORD).is_file():
                raise
            if not finished(task):  # otherwise another process was faster, with the same results
                for name in sorted(os.listdir(hidden), key=lambda name: name == RECORD):  # the record last
                    os.replace(hidden / name, folder / name)
    except OutputError as error:
        raise OutputError(str(error).replace(str(hidden), str(folder))) from error
    except OSError as error:
        raise OutputError(f"{folder} could not be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what runs that were killed have left in a batch's folder, which is locked: results that are not
    whole, and the mark by which their cluster's workers know that they are wanted."""
    for path in folder.glob(f"{_HIDDEN}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"{RUNNING}*"):
        path.unlink(missing_ok=True)
    remove_temporaries(folder)


def _draw(path: Path, fixed: Any, moving: Any, registration: Any) -> None:
    import SimpleITK as sitk

    from ..demo.picture import write_picture
    from ..field import Field
    from ..prepare import resampled

    field = registration.forward_field
    field = Field(field.displacement.cpu(), field.frame)
    if field.frame.voxels > _PICTURE_VOXELS:
        factor = (field.frame.voxels / _PICTURE_VOXELS) ** (1 / field.frame.dimension)
        size = tuple(max(1, int(n / factor)) for n in field.frame.size)
        field = field.resampled(field.frame.resized(size))
    before = resampled(moving, fixed.frame)
    plain = path.with_suffix(".png")
    write_picture(plain, fixed, before, registration.warped, field, cell_pixels=_CELL_PIXELS)
    writer = sitk.ImageFileWriter()
    writer.UseCompressionOn()
    writer.SetCompressionLevel(_JPEG_QUALITY)
    with atomic_path(path) as temporary:
        writer.SetFileName(str(temporary))
        writer.Execute(sitk.ReadImage(str(plain)))
    plain.unlink()
