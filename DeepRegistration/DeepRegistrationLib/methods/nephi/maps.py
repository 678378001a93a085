"""The maps that networks and codes stand for: on normalised points of a batch, and as a `Transform`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ...frame import Frame, apply_matrix
from ...interpolation import voxel_centres
from ...networks.latent_encoder import LatentCode
from ...networks.modulated_siren import ModulatedSiren
from ...transforms.base import Transform

CHUNK = 1 << 14
"""Points evaluated at a time where no gradient is wanted."""


@dataclass(frozen=True)
class NeuralMap:
    """x -> x + f(x, z(x)) for each pair of a batch, in normalised coordinates of one box.

    Attributes:
        network: f.
        code: z.
        twice: whether derivatives with respect to points can be differentiated (slower).
    """

    network: ModulatedSiren
    code: LatentCode
    twice: bool = False

    def __call__(self, points: Tensor) -> Tensor:
        """Points (B, N, d) to points (B, N, d), differentiable in points, code and weights."""
        return points + self.network(points, self.code.at(points, self.twice))

    def twice_differentiable(self) -> NeuralMap:
        return replace(self, twice=True)

    @torch.no_grad()
    def chunked(self, points: Tensor, chunk: int = CHUNK) -> Tensor:
        """`__call__`, so many points at a time and without gradients."""
        return torch.cat([self(part) for part in points.split(chunk, dim=1)], 1)

    def displacement(self, shape: Sequence[int], chunk: int = CHUNK) -> Tensor:
        """At a lattice's voxel centres, (B, *shape, d), normalised units, without gradients."""
        grid = voxel_centres(shape, self.code.whole)
        flat = grid.reshape(1, -1, len(shape)).expand(len(self.code.whole), -1, -1)
        return (self.chunked(flat, chunk) - flat).view(-1, *grid.shape)


@dataclass(frozen=True)
class MapPair:
    """Both directions of a batch, nearly inverse to one another.

    Attributes:
        networks: of fixed to moving points, and of moving to fixed points.
        code: what both share.
    """

    networks: nn.ModuleList
    code: LatentCode

    @cached_property
    def forward(self) -> NeuralMap:
        """Fixed to moving points."""
        return NeuralMap(self.networks[0], self.code)

    @cached_property
    def backward(self) -> NeuralMap:
        """Moving to fixed points."""
        return NeuralMap(self.networks[1], self.code)

    def transform(self, frame: Frame) -> NeuralTransform:
        """The forward map of a single pair, whose normalised coordinates are those of `frame`'s box."""
        return NeuralTransform(self.forward, self.backward, frame)


class NeuralTransform(Transform):
    """A neural field as a map of world points; its inverse is the network of the other direction.

    A continuous function, smooth but for the cells of the code's grid; evaluated a chunk of points at a
    time, so memory does not depend on how many are asked for. Beyond the box the code of the border goes on.

    Args:
        forward, backward: of one pair; the inverse is as good as they have been trained to agree.
        frame: any frame of the box they refer to.
        chunk: points at a time.
    """

    def __init__(self, forward: NeuralMap, backward: NeuralMap, frame: Frame, chunk: int = CHUNK) -> None:
        self.forward, self.backward, self.frame, self.chunk = forward, backward, frame, chunk
        self.dimension = frame.dimension

    def map(self, points: Tensor) -> Tensor:
        here = apply_matrix(self.frame.world_to_normalised, points).reshape(1, -1, self.dimension)
        like = self.forward.code.whole
        there = self.forward.chunked(here.to(like), self.chunk)
        # the displacement is added in the points' own precision
        moved = here + (there - here.to(like)).to(here)
        return apply_matrix(self.frame.normalised_to_world, moved.view(points.shape))

    def inverse(self) -> NeuralTransform:
        return NeuralTransform(self.backward, self.forward, self.frame, self.chunk)
