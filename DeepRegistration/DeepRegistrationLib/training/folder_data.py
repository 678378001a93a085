"""Pairs from a folder of volumes.

Either ``pairs.csv``, a row per pair with the columns ``fixed`` and ``moving`` (paths relative to the
folder) and, if wanted, ``fixed_labels`` and ``moving_labels``, ``fixed_landmarks`` and
``moving_landmarks``, ``use`` (``train`` or ``validation``); or single images in ``images/``, any two of
which make a pair, with label maps of the same names in ``labels/`` if there are any. Where nothing says
which pairs are for validation, every tenth image (or row) is kept for it once there are ten.

Each image is cut to the working lattice over its own box, so images have to show the same field of view,
as after an affine alignment and a common crop; intensities are brought to [0, 1] (`prepare.normalised`).
"""

from __future__ import annotations

import csv
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..file_checks import check_file, quiet_itk
from ..filters import downsample
from ..frame import Frame, apply_matrix
from ..io import read_labels, read_volume
from ..landmarks import pair_landmarks
from ..prepare import normalised
from .base import Batch
from .source import PairSource

_CACHE_BYTES = 4 << 30
_TENTH = 10
_COLUMNS = ("fixed", "moving", "fixed_labels", "moving_labels", "fixed_landmarks", "moving_landmarks", "use")


@dataclass(frozen=True)
class _Item:
    image: Path
    labels: Path | None = None


@dataclass(frozen=True)
class _Pair:
    fixed: _Item
    moving: _Item
    landmarks: tuple[Path, Path] | None = None


@dataclass(frozen=True)
class _Prepared:
    """An image (1, *S) in [0, 1] and labels (*S) on the working lattice, and the frame they came on."""

    image: Tensor
    labels: Tensor | None
    frame: Frame


