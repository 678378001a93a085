"""SITReg's loss and its training."""

from __future__ import annotations

import pytest
import torch
from DeepRegistrationLib.methods.maps import read_at
from DeepRegistrationLib.methods.sitreg.loss import PairLoss
from DeepRegistrationLib.methods.sitreg.network import CONFIGURATIONS, Configuration, SitRegNetwork
from DeepRegistrationLib.methods.sitreg.training import TASK
from DeepRegistrationLib.objectives import LocalNCC, MeanSquaredError
from DeepRegistrationLib.training import TASKS
from DeepRegistrationLib.training.base import Batch
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.validate import validate

SOURCE = open_data("generated:shapes?size=32", 2)


def exchanged(batch: Batch) -> Batch:
    return Batch(batch.moving, batch.fixed, None, None, None, None, batch.spacing)


def test_the_task_and_its_recipes() -> None:
    assert TASKS["sitreg"] is TASK
    paper = CONFIGURATIONS["paper"]
    assert (paper.radius, paper.weight, paper.rate, paper.batch) == (3, 1.0, 1e-4, 1)
    assert TASK.steps("paper") == 24 * 5000 and TASK.steps("affine") == 15 * 5000
    assert [s.share for s in TASK.stages("paper")] == [1.0]
    assert TASK.convention("paper", 3)["shape"] == [192, 144, 160]
    assert TASK.convention("small", 2)["shape"] == [64, 64]


@pytest.mark.parametrize("affine", [False, True])
def test_the_loss_is_the_mean_of_both_directions(affine: bool) -> None:
    torch.manual_seed(0)
    network = SitRegNetwork(Configuration((4, 6, 6), (6, 8), affine=affine), 2)
    batch = SOURCE.batch(2, 0, 0)
    with torch.no_grad():
        terms = PairLoss(MeanSquaredError(), 0.7)(network, batch)
        found = network(batch.moving, batch.fixed, batch.spacing)
        images, targets = (torch.cat(p) for p in ((batch.moving, batch.fixed), (batch.fixed, batch.moving)))
        similarity = (read_at(images, found.maps.on_grid((32, 32))) - targets).square().mean()
        u = found.deformation.displacement((32, 32)) * 16  # voxels
        smoothness = (u.diff(dim=1).square().mean() + u.diff(dim=2).square().mean()) / 2
        swapped = PairLoss(MeanSquaredError(), 0.7)(network, exchanged(batch))
    torch.testing.assert_close(terms["similarity"], similarity)
    torch.testing.assert_close(terms["smoothness"], smoothness)
    torch.testing.assert_close(terms["loss"], similarity + 0.7 * smoothness)
    torch.testing.assert_close(swapped["loss"], terms["loss"])


def test_the_published_similarity() -> None:
    loss = PairLoss.of(SitRegNetwork.named("small", 2))
    assert isinstance(loss.similarity, LocalNCC) and loss.similarity.radius == 3 and loss.weight == 1.0


def test_the_gradient_is_that_of_the_loss() -> None:
    """Along one direction in the space of weights, by a central difference."""
    torch.manual_seed(0)
    network = SitRegNetwork(Configuration((4, 6), (6, 8)), 2).double()
    raw = open_data("generated:shapes?size=16", 2).batch(1, 0, 0)
    batch = Batch(raw.fixed.double(), raw.moving.double(), None, None, None, None, raw.spacing)
    loss = PairLoss(MeanSquaredError(), 0.1)
    weight = network.extractions[1].last.weight
    direction = torch.randn_like(weight)
    loss(network, batch)["loss"].backward()
    slope = float((weight.grad * direction).sum())
    values = []
    with torch.no_grad():
        for step in (1e-3, -1e-3):
            weight.add_(direction, alpha=step)
            values.append(float(loss(network, batch)["loss"]))
            weight.sub_(direction, alpha=step)
    # the inverses are as exact as they are in use, a hundredth of a voxel
    assert slope == pytest.approx((values[0] - values[1]) / 2e-3, rel=0.05)


def test_some_steps_of_training_help() -> None:
    torch.manual_seed(0)
    network = TASK.network("small", 2)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in range(12):
        batch = SOURCE.batch(4, 0, step)
        terms = TASK.loss(network, batch, step / 12, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
    numbers = validate(TASK, network, SOURCE, pairs=8)
    assert numbers["dice_after"] > numbers["dice_before"] + 0.1
    assert numbers["folds_percent"] < 0.1
