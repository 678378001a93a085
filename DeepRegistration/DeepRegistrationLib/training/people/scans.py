"""From the labels at an image's voxels to what a scanner might have made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...filters import gaussian_smooth
from ..synthesis.appearance import Contrast, acquired
from ..synthesis.noise import smooth_noise
from .freesurfer import BRIGHTNESS, LEFT_OF, OUTSIDE_BRAIN, TISSUE_OF

_COMMON = 0.7
"""Share of the contrasts that follow common ones where the numbers' tissues are known."""

_T1 = 0.6
"""Share of T1 among the common ones; most images are."""

_STRIPPED = 0.5
"""Share of the pairs without what is around the brain, where the numbers say what that is."""

_WITHOUT_FLUID = 0.5
"""Share of those that lose the fluid around the brain, too (24)."""

_ROUGH = 2.5
"""Deviation, voxels, of the pattern in a tissue."""


@dataclass(frozen=True)
class Tissues:
    """What is known of the labels of a folder.

    Attributes:
        numbers: of the labels, ascending, 0 first.
        freesurfer: whether they are FreeSurfer's.
        image: the contrast of the images: a name from `freesurfer.BRIGHTNESS`, or ``any``.
    """

    numbers: np.ndarray
    freesurfer: bool
    image: str = "any"

    def contrast(self, draw: np.random.Generator) -> Contrast:
        """How bright each label is, and how uneven."""
        n = len(self.numbers)
        values = draw.uniform(0.02, 1.0, n)
        if self.freesurfer:
            place = {int(v): k for k, v in enumerate(self.numbers)}
            for right, left in LEFT_OF.items():
                if right in place and left in place:
                    values[place[right]] = values[place[left]]
            if draw.random() < _COMMON or self.image != "any":
                self._common(values, place, draw)
        values[0] = 0.0 if draw.random() < 0.9 else draw.uniform(0, 1)
        rough = draw.uniform(0, 0.15) * draw.uniform(0.2, 1, n)
        rough[0] = 0.0
        return Contrast(np.clip(values, 0, 1), rough, float(np.exp(0.25 * draw.standard_normal())))

    def _common(self, values: np.ndarray, place: dict[int, int], draw: np.random.Generator) -> None:
        kind = self.image
        if kind == "any":
            kind = "t1" if draw.random() < _T1 else str(draw.choice(["t2", "inverted"]))
        spread = draw.uniform(0.5, 1.5)
        of_tissue = {t: v + 0.06 * draw.standard_normal() for t, v in BRIGHTNESS[kind].items()}
        own: dict[int, float] = {}
        for number, tissue in TISSUE_OF.items():
            if number in place:
                left = LEFT_OF.get(number, number)
                own.setdefault(left, of_tissue[tissue] + 0.04 * spread * draw.standard_normal())
                values[place[number]] = own[left]

    def stripped(self, draw: np.random.Generator) -> np.ndarray:
        """Which labels an image leaves out (they look like background), as flags."""
        out = np.zeros(len(self.numbers), dtype=bool)
        if self.freesurfer and draw.random() < _STRIPPED:
            out |= self.numbers >= OUTSIDE_BRAIN
            if draw.random() < _WITHOUT_FLUID:
                out |= self.numbers == 24
        return out


def scan(index: Tensor, contrast: Contrast, left_out: np.ndarray, draw: np.random.Generator) -> Tensor:
    """An image (1, *S) in [0, 1].

    Args:
        index: (*S) uint8, the place of the label at each voxel.
        contrast: of the labels.
        left_out: labels that look like background.
        draw: where the numbers come from.
    """
    values, rough = contrast.values.copy(), contrast.texture.copy()
    values[left_out], rough[left_out] = 0.0, 0.0
    shape, d = tuple(index.shape), index.ndim
    number = index.int()
    image = torch.from_numpy(values).float()[number]
    pattern = 0.7 * (smooth_noise(shape, _ROUGH, 1, draw)[0] + smooth_noise(shape, 3 * _ROUGH, 1, draw)[0])
    image.addcmul_(torch.from_numpy(rough).float()[number], pattern)
    # a voxel shows a mixture of the tissues it holds
    image = gaussian_smooth(image[None], (float(draw.uniform(0.4, 0.8)),) * d, border="replicate")
    return acquired(image.clamp_(0, 1), contrast, draw)
