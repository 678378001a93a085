"""`GradIcon` as a method: from a prepared pair and weights to where the solver starts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.errors import Cancelled, InputError
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods import METHODS, MethodInput
from DeepRegistrationLib.methods.gradicon.predictor import Predictor
from DeepRegistrationLib.methods.predicting import looks
from DeepRegistrationLib.objectives import LocalNCC, MeanSquaredError, MindAndInformation, MindSSC
from DeepRegistrationLib.prepare import crop, foreground_box, normalised
from DeepRegistrationLib.presets import PRESETS
from DeepRegistrationLib.progress import CancelToken, Progress, Reporter
from DeepRegistrationLib.transforms import LinearTransform
from DeepRegistrationLib.weights import Weights, save_weights
from torch import Tensor

GRADICON = METHODS["gradicon"]
SIZES = {2: (40, 32), 3: (24, 20, 18)}
SHIFT = (4.0, -3.0, 2.0)
"""Millimetres along the axes of the fixed frame."""


def turned(d: int) -> Frame:
    """An oblique, anisotropic frame somewhere in the world."""
    c, s = math.cos(0.4), math.sin(0.4)
    direction = ((c, -s), (s, c)) if d == 2 else ((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))
    return Frame(SIZES[d], (1.2, 1.5, 2.0)[:d], (30.0, -20.0, 10.0)[:d], direction)


def subject(frame: Frame, centre: Tensor) -> Volume:
    """Two soft balls, LPS mm."""
    points = frame.points()
    values = torch.zeros(frame.shape, dtype=torch.float64)
    for offset, radius, height in (((0.0, 0.0, 0.0), 11.0, 0.6), ((4.0, 3.0, 1.0), 4.0, 0.4)):
        away = (points - centre - torch.tensor(offset[: frame.dimension])).norm(dim=-1)
        values += height * torch.sigmoid(2 * (radius - away))
    return Volume(values[None].float(), frame)


def shift_mm(frame: Frame) -> Tensor:
    """The shift as a world vector."""
    direction = torch.tensor(frame.direction, dtype=torch.float64)
    return direction @ torch.tensor(SHIFT[: frame.dimension], dtype=torch.float64)


def constant_weights(frame: Frame, sign: float = 1.0, shape: tuple[int, ...] | None = None) -> Weights:
    """A network that predicts the shift at the first look, whatever it sees; at the finer one it goes on, too
    far."""
    torch.manual_seed(0)
    network = Predictor("small", frame.dimension, 1)
    convention = {"shape": list(shape or (32,) * frame.dimension)}
    weights = Weights("gradicon", "small", frame.dimension, network.state_dict(), convention, {}, "")
    voxels = torch.tensor(SHIFT[: frame.dimension]) / torch.tensor(looks(weights, frame)[0].spacing)
    weights.state["step.network.last.bias"].copy_(sign * 10 * voxels / network.configuration.size)
    return weights


def pair(d: int, weights: Weights | None) -> MethodInput:
    """The moving image is the fixed one pushed by the shift, on a larger frame of its own."""
    frame = turned(d)
    centre = torch.tensor(frame.centre)
    other = Frame.regular(tuple(n + 14 for n in frame.size), 1.3)
    origin = tuple(float(o + c) for o, c in zip(other.origin, frame.centre, strict=True))
    moving = subject(replace(other, origin=origin), centre + shift_mm(frame))
    linear = LinearTransform.identity(d)
    return MethodInput(subject(frame, centre), moving, linear, LocalNCC(2), PRESETS["fast"], weights)


@pytest.mark.parametrize("d", [2, 3])
def test_the_prediction_is_in_the_right_units_and_direction(d: int) -> None:
    frame = turned(d)
    given = pair(d, constant_weights(frame))
    found = GRADICON.predict(given)
    assert found.warnings == () and found.start is not None
    points = frame.points().reshape(-1, d)
    torch.testing.assert_close(
        found.start.map(points) - points, shift_mm(frame).expand(len(points), d), rtol=0, atol=1e-4
    )
    assert found.channels[0].fixed is given.fixed and found.channels[0].similarity is given.similarity


def test_it_is_applied_before_the_linear_map() -> None:
    """The moving image lies elsewhere, and the linear map tells where."""
    frame = turned(2)
    given = pair(2, constant_weights(frame))
    quarter = LinearTransform(torch.tensor([[0.0, -1.0, 15.0], [1.0, 0.0, -60.0], [0.0, 0.0, 1.0]]))
    origin = quarter.map(torch.tensor(given.moving.frame.origin, dtype=torch.float64))
    direction = quarter.matrix[:2, :2] @ torch.tensor(given.moving.frame.direction, dtype=torch.float64)
    elsewhere = replace(
        given.moving.frame, origin=tuple(origin.tolist()), direction=tuple(map(tuple, direction.tolist()))
    )
    moved = replace(given, moving=Volume(given.moving.data, elsewhere), linear=quarter)
    found, expected = GRADICON.predict(moved), GRADICON.predict(given)
    assert found.start is not None
    points = frame.points().reshape(-1, 2)
    torch.testing.assert_close(found.start.map(points), expected.start.map(points))


@pytest.mark.parametrize("shape", [(32, 32), (17, 45), (8, 9)])
def test_the_networks_lattice_does_not_matter_to_the_map(shape: tuple[int, ...]) -> None:
    frame = turned(2)
    found = GRADICON.predict(pair(2, constant_weights(frame, shape=shape)))
    assert found.start is not None
    assert found.start.field(frame).magnitude_mm().mean() == pytest.approx(5.0, abs=1e-3)


def test_without_weights_it_says_so_and_starts_from_nothing() -> None:
    found = GRADICON.predict(pair(2, None))
    assert found.start is None and len(found.channels) == 1
    assert "no trained weights for GradICON" in found.warnings[0]


@pytest.mark.parametrize("similarity", [LocalNCC(2), MeanSquaredError(), MindSSC()])
def test_a_prediction_that_makes_things_worse_is_left_out(similarity: object) -> None:
    given = replace(pair(2, constant_weights(turned(2), sign=-1.0)), similarity=similarity)
    found = GRADICON.predict(given)
    assert found.start is None and "more alike" in found.warnings[0]
    better = replace(given, weights=constant_weights(turned(2)))
    assert GRADICON.predict(better).start is not None


@pytest.mark.parametrize("similarity", [LocalNCC(2), MindSSC(), MindAndInformation()])
def test_the_accurate_preset_adapts_the_networks_and_leaves_the_weights(similarity: object) -> None:
    weights = constant_weights(turned(2), 0.8)
    before = {name: tensor.clone() for name, tensor in weights.state.items()}
    preset = replace(PRESETS["accurate"], instance_steps=4)
    given = replace(pair(2, weights), similarity=similarity)
    plain, adapted = (GRADICON.predict(replace(given, preset=p)) for p in (PRESETS["fast"], preset))
    points = given.fixed.frame.points()
    assert not torch.equal(plain.start.map(points), adapted.start.map(points))
    assert all(torch.equal(weights.state[name], before[name]) for name in before)
    assert PRESETS["accurate"].instance_steps == 50


def test_it_can_be_cancelled_while_the_networks_adapt() -> None:
    token, seen = CancelToken(), []

    def watch(progress: Progress) -> None:
        seen.append(progress.stage)
        if progress.stage.startswith("Adapting"):
            token.cancel()

    given = pair(2, constant_weights(turned(2)))
    given = replace(given, preset=PRESETS["accurate"], report=Reporter(watch, token))
    with pytest.raises(Cancelled):
        GRADICON.predict(given)
    assert len([s for s in seen if s.startswith("Adapting")]) == 1


def test_weights_of_other_networks() -> None:
    weights = replace(constant_weights(turned(2)), configuration="paper")
    with pytest.raises(InputError, match="do not fit"):
        GRADICON.predict(pair(2, weights))


@pytest.mark.parametrize("name", ["diffeomorphic", "b-spline", "free-form"])
def test_register_starts_from_the_prediction(name: str, tmp_path: Path) -> None:
    given = pair(2, None)
    image = normalised(given.fixed)
    cropped = crop(image, foreground_box(image)).frame  # the box the networks will see
    weights = constant_weights(cropped)
    path = tmp_path / "weights.pt"
    save_weights(path, "gradicon", "small", 2, weights.state, weights.convention, {})
    options = {"method": "gradicon", "representation": name, "preset": "fast", "linear": "none"}
    options |= {"similarity": "lncc", "device": "cpu", "threads": 1, "symmetric": "off"}
    with_weights = register(given.fixed, given.moving, weights=path, **options)
    without = register(given.fixed, given.moving, **options)
    assert with_weights.quality["warnings"] == []
    assert any("no trained weights" in w for w in without.quality["warnings"])
    starts = [r.quality["scales"][0]["objective"][0] for r in (with_weights, without)]
    assert starts[0] < 0.7 * starts[1]
    points = torch.tensor(cropped.centre)[None]
    miss = with_weights.forward.map(points) - points - shift_mm(cropped)
    assert float(miss.norm()) < 1.0
