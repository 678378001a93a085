"""What the features alone make of a pair: the solver's optimum on a coarse lattice, and whether it helps."""

from __future__ import annotations

import torch

from ...field import Field
from ...objective import PairObjective
from ...presets import PRESETS, settings_for
from ...sizes import finest_size
from ...solver import solve
from ...transforms import Diffeomorphic, FieldTransform
from ..base import MethodInput, Prediction
from ..maps import FieldMap
from ..predicting import improves, network_images

_VOXELS, _COARSE_VOXELS = 300_000, 30_000
"""Of the lattice, at most: about those of the images that networks are trained on; fewer where a solver
follows, which finds details sooner."""

_WORTHWHILE = 0.05
"""See `improves`: across contrasts the measures see little of what even a good map gains."""


def feature_alignment(pair: MethodInput, learned: Prediction) -> FieldTransform | None:
    """The diffeomorphic map that aligns the features, before the linear one; None if it does not help.

    Args:
        pair: the images.
        learned: their features.

    Raises:
        Cancelled: asked to, between two iterations.
    """
    whole = pair.fixed.frame
    most = _COARSE_VOXELS if pair.preset.refines else _VOXELS
    frame = whole.resized(finest_size(whole.size, whole.spacing, most))
    settings = settings_for(PRESETS["fast"], Diffeomorphic.name, "mind-nmi")
    objective = PairObjective(learned.channels, pair.linear)
    start = Diffeomorphic(frame, pair.fixed.data.device)
    found, _ = solve(objective, start, settings, pair.report, "Aligning the features")
    with torch.no_grad():
        displacement = found.displacement()
        fixed, moving = network_images(pair, frame)
        found_map = FieldMap(displacement[None])
        if not improves(found_map, moving, fixed, pair.similarity.at(frame.spacing), _WORTHWHILE):
            return None
        return FieldTransform(Field(displacement, frame))
