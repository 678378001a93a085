"""`NePhi` as a method: from a prepared pair, with weights or without, to where the solver starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.errors import Cancelled, InputError
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods import METHODS, MethodInput
from DeepRegistrationLib.methods import nephi as module
from DeepRegistrationLib.methods.nephi.predictor import CONFIGURATIONS, Predictor
from DeepRegistrationLib.metrics import fold_statistics
from DeepRegistrationLib.objectives import LocalNCC, MindAndInformation, MindSSC
from DeepRegistrationLib.prepare import crop, foreground_box, normalised
from DeepRegistrationLib.presets import PRESETS
from DeepRegistrationLib.progress import CancelToken, Progress, Reporter
from DeepRegistrationLib.training.loop import train
from DeepRegistrationLib.training.options import TrainingOptions
from DeepRegistrationLib.transforms import LinearTransform
from DeepRegistrationLib.weights import Weights, save_weights
from torch import Tensor

NEPHI = METHODS["nephi"]
SIZES = {2: (41, 33), 3: (23, 20, 17)}
SHIFT = (4.0, -3.0, 2.0)
"""Millimetres along the axes of the fixed frame."""

FITTING = replace(PRESETS["fast"], scratch_steps=4)


@pytest.fixture(autouse=True)
def untouched_generator() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def turned(d: int) -> Frame:
    """An oblique, anisotropic frame of odd sizes somewhere in the world."""
    c, s = math.cos(0.4), math.sin(0.4)
    direction = ((c, -s), (s, c)) if d == 2 else ((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))
    return Frame(SIZES[d], (1.2, 1.5, 2.0)[:d], (30.0, -20.0, 10.0)[:d], direction)


def ball(frame: Frame, centre: Tensor) -> Volume:
    away = (frame.points() - centre).norm(dim=-1)
    return Volume(torch.sigmoid(2 * (11.0 - away))[None].float(), frame)


def shift_mm(frame: Frame) -> Tensor:
    """The shift as a world vector."""
    direction = torch.tensor(frame.direction, dtype=torch.float64)
    return direction @ torch.tensor(SHIFT[: frame.dimension], dtype=torch.float64)


def constant_weights(frame: Frame, sign: float = 1.0) -> Weights:
    """Networks that find the shift, whatever the encoder sees; each the other's inverse."""
    d = frame.dimension
    network = Predictor("small", d)
    normalised_shift = 2 * torch.tensor(SHIFT[:d]) / torch.tensor(frame.extent)
    with torch.no_grad():
        network.fields[0].last.bias.copy_(sign * normalised_shift)
        network.fields[1].last.bias.copy_(-sign * normalised_shift)
    return Weights("nephi", "small", d, network.state_dict(), {"shape": [64] * d}, {}, "")


def pair(d: int, weights: Weights | None) -> MethodInput:
    """The moving image is the fixed one pushed by the shift, on a larger frame of its own."""
    frame = turned(d)
    centre = torch.tensor(frame.centre)
    other = Frame.regular(tuple(n + 14 for n in frame.size), 1.3)
    origin = tuple(float(o + c) for o, c in zip(other.origin, frame.centre, strict=True))
    moving = ball(replace(other, origin=origin), centre + shift_mm(frame))
    linear = LinearTransform.identity(d)
    return MethodInput(ball(frame, centre), moving, linear, LocalNCC(2), PRESETS["fast"], weights)


@pytest.mark.parametrize("d", [2, 3])
def test_the_prediction_is_in_the_right_units_and_direction(d: int) -> None:
    frame = turned(d)
    given = pair(d, constant_weights(frame))
    found = NEPHI.predict(given)
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
    points = frame.points().reshape(-1, 2)
    starts = [NEPHI.predict(g).start for g in (moved, given)]
    torch.testing.assert_close(*(start.map(points) for start in starts))


def test_a_prediction_that_makes_things_worse_is_left_out() -> None:
    found = NEPHI.predict(pair(2, constant_weights(turned(2), sign=-1.0)))
    assert found.start is None
    assert "prediction would not have made the images clearly more alike" in found.warnings[0]


def test_weights_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="do not fit the network of nephi's"):
        NEPHI.predict(pair(2, replace(constant_weights(turned(2)), configuration="paper")))


def test_without_weights_and_without_time_it_says_so() -> None:
    found = NEPHI.predict(pair(2, None))
    assert found.start is None and len(found.channels) == 1
    assert "no trained weights for NePhi" in found.warnings[0]


@pytest.mark.parametrize(
    ("d", "similarity"), [(2, LocalNCC(2)), (2, MindSSC()), (2, MindAndInformation()), (3, LocalNCC(2))]
)
def test_without_weights_the_networks_are_fitted_to_the_pair(d: int, similarity: object) -> None:
    given = replace(pair(d, None), preset=FITTING, similarity=similarity)
    found = NEPHI.predict(given)
    assert "from scratch: 4 steps" in found.warnings[0] and found.start is not None
    centre = torch.tensor(given.fixed.frame.centre)[None]
    miss = found.start.map(centre) - centre - shift_mm(given.fixed.frame)
    assert float(miss.norm()) < 0.6 * math.hypot(*SHIFT[:d])
    assert fold_statistics(found.start.field(given.fixed.frame))["folds_percent"] == 0


def test_the_presets_that_have_time_fit_from_scratch() -> None:
    assert [PRESETS[name].scratch_steps for name in ("fast", "balanced", "accurate")] == [0, 25, 100]


