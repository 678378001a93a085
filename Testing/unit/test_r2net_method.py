"""The two forms of R2Net as methods: from a prepared pair and weights to where the solver starts."""

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
from DeepRegistrationLib.methods.predicting import looks
from DeepRegistrationLib.methods.r2net.network import R2Net
from DeepRegistrationLib.objectives import LocalNCC, MeanSquaredError, MindSSC
from DeepRegistrationLib.prepare import crop, foreground_box, normalised
from DeepRegistrationLib.presets import PRESETS
from DeepRegistrationLib.progress import CancelToken, Progress, Reporter
from DeepRegistrationLib.transforms import LinearTransform
from DeepRegistrationLib.weights import Weights, save_weights
from torch import Tensor, nn

FORMS = {"svf-r2net": True, "nsvf-r2net": False}
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


def constant_weights(
    frame: Frame, method: str = "svf-r2net", sign: float = 1.0, shape: tuple[int, ...] | None = None
) -> Weights:
    """A network that predicts the shift at the first look, whatever it sees (at the finer one it goes on, too
    far): its U-Net says one, its blocks add nothing."""
    torch.manual_seed(0)
    d = frame.dimension
    convention = {"shape": list(shape or (32,) * d)}
    network = R2Net.named("small", d, FORMS[method])
    with torch.no_grad():
        nn.init.zeros_(network.unet.last.weight)
        nn.init.ones_(network.unet.last.bias)
        nn.init.zeros_(network.velocity.weight)
        first = looks(Weights(method, "small", d, {}, convention, {}, ""), frame)[0]
        voxels = torch.tensor(SHIFT[:d]) / torch.tensor(first.spacing)
        network.velocity.weight[(slice(None), 0, *(1,) * d)] = sign * 2 * voxels
        for block in network.flow.blocks:
            nn.init.zeros_(block.second.weight)
    return Weights(method, "small", d, network.state_dict(), convention, {}, "")


def pair(d: int, weights: Weights | None) -> MethodInput:
    """The moving image is the fixed one pushed by the shift, on a larger frame of its own."""
    frame = turned(d)
    centre = torch.tensor(frame.centre)
    other = Frame.regular(tuple(n + 14 for n in frame.size), 1.3)
    origin = tuple(float(o + c) for o, c in zip(other.origin, frame.centre, strict=True))
    moving = subject(replace(other, origin=origin), centre + shift_mm(frame))
    linear = LinearTransform.identity(d)
    return MethodInput(subject(frame, centre), moving, linear, LocalNCC(2), PRESETS["fast"], weights)


@pytest.mark.parametrize("name", FORMS)
def test_both_forms_are_there(name: str) -> None:
    assert METHODS[name].shared is FORMS[name]
    assert METHODS[name].title == {"svf-r2net": "SVF-R2Net", "nsvf-r2net": "NSVF-R2Net"}[name]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("d", [2, 3])
def test_the_prediction_is_in_the_right_units_and_direction(name: str, d: int) -> None:
    frame = turned(d)
    given = pair(d, constant_weights(frame, name))
    found = METHODS[name].predict(given)
    assert found.warnings == () and found.start is not None and found.features is None
    points = frame.points().reshape(-1, d)
    torch.testing.assert_close(
        found.start.map(points) - points, shift_mm(frame).expand(len(points), d), rtol=0, atol=1e-4
    )
    assert found.channels[0].fixed is given.fixed and found.channels[0].similarity is given.similarity


def test_it_is_applied_before_the_linear_map() -> None:
    """The moving image lies elsewhere, and the linear map tells where."""
    method, frame = METHODS["svf-r2net"], turned(2)
    given = pair(2, constant_weights(frame))
    quarter = LinearTransform(torch.tensor([[0.0, -1.0, 15.0], [1.0, 0.0, -60.0], [0.0, 0.0, 1.0]]))
    origin = quarter.map(torch.tensor(given.moving.frame.origin, dtype=torch.float64))
    direction = quarter.matrix[:2, :2] @ torch.tensor(given.moving.frame.direction, dtype=torch.float64)
    elsewhere = replace(
        given.moving.frame, origin=tuple(origin.tolist()), direction=tuple(map(tuple, direction.tolist()))
    )
    moved = replace(given, moving=Volume(given.moving.data, elsewhere), linear=quarter)
    found, expected = method.predict(moved), method.predict(given)
    assert found.start is not None and expected.start is not None
    points = frame.points().reshape(-1, 2)
    torch.testing.assert_close(found.start.map(points), expected.start.map(points))


