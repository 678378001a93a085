"""Window sums along the first axis of a volume that passes through in stacks of planes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..filters import valid_sum


class RunningWindow:
    """Window sums along z of planes that arrive in stacks; results come `radius` planes late."""

    def __init__(self, image: Tensor, channels: int, radius: int) -> None:
        self.radius = radius
        self.next = -radius
        self.tail = image.new_zeros(channels, 2 * radius, *image.shape[1:])

    def push(self, stack: Tensor) -> tuple[int, Tensor]:
        """Take (channels, planes, Y, X); returns the first complete plane's index and the complete sums."""
        planes = stack.shape[1]
        joined = torch.cat([self.tail, stack], 1)
        self.tail = joined[:, planes:]
        outside = min(max(0, -self.next), planes)
        start = self.next + outside
        self.next += planes
        return start, valid_sum(joined[:, outside:], 1, 2 * self.radius + 1)

    def flush(self) -> tuple[int, Tensor]:
        return self.push(self.tail.new_zeros(len(self.tail), self.radius, *self.tail.shape[2:]))
