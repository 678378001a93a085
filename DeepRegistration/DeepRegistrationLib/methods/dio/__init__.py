"""DIO: dense features of each image, aligned by optimisation (Jena et al., arXiv 2406.07361).

The network maps each image by itself to features at several scales; the engine's solver aligns them,
with whatever representation and prompts there are. Without a trained network the features are classical
ones (`classical`).
"""

from __future__ import annotations

from dataclasses import replace

from ..base import Method, MethodInput, Prediction
from ..classical import classical_features
from ..predicting import NO_HELP
from .alignment import feature_alignment
from .inference import learned_features

_ONE_CONTRAST = (
    "{title}'s weights were trained within one contrast, and these images are compared as of two: its "
    "features were left out, and the images themselves were compared."
)

_NOT_KNOWN = (
    "{title}'s weights know structures that these images do not show as a whole, so its features were left "
    "out: the images themselves were compared."
)

_SEEN = 0.3
"""Share of the work until the features are there and have only to be aligned."""


class Dio(Method):
    """Features per image, then optimisation."""

    name = "dio"

    def predict(self, pair: MethodInput) -> Prediction:
        """What to compare, the feature images, and what aligning the features alone gives, to start from.

        Features that tell structures apart are compared beside the images from the first scale on, where the
        images show most of those structures. Of other features, across contrasts, images and features are
        compared together from the start on, but weights that were trained within one contrast are not asked;
        within one, the images know better. Where the start does not help (by the similarity chosen, see
        `improves`), the features are left out altogether, with a warning.

        Raises:
            InputError: the weights do not fit the network they name, or the images.
            Cancelled: asked to while the features are aligned.
        """
        images = classical_features(pair)
        if pair.weights is None:
            return images
        if pair.similarity.across_contrasts and not pair.weights.convention.get("across_contrasts", True):
            return replace(images, warnings=(*images.warnings, _ONE_CONTRAST.format(title=self.title)))
        learned = learned_features(replace(pair, report=pair.report.part(0.0, _SEEN)))
        if not learned.channels:
            warning = _NOT_KNOWN.format(title=self.title)
            return replace(images, features=learned.features, warnings=(*images.warnings, warning))
        if pair.weights.convention.get("structures") and pair.preset.refines:
            # what structures say holds from the first scale on, so there is nothing to start from
            return replace(learned, channels=(*learned.channels, *images.channels))
        start = feature_alignment(replace(pair, report=pair.report.part(_SEEN, 1.0)), learned)
        if start is None:
            warning = NO_HELP.format(title=self.title)
            return replace(images, features=learned.features, warnings=(*images.warnings, warning))
        channels = images.channels
        if pair.similarity.across_contrasts:
            channels = (*learned.channels, *channels)
        return replace(learned, channels=channels, start=start)
