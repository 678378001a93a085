"""The multi-resolution form: a coarse voxel method first, NePhi on what it leaves, maps composed.

Tian et al., NePhi (ECCV 2024, arXiv 2309.07322), section 3.5. There the coarse method is a network; here it
is the engine's solver at its coarsest scale, or any map that is given.
"""

from __future__ import annotations

from dataclasses import replace

from ...field import Field
from ...objective import PairObjective
from ...presets import finest_frame, settings_for
from ...progress import Reporter
from ...solver import scale_frame, solve
from ...transforms import Composite, Diffeomorphic, FieldTransform, Transform
from ..base import MethodInput
from ..classical import classical_features
from .images import PairImages, measured_at_points
from .instance import CODE_RATE, NETWORK_RATE, STEPS, from_scratch, optimised
from .loss import SampledLoss
from .maps import MapPair

POINTS = (8192, 256)
"""Drawn at each step for similarity and regularity; more would gain less than they cost on a processor."""


def coarse_start(pair: MethodInput, report: Reporter | None = None) -> Field:
    """What the solver finds at the coarsest scale of the preset: no folds, before the linear map.

    Raises:
        Cancelled: within one iteration of being asked to.
    """
    name = "mind-nmi" if pair.similarity.across_contrasts else "lncc"
    settings = settings_for(pair.preset, Diffeomorphic.name, name)
    settings = replace(settings, scales=settings.scales[:1])
    finest = finest_frame(pair.preset, pair.fixed.frame)
    frame = scale_frame(finest, settings.scales[0].factor, settings.smallest)
    objective = PairObjective(classical_features(pair).channels, pair.linear)
    settings = replace(settings, scales=(replace(settings.scales[0], factor=1.0),))
    model = Diffeomorphic(frame, pair.fixed.data.device)
    solved, _ = solve(objective, model, settings, report, "Coarse alignment")
    return solved.field(frame, pair.fixed.data.device)


def fitted(
    pair: MethodInput,
    maps: MapPair | None = None,
    start: Field | None = None,
    steps: int = STEPS,
    loss: SampledLoss | None = None,
    rates: tuple[float, float] = (NETWORK_RATE, CODE_RATE),
    seed: int = 0,
    report: Reporter | None = None,
) -> Transform:
    """Instance optimisation of a neural field on a prepared pair.

    Args:
        pair: the images and the linear map that follows.
        maps: where the neural field starts; from scratch by default.
        start: a displacement over the fixed box that stays as it is, composed after the neural field: the
            multi-resolution form. None for NePhi alone.
        steps: of the optimisation.
        loss: what is minimised; by default with `POINTS` and the pair's measure, or the correlation
            where that needs neighbourhoods.
        rates: of the networks and of the code.
        seed: of the points, and of networks and code where they are fresh.
        report: told at every step.

    Returns:
        The map of fixed points to linearly aligned fixed points, LPS mm; its inverse is made of the
        partner network and the inverse of `start`.

    Raises:
        Cancelled: within a step once asked to.
    """
    dimension, device = pair.fixed.frame.dimension, pair.fixed.data.device
    loss = loss or SampledLoss(*POINTS, measured_at_points(pair.similarity))
    images = PairImages.of(pair.fixed, pair.moving, pair.linear, pair.similarity, start)
    maps = maps or from_scratch(dimension, device=device, seed=seed)
    found = optimised(maps, images, loss, steps, rates, seed, report or pair.report)
    neural = found.transform(pair.fixed.frame)
    return neural if start is None else Composite(FieldTransform(start), neural)