class FolderPairs(PairSource):
    """Pairs of a folder's volumes, on one lattice.

    Args:
        spec: the folder.
        dimension: the images must have; None takes what they have.
        shape: of the working lattice, array order; None takes `default`, or the first image's.
        default: the configuration's shape for a dimension.
        cache_bytes: what prepared images may take of the memory.

    Raises:
        InputError: no such folder, nothing in it, something missing, unreadable or of another dimension.
    """

    def __init__(
        self,
        spec: str,
        dimension: int | None,
        shape: Sequence[int] | None,
        default: Callable[[int], Sequence[int]] | None = None,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        self.spec = spec
        self._folder = Path(spec).expanduser()
        if not self._folder.is_dir():
            raise InputError(
                f"The data folder {spec} does not exist (generated data are named generated:NAME)."
            )
        self._pairs_listed: list[_Pair] = []
        self._items: list[_Item] = []
        listed = (self._folder / "pairs.csv").is_file()
        train, kept = _listed(self._folder) if listed else _split(_single(self._folder))
        if listed:
            self._pairs_listed = train
            self._held_out = kept
        else:
            self._items = train
            # each kept image once as the fixed one
            self._held_out = [_Pair(a, b) for a, b in zip(kept, kept[1:] + kept[:1], strict=True) if a != b]
        both = [*self._pairs_listed, *self._held_out]
        images = [item for pair in both for item in (pair.fixed, pair.moving)] + self._items
        sizes = _checked_sizes(images, dimension)
        self.dimension = len(sizes[0])
        if shape is None:
            shape = default(self.dimension) if default else tuple(reversed(sizes[0]))
        self.shape = tuple(int(n) for n in shape)
        if len(self.shape) != self.dimension:
            raise InputError(f"The images of {spec} are {self.dimension}-D; the shape needs as many numbers.")
        self._cache = _Cache(self.shape, cache_bytes)

    @property
    def held_out_count(self) -> int:
        return len(self._held_out)

    def _pairs(self, draws: Sequence[np.random.Generator], held_out: bool, index: int = 0) -> Batch:
        pairs = [self._held_out[index]] if held_out else [self._drawn(draw) for draw in draws]
        fixed = [self._cache.get(pair.fixed) for pair in pairs]
        moving = [self._cache.get(pair.moving) for pair in pairs]
        landmarks = [
            _landmarks(p.landmarks, f.frame, m.frame)
            for p, f, m in zip(pairs, fixed, moving, strict=True)
            if p.landmarks is not None
        ]
        steps = np.mean([f.frame.resized(tuple(reversed(self.shape))).spacing for f in fixed], 0)
        return Batch(
            torch.stack([f.image for f in fixed]),
            torch.stack([m.image for m in moving]),
            *_common_labels(fixed, moving),
            *(_stacked(landmarks, draws) if len(landmarks) == len(pairs) else (None, None)),
            tuple(float(s) for s in steps),
        )

    def _drawn(self, draw: np.random.Generator) -> _Pair:
        if self._pairs_listed:
            return self._pairs_listed[int(draw.integers(len(self._pairs_listed)))]
        a, b = draw.choice(len(self._items), 2, replace=False)
        return _Pair(self._items[a], self._items[b])


class _Cache:
    """Prepared images, the ones used last, up to a number of bytes."""

    def __init__(self, shape: tuple[int, ...], limit: int) -> None:
        self._shape, self._limit, self._held = shape, limit, 0
        self._kept: OrderedDict[_Item, _Prepared] = OrderedDict()
        self._lock = threading.Lock()  # training draws in a thread, validation beside it

    def get(self, item: _Item) -> _Prepared:
        with self._lock:
            if item in self._kept:
                self._kept.move_to_end(item)
                return self._kept[item]
            prepared = _prepare(item, self._shape)
            self._kept[item] = prepared
            self._held += _bytes(prepared)
            while self._held > self._limit and len(self._kept) > 1:
                self._held -= _bytes(self._kept.popitem(last=False)[1])
            return prepared


def _bytes(prepared: _Prepared) -> int:
    return sum(t.numel() * t.element_size() for t in (prepared.image, prepared.labels) if t is not None)


def _prepare(item: _Item, shape: tuple[int, ...]) -> _Prepared:
    volume = read_volume(item.image)
    try:
        volume = normalised(volume)
    except InputError as error:
        raise InputError(f"{item.image} cannot be used for training. {error}") from error
    image = downsample(volume.data[None], tuple(reversed(shape)))[0]
    labels = None
    if item.labels is not None:
        found = read_labels(item.labels)
        if found.frame.size != volume.frame.size:
            raise InputError(f"{item.labels} does not have the size of its image {item.image}.")
        # float64 holds every label that is in use exactly
        nearest = F.interpolate(found.data[None].double(), size=shape, mode="nearest-exact")[0, 0]
        labels = nearest.to(found.data.dtype)
    return _Prepared(image, labels, volume.frame)


def _common_labels(
    fixed: Sequence[_Prepared], moving: Sequence[_Prepared]
) -> tuple[Tensor | None, Tensor | None]:
    """One channel for each label that some pair has on both sides; empty for pairs that do not."""
    sides = [(f.labels, m.labels) for f, m in zip(fixed, moving, strict=True)]
    if any(label is None for side in sides for label in side):
        return None, None
    present = [[set(label.unique().tolist()) - {0} for label in side] for side in sides]
    both = [f & m for f, m in present]
    values = sorted(set().union(*both))
    if not values:
        return None, None
    result = []
    for side in (0, 1):
        result.append(
            torch.stack(
                [
                    torch.stack([(labels[side] == v) & (v in shared) for v in values])
                    for labels, shared in zip(sides, both, strict=True)
                ]
            ).float()
        )
    return result[0], result[1]


def _landmarks(files: tuple[Path, Path], fixed: Frame, moving: Frame) -> tuple[Tensor, Tensor]:
    """Paired landmarks (N, d) in normalised coordinates of each image's box."""
    on_fixed, on_moving, _ = pair_landmarks(*files)
    return (
        apply_matrix(fixed.world_to_normalised, on_fixed.double()).float(),
        apply_matrix(moving.world_to_normalised, on_moving.double()).float(),
    )


def _stacked(pairs: Sequence[tuple[Tensor, Tensor]], draws: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """(B, N, d) each; of longer lists as many as the shortest has, drawn at random."""
    count = min(len(fixed) for fixed, _ in pairs)
    chosen = []
    for (fixed, moving), draw in zip(pairs, draws, strict=True):
        some = torch.from_numpy(np.sort(draw.permutation(len(fixed))[:count]))
        chosen.append((fixed[some], moving[some]))
    return torch.stack([f for f, _ in chosen]), torch.stack([m for _, m in chosen])


def _listed(folder: Path) -> tuple[list[_Pair], list[_Pair]]:
    """Training and validation pairs of pairs.csv."""
    path = folder / "pairs.csv"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table: {error}.") from error
    unknown = [name for name in columns if name not in _COLUMNS]
    if "fixed" not in columns or "moving" not in columns or unknown:
        raise InputError(
            f"{path} needs the columns fixed and moving, and may have {', '.join(_COLUMNS[2:])}."
        )
    pairs: dict[str, list[_Pair]] = {"": [], "train": [], "validation": []}
    for number, row in enumerate(rows, 2):
        cell = {name: (row.get(name) or "").strip() for name in _COLUMNS}
        if not cell["fixed"] or not cell["moving"] or row.get(None):
            raise InputError(f"{path}, line {number}: a fixed and a moving image are needed.")
        for what in ("labels", "landmarks"):
            if bool(cell[f"fixed_{what}"]) != bool(cell[f"moving_{what}"]):
                raise InputError(f"{path}, line {number}: {what} are needed for both images or for none.")
        if cell["use"] not in pairs:
            raise InputError(f"{path}, line {number}: use is train or validation, not '{cell['use']}'.")
        files = {name: folder / text if text else None for name, text in cell.items() if name != "use"}
        for file in files.values():
            if file is not None and not file.exists():
                raise InputError(f"{path}, line {number}: {file} does not exist.")
        marks = None if not cell["fixed_landmarks"] else (files["fixed_landmarks"], files["moving_landmarks"])
        sides = (_Item(files[f], files[f"{f}_labels"]) for f in ("fixed", "moving"))
        pairs[cell["use"]].append(_Pair(*sides, marks))
    if not rows:
        raise InputError(f"{path} lists no pairs.")
    if not any(row.get("use") for row in rows):
        return _split(pairs[""])
    train = pairs[""] + pairs["train"]
    if not train:
        raise InputError(f"{path} has no pairs to train on, only for validation.")
    return train, pairs["validation"]


def _single(folder: Path) -> list[_Item]:
    """The images of images/ with their labels, by name."""
    images = _by_name(folder / "images")
    if not images:
        raise InputError(f"{folder} holds no training data: neither pairs.csv nor images in images/.")
    if len(images) < 2:
        raise InputError(f"{folder / 'images'} holds one image; a pair needs two.")
    if not (folder / "labels").is_dir():
        return [_Item(path) for path in images.values()]
    labels = _by_name(folder / "labels")
    missing = [path.name for name, path in images.items() if name not in labels]
    if missing:
        raise InputError(f"{folder / 'labels'} has no label map for {missing[0]} ({len(missing)} missing).")
    return [_Item(path, labels[name]) for name, path in images.items()]


def _by_name(folder: Path) -> dict[str, Path]:
    """Files and DICOM folders by their name without its extension, hidden ones left out."""
    if not folder.is_dir():
        return {}
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        name = path.name if path.is_dir() else path.name.removesuffix(".gz").rpartition(".")[0] or path.name
        if name in found:
            raise InputError(f"{folder} holds {found[name].name} and {path.name}, two images of one name.")
        found[name] = path
    return found


def _split(items: list) -> tuple[list, list]:
    """What is trained on, and every tenth (at least two) for validation where there are ten."""
    if len(items) < _TENTH:
        return items, []
    every = min(_TENTH, len(items) // 2)
    kept = items[every - 1 :: every]
    return [item for item in items if item not in kept], kept


def _checked_sizes(items: Sequence[_Item], dimension: int | None) -> list[tuple[int, ...]]:
    """Sizes (x, y, z) from the files' headers; raises InputError unless all have one dimension."""
    sizes: dict[Path, tuple[int, ...]] = {}
    for item in items:
        if item.image not in sizes:
            sizes[item.image] = _size(item.image)
    first = next(iter(sizes))
    for path, size in sizes.items():
        if dimension is not None and len(size) != dimension:
            raise InputError(f"{path} is a {len(size)}-D image; {dimension}-D ones are to be trained on.")
        if len(size) != len(sizes[first]):
            raise InputError(f"{path} is a {len(size)}-D image, but {first.name} is {len(sizes[first])}-D.")
    return list(sizes.values())


def _size(path: Path) -> tuple[int, ...]:
    if path.is_dir():
        return read_volume(path).frame.size
    if not path.is_file():
        check_file(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path} is not an image that can be read, or it is damaged.") from error
    return tuple(reader.GetSize())
