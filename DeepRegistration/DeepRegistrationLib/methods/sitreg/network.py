"""SITReg's network in its configurations, fresh or from a weights file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...interpolation import voxel_centres
from ...inversion_layer import Watch
from ...networks.feature_pyramid import FeaturePyramid
from ...weights import Weights
from ..maps import BatchMap, ComposedMap
from .affine import AffineMap, AffineStage
from .extraction import Extraction, bounded_spline
from .half_way import HalfWay, Lattice


@dataclass(frozen=True)
class Configuration:
    """A size of network and a recipe.

    Attributes:
        channels: features of each level, finest first.
        widths: hidden channels of the extraction networks, finest first; coarser levels than there are
            widths only feed the affine stage.
        groups: of the group normalisation in the pyramid.
        extraction_groups: of one in the extraction networks, or None for none.
        affine: whether an affine stage comes first.
        radius: of the local correlation's window, voxels.
        weight: of the displacement's mean squared difference, lambda in the paper.
        steps: optimiser steps.
        batch: pairs per step and process.
        rate: learning rate.
        shape: of the training images, array order (z, y, x).
    """

    channels: tuple[int, ...]
    widths: tuple[int, ...]
    groups: int = 2
    extraction_groups: int | None = None
    affine: bool = False
    radius: int = 3
    weight: float = 1.0
    steps: int = 120_000
    batch: int = 1
    rate: float = 1e-4
    shape: tuple[int, int, int] = (192, 144, 160)


CONFIGURATIONS: Mapping[str, Configuration] = {
    "small": Configuration(
        (8, 24, 24, 24), (16, 40, 40, 40), steps=6000, batch=4, rate=3e-4, shape=(64, 64, 64)
    ),
    "paper": Configuration((8, 40, 40, 40), (16, 72, 72, 72)),
    "affine": Configuration(
        (8, *(36,) * 5, 48, 64, 88),
        (16, *(62,) * 5),
        affine=True,
        steps=75_000,
        shape=(256, 256, 256),
    ),
}
"""Honkamaa and Marttinen, SITReg (MELBA 2024, arXiv 2303.10211), with the constants of the authors' code.

"paper": 1 196 820 weights (three dimensions), as for OASIS: Adam at 1e-4, batches of one, 24 epochs of 5000
pairs, local correlation in 7 voxels, lambda 1.
"affine": 2 464 872 weights, as for OASIS before any alignment.
"small": 409 thousand weights (140 in 2-D) for images of 64 voxels a side.
"""


@dataclass(frozen=True)
class SymmetricMaps:
    """What the network finds for B pairs, and the same with the images exchanged, stacked (2 B).

    Attributes:
        deformation: without the affine stage's part, which no regulariser looks at.
        affine: the affine half-way map, or None.
    """

    deformation: BatchMap
    affine: AffineMap | None

    @property
    def maps(self) -> BatchMap:
        """The whole maps: pull-backs from fixed to moving points, then from moving to fixed ones."""
        if self.affine is None:
            return self.deformation
        return ComposedMap(self.affine, ComposedMap(self.deformation, self.affine))

    def directions(self) -> tuple[BatchMap, BatchMap]:
        """Maps of fixed to moving points, and of moving to fixed ones."""
        maps = self.maps
        pairs = len(maps.field) // 2
        return maps.part(0, pairs), maps.part(pairs, 2 * pairs)


class SitRegNetwork(nn.Module):
    """Coarse to fine: read both images' features half-way, find an anti-symmetric update, compose it.

    Exchanging the images exchanges the two maps, whatever the weights: every operation is the same for
    both orders.

    Args:
        configuration: the size.
        dimension: 2 or 3.
    """

    def __init__(self, configuration: Configuration, dimension: int) -> None:
        super().__init__()
        c = configuration
        self.configuration, self.dimension = c, dimension
        self.pyramid = FeaturePyramid(dimension, c.channels, groups=c.groups)
        self.extractions = nn.ModuleList(
            Extraction(dimension, n, w, c.extraction_groups)
            for n, w in zip(c.channels[: len(c.widths)], c.widths, strict=True)
        )
        self.affine = AffineStage(dimension, c.channels[-1]) if c.affine else None

    @classmethod
    def named(cls, configuration: str, dimension: int) -> SitRegNetwork:
        """A fresh network, drawn from torch's global generator.

        Raises:
            InputError: there is no such configuration.
        """
        if configuration not in CONFIGURATIONS:
            raise InputError(
                f"SITReg has no configuration '{configuration}'; choose {', '.join(CONFIGURATIONS)}."
            )
        return cls(CONFIGURATIONS[configuration], dimension)

    @classmethod
    def from_weights(cls, weights: Weights) -> SitRegNetwork:
        """The trained network, in evaluation mode and without gradients.

        Raises:
            InputError: the weights do not fit what they say they are for.
        """
        return weights.into(cls.named(weights.configuration, weights.dimension))

    def forward(
        self,
        moving: Tensor,
        fixed: Tensor,
        spacing: Sequence[float] | None = None,
        complete: bool = False,
        watch: Watch | None = None,
    ) -> SymmetricMaps:
        """The maps of each pair, in both directions.

        Args:
            moving, fixed: (B, 1, *S) in [0, 1] on one lattice.
            spacing: of a voxel, (x, y, z), which the affine stage needs; isotropic by default.
            complete: keep the maps as chains of the levels' own displacements instead of resampling them
                to the voxels: inverse consistent and free of folds up to the tolerance of the
                inverses that are solved for at points, slower, and not differentiable.
            watch: called often; it may raise.
        """
        shape = fixed.shape[2:]
        features = self.pyramid(torch.cat([moving, fixed]), watch)
        affine = None
        if self.affine is not None:
            sizes = zip(reversed(shape), spacing or (1.0,) * len(shape), strict=True)
            affine = AffineMap(self.affine(features[-1], [n * s for n, s in sizes]), shape)
        half_way = HalfWay(complete=complete)
        for level in reversed(range(len(self.extractions))):
            here = _half_way_features(features[level], Lattice(shape, level), half_way, affine)
            raw = self.extractions[level](here.to(features[level].dtype), watch)
            # Coordinates need more digits than mixed precision leaves.
            with torch.autocast(moving.device.type, enabled=False):
                exact = raw if raw.dtype == torch.float64 else raw.float()
                half_way = half_way.updated(bounded_spline(exact, 2**level, shape), watch)
        return SymmetricMaps(half_way.whole(), affine)


def _half_way_features(
    features: Tensor, lattice: Lattice, half_way: HalfWay, affine: AffineMap | None
) -> Tensor:
    """Features (2 B, C, *S) of a level as seen from half-way: of the first images at affine o left, of
    the second at affine^-1 o right."""
    if half_way.outward is None and affine is None:
        return features
    exact = features if features.dtype == torch.float64 else features.float()
    grid = lattice.to_box(voxel_centres(lattice.shape, exact))
    points = grid.expand(len(features), *grid.shape)
    for part in (half_way.outward, affine):
        points = points if part is None else part(points)
    return lattice.read(exact, points)
