"""R2Net in short: both forms trained on triangles and circles, and the solver started from one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods.r2net.network import R2Net
from DeepRegistrationLib.training import TASKS
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.validate import validate
from DeepRegistrationLib.transforms import REPRESENTATIONS
from DeepRegistrationLib.weights import save_weights

pytestmark = pytest.mark.slow

SIZE, STEPS = 32, 300
SOURCE = open_data(f"generated:shapes?size={SIZE}", 2)


@pytest.fixture(scope="module", params=["svf-r2net", "nsvf-r2net"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, R2Net, Path]:
    """Name, network and weights file after `STEPS` steps of the small configuration."""
    name = request.param
    task = TASKS[name]
    torch.manual_seed(0)
    network = task.network("small", 2)
    (stage,) = task.stages("small")
    optimiser = task.optimiser(network, stage)
    for step in range(STEPS):
        terms = task.loss(network, SOURCE.batch(8, 0, step), step / STEPS, torch.manual_seed(step))
        optimiser.zero_grad()
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), task.clip)
        optimiser.step()
    path = tmp_path_factory.mktemp(name) / "weights.pt"
    save_weights(path, name, "small", 2, network.state_dict(), {"shape": [SIZE, SIZE]}, {})
    return name, network.eval(), path


def test_unseen_shapes_are_matched_with_few_folds(trained: tuple[str, R2Net, Path]) -> None:
    name, network, _ = trained
    numbers = validate(TASKS[name], network, SOURCE, pairs=24)
    assert numbers["dice_before"] < 0.5
    assert numbers["dice_after"] > 0.62
    assert numbers["mse_after"] < 0.6 * numbers["mse_before"]
    assert numbers["folds_percent"] < 1


def test_a_trained_flow_keeps_what_holds_for_any_weights(trained: tuple[str, R2Net, Path]) -> None:
    _, network, _ = trained
    batch = SOURCE.held_out(0)
    with torch.no_grad():
        velocity = network.initial(batch.moving, batch.fixed).mean
        assert float((network.flow(velocity) - velocity).abs().max()) <= 3.5
        other = velocity + torch.randn_like(velocity)
        for block in network.flow.blocks:
            apart = ((block(velocity) - velocity) - (block(other) - other)).norm()
            assert float(apart) <= 0.5 * float((velocity - other).norm()) * (1 + 1e-5)


# The linear ones are found by the linear stage itself, whatever a method predicts.
@pytest.mark.parametrize("name", [name for name in REPRESENTATIONS if name not in ("rigid", "affine")])
@pytest.mark.parametrize("trained", ["svf-r2net"], indirect=True)
def test_every_deformable_representation_takes_its_prediction(
    name: str, trained: tuple[str, R2Net, Path]
) -> None:
    method, _, path = trained
    batch = SOURCE.held_out(3)
    frame = Frame.regular((SIZE, SIZE))
    fixed, moving = Volume(batch.fixed[0], frame), Volume(batch.moving[0], frame)
    options = {"representation": name, "preset": "fast", "linear": "none", "device": "cpu"}
    options |= {"similarity": "mse", "method": method, "threads": 1}
    started = register(fixed, moving, weights=path, **options)
    plain = register(fixed, moving, **options)
    first, without = (r.quality["scales"][0]["objective"][0] for r in (started, plain))
    assert started.quality["warnings"] == [] and first < without
