"""From features of both half-way images to a displacement that cannot fold.

Honkamaa and Marttinen, SITReg (MELBA 2024, arXiv 2303.10211), and its Table 16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...frame import Frame
from ...networks.feature_pyramid import layer_by_layer, units
from ...transforms.b_spline_basis import ControlLattice
from ...transforms.b_spline_bound import control_point_bound

SAFETY = 0.99
"""Share of the control points' bound that is used: the displacement is then a contraction by this factor."""


def swapped(stack: Tensor) -> Tensor:
    """The two halves of a batch exchanged."""
    first, second = stack.chunk(2)
    return torch.cat([second, first])


class Extraction(nn.Module):
    """One level's network: features of a pair of images to control points, in both orders.

    Both orders pass through side by side, so that exchanging the images exchanges the results. The last
    layer is initialised like any other: an untrained network's map is bounded, but not the identity.

    Args:
        dimension: 2 or 3.
        features: channels of one image's features.
        width: channels of the hidden layers.
        groups: of a group normalisation after each, None for none.
    """

    def __init__(self, dimension: int, features: int, width: int, groups: int | None = None) -> None:
        super().__init__()
        self.units = units(dimension, 2 * features, width, groups)
        self.last = (nn.Conv2d if dimension == 2 else nn.Conv3d)(width, dimension, 1)

    def forward(self, features: Tensor, watch: Callable[[], None] | None = None) -> Tensor:
        """Features (2 B, C, *S) of the first, then of the second images, to raw control points (2 B, d, *S).

        The first half has the order (first, second), the other half (second, first). `watch` is called
        between layers.
        """
        other = swapped(features)
        ordered = torch.cat([features - other, features + other], 1)
        return self.last(layer_by_layer(self.units, ordered, watch))


def bounded_spline(raw: Tensor, rate: int, shape: Sequence[int]) -> Tensor:
    """The displacement of a cubic B-spline with control points 0.99 bound tanh(raw), without prefilter.

    Args:
        raw: (B, d, *ceil(S / rate)), components (x, y, z): a control point in the middle of each `rate`^d
            block of voxels, the outermost repeated beyond the box.
        rate: voxels per control point along each axis.
        shape: S, the lattice it is sampled on.

    Returns:
        (B, *S, d), normalised units: in voxels, differences along the axes sum to at most 0.99
        (`control_point_bound`), so x -> x + u(x) is invertible and has no folds, u being linear between
        voxels.
    """
    lattice = _lattice(tuple(shape), rate)
    b, d = raw.shape[:2]
    ends = zip(lattice.shape, raw.shape[2:], strict=True)
    # in the order of F.pad: last axis first
    padding = [k for n, m in reversed(list(ends)) for k in (-lattice.first, n - m + lattice.first)]
    limit = raw.new_tensor([h * SAFETY * control_point_bound(rate, d) for h in lattice.spacing])
    points = F.pad(raw.tanh(), padding, mode="replicate") * limit.view(1, d, *(1,) * d)
    fields = lattice.evaluate(points.flatten(0, 1).movedim(0, -1))
    return fields.unflatten(-1, (b, d)).movedim(-2, 0).contiguous()


@lru_cache(maxsize=64)
def _lattice(shape: tuple[int, ...], rate: int) -> ControlLattice:
    return ControlLattice.with_rate(Frame.regular(shape[::-1]), (rate,) * len(shape))
