"""How far two predicted maps are from being each other's inverse: ICON's penalty and GradICON's.

Values are those of the publications, which count in [0, 1] over the box, so that their weights keep their
meaning. GradICON's penalty is a slope and has no unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError
from ...objectives import gradient_inverse_consistency, inverse_consistency, jittered_points
from ...objectives.regularity import PointMap
from ..maps import BatchMap

DELTA = 2e-3
"""Step of the finite difference, normalised: 0.001 in [0, 1]. Far below a voxel, so that it probes the
linear interpolant itself."""


@dataclass(frozen=True)
class InverseConsistency:
    """The penalty on a pair of maps, taken at jittered points.

    Attributes:
        kind: "gradicon", the mean squared gradient of the error p - forward(backward(p)) (Tian et al.,
            CVPR 2023, arXiv 2206.05897, eq. 4): drifts cost nothing; or "icon", the mean squared error
            itself, both orders added (Greer et al., ICCV 2021).
        derivative: "difference" as published (one-sided, `DELTA`), or "autograd", the exact Jacobian of
            the interpolated maps, several times dearer.
        sparse: every second voxel along each axis, with twice the jitter: 2^d times fewer points.
        both_orders: whether GradICON's penalty is the mean over forward(backward) and
            backward(forward). The paper adds the two; its code has only the first.
    """

    kind: str = "gradicon"
    derivative: str = "difference"
    sparse: bool = False
    both_orders: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("gradicon", "icon") or self.derivative not in ("difference", "autograd"):
            raise InputError(f"There is no penalty '{self.kind}' by '{self.derivative}'.")

    def __call__(
        self, forward: BatchMap, backward: BatchMap, shape: Sequence[int], generator: torch.Generator
    ) -> Tensor:
        """The penalty at one draw of points, the same for all pairs.

        Args:
            forward, backward: of B pairs.
            shape: the lattice the points are jittered from (by a voxel's normal deviate), array order.
            generator: on the CPU or the maps' device.
        """
        like = forward.field
        drawn = jittered_points(
            tuple(reversed(shape)), generator, 2 if self.sparse else 1, dtype=like.dtype
        ).to(like.device)
        return self.at(forward, backward, drawn.expand(len(like), *drawn.shape))

    def at(self, forward: BatchMap, backward: BatchMap, points: Tensor) -> Tensor:
        """The penalty at points (B, N, d)."""
        if self.kind == "icon":
            # twice the mean of both orders, and lengths are half of ours
            return inverse_consistency(forward, backward, points) * (2 / 4)
        if self.derivative == "difference":
            return gradient_inverse_consistency(forward, backward, points, DELTA, self.both_orders)
        smooth = forward.twice_differentiable(), backward.twice_differentiable()
        return gradient_by_autograd(*smooth, points, self.both_orders)


def gradient_by_autograd(
    forward: PointMap, backward: PointMap, points: Tensor, symmetric: bool = False
) -> Tensor:
    """`objectives.gradient_inverse_consistency` with the Jacobian itself in place of differences.

    Args:
        forward, backward: maps of points, each result depending on its own point only; to be trained
            through, differentiable twice.
        points: (..., d), normalised.
        symmetric: whether to average both orders of composition instead of taking the first only.
    """
    orders = [(forward, backward), (backward, forward)] if symmetric else [(forward, backward)]
    total = points.new_zeros(())
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        for first, second in orders:
            p = points.detach().requires_grad_()
            error = p - first(second(p))
            for component in error.unbind(-1):
                row = torch.autograd.grad(component.sum(), p, create_graph=wanted, retain_graph=True)[0]
                total = total + (row * row).sum(-1).mean() / points.shape[-1]
    return total / len(orders)
