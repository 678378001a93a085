"""Where training pairs come from: `open_data` reads the text a user gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qsl

import torch

from ..errors import InputError
from .base import Batch
from .folder_data import FolderPairs
from .generated import GeneratedPairs
from .people import PREFIX as PEOPLE
from .people import PeoplePairs
from .shapes import Shapes, Squares
from .source import PairSource
from .synthesis import AnatomyPairs

GENERATED = "generated:"
GENERATORS: dict[str, type[GeneratedPairs]] = {
    "anatomy": AnatomyPairs,
    "shapes": Shapes,
    "squares": Squares,
}


def open_data(
    spec: str,
    dimension: int | None = None,
    shape: Sequence[int] | None = None,
    default: Callable[[int], Sequence[int]] | None = None,
    device: torch.device | str = "cpu",
) -> PairSource:
    """The pairs a text describes.

    Args:
        spec: ``generated:NAME?option=value&...`` (see shapes.py and synthesis/),
            ``labels:FOLDER?option=value&...`` (see people/), or a folder, with ``?voxel=MM&vary=AMOUNT``
            behind it or without (see folder_data.py).
        dimension: 2 or 3; None takes that of the folder's images, 2 for generated ones.
        shape: voxels of the working lattice, array order; None leaves it to the text or `default`.
        default: the shape for a dimension, where neither says; None takes that of the first image, or of
            the generator.
        device: where pairs are made by a generator that can (``anatomy``); the others, and folders, give
            theirs on the CPU.

    Raises:
        InputError: the text is not understood, or the folder cannot be used.
    """
    if dimension not in (None, 2, 3):
        raise InputError(f"There are 2-D and 3-D images, none with {dimension} dimensions.")
    if shape is not None:
        _check_shape(shape, dimension)
    if spec.startswith(PEOPLE):
        folder, _, query = spec.removeprefix(PEOPLE).partition("?")
        options = _options(query, PeoplePairs.options, spec)
        return PeoplePairs(spec, Path(folder).expanduser(), shape, default, **options)
    if not spec.startswith(GENERATED):
        folder, mark, query = spec.rpartition("?")
        if not mark or Path(spec).expanduser().is_dir():
            return FolderPairs(spec, dimension, shape, default)
        options = _options(query, {"voxel": float, "vary": float}, spec)
        return FolderPairs(spec, dimension, shape, default, folder=Path(folder).expanduser(), **options)
    name, _, query = spec.removeprefix(GENERATED).partition("?")
    if name not in GENERATORS:
        raise InputError(f"There is no generated data '{name}'; choose {', '.join(GENERATORS)}.")
    kind = GENERATORS[name]
    options = _options(query, kind.options, spec)
    d = dimension or (len(shape) if shape is not None else 2)
    if shape is None:
        size = options.pop("size", None if default else kind.size)
        shape = (default(d) if default else ()) if size is None else (size,) * d
        _check_shape(shape, d)
    elif "size" in options:
        raise InputError(f"Say the size of '{spec}' once: in the data or as the shape.")
    source = kind(spec, tuple(int(n) for n in shape), **options)
    source.device = torch.device(device)
    return source


def _check_shape(shape: Sequence[int], dimension: int | None) -> None:
    if len(shape) not in (2, 3) or dimension not in (None, len(shape)):
        wanted = f"{dimension} numbers" if dimension else "two or three numbers"
        raise InputError(f"The shape of the images needs {wanted}, array order (z, y, x).")
    if min(shape) < 8:
        raise InputError("Training images need at least 8 voxels along each axis.")


def _options(query: str, known: Mapping[str, Callable[[str], object]], spec: str) -> dict:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError as error:
        raise InputError(
            f"'{spec}' is not understood; options are written as ?name=value&name=value."
        ) from error
    result: dict = {}
    for name, text in pairs:
        if name not in known:
            raise InputError(f"'{spec}' has no option '{name}'; there are {', '.join(known)}.")
        try:
            result[name] = known[name](text)
        except ValueError as error:
            raise InputError(f"'{text}' is not a value for the option '{name}' of '{spec}'.") from error
    return result


class Prefetched:
    """Draws the next steps' batches in a thread while the current one is worked on.

    Args:
        draw: the batch of a step.
        first, last: the steps that will be asked for, in order, `last` left out.
    """

    _AHEAD = 2

    def __init__(self, draw: Callable[[int], Batch], first: int, last: int) -> None:
        self._draw, self._next, self._last = draw, first, last
        self._pool = ThreadPoolExecutor(1, "training-data")
        self._waiting: list[Future[Batch]] = []

    def __enter__(self) -> Prefetched:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self) -> Batch:
        """The next step's batch; raises what drawing it raised."""
        while self._next < self._last and len(self._waiting) < self._AHEAD:
            self._waiting.append(self._pool.submit(self._draw, self._next))
            self._next += 1
        batch = self._waiting.pop(0).result()
        if self._next < self._last:  # keep the thread busy during the step
            self._waiting.append(self._pool.submit(self._draw, self._next))
            self._next += 1
        return batch
