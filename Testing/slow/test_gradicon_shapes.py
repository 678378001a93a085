"""The triangles-and-circles experiment in short, and every representation from a prediction."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods.gradicon.instance import optimised
from DeepRegistrationLib.methods.gradicon.inverse_consistency import InverseConsistency
from DeepRegistrationLib.methods.gradicon.loss import PairLoss, both_directions
from DeepRegistrationLib.methods.gradicon.predictor import Predictor
from DeepRegistrationLib.methods.gradicon.training import TASK
from DeepRegistrationLib.methods.predicting import looks
from DeepRegistrationLib.metrics import inverse_consistency
from DeepRegistrationLib.objectives import MeanSquaredError
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.validate import validate
from DeepRegistrationLib.transforms import REPRESENTATIONS
from DeepRegistrationLib.weights import Weights, save_weights

pytestmark = pytest.mark.slow

SIZE, STEPS = 32, 250
SOURCE = open_data(f"generated:shapes?size={SIZE}", 2)
LOSSES = {
    "gradicon": PairLoss(MeanSquaredError(), InverseConsistency(sparse=True), 0.2),
    "icon": PairLoss(MeanSquaredError(), InverseConsistency("icon", sparse=True), 1024),
}
"""As published for this experiment."""


@pytest.fixture(scope="module", params=["gradicon", "icon"])
def trained(request: pytest.FixtureRequest) -> tuple[str, Predictor]:
    torch.manual_seed(0)
    network = Predictor("small", 2)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for step in range(STEPS):
        batch = SOURCE.batch(8, 0, step)
        loss = LOSSES[request.param](network, batch.moving, batch.fixed, torch.manual_seed(step))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return request.param, network.eval()


def test_gradicon_learns_where_icon_is_held_back(trained: tuple[str, Predictor]) -> None:
    name, network = trained
    numbers = validate(TASK, network, SOURCE, pairs=24)
    assert numbers["dice_before"] < 0.5
    assert numbers["folds_percent"] < 0.1
    if name == "gradicon":
        assert numbers["dice_after"] > 0.88
    else:
        assert numbers["dice_before"] < numbers["dice_after"] < 0.85


def test_the_two_directions_are_nearly_inverse(trained: tuple[str, Predictor]) -> None:
    """Up to a drift for GradICON, which its penalty leaves free."""
    name, network = trained
    slopes, errors = [], []
    frame = Frame.regular((SIZE, SIZE))
    for index in range(8):
        batch = SOURCE.held_out(index)
        with torch.no_grad():
            maps = both_directions(network, batch.moving, batch.fixed)
            slopes.append(float(InverseConsistency()(*maps, (SIZE, SIZE), torch.manual_seed(index))))
            forward, backward = (Field(m.displacement((SIZE, SIZE))[0], frame) for m in maps)
        moved = float(forward.magnitude_mm().mean())
        errors.append(inverse_consistency(forward, backward)["mean_mm"] / moved)
    assert sum(slopes) / 8 < 0.15
    assert sum(errors) / 8 < (0.6 if name == "gradicon" else 0.35)


def test_adapting_helps_the_pair(trained: tuple[str, Predictor]) -> None:
    name, network = trained
    gains = []
    for index in range(3):
        batch = SOURCE.held_out(index)
        adapted = optimised(network, batch.moving, batch.fixed, LOSSES[name])
        with torch.no_grad():
            losses = [
                float(LOSSES[name](n, batch.moving, batch.fixed, torch.manual_seed(9))["loss"])
                for n in (network, adapted)
            ]
        gains.append(losses[1] / losses[0])
    assert max(gains) < 1


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_every_representation_takes_a_prediction(name: str, tmp_path: Path) -> None:
    """Weights that predict one shift; the images are that far apart."""
    frame = Frame.regular((40, 32), 1.5)
    points = frame.points()

    def ball(x: float) -> Volume:
        away = (points - torch.tensor((x, 0.0))).norm(dim=-1)
        return Volume(torch.sigmoid(2 * (12 - away))[None].float(), frame)

    torch.manual_seed(0)
    network = Predictor("small", 2, 1)
    convention = {"shape": [32, 32]}
    first = looks(Weights("gradicon", "small", 2, {}, convention, {}, ""), frame)[0]
    with torch.no_grad():  # a tenth of the training images' side for an output of one
        network.step.network.last.bias[0] = 10 * (6 / first.spacing[0]) / network.configuration.size
    path = tmp_path / "weights.pt"
    save_weights(path, "gradicon", "small", 2, network.state_dict(), convention, {})
    options = {"representation": name, "preset": "fast", "linear": "none", "device": "cpu", "weights": path}
    result = register(ball(0.0), ball(6.0), method="gradicon", similarity="lncc", **options)
    found = result.forward.map(torch.zeros(1, 2, dtype=torch.float64))[0]
    assert math.dist(found.tolist(), (6.0, 0.0)) < 1.2
