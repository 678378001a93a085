"""Methods whose network proposes a map: prepared for the network, judged, handed to the solver."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..field import Field
from ..frame import Frame
from ..half_way import half_displacement
from ..objectives import NormalisedMutualInformation, Similarity
from ..presets import start_frame
from ..transforms import FieldTransform
from ..weights import Weights
from .base import Method, MethodInput, Prediction, image_on
from .classical import classical_features
from .maps import BatchMap, ComposedMap, FieldMap, read_at

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

WORTHWHILE = 0.1
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
        """The network's map of the working frame, before the linear maps.

        Both images are read on the working frame's box, cut into about as many voxels as the network was
        trained on, at each of its scales; from the second time on they are warped by what was found before,
        and the maps are composed. Half-way, the network is asked in both orders of the images and both are
        warped, so that exchanging them exchanges the maps. Where the solver goes on from there, one coarse
        look is all: the solver finds details sooner. The result is evaluated on the lattice the solver begins
        on. A map that does not make the images clearly more alike is left out; with a warning, if that
        leaves none.

        Raises:
            InputError: the weights do not fit the network.
            Cancelled: asked to while the network works.
        """
        plain = replace(classical_features(pair), features=None)
        if pair.weights is None:
            return replace(plain, warnings=(_NO_WEIGHTS.format(title=self.title),))
        pair.report("Predicting", 0.0)
        network = self.network(pair.weights).to(pair.fixed.data.device)
        found: Looked | None = None
        scales = SCALES[:1] if pair.preset.refines else self.scales(pair.weights)
        for frame in looks(pair.weights, pair.frame, scales):
            fixed, moving = network_images(pair, frame)
            if found is not None:
                moving, fixed = found.warped(moving, fixed)
            proposed = self.proposals(network, moving, fixed, frame, pair)
            with torch.no_grad():
                further = Looked.of(proposed, frame)
                if not further.improves(moving, fixed, pair.similarity.at(frame.spacing)):
                    break  # what fails at the coarser look may mislead, more subtly, at the finer one
                found = further if found is None else found.then(further)
        if found is None:
            return replace(plain, warnings=(NO_HELP.format(title=self.title),))
        with torch.no_grad():
            start = FieldTransform(found.start(start_frame(pair.preset, pair.frame)))
        pair.report("Predicting", 1.0)
        return replace(plain, start=start)

    def proposals(
        self, network: nn.Module, moving: Tensor, fixed: Tensor, frame: Frame, pair: MethodInput
    ) -> tuple[BatchMap, BatchMap | None]:
        """What the network makes of images (1, 1, *S) on `frame`: the map of fixed to moving points and, for
        symmetric pairs, that of moving to fixed ones."""
        there = self.proposal(network, moving, fixed, frame, pair)
        back = self.proposal(network, fixed, moving, frame, pair) if pair.symmetric else None
        return there, back

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


@dataclass(frozen=True)
class Looked:
    """The maps that looks have found so far, of the working frame's box.

    Attributes:
        to_moving: towards the moving image.
        to_fixed: towards the fixed one; None where that stays.
    """

    to_moving: BatchMap
    to_fixed: BatchMap | None

    @classmethod
    def of(cls, proposed: tuple[BatchMap, BatchMap | None], frame: Frame) -> Looked:
        """What one look has proposed, halved between the images where there are both directions."""
        there, back = proposed
        if back is None:
            return cls(there, None)
        fields = [proposal.displacement(frame.shape)[0] for proposal in (there, back)]
        zero = torch.zeros_like(fields[0])
        half = (half_displacement(fields[0], zero, frame) - half_displacement(fields[1], zero, frame)) / 2
        return cls(FieldMap(half[None]), FieldMap(-half[None]))

    def then(self, further: Looked) -> Looked:
        """These, after what a further look at images warped by them has found."""
        to_fixed = None
        if self.to_fixed is not None and further.to_fixed is not None:
            to_fixed = ComposedMap(self.to_fixed, further.to_fixed)
        return Looked(ComposedMap(self.to_moving, further.to_moving), to_fixed)

    def warped(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """Both images (1, 1, *S) of the box, as they are seen after the maps."""
        shape = moving.shape[2:]
        there = read_at(moving, self.to_moving.on_grid(shape))
        return there, fixed if self.to_fixed is None else read_at(fixed, self.to_fixed.on_grid(shape))

    def improves(
        self, moving: Tensor, fixed: Tensor, similarity: Similarity, worthwhile: float = WORTHWHILE
    ) -> bool:
        """See `improves`."""
        return improves(self.warped(moving, fixed), (moving, fixed), similarity, worthwhile)

    def start(self, frame: Frame) -> Field:
        """What the solver begins with on a frame of the box, see `Prediction.start`."""
        there = self.to_moving.displacement(frame.shape)[0]
        if self.to_fixed is None:
            return Field(there, frame)
        return Field(half_displacement(there, self.to_fixed.displacement(frame.shape)[0], frame), frame)


def network_images(pair: MethodInput, frame: Frame) -> tuple[Tensor, Tensor]:
    """Fixed and moving image (1, 1, *S), linearly aligned, on a frame of the working box.

    Outside an image's box is black.
    """
    return image_on(pair.fixed, pair.to_fixed_frame, frame), image_on(pair.moving, pair.linear, frame)


def improves(
    after: tuple[Tensor, Tensor],
    before: tuple[Tensor, Tensor],
    similarity: Similarity,
    worthwhile: float = WORTHWHILE,
) -> bool:
    """Whether warped images (1, 1, *S), moving and fixed, are clearly more alike than they were before.

    They have to lose the share `worthwhile` of what separates them from an image and itself: reading an image
    between its voxels smooths its noise, and that alone makes images look a little more alike. And their
    mutual information has to gain (across contrasts, where it sees little, not to fall): a map that bends
    each neighbourhood into something that correlates can have led structures away from one another.
    """
    seen = [[similarity.prepare(image) for image in images] for images in (after, before)]
    if _gain(similarity, *seen) <= worthwhile:
        return False
    least = 0.0 if similarity.across_contrasts else _AS_A_WHOLE
    return _gain(NormalisedMutualInformation(), after, before) > least


def _gain(similarity: Similarity, after: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """The share of what separates two images from perfect that the maps take."""
    started, reached, best = (
        float(similarity(image, fixed)) for image, fixed in (before, after, (before[1], before[1]))
    )
    return (started - reached) / max(started - best, 1e-12)
