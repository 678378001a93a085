"""Convolutions whose gain is limited: spectral normalisation as published, and one that holds."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FREQUENCIES = 8
"""Frequencies for each voxel of distance that a kernel reaches, and axis."""


class SpectralConv(nn.Module):
    """A convolution without bias that keeps the size (zeros outside) and whose kernel is normalised.

    The kernel is divided by the largest singular value of the matrix W it is flattened to, outputs x
    (inputs k^d) (Miyato et al., ICLR 2018). By default that value is followed by one power iteration for
    each normalisation in training. Images overlap k^d times in what W sees of them, so the
    convolution's own norm can be up to sqrt(k^d) times that of W. With `strict` the kernel is divided by
    `norm_bound` instead: the convolution is then 1-Lipschitz in the Euclidean norm for any weights and any
    image size.

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
        norm = norm_bound(self.weight) if self.strict else self._followed_norm()
        return self.weight / norm.clamp_min(torch.finfo(norm.dtype).tiny)

    def _followed_norm(self) -> Tensor:
        """Of the flattened kernel, as far as the iteration has got."""
        flat = self.weight.flatten(1)
        with torch.no_grad():
            u = self.direction
            v = F.normalize(flat.T @ u, dim=0)
            if self.training:
                u = F.normalize(flat @ v, dim=0)
                self.direction.copy_(u)
            u = u.clone()  # the gradient looks at it after the next iteration has changed the stored one
        return torch.dot(u, flat @ v)

    def forward(self, values: Tensor, kernel: Tensor | None = None) -> Tensor:
        """(B, inputs, *S) to (B, outputs, *S); `kernel` is one that `kernel()` gave before."""
        conv = F.conv2d if values.ndim == 4 else F.conv3d
        return conv(values, self.kernel() if kernel is None else kernel, padding="same")


def norm_bound(kernel: Tensor) -> Tensor:
    """An upper bound of the operator norm of the convolution with a kernel, zeros outside, any image size.

    On an endless lattice the norm is the supremum over frequencies w of the largest singular value of the
    kernel's Fourier transform P(w), outputs x inputs (for a torus: Sedghi et al., ICLR 2019); zeros
    outside can only lower it. It is computed at n equidistant frequencies an axis. For any unit a and b,
    a^T P b is a trigonometric polynomial of degree r = (k - 1) / 2 in each frequency, whose maximum exceeds
    that over n points by at most 1 / cos(pi r / n) (Ehlich and Zeller, Mathematische Zeitschrift 86, 1964),
    the factor of each axis. For k = 3 the bound is at most 1.17 times the norm in 2-D and 1.27 times in 3-D.

    Args:
        kernel: (outputs, inputs, k, ..., k), k odd.
    """
    d, reach = kernel.ndim - 2, kernel.shape[-1] // 2
    count = max(1, _FREQUENCIES * reach)
    # half of the frequencies will do: the others' values are the complex conjugates
    transform = torch.fft.rfftn(kernel, (count,) * d, tuple(range(2, kernel.ndim)))
    seen = torch.linalg.matrix_norm(transform.flatten(2).movedim(-1, 0), 2).amax()
    return seen / math.cos(math.pi * reach / count) ** d
