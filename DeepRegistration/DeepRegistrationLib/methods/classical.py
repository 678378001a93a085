"""Features without training: intensities, their gradient magnitude, or MIND's descriptors.

Intensities for measures that compare them locally or as a whole, their gradient magnitude beside them;
for MIND the measure itself makes its descriptors of the intensities.
"""

from __future__ import annotations

import torch

from ..filters import gaussian_smooth, spatial_gradient
from ..frame import Volume
from ..objective import Channel
from ..objectives import LocalNCC
from .base import Method, MethodInput, Prediction


class Classical(Method):
    """The solver alone, on the images themselves."""

    name = "classical"

    def predict(self, pair: MethodInput) -> Prediction:
        """What to compare; nothing is predicted, and no weights are for it."""
        return classical_features(pair)


def classical_features(pair: MethodInput) -> Prediction:
    """The channels for the chosen similarity; the feature images are what they compare."""
    channels = [Channel(pair.fixed, pair.moving, pair.similarity)]
    shown = pair.fixed, pair.moving
    if isinstance(pair.similarity, LocalNCC) and pair.preset.gradient_share > 0:
        edges = gradient_magnitude(pair.fixed), gradient_magnitude(pair.moving)
        channels.append(Channel(*edges, pair.similarity, pair.preset.gradient_share))
        shown = tuple(
            Volume(torch.cat([image.data, edge.data]), image.frame)
            for image, edge in zip(shown, edges, strict=True)
        )
    return Prediction(tuple(channels), features=shown)


def gradient_magnitude(image: Volume) -> Volume:
    """Length of the intensity gradient of a slightly smoothed image, per mm, on the image's frame."""
    d = image.frame.dimension
    smooth = gaussian_smooth(image.data[None], (1.0,) * d, border="replicate")
    per_mm = spatial_gradient(smooth) / smooth.new_tensor(image.frame.spacing).view(1, 1, d, *(1,) * d)
    return Volume(per_mm.norm(dim=2)[0], image.frame)
