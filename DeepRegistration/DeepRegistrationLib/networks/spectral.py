"""Convolutions whose gain is limited: spectral normalisation as published, and one that holds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpectralConv(nn.Module):
    """A convolution without bias that keeps the size (zeros outside) and whose kernel is normalised.

    The kernel is divided by the largest singular value of the matrix W it is flattened to, outputs x
    (inputs k^d) (Miyato et al., ICLR 2018). By default that value is followed by one power iteration for
    each normalisation in training. Images overlap k^d times in what W sees of them, so the
    convolution's own norm can be up to sqrt(k^d) times that of W. With `strict` the kernel is divided by
    this factor as well, and the singular value is computed, not followed: the convolution is then 1-Lipschitz
    in the Euclidean norm for any weights and any image size.

    Args:
        dimension: 2 or 3.
        inputs, outputs: channels.
        width: of the kernel, k, odd.
        strict: see above.
    """

    def __init__(self, dimension: int, inputs: int, outputs: int, width: int, strict: bool = False) -> None:
        super().__init__()
        self.strict = strict
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *(width,) * dimension))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if not strict:
            self.register_buffer("direction", F.normalize(torch.randn(outputs), dim=0))

    def kernel(self) -> Tensor:
        """The normalised kernel; in training one power iteration moves the stored vector."""
        flat = self.weight.flatten(1)
        if self.strict:
            overlap = self.weight[0, 0].numel() ** 0.5
            return self.weight / (torch.linalg.matrix_norm(flat, 2) * overlap).clamp_min(_tiny(flat))
        with torch.no_grad():
            u = self.direction
            v = F.normalize(flat.T @ u, dim=0)
            if self.training:
                u = F.normalize(flat @ v, dim=0)
                self.direction.copy_(u)
            u = u.clone()  # the gradient looks at it after the next iteration has changed the stored one
        return self.weight / torch.dot(u, flat @ v).clamp_min(_tiny(flat))

    def forward(self, values: Tensor, kernel: Tensor | None = None) -> Tensor:
        """(B, inputs, *S) to (B, outputs, *S); `kernel` is one that `kernel()` gave before."""
        conv = F.conv2d if values.ndim == 4 else F.conv3d
        return conv(values, self.kernel() if kernel is None else kernel, padding="same")


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny
