"""SITReg's guarantees at full strength, and a prediction that was learned in a minute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods.maps import BatchMap
from DeepRegistrationLib.methods.sitreg.network import CONFIGURATIONS, SitRegNetwork
from DeepRegistrationLib.methods.sitreg.training import TASK
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.validate import validate
from DeepRegistrationLib.transforms import REPRESENTATIONS
from DeepRegistrationLib.weights import save_weights

pytestmark = pytest.mark.slow

POINTS, PART, STEP = 1_000_000, 100_000, 1e-7
SIZE, STEPS = 32, 60
SOURCE = open_data(f"generated:shapes?size={SIZE}", 2)


def untrained(d: int, gain: float, affine: bool) -> SitRegNetwork:
    """The small configuration with random weights, its displacements as large as `gain` makes them."""
    configuration = replace(CONFIGURATIONS["small"], affine=affine)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SitRegNetwork(configuration, d).double()
    with torch.no_grad():
        for extraction in network.extractions:
            extraction.last.weight.mul_(gain)
    return network.requires_grad_(False)


def smallest_determinant(pull_back: BatchMap, shape: tuple[int, ...]) -> float:
    """Over `POINTS` random points of the box, by one-sided differences of `STEP` voxel."""
    d, generator = len(shape), torch.Generator().manual_seed(0)
    voxel = 2 / torch.tensor(shape[::-1], dtype=torch.float64)
    smallest = float("inf")
    for _ in range(POINTS // PART):
        points = torch.rand(1, PART, d, generator=generator, dtype=torch.float64) * 2 - 1
        here = pull_back(points)
        columns = []
        for axis in range(d):
            step = torch.zeros(d, dtype=torch.float64)
            step[axis] = STEP * voxel[axis]
            columns.append((pull_back(points + step) - here) / voxel / STEP)
        smallest = min(smallest, float(torch.linalg.det(torch.stack(columns, -1)).min()))
    return smallest


@pytest.mark.parametrize(("gain", "affine"), [(1.0, False), (8.0, False), (1.0, True)])
@pytest.mark.parametrize("shape", [(61, 48), (21, 24, 18)])
def test_no_determinant_at_a_million_points_is_negative(
    shape: tuple[int, ...], gain: float, affine: bool
) -> None:
    one, other = torch.rand(2, 1, 1, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    network = untrained(len(shape), gain, affine)
    forward, backward = network(one, other, (1.0, 2.5, 0.7)[: len(shape)], complete=True).directions()
    assert smallest_determinant(forward, shape) > 0
    points = torch.rand(1, PART, len(shape), dtype=torch.float64) * 2 - 1
    voxel = 2 / torch.tensor(shape[::-1], dtype=torch.float64)
    assert ((forward(backward(points)) - points) / voxel).abs().max() < 0.01


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[SitRegNetwork, Path]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TASK.network("small", 2)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for step in range(STEPS):
        terms = TASK.loss(network, SOURCE.batch(8, 0, step), step / STEPS, torch.Generator())
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("sitreg") / "weights.pt"
    save_weights(path, "sitreg", "small", 2, network.state_dict(), TASK.convention("small", 2), {})
    return network.eval(), path


def test_it_learns_to_align_shapes(trained: tuple[SitRegNetwork, Path]) -> None:
    numbers = validate(TASK, trained[0], SOURCE, pairs=24)
    assert numbers["dice_before"] < 0.5 and numbers["dice_after"] > 0.9
    assert numbers["folds_percent"] < 0.1


# The linear ones are found by the linear stage itself, whatever a method predicts.
@pytest.mark.parametrize("name", [name for name in REPRESENTATIONS if name not in ("rigid", "affine")])
def test_every_deformable_representation_starts_from_what_was_learned(
    name: str, trained: tuple[SitRegNetwork, Path]
) -> None:
    frame = Frame.regular((SIZE, SIZE), 1.5)
    batch = SOURCE.held_out(0)
    fixed, moving = Volume(batch.fixed[0], frame), Volume(batch.moving[0], frame)
    options = {"representation": name, "preset": "fast", "linear": "none", "device": "cpu"}
    options |= {"similarity": "mse", "method": "sitreg", "threads": 1}
    started = register(fixed, moving, weights=trained[1], **options)
    plain = register(fixed, moving, **options)
    first, without = (r.quality["scales"][0]["objective"][0] for r in (started, plain))
    assert started.quality["warnings"] == [] and first < without
