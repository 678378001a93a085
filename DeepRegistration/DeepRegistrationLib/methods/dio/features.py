"""Feature networks by their configuration, and the features of one image with their geometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError
from ...filters import gaussian_smooth
from ...frame import Frame, Volume
from ...networks.encoder_only import LargeKernelEncoders, UNetEncoders
from ...networks.large_kernel import LargeKernelUNet
from ...networks.stem_unet import StemUNet
from ...networks.unet import FeatureUNet
from ...objective import Pyramid

KINDS = ("unet", "stem", "lku", "unet-e", "lku-e")
_ADDED_LATER = {"margin": 0, "smoothing": 0.0, "structures": 0}
"""What descriptions of earlier versions do not say."""


@dataclass(frozen=True)
class FeatureNetwork:
    """A feature network's description, saved with its weights.

    Attributes:
        kind: ``unet``, ``stem`` (a U-Net at half the resolution), ``lku`` (large kernels), or
            their encoder-only variants ``unet-e``, ``lku-e``.
        widths: channels of the levels of the U-Nets, finest first.
        start: channels of the stem of the large-kernel ones.
        channels: features per level.
        smoothing: of each level's features, standard deviation of a Gaussian in the level's voxels. What
            features say of single voxels is mostly noise across contrasts, and leads the solver astray.
        structures: of ``stem``, see `StemUNet`.
        margin: voxels by which images are continued on every side before the network sees them. Features
            then exist beyond the image's box, where large motions read them; at a border that is merely
            repeated, the right answer to a large shift costs more than a wrong one.
    """

    kind: str = "unet"
    widths: tuple[int, ...] = (16, 16, 32, 32, 64)
    start: int = 16
    channels: int = 16
    margin: int = 0
    smoothing: float = 0.0
    structures: int = 0

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> FeatureNetwork:
        """From what `dataclasses.asdict` made, after JSON.

        Raises:
            InputError: something is missing, unknown or of another type.
        """
        names, values = {f.name for f in fields(cls)}, {**_ADDED_LATER, **values}
        if set(values) != names or values.get("kind") not in KINDS:
            raise InputError("The weights do not describe a feature network of this version of the program.")
        widths, margin = values["widths"], values["margin"]
        if not isinstance(widths, list | tuple):
            raise InputError("The sizes of the network in the weights are not usable.")
        numbers = [*widths, values["start"], values["channels"], margin, values["structures"]]
        usable = all(isinstance(n, int) and 0 <= n <= 4096 for n in numbers) and all(numbers[:-2])
        smoothing = values["smoothing"]
        usable = usable and isinstance(smoothing, int | float) and 0 <= smoothing <= 16
        if not usable or len(widths) < 1:
            raise InputError("The sizes of the network in the weights are not usable.")
        return cls(**{**values, "widths": tuple(widths)})

    def build(self, dimension: int) -> nn.Module:
        """A fresh network for 2-D or 3-D images of one channel, which knows its `stride` and `margin`."""
        network = self._network(dimension)
        network.margin = self.margin
        if self.smoothing:
            network.register_forward_hook(self._smoothed)
        return network

    def _smoothed(self, network: nn.Module, images: tuple[Tensor], features: list[Tensor]) -> list[Tensor]:
        """What the network gives out in the place of `features` (B, C, *S / 2^k), in float32."""
        sigma = [self.smoothing] * (features[0].ndim - 2)
        return [gaussian_smooth(level.float(), sigma, border="replicate") for level in features]

    def _network(self, dimension: int) -> nn.Module:
        if self.kind == "unet":
            return FeatureUNet(dimension, self.widths, self.channels)
        if self.kind == "stem":
            return StemUNet(dimension, self.widths, self.channels, self.structures)
        if self.kind == "unet-e":
            return UNetEncoders(dimension, self.widths[:3], self.channels)
        kind = LargeKernelUNet if self.kind == "lku" else LargeKernelEncoders
        return kind(dimension, self.start, self.channels)


def padded(images: Tensor, stride: int, margin: int = 0) -> Tensor:
    """Images (B, C, *S), the border repeated: by `margin`, and on to multiples of `stride`, at least two."""
    sides = []
    for n in reversed(images.shape[2:]):
        whole = n + 2 * margin
        sides += [margin, margin + max(2, -(-whole // stride)) * stride - whole]
    return F.pad(images, sides, mode="replicate") if any(sides) else images


def pyramid(levels: list[Tensor], frame: Frame, margin: int = 0) -> Pyramid:
    """Features (C, *S / 2^k), finest first, of an image on `frame` that was `padded`, with their geometry."""
    size = tuple(reversed(levels[0].shape[1:]))
    steps = np.asarray(frame.direction) @ np.asarray(frame.spacing) * margin
    box = Frame(size, frame.spacing, tuple((np.asarray(frame.origin) - steps).tolist()), frame.direction)
    return Pyramid(tuple(Volume(v, box.resized(tuple(reversed(v.shape[1:])))) for v in levels), frame)


def features_of(network: nn.Module, image: Volume) -> Pyramid:
    """The features of one image (1, *S) in [0, 1], which the network sees by itself and on its own frame."""
    levels = network(padded(image.data[None], network.stride, network.margin))
    return pyramid([level[0].float() for level in levels], image.frame, network.margin)


def structures_of(network: StemUNet, image: Volume) -> tuple[Pyramid, list[float]]:
    """The same, of a network that tells structures apart, and the volume it sees of each, mm^3."""
    levels = network.outputs(padded(image.data[None], network.stride, network.margin))
    features = [network.coded(level)[0].float() for level in levels]
    voxels = levels[0][0].argmax(0).flatten().bincount(minlength=levels[0].shape[1])[1:]
    volumes = (voxels * image.frame.voxel_volume).tolist()
    return pyramid(features, image.frame, network.margin), volumes
