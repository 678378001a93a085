"""Features of many channels become pictures: same colours for same features, on both images."""

from __future__ import annotations

import numpy as np
import pytest
from DeepRegistrationScene.feature_pictures import FeatureColours


def test_one_channel_stays_as_it_is() -> None:
    features = np.linspace(-3, 7, 60, dtype=np.float32).reshape(1, 3, 4, 5)
    assert FeatureColours()(features) is features


@pytest.mark.parametrize("channels", [2, 3, 8])
def test_the_colours_are_the_principal_components(channels: int) -> None:
    """Against the singular value decomposition of all voxels."""
    rng = np.random.default_rng(channels)
    mixing = rng.normal(size=(channels, channels)) * np.geomspace(5, 0.1, channels)[:, None]
    features = (mixing.T @ rng.uniform(-1, 1, (channels, 4000)) + 3).reshape(channels, 10, 20, 20)
    seen = FeatureColours()(features.astype(np.float32))
    assert seen.shape == (3, 10, 20, 20) and seen.dtype == np.uint8
    flat = features.reshape(channels, -1)
    flat = flat - flat.mean(1, keepdims=True)
    scores = np.linalg.svd(flat, full_matrices=False)[2]
    for colour, score in zip(seen, scores[:3], strict=False):
        inside = (colour.ravel() > 0) & (colour.ravel() < 255)
        assert 0.96 < inside.mean() < 0.99
        assert abs(np.corrcoef(colour.ravel()[inside], score[inside])[0, 1]) > 0.999
    assert all((colour == 0).all() for colour in seen[channels:])


def test_equal_features_have_equal_colours_in_both_images() -> None:
    rng = np.random.default_rng(0)
    fixed = rng.normal(size=(5, 8, 9, 10)).astype(np.float32)
    moving = np.flip(fixed, 3).copy()
    moving[:, :4] *= 3  # of another distribution as a whole
    colours = FeatureColours()
    first, second = colours(fixed), colours(moving)
    assert np.array_equal(second[:, 4:], np.flip(first, 3)[:, 4:])
    assert not np.array_equal(FeatureColours()(moving)[:, 4:], second[:, 4:])


def test_features_that_say_nothing_are_dark_not_an_error() -> None:
    assert (FeatureColours()(np.full((4, 3, 3, 3), 2.5, np.float32)) == 0).all()
