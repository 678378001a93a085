"""DIO: dense features of each image, aligned by optimisation (Jena et al., arXiv 2406.07361).

The network maps each image by itself to features at several scales; the engine's solver aligns them,
with whatever representation and prompts there are. Without a trained network the features are classical
ones (`classical`).
"""

from __future__ import annotations

from ..base import Method, MethodInput, Prediction
from ..classical import classical_features
from .inference import learned_features


class Dio(Method):
    """Features per image, then optimisation; nothing is predicted to start from."""

    name = "dio"

    def predict(self, pair: MethodInput) -> Prediction:
        """What to compare, and the feature images.

        Raises:
            InputError: the weights do not fit the network they name, or the images.
        """
        return classical_features(pair) if pair.weights is None else learned_features(pair)
