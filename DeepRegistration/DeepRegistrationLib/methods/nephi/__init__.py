"""NePhi: neural deformation fields (Tian et al., ECCV 2024, arXiv 2309.07322).

An encoder turns a pair into a latent code, two small networks of position and code into the maps of both
directions. The map is where the solver starts; what it compares are the images themselves. Without
trained weights the two networks and the code are fitted to the pair from scratch, where the preset has
time for it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ...field import Field
from ...frame import Frame
from ...presets import finest_frame, start_frame
from ...sizes import finest_size
from ...transforms import FieldTransform, Transform
from ..base import Method, MethodInput, Prediction
from ..classical import classical_features
from ..maps import FieldMap
from ..predicting import Looked, network_images
from .hybrid import POINTS, coarse_start, fitted
from .images import measured_at_points
from .maps import CHUNK
from .predictor import Predictor

_NO_WEIGHTS = (
    "There are no trained weights for NePhi, and this preset leaves no time to fit its networks to the pair: "
    "the result is what the optimisation finds from the linear alignment."
)
_FROM_SCRATCH = (
    "There are no trained weights for NePhi, so its networks were fitted to this pair alone, from scratch: "
    "{steps} steps, after a coarse alignment."
)
_NO_HELP = (
    "NePhi's {what} would not have made the images clearly more alike, so it was left out{reason}. The "
    "result is what the optimisation finds from the linear alignment."
)
_UNLIKE = ": the weights may not have been trained for images like these"

_FITTED = 0.8
"""Share of the work until the map is there and has only to be read."""

_READ_VOXELS = 400_000
"""At most so many voxels of the neural field are handed to the solver; it is too smooth to need more."""


class NePhi(Method):
    """A neural field by a trained encoder or fitted to the pair, refined by the shared solver."""

    name = "nephi"

    def predict(self, pair: MethodInput) -> Prediction:
        """The neural field from the fixed frame's box to itself, before the linear map.

        With weights, the encoder looks at the fixed and the linearly aligned moving image over the
        fixed box; where the preset says so (`Preset.instance_steps`), code and networks are then
        optimised for the pair. Without, they are fitted from scratch (`Preset.scratch_steps`) to what a
        coarse alignment leaves, the multi-resolution form. The map is handed on as a displacement on
        the lattice the solver begins on, or a coarser one of the same box.

        Raises:
            InputError: the weights do not fit the networks.
            Cancelled: asked to while the networks are fitted.
        """
        plain = replace(classical_features(pair), features=None)
        steps = pair.preset.scratch_steps
        if pair.weights is not None:
            warnings, worse = (), _NO_HELP.format(what="prediction", reason=_UNLIKE)
        elif steps > 0:
            warnings = (_FROM_SCRATCH.format(steps=steps),)
            worse = _NO_HELP.format(
                what="field, fitted to this pair alone without trained weights,", reason=""
            )
        else:
            return replace(plain, warnings=(_NO_WEIGHTS,))
        begin = start_frame(pair.preset, pair.frame)
        frame = begin.resized(finest_size(begin.size, begin.spacing, _READ_VOXELS))
        found = Looked.of(_both_ways(pair, frame), frame)
        fixed, moving = network_images(pair, frame)
        with torch.no_grad():
            if not found.improves(moving, fixed, pair.similarity.at(frame.spacing)):
                return replace(plain, warnings=(worse,))
            return replace(plain, start=FieldTransform(found.start(frame)), warnings=warnings)


def _both_ways(pair: MethodInput, frame: Frame) -> tuple[FieldMap, FieldMap | None]:
    """The field on a frame of the working box and, for symmetric pairs, that of the images exchanged."""
    finest = finest_frame(pair.preset, pair.frame)
    if not pair.symmetric:
        return _field(pair.onto(finest), frame), None
    parts = pair.report.part(0.0, 0.5), pair.report.part(0.5, 1.0)
    there = _field(replace(pair, report=parts[0]).onto(finest), frame)
    return there, _field(replace(pair.exchanged(), report=parts[1]).onto(finest), frame)


def _field(pair: MethodInput, frame: Frame) -> FieldMap:
    """What the networks give for a one-sided pair: predicted with weights, else fitted from scratch."""
    if pair.weights is not None:
        found = _predicted(pair)
    else:
        start = coarse_start(pair, pair.report.part(0.0, 0.1))
        report = pair.report.part(0.1, _FITTED)
        found = fitted(pair, start=start, steps=pair.preset.scratch_steps, report=report)
    return _read(found, frame, pair)


def _predicted(pair: MethodInput) -> Transform:
    """What the weights give, optimised for the pair where the preset says so."""
    assert pair.weights is not None
    pair.report("Predicting", 0.0)
    network = Predictor.from_weights(pair.weights).to(pair.fixed.data.device)
    with torch.no_grad():
        maps = network(*network_images(pair, pair.fixed.frame.resized(network.sides)))
    if not pair.preset.instance_steps:
        return maps.transform(pair.fixed.frame)
    loss = replace(network.loss(), similarity=measured_at_points(pair.similarity))
    if not pair.fixed.data.is_cuda:
        loss = replace(
            loss,
            similarity_points=min(loss.similarity_points, POINTS[0]),
            regularity_points=min(loss.regularity_points, POINTS[1]),
        )
    report = pair.report.part(0.1, _FITTED)
    return fitted(pair, maps, steps=pair.preset.instance_steps, loss=loss, report=report)


def _read(found: Transform, frame: Frame, pair: MethodInput) -> FieldMap:
    """The map at a frame's voxels, some points at a time, as a processor takes seconds for all."""
    report = pair.report.part(_FITTED, 1.0)
    parts = frame.points(pair.fixed.data.device, torch.float32).flatten(0, -2).split(CHUNK)
    moved = []
    for k, points in enumerate(parts):
        report("Reading the neural field", k / len(parts))
        moved.append(found.map(points) - points)
    report("Reading the neural field", 1.0)
    field = Field.from_mm(torch.cat(moved).view(*frame.shape, frame.dimension), frame)
    return FieldMap(field.displacement.detach()[None])


__all__ = ["NePhi"]