def test_the_accurate_preset_optimises_for_the_pair_and_leaves_the_weights() -> None:
    weights = constant_weights(turned(2), 0.7)
    kept = {name: tensor.clone() for name, tensor in weights.state.items()}
    given = pair(2, weights)
    tuned = replace(given, preset=replace(PRESETS["accurate"], instance_steps=3))
    plain, adapted = (NEPHI.predict(g) for g in (given, tuned))
    points = given.fixed.frame.points()
    assert not torch.equal(plain.start.map(points), adapted.start.map(points))
    assert all(torch.equal(weights.state[name], kept[name]) for name in kept)
    assert PRESETS["accurate"].instance_steps == 50


def test_a_processor_is_given_steps_it_can_break_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The many points a configuration may ask for would take it seconds."""
    seen = []
    real = module.fitted

    def watched(*arguments: object, **options: object) -> object:
        seen.append(options["loss"])
        return real(*arguments, **options | {"steps": 0})

    monkeypatch.setattr(module, "fitted", watched)
    for d in (2, 3):
        given = replace(pair(d, constant_weights(turned(d))), preset=PRESETS["accurate"])
        NEPHI.predict(given)
    counts = [(loss.similarity_points, loss.regularity_points) for loss in seen]
    assert counts == [(1024, 128), module.POINTS] == [(1024, 128), (8192, 256)]


@pytest.mark.parametrize("weights", [True, False])
def test_progress_grows_from_stage_to_stage(weights: bool) -> None:
    given = pair(2, constant_weights(turned(2)) if weights else None)
    given = replace(given, preset=replace(FITTING, scratch_steps=2, instance_steps=2, iterations=(3, 1, 1)))
    seen: list[Progress] = []
    NEPHI.predict(replace(given, report=Reporter(seen.append)))
    fractions = [p.fraction for p in seen]
    stages = list(dict.fromkeys(p.stage.split(",")[0] for p in seen))
    assert fractions == sorted(fractions) and fractions[-1] == 1
    first = "Predicting" if weights else "Coarse alignment"
    assert stages == [first, "Fitting the neural field to the pair", "Reading the neural field"]


@pytest.mark.parametrize("stage", ["Predicting", "Coarse", "Fitting", "Reading"])
def test_it_can_be_cancelled_at_every_stage(stage: str) -> None:
    given = pair(2, None if stage == "Coarse" else constant_weights(turned(2)))
    given = replace(given, preset=replace(FITTING, instance_steps=2))
    token, heard = CancelToken(), []

    def watch(progress: Progress) -> None:
        heard.append(progress.stage)
        if progress.stage.startswith(stage):
            token.cancel()

    with pytest.raises(Cancelled):
        NEPHI.predict(replace(given, report=Reporter(watch, token)))
    assert len([s for s in heard if s.startswith(stage)]) == 1


def test_a_large_field_is_read_some_points_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 100)
    seen: list[str] = []
    given = replace(
        pair(2, constant_weights(turned(2))),
        preset=PRESETS["prediction"],
        report=Reporter(lambda p: seen.append(p.stage)),
    )
    found = NEPHI.predict(given)
    assert seen.count("Reading the neural field") == -(-41 * 33 // 100) + 1
    points = turned(2).points()
    shift = shift_mm(turned(2)).expand_as(points)
    torch.testing.assert_close(found.start.map(points) - points, shift, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["diffeomorphic", "b-spline", "free-form"])
def test_register_starts_from_the_prediction(name: str, tmp_path: Path) -> None:
    given = pair(2, None)
    image = normalised(given.fixed)
    cropped = crop(image, foreground_box(image)).frame  # the box the networks will see
    weights = constant_weights(cropped)
    path = tmp_path / "weights.pt"
    save_weights(path, "nephi", "small", 2, weights.state, weights.convention, {})
    options = {"method": "nephi", "representation": name, "preset": "fast", "linear": "none"}
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


@pytest.mark.parametrize("d", [2, 3])
def test_weights_go_from_training_to_a_registration(
    d: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few steps of the training loop, the file it writes, and a pair of odd sizes registered with it."""
    small = CONFIGURATIONS["small"]
    size = replace(small.sizes[d], similarity_points=300, regularity_points=10)
    monkeypatch.setitem(CONFIGURATIONS, "small", replace(small, sizes={d: size}, batch=2))
    options = TrainingOptions(
        tmp_path / "run", "nephi", "small", f"generated:shapes?size={24 if d == 2 else 16}", 2, 0, d,
        threads=1, device="cpu",
    )  # fmt: skip
    result = train(options)
    assert result.reason == "finished" and {"loss", "similarity", "inverse_consistency"} <= set(result.losses)
    (path,) = (tmp_path / "run").glob("weights*.pt")
    given = pair(d, None)
    done = register(
        given.fixed, given.moving, method="nephi", weights=path, preset="fast", linear="none",
        similarity="lncc", device="cpu", threads=1,
    )  # fmt: skip
    before, after = (done.quality["similarity"][key] for key in ("before", "after"))
    assert all(after[name] > before[name] for name in before)
    # two steps teach little: the proposal is taken, or left out with a word
    assert all("more alike" in words for words in done.quality["warnings"])
    done.save(tmp_path / "out")
    assert (tmp_path / "out" / "forward.h5").exists()
