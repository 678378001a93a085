"""From an image pair to a map: single networks, and what makes several of them one predictor.

Tian et al., GradICON, CVPR 2023 (arXiv 2206.05897), section 4. A step takes a moving and a fixed batch on
one lattice and gives the pull-back map of that batch, fixed to moving points; `maps` tells the
coordinates. The input's intensities are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...networks.tall_unet import halved
from ..maps import BatchMap, ComposedMap, FieldMap, LargerBoxMap, read_at

_SHARE_OF_SIDE = 0.1
"""A network's output of one moves a point by this share of the training images' side (published: output / 10
in [0, 1])."""


class Step(nn.Module):
    """Whatever predicts a map: `forward(moving, fixed)`, both (B, C, *S), gives a `BatchMap` of all pairs."""

    def forward(self, moving: Tensor, fixed: Tensor) -> BatchMap:
        raise NotImplementedError


class Displace(Step):
    """One network: its output is the displacement on the images' own lattice.

    Lengths are counted in voxels, as the convolutions see them, so that images of other sizes and of unequal
    sides are understood like those of the training; for those it is what was published.

    Args:
        network: (B, 2 C, *S) to (B, d, *S): moving and fixed image side by side.
        side: voxels along each side of the images it is trained on.
        odd: whether the network is asked both ways round, and half the difference counts: equal images then
            stay where they are, and exchanged ones move the other way. On images unlike those trained on,
            what a network gives for any pair whatever can otherwise outweigh what it sees of this one.
    """

    def __init__(self, network: nn.Module, side: float, odd: bool = False) -> None:
        super().__init__()
        self.network, self.reach, self.odd = network, _SHARE_OF_SIDE * side, odd

    def forward(self, moving: Tensor, fixed: Tensor) -> FieldMap:
        raw = self.network(torch.cat([moving, fixed], 1))
        if self.odd:
            raw = (raw - self.network(torch.cat([fixed, moving], 1))) / 2
        # Coordinates need more digits than mixed precision leaves; the box is 2 units wide.
        exact = raw if raw.dtype == torch.float64 else raw.float()
        voxel = 2 / exact.new_tensor(exact.shape[:1:-1])
        return FieldMap(exact.movedim(1, -1) * (self.reach * voxel))


class TwoStep(Step):
    """A step, then another one that sees the moving image as the first one warped it.

    With phi of the first for (A, B), and psi of the second for (A o phi, B), the result is phi o psi.
    """

    def __init__(self, first: Step, second: Step) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, moving: Tensor, fixed: Tensor) -> ComposedMap:
        outer = self.first(moving, fixed)
        warped = read_at(moving, outer.on_grid(fixed.shape[2:]).to(moving.dtype))
        return ComposedMap(outer, self.second(warped, fixed))


class Downsample(Step):
    """A step that sees both images at half the resolution.

    Normalised coordinates do not depend on the resolution, so the map serves as it is. Blocks of two
    voxels overhang the end of an odd axis; the map is then carried over from the larger box (the
    publications, which fix the sizes, leave that stretch in).
    """

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def forward(self, moving: Tensor, fixed: Tensor) -> BatchMap:
        small = halved(moving)
        result = self.step(small, halved(fixed))
        sizes = zip(moving.shape[2:], small.shape[2:], strict=True)
        ratio = [2 * m / n if n > 1 else 1.0 for n, m in sizes][::-1]
        return result if set(ratio) == {1.0} else LargerBoxMap(result, ratio)


def multi_step(networks: Sequence[nn.Module], coarser: int, side: float, odd: bool = False) -> Step:
    """The networks as one step, the first `coarser` of them at 2^coarser, ..., 4, 2 times coarser voxels.

    `side` is that of the training images, voxels; for `odd` see `Displace`.

    `multi_step([a, b, c, d], 2)` is TwoStep(TwoStep(Down(TwoStep(Down(a), b)), c), d): the published
    predictor, whose first training stage has no d.

    Raises:
        InputError: no networks, or all of them coarser.
    """
    if not 0 <= coarser < len(networks):
        raise InputError("At least one network of a multi-step predictor has to see the full resolution.")
    step: Step = Displace(networks[0], side / 2**coarser, odd)
    for k, network in enumerate(networks[1:]):
        here = Displace(network, side / 2 ** max(0, coarser - k - 1), odd)
        step = TwoStep(Downsample(step) if k < coarser else step, here)
    return step
