"""Label maps of people: read, turned to common axes, and where their structures lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...frame import Volume
from ...io import read_labels

_COUNTED = 1 << 20
"""Numbers below this are counted, which is faster than sorting."""

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mgz")


@dataclass(frozen=True)
class Person:
    """One label map, its axes along left, posterior and superior.

    Attributes:
        name: of the file.
        index: (*S) uint8, the place of each voxel's label in the list of all labels; 0 is background.
        spacing: of a voxel, mm, (x, y, z).
        centre: of the taught structures, voxels, (x, y, z).
        spread: deviation of their voxels from it along each axis, mm, (x, y, z).
    """

    name: str
    index: Tensor
    spacing: np.ndarray
    centre: np.ndarray
    spread: np.ndarray


def label_files(folder: Path) -> list[Path]:
    """The label maps of a folder, by name.

    Raises:
        InputError: no such folder, or fewer than two.
    """
    if not folder.is_dir():
        raise InputError(f"The folder of label maps {folder} does not exist.")
    files = sorted(
        p for p in folder.iterdir() if p.is_file() and p.name.endswith(SUFFIXES) and p.name[0] != "."
    )
    if len(files) < 2:
        raise InputError(f"{folder} holds {len(files)} label maps; pairs of people need two at least.")
    return files


def canonical(volume: Volume) -> tuple[Tensor, np.ndarray]:
    """Values (*S) on axes nearest to L, P, S (x, y, z in LPS), and the spacing along them, (x, y, z)."""
    direction = np.asarray(volume.frame.direction)
    d = len(direction)
    values, along = volume.data[0], np.abs(direction).argmax(0)
    if sorted(along) != list(range(d)):
        raise InputError("A label map lies askew between two axes; write it on straight ones first.")
    own_of = {int(world): own for own, world in enumerate(along)}  # axis of the image along each world axis
    order = [own_of[world] for world in range(d)]
    values = values.permute([d - 1 - own for own in reversed(order)])
    back = [d - 1 - world for world in range(d) if direction[world, order[world]] < 0]
    spacing = np.asarray(volume.frame.spacing)[order]
    return (values.flip(back) if back else values).contiguous(), spacing


def read_people(files: list[Path], is_taught: Callable[[int], bool]) -> tuple[list[Person], np.ndarray]:
    """The people of label files, each cut to what is not background, and the numbers that occur, 0 first.

    Args:
        files: of label maps of one dimension.
        is_taught: whether a number is one of those by which people are laid over each other.

    Raises:
        InputError: a file cannot be read or holds none of the taught labels; more than 255 labels occur.
    """
    read = []
    for path in files:
        values, spacing = canonical(read_labels(path))
        window = _window(values > 0)
        read.append((values[window].long().numpy(), spacing))
    if len({values.ndim for values, _ in read}) > 1:
        raise InputError(f"The label maps of {files[0].parent} are not of one dimension.")
    found = [_numbers(values) for values, _ in read]
    numbers = np.unique(np.concatenate([[0], *found]))
    if len(numbers) > 256:
        raise InputError(
            f"The label maps of {files[0].parent} hold {len(numbers) - 1} labels; 255 is the most."
        )
    places = [place for place, number in enumerate(numbers.tolist()) if number and is_taught(number)]
    people = []
    for path, (values, spacing) in zip(files, read, strict=True):
        index = np.searchsorted(numbers, values).astype(np.uint8)
        people.append(_person(path, torch.from_numpy(index), spacing, places))
    return people, numbers


def _window(seen: Tensor) -> tuple[slice, ...]:
    """Where something is seen."""
    window = []
    for dim in range(seen.ndim):
        along = seen.amax([k for k in range(seen.ndim) if k != dim]).nonzero().flatten()
        window.append(slice(int(along[0]), int(along[-1]) + 1) if len(along) else slice(None))
    return tuple(window)


def _numbers(values: np.ndarray) -> np.ndarray:
    """The numbers that occur."""
    flat = values.ravel()
    if flat.max(initial=0) < _COUNTED:
        return np.bincount(flat).nonzero()[0]
    return np.unique(flat)


def _person(path: Path, index: Tensor, spacing: np.ndarray, places: list[int]) -> Person:
    taught = torch.zeros(256, dtype=torch.bool)
    taught[places] = True
    where = taught[index.int()].nonzero().flip(1).double().numpy()
    if len(where) < 2:
        raise InputError(f"{path} holds none of the labels that are to be taught.")
    spread = np.maximum(where.std(0), 1.0) * spacing
    return Person(path.name, index, spacing, where.mean(0), spread)
