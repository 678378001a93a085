"""Triangles and circles: NePhi fitted to pairs, trained in short, and every representation from it."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.interpolation import sample
from DeepRegistrationLib.methods.nephi.instance import from_scratch, optimised
from DeepRegistrationLib.methods.nephi.loss import BatchImages, SampledLoss
from DeepRegistrationLib.methods.nephi.maps import MapPair
from DeepRegistrationLib.methods.nephi.predictor import Predictor
from DeepRegistrationLib.methods.nephi.training import TASK
from DeepRegistrationLib.metrics import fold_statistics, inverse_consistency
from DeepRegistrationLib.training.base import Batch
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.validate import overlap, validate
from DeepRegistrationLib.transforms import REPRESENTATIONS
from DeepRegistrationLib.weights import save_weights

pytestmark = pytest.mark.slow

SIZE = 32
FRAME = Frame.regular((SIZE, SIZE))
SOURCE = open_data(f"generated:shapes?size={SIZE}", 2)
LOSS = SampledLoss(256, 32)


def fields(maps: MapPair) -> tuple[Field, Field]:
    forward, backward = (Field(m.displacement(FRAME.shape)[0], FRAME) for m in (maps.forward, maps.backward))
    return forward, backward


def dice(batch: Batch, field: Field | None = None) -> float:
    points = FRAME.grid() + (0 if field is None else field.displacement)
    return overlap(sample(batch.moving_labels, points, mode="nearest"), batch.fixed_labels)


def test_pairs_are_fitted_from_scratch_nearly_without_folds_and_with_a_near_inverse() -> None:
    before, after, folds, errors = [], [], [], []
    for index in range(4):
        batch = SOURCE.held_out(index)
        images = BatchImages(batch.fixed, batch.moving)
        forward, backward = fields(optimised(from_scratch(2), images, LOSS, 80, (3e-4, 3e-3)))
        before.append(dice(batch))
        after.append(dice(batch, forward))
        folds.append(fold_statistics(forward)["folds_percent"])
        error, moved = inverse_consistency(forward, backward)["mean_mm"], forward.magnitude_mm().mean()
        errors.append(error / float(moved))
    assert fmean(before) < 0.55 and fmean(after) > 0.82
    assert fmean(folds) < 0.1
    assert fmean(errors) < 0.2  # nothing but the loss makes the networks each other's inverse


def test_the_penalty_is_what_keeps_maps_from_folding() -> None:
    batch = SOURCE.held_out(3)
    images = BatchImages(batch.fixed, batch.moving)
    loose = SampledLoss(256, 2, weight=0.0)
    forward, _ = fields(optimised(from_scratch(2), images, loose, 60, (3e-4, 3e-3)))
    assert fold_statistics(forward)["folds_percent"] > 1


def test_training_in_short_already_helps_pairs_it_has_not_seen() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TASK.network("small", 2)
    optimiser = TASK.optimiser(network, TASK.stages("small")[0])
    for step in range(80):
        batch = SOURCE.batch(8, 0, step)
        maps, images = network(batch.fixed, batch.moving), BatchImages(batch.fixed, batch.moving)
        optimiser.zero_grad()
        LOSS(maps, images, torch.Generator().manual_seed(step))["loss"].backward()
        optimiser.step()
    numbers = validate(TASK, network, SOURCE, pairs=16)
    assert numbers["dice_after"] > numbers["dice_before"] + 0.06
    assert numbers["folds_percent"] < 0.1


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_every_representation_takes_a_prediction(name: str, tmp_path: Path) -> None:
    """Weights that predict one shift; the images are that far apart."""
    frame = Frame.regular((40, 32), 1.5)
    points = frame.points()

    def ball(x: float) -> Volume:
        away = (points - torch.tensor((x, 0.0))).norm(dim=-1)
        return Volume(torch.sigmoid(2 * (12 - away))[None].float(), frame)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Predictor("small", 2)
    with torch.no_grad():
        network.fields[0].last.bias[0] = 2 * 6 / 60
    path = tmp_path / "weights.pt"
    save_weights(path, "nephi", "small", 2, network.state_dict(), TASK.convention("small", 2), {})
    options = {"representation": name, "preset": "fast", "linear": "none", "device": "cpu", "weights": path}
    result = register(ball(0.0), ball(6.0), method="nephi", similarity="lncc", threads=1, **options)
    found = result.forward.map(torch.zeros(1, 2, dtype=torch.float64))[0]
    assert math.dist(found.tolist(), (6.0, 0.0)) < 1.2
