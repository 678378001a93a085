"""Learning features from known correspondences: a place has to be told by its features from other places.

A step without the solver, many times cheaper than one through its optimum, and it says for every level what
the solver needs: that features of the same place agree, in whatever contrast it is seen, and that those of
other places do not. van den Oord et al. (arXiv 1807.03748, eq. 4, InfoNCE), with the squared distance that
the solver compares features by in the place of the product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...interpolation import sample

_ANCHORS, _COMPANIONS = 96, 4
"""Places drawn in an image, and further ones drawn around each: near ones are the hard ones to tell apart."""

_AROUND = 3.0
"""Deviation of the companions from their anchor, voxels."""

_BODY = 0.05
"""Intensity above which there is something to see."""

_TEMPERATURE = 0.1
"""Of the squared distances, in units of the features' variance."""


def match_loss(
    fixed: Sequence[Tensor],
    moving: Sequence[Tensor],
    image: Tensor,
    displacement: Tensor,
    margin: int,
    generator: torch.Generator,
) -> Tensor:
    """Mean over levels and both directions of the cross entropy of finding a place again.

    Args:
        fixed, moving: features of one pair, (1, C, *S / 2^k), finest first, of images continued by `margin`
            on every side and up to multiples of the stride at the end (`features.padded`).
        image: (1, *S), the fixed one in [0, 1].
        displacement: (*S, d), the true pull-back from fixed to moving, normalised.
        margin: voxels.
        generator: on the CPU; draws the places.

    Returns:
        A scalar; zero where no place lies in both images.
    """
    here, there = _places(image, displacement, generator)
    if len(here) < 2:
        return sum(level.sum() for level in fixed) * 0.0
    size = here.new_tensor(tuple(reversed(displacement.shape[:-1])))
    apart = torch.cdist(here * size / 2, here * size / 2)
    losses = []
    for k, (of_fixed, of_moving) in enumerate(zip(fixed, moving, strict=True)):
        whole = size.new_tensor(tuple(reversed(fixed[0].shape[2:])))
        a, b = (
            sample(level, ((points + 1) * size / 2 + margin) * 2 / whole - 1)[0].T
            for level, points in ((of_fixed, here), (of_moving, there))
        )
        spread = a.var(0, correction=0).sum().clamp_min(1e-6)  # of which the mean squared distance is twice
        unlike = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T) / (spread * _TEMPERATURE)
        same = (apart < 2**k) & ~torch.eye(len(a), dtype=torch.bool, device=a.device)
        logits = (-unlike).masked_fill(same, -torch.inf)
        target = torch.arange(len(a), device=a.device)
        losses += [F.cross_entropy(logits, target), F.cross_entropy(logits.T, target)]
    return torch.stack(losses).mean()


def _places(image: Tensor, displacement: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points (N, d) of the fixed image, normalised, and where they are in the moving one; both inside."""
    shape, d = displacement.shape[:-1], displacement.shape[-1]
    seen = (image[0] > _BODY).flatten().nonzero().flatten()
    if not len(seen):
        return displacement.new_zeros(0, d), displacement.new_zeros(0, d)
    drawn = seen[(torch.rand(_ANCHORS, generator=generator) * len(seen)).long().to(seen.device)]
    index = torch.stack(torch.unravel_index(drawn, shape), -1).flip(-1).to(displacement)
    around = torch.randn(_ANCHORS, _COMPANIONS, d, generator=generator).to(index) * _AROUND
    voxels = torch.cat([index[:, None], index[:, None] + around], 1).reshape(-1, d)
    here = (voxels + 0.5) * 2 / voxels.new_tensor(tuple(reversed(shape))) - 1
    there = here + sample(displacement.movedim(-1, 0)[None], here)[0].T
    inside = (here.abs() <= 1).all(-1) & (there.abs() <= 1).all(-1)
    return here[inside], there[inside]
