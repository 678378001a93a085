"""What a method compares, as pictures: one channel in its own values, several as three colours.

Slicer shows volumes of one component, or of three as red, green and blue. The colours are the three principal
components of the channels, found once and used for both images: what has the same colour in both is what the
method takes for the same.
"""

from __future__ import annotations

import numpy as np

_SAMPLE = 30_000
"""Voxels, about, that the components are found from."""
_RANGE = (1, 99)
"""Percentiles of a component that become the darkest and the brightest value."""


class FeatureColours:
    """Makes colours of channels; what it is given first says how."""

    def __init__(self) -> None:
        self._found: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """A picture of features.

        Args:
            features: (C, z, y, x); each time as many channels as the first time.

        Returns:
            (3, z, y, x) uint8: red, green, blue; (1, z, y, x) as given where there is one channel.
        """
        channels = len(features)
        if channels == 1:
            return features
        flat = features.reshape(channels, -1)
        if self._found is None:
            self._found = _components(flat[:, :: max(1, flat.shape[1] // _SAMPLE)])
        matrix, offset = self._found
        values = matrix @ flat.astype(np.float32, copy=False)
        values += offset[:, None]
        return np.clip(values, 0, 255, out=values).astype(np.uint8).reshape(3, *features.shape[1:])


def _components(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (3, C) and offset (3,) that take channels (C, N) to 0..255 along the principal components."""
    sample = sample.astype(np.float64)
    centred = sample - sample.mean(1, keepdims=True)
    axes = np.linalg.eigh(centred @ centred.T)[1].T[::-1][:3]  # of the largest variance first
    axes *= np.sign(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1))  # either sign would do
    low, high = np.percentile(axes @ sample, _RANGE, axis=1)
    scale = 255 / np.maximum(high - low, 1e-6 * max(1.0, float(np.abs(sample).max())))
    matrix, offset = np.zeros((3, len(sample))), np.zeros(3)
    matrix[: len(axes)], offset[: len(axes)] = scale[:, None] * axes, -scale * low
    return matrix.astype(np.float32), offset.astype(np.float32)
