"""MIND-SSC: descriptors of local self-similarity, comparable between modalities."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from ..filters import box_sum_, window_count
from .similarity import MeanSquaredError


class MindSSC(MeanSquaredError):
    """Mean squared difference of MIND-SSC descriptors, in [0, 1]; 0 for equal structure.

    `prepare` computes the descriptors, once for either image; those of the moving image are warped and
    the measure is called on descriptors (1, 12 C, *S), (1, 4 C, *S) in 2-D.

    Args:
        radius: of the patches, voxels.
        dilation: distance of the neighbours to the voxel, voxels.
    """

    oriented = True
    across_contrasts = True

    def __init__(self, radius: int = 1, dilation: int = 2) -> None:
        self.radius, self.dilation = radius, dilation

    def prepare(self, image: Tensor) -> Tensor:
        return mind_descriptor(image, self.radius, self.dilation)


def mind_descriptor(image: Tensor, radius: int = 1, dilation: int = 2) -> Tensor:
    """MIND with the self-similarity context (Heinrich et al., MICCAI 2013).

    Each channel compares the patches of two neighbours of the voxel, out of its six (four in 2-D), that
    are not opposite to each other: exp(-D / V) with D the mean squared difference of the patches less
    the smallest of the channels, and V the mean of D over the channels, kept within a factor 1000 of its
    mean over the image. A featureless place has the value one in all channels.

    Args:
        image: (1, C, *S). Voxels outside repeat the border.
        radius: of the patches, voxels.
        dilation: distance of the neighbours to the voxel, voxels.

    Returns:
        (1, 12 C, *S), in 2-D (1, 4 C, *S), in [0, 1]; without gradient.
    """
    with torch.no_grad():
        return torch.cat([_channel(image[:, c : c + 1], radius, dilation) for c in range(image.shape[1])], 1)


def neighbour_pairs(dimension: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The pairs of neighbours at right angles, each neighbour as (tensor dimension, direction)."""
    neighbours = [(dim, sign) for dim in range(-dimension, 0) for sign in (-1, 1)]
    return [(a, b) for a, b in combinations(neighbours, 2) if a[0] != b[0]]


def _channel(image: Tensor, radius: int, dilation: int) -> Tensor:
    d = image.ndim - 2
    pairs = neighbour_pairs(d)
    patch = (radius,) * d
    share = window_count(image.shape[2:], patch, image).reciprocal_()
    descriptor = image.new_empty(1, len(pairs), *image.shape[2:])
    for k, (first, second) in enumerate(pairs):
        distance = descriptor[:, k : k + 1]
        torch.sub(_shifted(image, *first, dilation), _shifted(image, *second, dilation), out=distance)
        box_sum_(distance.square_(), patch).mul_(share)
    descriptor.sub_(descriptor.amin(1, keepdim=True))
    variance = descriptor.mean(1, keepdim=True)
    typical = float(variance.mean())
    floor = torch.finfo(image.dtype).tiny
    variance.clamp_(max(1e-3 * typical, floor), max(1e3 * typical, floor))
    return descriptor.div_(variance).neg_().exp_()


def _shifted(image: Tensor, dim: int, sign: int, distance: int) -> Tensor:
    n = image.shape[dim]
    index = (torch.arange(n, device=image.device) + sign * distance).clamp_(0, n - 1)
    return image.index_select(dim, index)
