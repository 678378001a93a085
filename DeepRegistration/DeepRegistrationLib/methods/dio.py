"""DIO: dense features of each image, aligned by optimisation (Jena et al., arXiv 2406.07361).

The paper learns the features; here they are the classical ones the same solver aligns: the intensities,
for measures that compare them locally or as a whole; their gradient magnitude beside them; and MIND's
self-similarity descriptors where the contrasts differ. The images never meet before the solver.
"""

from __future__ import annotations

from ..filters import gaussian_smooth, spatial_gradient
from ..frame import Volume
from ..objective import Channel
from ..objectives import LocalNCC
from .base import Method, MethodInput, Prediction


class Dio(Method):
    """Features per image, then optimisation; nothing is predicted to start from."""

    name = "dio"
    title = "DIO"
    description = "Dense features of each image, aligned by optimisation: any representation, any prompt."
    guarantee = "A stationary point of a stated objective; no folds with a diffeomorphic representation."

    def predict(self, pair: MethodInput) -> Prediction:
        channels = [Channel(pair.fixed, pair.moving, pair.similarity)]
        if isinstance(pair.similarity, LocalNCC) and pair.preset.gradient_share > 0:
            edges = gradient_magnitude(pair.fixed), gradient_magnitude(pair.moving)
            channels.append(Channel(*edges, pair.similarity, pair.preset.gradient_share))
        return Prediction(tuple(channels))


def gradient_magnitude(image: Volume) -> Volume:
    """Length of the intensity gradient of a slightly smoothed image, per mm, on the image's frame."""
    d = image.frame.dimension
    smooth = gaussian_smooth(image.data[None], (1.0,) * d, border="replicate")
    per_mm = spatial_gradient(smooth) / smooth.new_tensor(image.frame.spacing).view(1, 1, d, *(1,) * d)
    return Volume(per_mm.norm(dim=2)[0], image.frame)
