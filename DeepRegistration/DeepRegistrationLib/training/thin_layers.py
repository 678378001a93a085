"""Convolutions that processors cannot be trusted with in half precision.

Where an image has fewer voxels along an axis than the kernel has (a slab, or a small image, at the coarse
end of a U-Net), torch 2.13 on processors with bfloat16 arithmetic can compute the gradient of a
three-dimensional kernel from memory that is not its own: it is arbitrary, often not a finite number, and now
and then the process ends. Seen with two planes under kernels of three, with two to four under kernels of
five, and, at a stride of two, with rows of one voxel under kernels of three and transposed ones of four.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = (torch.conv3d, torch.conv_transpose3d)


class ThinInFloat32(TorchFunctionMode):
    """A context in which such convolutions, and no others, are computed in float32."""

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _CONVOLUTIONS or not _is_thin(*args[:2]):
            return func(*args, **kwargs)
        exact = (a.float() if isinstance(a, Tensor) else a for a in args)
        with torch.autocast("cpu", enabled=False):
            return func(*exact, **kwargs)


def _is_thin(image: Tensor, kernel: Tensor) -> bool:
    sides = zip(image.shape[2:], kernel.shape[2:], strict=True)
    return image.device.type == "cpu" and any(n < width for n, width in sides)
