"""How well a linear map fits two images, both treated alike: swapping them and inverting the map changes
nothing.

Each image is compared at its own places with the other one read where the map (or its inverse) leads, and the
two are averaged by the number of places that meet something. The measure is normalised mutual information
(Studholme et al., Pattern Recognition 32, 1999), which serves all pairs of modalities.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..interpolation import sample
from ..objectives import NormalisedMutualInformation
from .looks import Look

_BINS_FEW = 12
_CHUNK = 48
_LABEL_PULL = 1.0
_PLANE_PULL = 0.05


class FastMeasure:
    """Mutual information of many maps at once, without gradient.

    Called with matrices (B, d+1, d+1) float64 from first to second points, LPS mm, it gives (B,) float64:
    NMI - 1, less where the images hardly overlap; higher is better.
    """

    def __init__(self, first: Look, second: Look) -> None:
        self.first, self.second = first, second

    def __call__(self, matrices: Tensor) -> Tensor:
        parts = []
        for some in matrices.split(_CHUNK):
            there, share_there = self._one_way(some, self.first, self.second)
            back, share_back = self._one_way(torch.linalg.inv(some), self.second, self.first)
            parts.append(_averaged(there, back, share_there, share_back, self.first, self.second))
        return torch.cat(parts)

    def _one_way(self, matrices: Tensor, here: Look, there: Look) -> tuple[Tensor, Tensor]:
        """NMI - 1 (B,) and the share of places that lie in the other image (B,)."""
        points = _led(matrices, here, there)
        inside = ((points.abs() <= 1).all(-1)) & (here.weights > 0)
        d = here.frame.dimension
        flat = points.view(1, *(1,) * (d - 1), -1, d)
        values = F.grid_sample(there.image, flat, padding_mode="border", align_corners=False)
        values = values.view(len(matrices), -1)
        if there.mask is not None:
            mask = F.grid_sample(there.mask, flat, padding_mode="zeros", align_corners=False)
            inside &= mask.view(len(matrices), -1) > 0.5
        n = _BINS_FEW
        rows = (here.values.view(1, -1) * n).clamp(0, n - 1).long() * n
        cells = rows + (values * n).clamp(0, n - 1).long()
        cells += torch.arange(len(matrices))[:, None] * n * n
        joint = torch.bincount(cells[inside], minlength=len(matrices) * n * n).view(-1, n, n).double()
        count = joint.sum((1, 2))
        joint /= count.clamp_min(1)[:, None, None]
        both, apart = _entropy(joint), _entropy(joint.sum(1)) + _entropy(joint.sum(2))
        information = torch.where(both > 1e-9, apart / both.clamp_min(1e-9) - 1, torch.zeros_like(both))
        return information, count / len(here.grid)


class SymmetricLoss:
    """The differentiable loss of one map: negative information, labels, landmarks.

    Called with a matrix (d+1, d+1) float64 from first to second points, LPS mm, it gives a scalar.

    Args:
        first, second: the images.
        landmarks: first and second points (N, d) and weights (N,), or None.
        bins: of the histograms.
    """

    def __init__(
        self, first: Look, second: Look, landmarks: tuple[Tensor, Tensor, Tensor] | None, bins: int
    ) -> None:
        self.first, self.second, self.landmarks = first, second, landmarks
        self.voxel = float(np.sqrt(first.spacing * second.spacing))
        self.similarities = [
            NormalisedMutualInformation(bins, warped_range=(0.0, 1.0), fixed_range=(0.0, 1.0))
            for _ in range(2)
        ]

    def __call__(self, matrix: Tensor) -> Tensor:
        inverse = torch.linalg.inv(matrix)
        loss = -self.information(matrix, inverse) + self._out_of_plane(matrix, inverse)
        if self.first.labels is not None and self.second.labels is not None:
            loss = loss + _LABEL_PULL * self._labels(matrix, inverse)
        if self.landmarks is not None:
            loss = loss + self._landmarks(matrix, inverse)
        return loss

    def information(self, matrix: Tensor, inverse: Tensor) -> Tensor:
        """NMI - 1 of both ways."""
        there, share_there = self._one_way(matrix, self.first, self.second, self.similarities[0])
        back, share_back = self._one_way(inverse, self.second, self.first, self.similarities[1])
        return _averaged(there, back, share_there, share_back, self.first, self.second)

    def _one_way(
        self, matrix: Tensor, here: Look, there: Look, similarity: NormalisedMutualInformation
    ) -> tuple[Tensor, Tensor]:
        points = _led(matrix[None], here, there)[0]
        with torch.no_grad():
            size = torch.tensor(there.frame.size)
            # a place counts less within half a voxel of the border, so that nothing jumps
            inside = (0.5 + (1 - points.abs()) * size / 2).clamp(0, 1).prod(-1) * here.weights
            if there.mask is not None:
                inside = inside * (sample(there.mask, points, padding="zeros")[0, 0] > 0.5)
            share = inside.mean().double()
        values = sample(there.image, points)
        # in double precision, whose rounding does not stop the last steps
        loss = similarity(values[:, :, None].double(), here.values, inside[None, None, None].double())
        return 1 - loss, share

    def _out_of_plane(self, matrix: Tensor, inverse: Tensor) -> Tensor | float:
        """Mean square of how far a single slice leaves another one, in half slices; zero for volumes.

        A turn out of the plane only shortens a picture: without this nothing would hold it.
        """
        pair = self.first, self.second
        if any(min(look.frame.size) > 1 for look in pair):
            return 0.0
        total = 0.0
        for m, here, there in ((matrix, *pair), (inverse, *pair[::-1])):
            points = _led(m[None], here, there)[0]
            axis = there.frame.size.index(1)
            total = total + _PLANE_PULL * points[:, axis].square().mean().double() / 2
        return total

    def _labels(self, matrix: Tensor, inverse: Tensor) -> Tensor:
        """1 - soft Dice with squared denominators (Milletari et al., 3DV 2016), the mean of both ways."""
        losses = []
        for m, here, there in ((matrix, self.first, self.second), (inverse, self.second, self.first)):
            read = sample(there.labels, _led(m[None], here, there)[0], padding="zeros")[0]
            common = (read * here.label_values).sum(1)
            total = (read.square() + here.label_values.square()).sum(1)
            losses.append(1 - ((2 * common + 1e-3) / (total + 1e-3)).mean().double())
        return (losses[0] + losses[1]) / 2

    def _landmarks(self, matrix: Tensor, inverse: Tensor) -> Tensor:
        """Squared distances in voxels, the mean of both ways; a pair one voxel off outweighs the images."""
        first, second, weights = self.landmarks
        d = first.shape[1]
        there = (first @ matrix[:d, :d].T + matrix[:d, d] - second).square().sum(-1)
        back = (second @ inverse[:d, :d].T + inverse[:d, d] - first).square().sum(-1)
        return 0.25 * (weights * (there + back) / 2).sum() / self.voxel**2


def _led(matrices: Tensor, here: Look, there: Look) -> Tensor:
    """Where the places of one image are in the other, (B, N, d) normalised coordinates, float32."""
    to_there = torch.from_numpy(there.frame.world_to_normalised)
    from_here = torch.from_numpy(here.frame.normalised_to_world)
    change = (to_there @ matrices @ from_here).float()
    d = here.frame.dimension
    return here.grid @ change[:, :d, :d].transpose(1, 2) + change[:, None, :d, d]


def _averaged(
    there: Tensor, back: Tensor, share_there: Tensor, share_back: Tensor, first: Look, second: Look
) -> Tensor:
    """The two ways' information by the number of places; a sliver of overlap can look informative by
    chance."""
    counts = share_there * len(first.grid), share_back * len(second.grid)
    mean = (there * counts[0] + back * counts[1]) / (counts[0] + counts[1]).clamp_min(1e-9)
    return mean * (2 * torch.maximum(share_there, share_back)).clamp(max=1)


def _entropy(p: Tensor) -> Tensor:
    """Of the last axes, natural logarithm; (B, ...) to (B,)."""
    return -torch.special.xlogy(p, p).flatten(1).sum(1)
