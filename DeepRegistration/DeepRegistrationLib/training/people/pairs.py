"""Pairs of two people, drawn from their label maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ..base import Batch
from ..generated import choice
from ..places import affine, bent
from ..source import PairSource
from .freesurfer import BRIGHTNESS, LEFT_OF, NO_STRUCTURE, OUTSIDE_BRAIN
from .maps import Person, label_files, read_people
from .scans import Tissues, scan

PREFIX = "labels:"

_APART = 0.2
"""Share of the affine maps by which each image differs from what both share: what a linear stage leaves."""

_FEWEST = 0.8
"""A label is taught if at least this share of the people have it."""


class PeoplePairs(PairSource):
    """Pairs of two different people of a folder of label maps.

    Both are laid over each other first, by the centre and the spread of their taught structures, as a linear
    stage would; then what it leaves, and the turns, sizes and places that images come in, are drawn.

    Args:
        spec: the text that described it.
        folder: of label maps.
        shape: of the images, array order; None takes `default`.
        default: the configuration's shape for a dimension.
        voxel: of the images, mm.
        contrast: of the two images of a pair: ``same``, ``different``, or ``mixed``, half of each.
        numbers: ``plain``, or ``freesurfer``: the two sides of a structure count as one, what is not brain is
            drawn but not taught, half the pairs are stripped of it, and half the contrasts are common ones.
        image: the contrast of all images, a name from `freesurfer.BRIGHTNESS`; ``any`` draws them.
        strength: of the deformation; at 1 points move by some 3 % of the side.
        affine: of turns, stretches and shifts.
        held_out: people, the last by name, that are for validation; 0 keeps a tenth where there are ten.

    Raises:
        InputError: the folder or an option cannot be used.
    """

    options: ClassVar[Mapping[str, Callable]] = {
        "voxel": float,
        "contrast": choice("same", "different", "mixed"),
        "numbers": choice("plain", "freesurfer"),
        "image": choice("any", *BRIGHTNESS),
        "strength": float,
        "affine": float,
        "held_out": int,
    }

    def __init__(
        self,
        spec: str,
        folder: Path,
        shape: Sequence[int] | None = None,
        default: Callable[[int], Sequence[int]] | None = None,
        voxel: float = 1.0,
        contrast: str = "mixed",
        numbers: str = "plain",
        image: str = "any",
        strength: float = 1.0,
        affine: float = 1.0,
        held_out: int = 0,
    ) -> None:
        self.spec, self.voxel_mm, self._contrast = spec, voxel, contrast
        self.axes = "lps"
        self._freesurfer, self._strength, self._affine = numbers == "freesurfer", strength, affine
        for name, value in {"strength": strength, "affine": affine}.items():
            if not 0 <= value <= 4:
                raise InputError(f"The {name} of '{spec}' has to be 0 to 4.")
        if not 0.1 <= voxel <= 20:
            raise InputError(f"The voxel of '{spec}' has to be 0.1 to 20 mm.")
        files = label_files(folder)
        people, found = read_people(files, self._is_taught)
        kept = held_out or (max(2, len(people) // 10) if len(people) >= 10 else 0)
        if not 0 <= held_out <= len(people) - 2 or held_out == 1:
            raise InputError(f"'{spec}' can keep 2 to {len(people) - 2} of its {len(people)} people, or 0.")
        self._training, self._kept = people[: len(people) - kept], people[len(people) - kept :]
        if image != "any" and not self._freesurfer:
            raise InputError(f"'{spec}' asks for {image} images, for which numbers=freesurfer is needed.")
        self._tissues = Tissues(found, self._freesurfer, image)
        self._channel_of, self.structures = self._channels(people, found)
        self._common = np.exp(np.mean([np.log(p.spread) for p in people], axis=0))
        self.dimension = people[0].index.ndim
        if shape is None:
            shape = default(self.dimension) if default else (64,) * self.dimension
        if len(shape) != self.dimension:
            raise InputError(
                f"The label maps of {folder} are {self.dimension}-D; the shape needs as many numbers."
            )
        self.shape = tuple(int(n) for n in shape)

    @property
    def held_out_count(self) -> int:
        return len(self._kept) * (len(self._kept) - 1)

    def _is_taught(self, number: int) -> bool:
        if not self._freesurfer:
            return True
        return number < OUTSIDE_BRAIN and number not in NO_STRUCTURE

    def _channels(self, people: list[Person], found: np.ndarray) -> tuple[Tensor, dict[int, float]]:
        """The channel of each label's place, -1 for those without, and what the channels stand for."""
        counts = np.stack([np.bincount(p.index.numpy().ravel(), minlength=len(found)) for p in people])
        there = (counts > 0).sum(0)
        labels: list[int] = []
        channel_of = torch.full((len(found),), -1, dtype=torch.int16)
        one = {int(n): LEFT_OF.get(int(n), int(n)) if self._freesurfer else int(n) for n in found}
        for place, number in enumerate(found.tolist()):
            if number and self._is_taught(number) and there[place] >= _FEWEST * len(people):
                if one[number] not in labels:
                    labels.append(one[number])
                channel_of[place] = labels.index(one[number])
        if not labels:
            raise InputError(f"'{self.spec}' has no label that most of its people have.")
        voxels = np.array([[np.prod(p.spacing)] for p in people])
        volumes = [
            np.median((counts * voxels)[:, (channel_of == k).numpy()].sum(1)) for k in range(len(labels))
        ]
        return channel_of, dict(zip(labels, map(float, volumes), strict=True))

    @torch.no_grad()
    def _pairs(self, draws: Sequence[np.random.Generator], held_out: bool, index: int = 0) -> Batch:
        fixed, moving, of_fixed, of_moving = [], [], [], []
        for draw in draws:
            if held_out:
                first, second = divmod(index, len(self._kept) - 1)
                chosen = self._kept[first], self._kept[second + (second >= first)]
            else:
                chosen = tuple(self._training[k] for k in draw.choice(len(self._training), 2, replace=False))
            left_out = self._tissues.stripped(draw)
            same = self._contrast == "same" or (self._contrast == "mixed" and draw.random() < 0.5)
            one = self._tissues.contrast(draw)
            other = one.varied(draw) if same else self._tissues.contrast(draw)
            shared = affine(draw, self.shape, self.voxel_mm, self._affine)
            for person, contrast, images, labels in zip(
                chosen, (one, other), (fixed, moving), (of_fixed, of_moving), strict=True
            ):
                seen = self._seen(person, shared, draw)
                images.append(scan(seen, contrast, left_out, draw))
                labels.append(self._one_hot(seen))
        stacks = (torch.stack(v) for v in (fixed, moving, of_fixed, of_moving))
        return Batch(*stacks, None, None, (self.voxel_mm,) * self.dimension)

    def _one_hot(self, seen: Tensor) -> Tensor:
        """(L, *S) float32."""
        channel = self._channel_of[seen.int()]
        return torch.stack([channel == k for k in range(len(self.structures))]).float()

    def _seen(
        self, person: Person, shared: tuple[np.ndarray, np.ndarray], draw: np.random.Generator
    ) -> Tensor:
        """The places (*S) uint8 of the labels at an image's voxels."""
        own = affine(draw, self.shape, self.voxel_mm, self._affine * _APART)
        matrix = own[0] @ shared[0]
        scale = person.spread / self._common / person.spacing  # from common mm to the person's voxels
        places = bent(draw, self.shape, self.voxel_mm, self._strength).flatten(1)
        points = torch.from_numpy(scale[:, None] * matrix).float() @ places
        shift = torch.from_numpy(scale * (own[1] + shared[1]) + person.centre).float()
        index = (points + shift[:, None]).round_().long()
        limits = torch.tensor(person.index.shape[::-1])[:, None]
        inside = ((index >= 0) & (index < limits)).all(0)
        strides = torch.tensor(person.index.stride()[::-1])[:, None]
        place = (index * strides).sum(0) * inside
        return (person.index.flatten()[place] * inside).reshape(self.shape)
