"""`SitReg` as a method: from a prepared pair and weights to where the solver starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.errors import Cancelled, InputError
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods import METHODS, MethodInput
from DeepRegistrationLib.methods.maps import FieldMap
from DeepRegistrationLib.methods.sitreg.network import SitRegNetwork, SymmetricMaps
from DeepRegistrationLib.objectives import LocalNCC
from DeepRegistrationLib.presets import PRESETS
from DeepRegistrationLib.progress import CancelToken, Progress, Reporter
from DeepRegistrationLib.transforms import LinearTransform
from DeepRegistrationLib.weights import Weights, save_weights
from torch import Tensor

SITREG = METHODS["sitreg"]
SIZES = {2: (40, 33), 3: (23, 20, 18)}
SHIFT = (4.0, -3.0, 2.0)
"""Millimetres along the axes of the fixed frame."""


@pytest.fixture(autouse=True)
def untouched_generator() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def turned(d: int) -> Frame:
    """An oblique, anisotropic frame somewhere in the world."""
    c, s = math.cos(0.4), math.sin(0.4)
    direction = ((c, -s), (s, c)) if d == 2 else ((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))
    return Frame(SIZES[d], (1.2, 1.5, 2.0)[:d], (30.0, -20.0, 10.0)[:d], direction)


def ball(frame: Frame, centre: Tensor) -> Volume:
    away = (frame.points() - centre).norm(dim=-1)
    return Volume(torch.sigmoid(2 * (11.0 - away))[None].float(), frame)


def shift_mm(frame: Frame) -> Tensor:
    direction = torch.tensor(frame.direction, dtype=torch.float64)
    return direction @ torch.tensor(SHIFT[: frame.dimension], dtype=torch.float64)


def untrained(d: int, shape: Sequence[int] | None = None) -> Weights:
    network = SitRegNetwork.named("small", d)
    convention = {"shape": list(shape or (32,) * d)}
    return Weights("sitreg", "small", d, network.state_dict(), convention, {}, "")


def pair(d: int, weights: Weights | None, apart: bool = True) -> MethodInput:
    """The moving image is the fixed one pushed by the shift, on a larger frame of its own."""
    frame = turned(d)
    centre = torch.tensor(frame.centre)
    other = Frame.regular(tuple(n + 14 for n in frame.size), 1.3)
    origin = tuple(float(o + c) for o, c in zip(other.origin, frame.centre, strict=True))
    moving = ball(replace(other, origin=origin), centre + apart * shift_mm(frame))
    linear = LinearTransform.identity(d)
    return MethodInput(ball(frame, centre), moving, linear, LocalNCC(2), PRESETS["fast"], weights)


def shifting(sign: float = 1.0):
    """Stands in for the network's `forward`: it finds the shift."""

    def forward(self, moving: Tensor, fixed: Tensor, spacing: Sequence[float], *_: object) -> SymmetricMaps:
        shape = fixed.shape[2:]
        extent = torch.tensor(shape[::-1]) * torch.tensor(spacing)
        u = sign * torch.tensor(SHIFT[: len(shape)]) * 2 / extent
        field = u.expand(1, *shape, len(shape))
        return SymmetricMaps(FieldMap(torch.cat([field, -field])), None)

    return forward


@pytest.mark.parametrize("d", [2, 3])
def test_the_prediction_is_in_the_right_units_and_direction(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = turned(d)
    monkeypatch.setattr(SitRegNetwork, "forward", shifting())
    given = pair(d, untrained(d))
    found = SITREG.predict(given)
    assert found.warnings == () and found.start is not None
    points = frame.points().reshape(-1, d)
    torch.testing.assert_close(
        found.start.map(points) - points, shift_mm(frame).expand(len(points), d), rtol=0, atol=1e-4
    )
    assert found.channels[0].fixed is given.fixed and found.channels[0].similarity is given.similarity


def test_a_prediction_that_makes_things_worse_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SitRegNetwork, "forward", shifting(-1.0))
    found = SITREG.predict(pair(2, untrained(2)))
    assert found.start is None and "more alike" in found.warnings[0]


@pytest.mark.parametrize("preset", ["fast", "accurate"])
@pytest.mark.parametrize("shape", [(32, 32), (17, 45)])
def test_a_network_that_was_never_trained_predicts_a_map_without_folds(
    shape: tuple[int, ...], preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real network, its prediction kept whether it helps or not."""
    monkeypatch.setattr("DeepRegistrationLib.methods.predicting.improves", lambda *_: True)
    found = SITREG.predict(replace(pair(2, untrained(2, shape)), preset=PRESETS[preset]))
    assert found.start is not None and found.warnings == ()
    field = found.start.field(turned(2))
    assert field.magnitude_mm().max() > 0.01
    assert field.jacobian_determinant(strict=True).min() > 0


def test_without_weights_it_says_so_and_starts_from_nothing() -> None:
    found = SITREG.predict(pair(2, None))
    assert found.start is None and len(found.channels) == 1
    assert "no trained weights for SITReg" in found.warnings[0]


def test_weights_that_do_not_fit() -> None:
    weights = replace(untrained(2), state={})
    with pytest.raises(InputError, match="do not fit the network of sitreg's"):
        SITREG.predict(pair(2, weights))


@pytest.mark.parametrize("calls", [1, 4, 8])
def test_it_can_be_cancelled_while_the_network_works(calls: int) -> None:
    token, seen = CancelToken(), []

    def watch(progress: Progress) -> None:
        seen.append(progress.stage)
        if len(seen) == calls:
            token.cancel()

    with pytest.raises(Cancelled):
        SITREG.predict(replace(pair(2, untrained(2)), report=Reporter(watch, token)))
    assert seen == ["Predicting"] * calls


@pytest.mark.parametrize("name", ["b-spline", "free-form", "stationary-velocity", "diffeomorphic"])
def test_representations_start_from_the_prediction(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are too far apart for the few iterations that are allowed without a prediction."""
    given = pair(2, untrained(2))
    monkeypatch.setattr(SitRegNetwork, "forward", shifting())
    path = tmp_path / "weights.pt"
    save_weights(path, "sitreg", "small", 2, given.weights.state, given.weights.convention, {})
    options = {"method": "sitreg", "representation": name, "preset": "fast", "linear": "none"}
    options |= {"similarity": "lncc", "device": "cpu", "threads": 1}
    with_weights = register(given.fixed, given.moving, weights=path, **options)
    without = register(given.fixed, given.moving, **options)
    assert with_weights.quality["warnings"] == []
    assert any("no trained weights" in w for w in without.quality["warnings"])
    starts = [r.quality["scales"][0]["objective"][0] for r in (with_weights, without)]
    assert starts[0] < 0.7 * starts[1]
    points = torch.tensor(given.fixed.frame.centre)[None]
    miss = with_weights.forward.map(points) - points - shift_mm(given.fixed.frame)
    assert float(miss.norm()) < 1.0
