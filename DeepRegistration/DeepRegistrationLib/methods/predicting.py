"""Methods whose network proposes a map: prepared for the network, judged, handed to the solver."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..field import Field
from ..filters import downsample
from ..frame import Frame
from ..interpolation import sample
from ..objective import matching_size, normalised_matrix
from ..objectives import NormalisedMutualInformation, Similarity
from ..presets import start_frame
from ..transforms import FieldTransform
from ..weights import Weights
from .base import Method, MethodInput, Prediction
from .classical import classical_features
from .maps import BatchMap, ComposedMap, read_at

_NO_WEIGHTS = (
    "There are no trained weights for {title}, so it starts from no prediction: the result is what the "
    "optimisation finds from the linear alignment."
)
NO_HELP = (
    "{title}'s prediction would not have made the images clearly more alike, so it was left out: the weights "
    "may not have been trained for images like these."
)

SCALES = (0.75, 1.4, 2.0)
"""Voxels along a side, times those of the training images, of the looks a network takes at a pair. Networks
know shapes by their voxels: a coarser look sees large shifts as smaller ones, a finer one more detail, and
what the ones before it have left."""

_WORTHWHILE = 0.1
"""Share of what separates two images from perfect that a look has to gain, see `improves`. On images unlike
those trained on, maps that gained less made structures overlap less (and some, from a fine look, that gained
more, where the coarse one had failed)."""


_AS_A_WHOLE = 0.02
"""The same of mutual information, within one contrast. On heads and slabs of heads, looks that brought
structures nearer gained 0.04 to 0.28, those that parted them, though local correlation had gained enough, at
most 0.01."""


class PredictingMethod(Method):
    """A method whose map is where the solver starts; what is compared are the images themselves.

    Without trained weights nothing is predicted, and the solver does the work alone.
    """

    def predict(self, pair: MethodInput) -> Prediction:
        """The network's map from the fixed frame's box to itself, before the linear map.

        Fixed and linearly aligned moving image are cut to about as many voxels as the network was trained on,
        over the fixed image's box, at each of its scales; from the second time on the moving image is
        warped by what was found before, and the maps are composed. Where the solver goes on from there,
        one coarse look is all: the solver finds details sooner. The result is evaluated on the lattice the
        solver begins on. A map that does not make the images clearly more alike is left out; with a warning,
        if that leaves none.

        Raises:
            InputError: the weights do not fit the network.
            Cancelled: asked to while the network works.
        """
        plain = replace(classical_features(pair), features=None)
        if pair.weights is None:
            return replace(plain, warnings=(_NO_WEIGHTS.format(title=self.title),))
        pair.report("Predicting", 0.0)
        network = self.network(pair.weights).to(pair.fixed.data.device)
        found: BatchMap | None = None
        scales = SCALES[:1] if pair.preset.refines else self.scales(pair.weights)
        for frame in looks(pair.weights, pair.fixed.frame, scales):
            fixed, moving = network_images(pair, frame)
            if found is not None:
                moving = read_at(moving, found.on_grid(frame.shape))
            further = self.proposal(network, moving, fixed, frame, pair)
            with torch.no_grad():
                if not improves(further, moving, fixed, pair.similarity.at(frame.spacing)):
                    break  # what fails at the coarser look may mislead, more subtly, at the finer one
                found = further if found is None else ComposedMap(found, further)
        if found is None:
            return replace(plain, warnings=(NO_HELP.format(title=self.title),))
        with torch.no_grad():
            lattice = start_frame(pair.preset, pair.fixed.frame)
            start = FieldTransform(Field(found.displacement(lattice.shape)[0], lattice))
        pair.report("Predicting", 1.0)
        return replace(plain, start=start)

    def scales(self, weights: Weights) -> tuple[float, ...]:
        """Of the looks where no solver follows, see `SCALES`."""
        return SCALES

    @abstractmethod
    def network(self, weights: Weights) -> nn.Module:
        """The network with its weights, ready to predict.

        Raises:
            InputError: they do not fit.
        """

    @abstractmethod
    def proposal(
        self, network: nn.Module, moving: Tensor, fixed: Tensor, frame: Frame, pair: MethodInput
    ) -> BatchMap:
        """The pull-back that brings moving onto fixed, images (1, 1, *S) on `frame`; no gradients kept."""


def looks(weights: Weights, frame: Frame, scales: Sequence[float] = SCALES) -> list[Frame]:
    """The box of `frame` cut into voxels equally long on all sides, once for each of `scales`.

    Along a side about as many as the training images had, times the scale, and not finer than `frame` itself,
    whose details are all there is to see: then one look is all.

    Raises:
        InputError: the weights do not tell.
    """
    shape = weights.convention.get("shape", [])
    if len(shape) != frame.dimension:
        raise InputError("The weights file does not say for what size of image the network was trained.")
    side = float(np.prod(frame.extent) / np.prod(shape)) ** (1 / frame.dimension)
    finest = float(np.prod(frame.extent) / frame.voxels) ** (1 / frame.dimension)
    steps = [max(side / share, finest) for share in scales]
    return [frame.with_spacing(step) for step in (steps if steps[0] > finest else steps[:1])]


def network_images(pair: MethodInput, frame: Frame) -> tuple[Tensor, Tensor]:
    """Fixed and linearly aligned moving image (1, 1, *S) on a frame of the fixed box.

    Outside the moving image's box is black.
    """
    fixed = downsample(pair.fixed.data[None], frame.size)
    matrix = normalised_matrix(pair.linear, frame, pair.moving.frame, fixed.device)
    points = frame.grid(fixed.device) @ matrix[:, :-1].T + matrix[:, -1]
    moving = downsample(pair.moving.data[None], matching_size(pair.moving.frame, frame))
    inside = (points.abs() <= 1).all(-1)
    return fixed, sample(moving, points) * inside


def improves(
    found: BatchMap, moving: Tensor, fixed: Tensor, similarity: Similarity, worthwhile: float = _WORTHWHILE
) -> bool:
    """Whether a map makes images (1, 1, *S) clearly more alike than they are.

    It has to take the share `worthwhile` of what separates them from an image and itself: reading an image
    between its voxels smooths its noise, and that alone makes images look a little more alike. And their
    mutual information has to gain (across contrasts, where it sees little, not to fall): a map that bends
    each neighbourhood into something that correlates can have led structures away from one another.
    """
    grid = found.on_grid(fixed.shape[2:])
    seen, target = similarity.prepare(moving), similarity.prepare(fixed)
    if _gain(similarity, seen, target, grid) <= worthwhile:
        return False
    least = 0.0 if similarity.across_contrasts else _AS_A_WHOLE
    return _gain(NormalisedMutualInformation(), moving, fixed, grid) > least


def _gain(similarity: Similarity, moving: Tensor, fixed: Tensor, grid: Tensor) -> float:
    """The share of what separates two images from perfect that reading one of them at `grid` takes."""
    before, after, best = (
        float(similarity(image, fixed)) for image in (moving, read_at(moving, grid), fixed)
    )
    return (before - after) / max(before - best, 1e-12)
