"""DIO's "-E" variants: no decoder, an encoder of its own for each scale."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .large_kernel import LargeKernel, LargeKernelEncoder
from .unet import Encoder, conv, head, initialise


class UNetEncoders(nn.Module):
    """`FeatureUNet` without its decoder: for level k an independent encoder of levels 0 to k and a head.

    Jena et al., arXiv 2406.07361, which leave open how deep each encoder goes; here just as deep as its
    scale, so that fine features stay local and no scale knows more of the image than it needs.

    Args: as `FeatureUNet`; there are as many scales as widths.
    """

    def __init__(
        self, dimension: int, widths: Sequence[int] = (16, 16, 32), channels: int = 16, inputs: int = 1
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(Encoder(dimension, widths[: k + 1], inputs) for k in range(len(widths)))
        self.heads = nn.ModuleList(head(dimension, w, channels) for w in widths)
        initialise(self)

    @property
    def stride(self) -> int:
        return 2 ** (len(self.heads) - 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, inputs, *S) to features (B, channels, *S / 2^k), finest first."""
        return [last(way(image)[-1]) for way, last in zip(self.encoders, self.heads, strict=True)]


class LargeKernelEncoders(nn.Module):
    """`LargeKernelUNet` without its decoder: for level k an independent encoder of k strided stages.

    The full scale, which has no such stage, has a large-kernel block after its stem.

    Args: as `LargeKernelUNet`; `levels` is the number of scales.
    """

    def __init__(
        self, dimension: int, start: int = 16, channels: int = 16, inputs: int = 1, levels: int = 3
    ) -> None:
        super().__init__()
        widths = tuple(start * factor for factor in (1, 2, 4, 8, 8))[:levels]
        self.encoders = nn.ModuleList(
            LargeKernelEncoder(dimension, widths[: k + 1], inputs) for k in range(levels)
        )
        self.full = LargeKernel(dimension, start)
        self.heads = nn.ModuleList(conv(dimension, w, channels, bias=False) for w in widths)

    @property
    def stride(self) -> int:
        return 2 ** (len(self.heads) - 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, inputs, *S) to features (B, channels, *S / 2^k), finest first."""
        values = [way(image)[-1] for way in self.encoders]
        values[0] = self.full(values[0])
        return [last(value) for last, value in zip(self.heads, values, strict=True)]
