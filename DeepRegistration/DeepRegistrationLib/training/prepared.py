"""A folder's images as training sees them: on one lattice, intensities in [0, 1]."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..filters import downsample
from ..frame import Frame, Volume
from ..interpolation import sample
from ..io import read_labels, read_volume
from ..label_values import LabelReader
from ..prepare import centred, normalised, on_lattice, resampled
from .places import affine, bent


@dataclass(frozen=True)
class Item:
    """Files of an image and of its labels, where there are any."""

    image: Path
    labels: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """An image (1, *S) in [0, 1] and labels (*S) on the working lattice, and the frame of its box."""

    image: Tensor
    labels: Tensor | None
    frame: Frame

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.image, self.labels) if t is not None)


@dataclass(frozen=True)
class Lattice:
    """What images are brought to.

    Attributes:
        shape: voxels, array order.
        voxel: of the lattice, mm, with its axes along L, P, S and each image's box in its middle, black
            around; None stretches each image's own box over the lattice.
    """

    shape: tuple[int, ...]
    voxel: float | None = None

    def prepared(self, item: Item) -> Prepared:
        """Read an image and its labels.

        Raises:
            InputError: they cannot be read, are constant, or do not belong together.
        """
        volume = read_volume(item.image)
        try:
            volume = normalised(volume)
        except InputError as error:
            raise InputError(f"{item.image} cannot be used for training. {error}") from error
        found = None
        if item.labels is not None:
            found = read_labels(item.labels)
            if found.frame.size != volume.frame.size:
                raise InputError(f"{item.labels} does not have the size of its image {item.image}.")
            found = Volume(found.data, volume.frame)
        return self._stretched(volume, found) if self.voxel is None else self._centred(volume, found)

    def _stretched(self, volume: Volume, labels: Volume | None) -> Prepared:
        image = downsample(volume.data[None], tuple(reversed(self.shape)))[0]
        nearest = None
        if labels is not None:
            # float64 holds every label that is in use exactly
            read = F.interpolate(labels.data[None].double(), size=self.shape, mode="nearest-exact")[0, 0]
            nearest = read.to(labels.data.dtype)
        return Prepared(image, nearest, volume.frame)

    def _centred(self, volume: Volume, labels: Volume | None) -> Prepared:
        assert self.voxel is not None
        frame = centred(volume.frame.upright(), self.voxel, tuple(reversed(self.shape)))
        image = on_lattice(volume, frame).data
        nearest = None if labels is None else resampled(labels, frame, nearest=True).data[0]
        return Prepared(image, nearest, frame)


class Cache:
    """Prepared images, the ones used last, up to a number of bytes."""

    def __init__(self, lattice: Lattice, limit: int) -> None:
        self._lattice, self._limit, self._held = lattice, limit, 0
        self._kept: OrderedDict[Item, Prepared] = OrderedDict()
        self._lock = threading.Lock()  # training draws in a thread, validation beside it

    def get(self, item: Item) -> Prepared:
        with self._lock:
            if item in self._kept:
                self._kept.move_to_end(item)
                return self._kept[item]
            prepared = self._lattice.prepared(item)
            self._kept[item] = prepared
            self._held += prepared.bytes
            while self._held > self._limit and len(self._kept) > 1:
                self._held -= self._kept.popitem(last=False)[1].bytes
            return prepared


def varied(prepared: Prepared, draw: np.random.Generator, amount: float) -> Prepared:
    """The same image turned, stretched, shifted and bent a little, and its brightness changed, at random.

    Args:
        prepared: on a lattice of cubes.
        draw: where the numbers come from.
        amount: see `places.affine` and `places.bent`.
    """
    shape, voxel = prepared.image.shape[1:], prepared.frame.spacing[0]
    matrix, shift = affine(draw, shape, voxel, amount)
    places = bent(draw, shape, voxel, amount)
    mapped = torch.from_numpy(matrix).float() @ places.flatten(1) + torch.from_numpy(shift).float()[:, None]
    half = voxel * torch.tensor(shape[::-1]) / 2
    points = (mapped / half[:, None]).T.reshape(*shape, len(shape))
    inside = (points.abs() <= 1).all(-1)
    image = sample(prepared.image[None], points)[0] * inside
    image = image ** float(np.exp(0.3 * amount * draw.standard_normal()))
    noise = 0.03 * amount * draw.uniform() * torch.from_numpy(draw.standard_normal(shape, dtype=np.float32))
    image = (image + noise * inside).clamp_(0, 1)
    labels = None
    if prepared.labels is not None:
        labels = LabelReader(prepared.labels[None])(points)[0] * inside
    return Prepared(image, labels, prepared.frame)
