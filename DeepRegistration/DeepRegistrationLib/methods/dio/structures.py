"""Learning features from labels, each image seen by itself: which structure a voxel belongs to is what is
alike in all people and contrasts, and what the solver can compare."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_SHARES = (1.0, 0.5, 0.25)
"""Weight of the levels, finest first; the last counts for all coarser ones."""

_STEP = 1.0
"""Added to overlaps and volumes, voxels, so that structures an image does not show count little."""


def structure_loss(levels: Sequence[Tensor], labels: Tensor, margin: int) -> dict[str, Tensor]:
    """How badly voxels are told which structure they belong to.

    Args:
        levels: logits (B, 1 + L, *S / 2^k), the background first, of images continued by `margin` on every
            side and up to multiples of the stride at the end (`features.padded`); finest level first.
        labels: (B, L, *S), one channel for each structure; what has none is the background.
        margin: voxels of the image.

    Returns:
        ``loss``: mean over levels (weighted) of cross entropy, in which a structure counts by the root of its
        volume, and of one minus the mean soft Dice of background and structures; ``dice``: of the finest
        level, mean over the structures there are.
    """
    background = (1 - labels.sum(1, keepdim=True)).clamp_min(0)
    target = torch.cat([background, labels], 1)
    pool = F.avg_pool2d if labels.ndim == 4 else F.avg_pool3d
    total, weights, dice = levels[0].new_zeros((), dtype=torch.float32), 0.0, None
    for k, logits in enumerate(levels):
        share = _SHARES[min(k, len(_SHARES) - 1)]
        if k:
            target = pool(target, 2)
        inner = _without_margin(logits, target.shape[2:], margin // 2**k).float()
        loss, overlaps = _level_loss(inner.flatten(2), target.flatten(2))
        total, weights = total + share * loss, weights + share
        if dice is None:
            there = labels.flatten(2).amax(2) > 0
            dice = overlaps[:, 1:][there].mean() if bool(there.any()) else overlaps.mean()
    assert dice is not None
    return {"loss": total / weights, "dice": dice.detach()}


def _without_margin(values: Tensor, shape: Sequence[int], margin: int) -> Tensor:
    window = [slice(margin, margin + n) for n in shape]
    return values[(slice(None), slice(None), *window)]


def _level_loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits and shares (B, K, N): the loss, and the soft Dice of each image's labels, (B, K)."""
    volumes = target.sum((0, 2))
    root = (volumes + _STEP).rsqrt() * (volumes > 0)
    entropy = -(F.log_softmax(logits, 1) * target).sum((0, 2))
    p = logits.softmax(1)
    both = (p * target).sum(2)
    dice = (2 * both + _STEP) / (p.square().sum(2) + target.square().sum(2) + _STEP)
    return (entropy * root).sum() / (volumes * root).sum() + 1 - dice.mean(), dice
