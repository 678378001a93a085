"""What the features alone make of a pair: the solver's optimum on a coarse lattice, and whether it helps."""

from __future__ import annotations

import torch

from ...field import Field
from ...half_way import HalfWay
from ...objective import PairObjective, both
from ...presets import PRESETS, settings_for
from ...sizes import finest_size
from ...solver import solve
from ...transforms import Diffeomorphic, FieldTransform
from ..base import MethodInput, Prediction
from ..maps import FieldMap
from ..predicting import Looked, network_images

_VOXELS, _COARSE_VOXELS = 300_000, 30_000
"""Of the lattice, at most: about those of the images that networks are trained on; fewer where a solver
follows, which finds details sooner."""

_WORTHWHILE = 0.05
"""See `improves`: across contrasts the measures see little of what even a good map gains."""


def feature_alignment(pair: MethodInput, learned: Prediction) -> FieldTransform | None:
    """The diffeomorphic map that aligns the features, see `Prediction.start`; None if it does not help.

    Args:
        pair: the images.
        learned: their features.

    Raises:
        Cancelled: asked to, between two iterations.
    """
    whole = pair.frame
    most = _COARSE_VOXELS if pair.preset.refines else _VOXELS
    frame = whole.resized(finest_size(whole.size, whole.spacing, most))
    settings = settings_for(PRESETS["fast"], Diffeomorphic.name, "mind-nmi")
    objective = PairObjective(learned.channels, pair.linear, to_fixed=pair.to_fixed)
    device = pair.fixed.data.device
    start = (
        HalfWay(Diffeomorphic.half_way(frame, device, 0)) if pair.symmetric else Diffeomorphic(frame, device)
    )
    found, _ = solve(objective, start, settings, pair.report, "Aligning the features")
    with torch.no_grad():
        towards_moving, towards_fixed = both(found.displacement())
        looked = Looked(
            FieldMap(towards_moving[None]), None if towards_fixed is None else FieldMap(towards_fixed[None])
        )
        fixed, moving = network_images(pair, frame)
        if not looked.improves(moving, fixed, pair.similarity.at(frame.spacing), _WORTHWHILE):
            return None
        return FieldTransform(Field(towards_moving, frame))
