"""Convolutions that processors cannot be trusted with in half precision.

For three-dimensional images with fewer planes than the kernel has, though more than one (two, for kernels of
three: a slab's, or a small image's, at the coarse end of a U-Net), torch 2.13 on processors with bfloat16
arithmetic computes the gradient of the kernel from memory that is not its own: it is arbitrary, often not a
finite number, and now and then the process ends. Only the first axis of an image is concerned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class ThinInFloat32(TorchFunctionMode):
    """A context in which such convolutions, and no others, are computed in float32."""

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.conv3d or not _is_thin(*args[:2]):
            return func(*args, **kwargs)
        exact = (a.float() if isinstance(a, Tensor) else a for a in args)
        with torch.autocast("cpu", enabled=False):
            return func(*exact, **kwargs)


def _is_thin(image: Tensor, kernel: Tensor) -> bool:
    return image.device.type == "cpu" and 1 < image.shape[2] < kernel.shape[2]
