"""What a user adds to the images: landmark pairs, labels, masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError


class LandmarkDistance:
    """Weighted mean squared distance of mapped fixed landmarks to their moving partners, mm^2.

    Args:
        fixed_points, moving_points: (N, d), LPS mm, row by row the same anatomy.
        weights: (N), not negative; None weighs all alike. All zero gives a loss of zero.
        robust_mm: distances well above this many mm count linearly instead of squared (a pseudo-Huber
            loss: close to the squared distance below it), so that one misplaced pair does not dominate.

    Raises:
        InputError: unequal or no landmarks, or unusable weights.
    """

    def __init__(
        self,
        fixed_points: Tensor,
        moving_points: Tensor,
        weights: Tensor | None = None,
        robust_mm: float | None = None,
    ) -> None:
        if fixed_points.shape != moving_points.shape:
            raise InputError(
                f"There are {len(fixed_points)} fixed and {len(moving_points)} moving landmarks; "
                "they must come in pairs."
            )
        if fixed_points.ndim != 2 or len(fixed_points) == 0:
            raise InputError("There are no landmark pairs.")
        if weights is not None and (
            weights.shape != fixed_points.shape[:1]
            or not bool((weights >= 0).all() & weights.isfinite().all())
        ):
            raise InputError("Landmarks need one weight per pair, and none below zero.")
        if robust_mm is not None and robust_mm <= 0:
            raise InputError("The distance beyond which landmarks count less must be positive.")
        self.fixed_points, self.moving_points = fixed_points, moving_points
        self.weights, self.robust_mm = weights, robust_mm

    def __call__(self, mapped_points: Tensor) -> Tensor:
        """Loss of the fixed points as mapped by the transform, `mapped_points` (N, d), LPS mm."""
        return self.of(mapped_points - self.moving_points.to(mapped_points))

    def of(self, differences: Tensor) -> Tensor:
        """Loss of what separates the two points of each pair, `differences` (N, d), mm."""
        squared = differences.square().sum(-1)
        if self.robust_mm is not None:
            knee = self.robust_mm**2
            squared = 2 * knee * (torch.sqrt(1 + squared / knee) - 1)
        if self.weights is None:
            return squared.mean()
        weights = self.weights.to(squared)
        return (weights * squared).sum() / weights.sum().clamp_min(torch.finfo(squared.dtype).tiny)


class LabelOverlap:
    """1 - mean soft Dice over label channels, in [0, 1]; 0 where the two are equal, and only there.

    2 sum(ab) / (sum(a^2) + sum(b^2)) (Milletari et al., 3DV 2016): with a + b below, blurred labels that are
    equal would not reach one, and gain from growing apart.

    Args:
        smooth: voxels added to either side of each label's ratio, so that a label that is in neither
            image counts as agreed and an empty one has a finite gradient.
    """

    def __init__(self, smooth: float = 1e-3) -> None:
        self.smooth = smooth

    def __call__(self, warped: Tensor, fixed: Tensor, weight: Tensor | None = None) -> Tensor:
        """Loss of `warped`, `fixed` (1, L, *S), one channel in [0, 1] a label; `weight` (1, 1, *S)."""
        if warped.shape != fixed.shape:
            raise InputError("The two label images do not have the same size and labels.")
        common, volumes = warped * fixed, warped.square() + fixed.square()
        if weight is not None:
            common, volumes = common * weight, volumes * weight
        common, volumes = common.flatten(2).sum(2), volumes.flatten(2).sum(2)
        return 1 - ((2 * common + self.smooth) / (volumes + self.smooth)).mean()


def one_hot(labels: Tensor, values: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Label image (1, 1, *S) as (1, L, *S): channel k is one where the label is `values[k]`.

    Background is left out by not naming it.
    """
    if labels.ndim not in (4, 5) or labels.shape[:2] != (1, 1):
        raise InputError("A label image must have one channel.")
    if not len(values):
        raise InputError("No labels were chosen.")
    return torch.cat([labels == value for value in values], 1).to(dtype)


def combined_weight(fixed_mask: Tensor | None, warped_moving_mask: Tensor | None) -> Tensor | None:
    """Weight (1, 1, *S) in [0, 1] of the voxels where both masks, as far as given, are; None if neither.

    The moving mask is warped linearly onto the fixed lattice; its part in the weight is kept out of the
    derivative, otherwise pushing the mask away would lower the loss.
    """
    masks = [m.detach().clamp(0, 1) for m in (fixed_mask, warped_moving_mask) if m is not None]
    if not masks:
        return None
    if len(masks) == 2 and masks[0].shape != masks[1].shape:
        raise InputError("The masks of the two images do not have the same size.")
    return masks[0] if len(masks) == 1 else masks[0] * masks[1]
