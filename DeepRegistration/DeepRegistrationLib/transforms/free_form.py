"""Free-form displacement: a vector at every voxel, smoothed as it moves (as in DIO, arXiv 2406.07361)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..catalogue import REPRESENTATIONS
from ..field import Field
from ..filters import gaussian_smooth, slide_smooth_
from ..frame import Frame
from .base import Representation, Transform


class FreeForm(Representation):
    """x -> x + w(x), with w free at every voxel. May fold; inverted by fixed-point iteration."""

    name = "free-form"
    description = REPRESENTATIONS[name].description
    diffeomorphic = False
    signed = ("warp",)

    def __init__(self, frame: Frame, device: torch.device | str = "cpu") -> None:
        super().__init__(frame, device)
        self.warp = torch.zeros(*frame.shape, frame.dimension, device=self.device, requires_grad=True)

    def parameters(self) -> list[Tensor]:
        return [self.warp]

    def displacement(self) -> Tensor:
        return self.warp

    def _set(self, displacement: Tensor) -> None:
        self.warp = displacement.detach().clone().requires_grad_()

    def fit(self, transform: Transform) -> float:
        """Exact: the transform sampled at the voxels."""
        self._set(transform.field(self.frame, self.device).displacement)
        return 0.0

    def resized(self, frame: Frame) -> FreeForm:
        other = type(self)(frame, self.device)
        other._set(Field(self.warp.detach(), self.frame).resampled(frame).displacement)
        return other

    def smooth_gradients(self, gradients: list[Tensor], sigma: Sequence[float]) -> list[Tensor]:
        return [gaussian_smooth(g, sigma, channels_last=True) for g in gradients]

    @torch.no_grad()
    def smooth(self, sigma: Sequence[float]) -> None:
        slide_smooth_(self.warp, sigma)