@pytest.mark.parametrize("shape", [(32, 32), (17, 45), (8, 9)])
def test_the_networks_lattice_does_not_matter_to_the_map(shape: tuple[int, ...]) -> None:
    found = METHODS["svf-r2net"].predict(pair(2, constant_weights(turned(2), shape=shape)))
    assert found.start is not None
    assert found.start.field(turned(2)).magnitude_mm().mean() == pytest.approx(5.0, abs=1e-3)


def test_weights_that_do_not_tell_their_lattice_are_refused() -> None:
    weights = replace(constant_weights(turned(2), shape=(64, 64)), convention={})
    with pytest.raises(InputError, match="for what size of image"):
        METHODS["svf-r2net"].predict(pair(2, weights))


@pytest.mark.parametrize("name", FORMS)
def test_without_weights_it_says_so_and_starts_from_nothing(name: str) -> None:
    found = METHODS[name].predict(pair(2, None))
    assert found.start is None and len(found.channels) == 1
    assert f"no trained weights for {METHODS[name].title}" in found.warnings[0]


@pytest.mark.parametrize("similarity", [LocalNCC(2), MeanSquaredError(), MindSSC()])
def test_a_prediction_that_makes_things_worse_is_left_out(similarity: object) -> None:
    method = METHODS["nsvf-r2net"]
    weights = [constant_weights(turned(2), "nsvf-r2net", sign) for sign in (-1.0, 1.0)]
    given = replace(pair(2, weights[0]), similarity=similarity)
    found = method.predict(given)
    assert found.start is None and "more alike" in found.warnings[0]
    assert method.predict(replace(given, weights=weights[1])).start is not None


def test_nothing_is_drawn() -> None:
    given = pair(2, constant_weights(turned(2)))
    given.weights.state["log_variance.bias"].fill_(3.0)
    points = given.fixed.frame.points()
    before = torch.random.get_rng_state()
    first, second = (METHODS["svf-r2net"].predict(given).start.map(points) for _ in range(2))
    assert torch.equal(first, second)
    network = R2Net.from_weights(given.weights, True)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    torch.random.set_rng_state(before)


def test_it_can_be_cancelled_while_the_network_works() -> None:
    token, seen = CancelToken(), []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 5:
            token.cancel()

    given = replace(pair(2, constant_weights(turned(2))), report=Reporter(watch, token))
    with pytest.raises(Cancelled):
        METHODS["svf-r2net"].predict(given)
    assert len(seen) == 5


def test_weights_of_other_networks() -> None:
    weights = constant_weights(turned(2))
    for name, other in (("svf-r2net", replace(weights, configuration="paper")), ("nsvf-r2net", weights)):
        with pytest.raises(InputError, match="do not fit"):
            METHODS[name].predict(pair(2, other))
    with pytest.raises(InputError, match="no configuration 'tiny'"):
        METHODS["svf-r2net"].predict(pair(2, replace(weights, configuration="tiny")))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("representation", ["diffeomorphic", "b-spline"])
def test_register_starts_from_the_prediction(name: str, representation: str, tmp_path: Path) -> None:
    given = pair(2, None)
    image = normalised(given.fixed)
    cropped = crop(image, foreground_box(image)).frame  # the box the network will see
    weights = constant_weights(cropped, name)
    path = tmp_path / "weights.pt"
    save_weights(path, name, "small", 2, weights.state, weights.convention, {})
    options = {"method": name, "representation": representation, "preset": "fast", "linear": "none"}
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
