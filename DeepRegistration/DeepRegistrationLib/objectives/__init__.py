"""Objectives: they only measure. Similarity of images, regularity of maps, and a user's prompts."""

from __future__ import annotations

from ..errors import InputError
from .adaptive_ncc import AdaptiveNCC
from .common import Similarity
from .gaussian_ncc import GaussianNCC
from .local_ncc import LocalNCC
from .mind import MindSSC, mind_descriptor
from .mind_information import MindAndInformation
from .mutual_information import NormalisedMutualInformation
from .prompts import LabelOverlap, LandmarkDistance, combined_weight, one_hot
from .regularity import (
    bending_energy,
    diffusion,
    fold_penalty,
    gradient_inverse_consistency,
    inverse_consistency,
    jittered_points,
)
from .similarity import GlobalNCC, MeanSquaredError

__all__ = [
    "SIMILARITIES",
    "AdaptiveNCC",
    "GaussianNCC",
    "GlobalNCC",
    "LabelOverlap",
    "LandmarkDistance",
    "LocalNCC",
    "MeanSquaredError",
    "MindAndInformation",
    "MindSSC",
    "NormalisedMutualInformation",
    "Similarity",
    "bending_energy",
    "combined_weight",
    "diffusion",
    "fold_penalty",
    "gradient_inverse_consistency",
    "inverse_consistency",
    "jittered_points",
    "mind_descriptor",
    "one_hot",
    "similarity_by_name",
]

SIMILARITIES: dict[str, type[Similarity]] = {
    "mse": MeanSquaredError,
    "ncc": GlobalNCC,
    "lncc": LocalNCC,
    "adaptive-ncc": AdaptiveNCC,
    "nmi": NormalisedMutualInformation,
    "mind": MindSSC,
    "mind-nmi": MindAndInformation,
}
"""The measures by the names users choose them by."""


def similarity_by_name(name: str, **options: object) -> Similarity:
    """The measure `name` of `SIMILARITIES`, built with its class's options; InputError if there is none."""
    if name not in SIMILARITIES:
        raise InputError(f"Unknown similarity: {name}. There are {', '.join(SIMILARITIES)}.")
    return SIMILARITIES[name](**options)
