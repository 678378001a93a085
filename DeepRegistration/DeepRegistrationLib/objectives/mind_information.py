"""MIND and mutual information together: neighbourhoods alike, and values that go together."""

from __future__ import annotations

import torch
from torch import Tensor

from .common import Cached, Similarity, check_pair
from .mind import MindSSC
from .mutual_information import NormalisedMutualInformation


class MindAndInformation(Similarity):
    """The mean of `MindSSC` and `NormalisedMutualInformation`; in [0, 1].

    The one needs no relation between the images' values, the other no edges; each leads the solver astray
    where the other does not.

    Args:
        warped_range, fixed_range: intensities the histogram spans, see `NormalisedMutualInformation`.
    """

    oriented = True
    across_contrasts = True
    pointwise = True

    def __init__(
        self,
        warped_range: tuple[float, float] | None = None,
        fixed_range: tuple[float, float] | None = None,
    ) -> None:
        self._structure = MindSSC()
        self._information = NormalisedMutualInformation(warped_range=warped_range, fixed_range=fixed_range)
        self._values = 1
        self._fixed = Cached(self._parts)

    def prepare(self, image: Tensor) -> Tensor:
        """Descriptors and values, (1, 13 C, *S), in 2-D (1, 5 C, *S)."""
        self._values = image.shape[1]  # values at scattered points do not tell how many axes there were
        return torch.cat([self._structure.prepare(image), image], 1)

    def __call__(self, warped: Tensor, fixed: Tensor, weight: Tensor | None = None) -> Tensor:
        check_pair(warped, fixed, weight)
        (of_warped, values), (of_fixed, goal) = self._parts(warped), self._fixed(fixed)
        structure = self._structure(of_warped, of_fixed, weight)
        return (structure + self._information(values, goal, weight)) / 2

    def _parts(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptors and values of what `prepare` made."""
        return prepared[:, : -self._values], prepared[:, -self._values :]
