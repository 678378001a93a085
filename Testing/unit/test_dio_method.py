"""DIO as a method: classical features without weights, learned ones with them, prompts beside both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from DeepRegistrationLib.errors import Cancelled, InputError
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods import MethodInput, method_by_name
from DeepRegistrationLib.methods.classical import classical_features, gradient_magnitude
from DeepRegistrationLib.methods.dio import inference
from DeepRegistrationLib.methods.dio.inference import learned_features, seen_part
from DeepRegistrationLib.methods.dio.training import DioTask
from DeepRegistrationLib.objective import PairObjective, Prompts, Pyramid
from DeepRegistrationLib.objectives import MeanSquaredError
from DeepRegistrationLib.presets import PRESETS, similarity_for
from DeepRegistrationLib.progress import CancelToken, Reporter
from DeepRegistrationLib.solver import Scale, Settings, solve
from DeepRegistrationLib.transforms import Diffeomorphic, LinearTransform
from DeepRegistrationLib.weights import Weights

FIXED, MOVING = Frame.regular((44, 40), 1.0), Frame.regular((30, 33), 1.5)


def volume(frame: Frame, shift: float = 0.0) -> Volume:
    points = frame.points(dtype=torch.float32) - shift
    ring = torch.exp(-((points.norm(dim=-1) - 10) ** 2) / 20)
    return Volume((ring * (0.7 + 0.3 * torch.sin(points.sum(-1) / 4)))[None], frame)


def weights(dimension: int = 2, name: str = "small") -> Weights:
    torch.manual_seed(0)
    task = DioTask()
    state = task.network(name, dimension).state_dict()
    return Weights("dio", name, dimension, state, task.convention(name, dimension), {}, "")


def given(preset: str = "fast", **more: object) -> MethodInput:
    values = {
        "fixed": volume(FIXED),
        "moving": volume(MOVING, 2.0),
        "linear": LinearTransform.identity(2),
        "similarity": similarity_for("lncc", PRESETS[preset]),
        "preset": PRESETS[preset],
    }
    return MethodInput(**(values | more))


def linear(degrees: float, shift: tuple[float, float]) -> LinearTransform:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return LinearTransform(np.array([[c, -s, shift[0]], [s, c, shift[1]], [0, 0, 1]]))


def test_without_weights_the_channels_are_the_images_themselves() -> None:
    pair = given()
    prediction = method_by_name("dio").predict(pair)
    (channel,) = prediction.channels
    assert channel.fixed is pair.fixed and channel.moving is pair.moving
    assert channel.similarity is pair.similarity and channel.weight == 1.0
    assert prediction.features == (pair.fixed, pair.moving) and prediction.start is None


def test_without_weights_the_accurate_preset_adds_gradients_and_shows_them() -> None:
    pair = given("accurate")
    prediction = method_by_name("dio").predict(pair)
    first, second = prediction.channels
    assert first.fixed is pair.fixed and second.weight == pair.preset.gradient_share
    assert torch.equal(second.moving.data, gradient_magnitude(pair.moving).data)
    for shown, image, edges in zip(
        prediction.features, (pair.fixed, pair.moving), (second.fixed, second.moving), strict=True
    ):
        assert torch.equal(shown.data, torch.cat([image.data, edges.data])) and shown.frame == image.frame


@pytest.mark.parametrize("name", ["small", "paper", "paper-unet-e"])
def test_learned_features_are_one_channel_of_both_images(name: str) -> None:
    pair = given(weights=weights(name=name))
    prediction = learned_features(pair)
    (channel,) = prediction.channels
    assert isinstance(channel.fixed, Pyramid) and isinstance(channel.moving, Pyramid)
    assert channel.fixed.frame == FIXED and channel.moving.frame == MOVING
    # at one voxel size, though the images are not
    for a, b in zip(channel.fixed.levels, channel.moving.levels, strict=True):
        assert a.frame.spacing == pytest.approx(b.frame.spacing, rel=0.05)
        variance = a.data.flatten(1).var(1, correction=0).mean()
        assert float(variance) == pytest.approx(1.0, rel=1e-4)
    shown = prediction.features
    assert shown[0].frame == FIXED and torch.equal(
        shown[0].data, channel.fixed.levels[0].data[:, : FIXED.shape[0], : FIXED.shape[1]]
    )
    assert shown[0].channels == shown[1].channels >= 8
    again = learned_features(pair)
    assert torch.equal(again.features[1].data, shown[1].data)


def test_with_weights_it_starts_from_the_aligned_features_and_compares_both() -> None:
    across = similarity_for("mind", PRESETS["fast"])
    pair = given(weights=weights(name="small-labels"), similarity=across)
    features, images = method_by_name("dio").predict(pair).channels
    assert isinstance(features.fixed, Pyramid) and images.fixed is pair.fixed
    pair = given(weights=weights())  # of one contrast: the images alone
    prediction = method_by_name("dio").predict(pair)
    assert [channel.fixed for channel in prediction.channels] == [pair.fixed]
    assert prediction.warnings == () and prediction.start is not None
    points = pair.fixed.frame.points()
    ring = points[((points.norm(dim=-1) - 10).abs() < 1)]  # where there is something to see
    moved = prediction.start.map(ring) - ring
    assert torch.allclose(moved.mean(0), torch.tensor([2.0, 2.0]).double(), atol=0.5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 8.0)])
def test_features_are_as_fine_as_their_use_asks_for(
    spacing: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in voxels, whatever the box: a thin one, or one of thick slices, is not cut finer for it."""
    frame = Frame.regular((180, 22), spacing)
    monkeypatch.setattr(inference, "_VOXELS", 3000)
    monkeypatch.setattr(inference, "_ALONE_VOXELS", 1000)
    monkeypatch.setattr(inference, "_START_VOXELS", 300)
    across = similarity_for("mind", PRESETS["fast"])
    for preset, more, most in (
        ("fast", {}, 300),
        ("prediction", {}, 1000),
        ("prediction", {"similarity": across}, 3000),
    ):
        pair = given(preset, fixed=volume(frame), moving=volume(frame, 2.0), weights=weights(), **more)
        for shown in learned_features(pair).features:
            assert shown.frame.voxels == pytest.approx(most, rel=0.15)
            assert max(shown.frame.spacing) < 1.25 * min(shown.frame.spacing)
    monkeypatch.setattr(inference, "_ALONE_VOXELS", 1_000_000)  # more than there are
    shown, _ = learned_features(given("prediction", weights=weights())).features
    assert shown.frame.size == FIXED.size


def test_weights_of_one_contrast_are_not_asked_across_two() -> None:
    across = similarity_for("mind-nmi", PRESETS["fast"])
    pair = given(weights=weights(), similarity=across)  # `small` learns by an image loss
    prediction = method_by_name("dio").predict(pair)
    (channel,) = prediction.channels
    assert channel.fixed is pair.fixed and channel.similarity is across and prediction.start is None
    assert len(prediction.warnings) == 1 and "within one contrast" in prediction.warnings[0]


def test_features_that_make_the_images_less_alike_are_left_out() -> None:
    """A likeness that prefers the images as they are."""

    class Stubborn(MeanSquaredError):
        def __call__(self, warped: torch.Tensor, fixed: torch.Tensor, weight: object = None) -> torch.Tensor:
            return -super().__call__(warped, fixed)

    pair = given(weights=weights(), similarity=Stubborn())
    prediction = method_by_name("dio").predict(pair)
    (channel,) = prediction.channels
    assert channel.fixed is pair.fixed and prediction.start is None
    assert len(prediction.warnings) == 1 and "more alike" in prediction.warnings[0]
    assert prediction.features[0].channels >= 8  # for those who want to see why


def test_features_that_know_no_structures_are_compared_at_every_scale() -> None:
    (channel,) = learned_features(given("balanced", weights=weights())).channels
    assert channel.finest == 0 and channel.weight == 1


def test_progress_never_goes_back() -> None:
    told: list[float] = []
    report = Reporter(lambda progress: told.append(progress.fraction))
    method_by_name("dio").predict(given(weights=weights(), report=report))
    assert len(set(told)) > 5 and told == sorted(told) and told[-1] <= 1.0


def test_aligning_the_features_can_be_cancelled() -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        method_by_name("dio").predict(given(weights=weights(), report=Reporter(None, token)))


def test_the_weights_are_not_altered_and_no_gradient_is_kept() -> None:
    kept = weights()
    before = {k: v.clone() for k, v in kept.state.items()}
    prediction = learned_features(given(weights=kept))
    assert all(torch.equal(v, before[k]) for k, v in kept.state.items())
    assert not any(v.data.requires_grad for v in prediction.channels[0].moving.levels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "gradicon"}, "weights of gradicon"),
        ({"dimension": 3}, "3-D"),
        ({"convention": {}}, "which feature network"),
        ({"convention": {"network": {"kind": "unet"}}}, "version"),
        ({"state": {}}, "do not fit"),
    ],
)
def test_weights_that_do_not_fit_are_a_sentence(change: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        method_by_name("dio").predict(given(weights=replace(weights(), **change)))


def test_a_turned_moving_image_is_seen_on_the_fixed_axes() -> None:
    quarter = Frame((33, 30), (1.5, 1.5), (21.75, -24.0), ((0.0, -1.0), (1.0, 0.0)))
    seen = seen_part(volume(quarter), linear(0.0, (0.0, 0.0)), FIXED)
    assert np.allclose(np.asarray(seen.frame.direction), np.eye(2))
    # a quarter turn needs no interpolation that would alter values between
    points = seen.frame.points(dtype=torch.float32)
    truth = volume(seen.frame).data
    assert points.shape[:2] == truth.shape[1:] and float((seen.data - truth).abs().mean()) < 5e-3


def test_only_what_the_fixed_box_maps_onto_is_seen() -> None:
    wide = Frame.regular((200, 180), 0.8)
    seen = seen_part(volume(wide), linear(0.0, (20.0, -10.0)), FIXED).frame
    assert np.allclose(seen.centre, (20, -10), atol=0.8) and np.all(np.abs(seen.extent - FIXED.extent) < 2)
    elsewhere = linear(0.0, (900.0, 0.0))  # nothing in common: everything is seen
    assert seen_part(volume(wide), elsewhere, FIXED).frame.size == wide.size
    turned = seen_part(volume(wide), linear(30.0, (0.0, 0.0)), FIXED).frame
    assert np.allclose(np.asarray(turned.direction), linear(30.0, (0, 0)).matrix[:2, :2].numpy())
    assert np.all(np.abs(turned.extent - FIXED.extent) < 2)


def pulled(prediction_of: MethodInput, kind: str) -> tuple[float, float]:
    """Distance of a landmark (or 1 - Dice of a label) before and after, beside the images' term."""
    fixed, moving = prediction_of.fixed, prediction_of.moving
    channels = (learned_features if prediction_of.weights else classical_features)(prediction_of).channels
    start, goal = torch.tensor([[4.0, 3.0]]).double(), torch.tensor([[8.0, 6.0]]).double()
    if kind == "landmarks":
        prompts = Prompts(landmarks=(start, goal))
    else:
        disc = lambda frame, centre: Volume(  # noqa: E731
            ((frame.points() - centre).norm(dim=-1) < 6).float()[None], frame
        )
        prompts = Prompts(fixed_labels=disc(fixed.frame, start), moving_labels=disc(moving.frame, goal))
    objective = PairObjective(channels, LinearTransform.identity(2), prompts)
    settings = Settings((Scale(2, 60), Scale(1, 30)), 0.5, warp_sigma=0.4)
    found, _ = solve(objective, Diffeomorphic(fixed.frame), settings)
    if kind == "landmarks":
        return float((start - goal).norm()), float((found.map(start) - goal).norm())
    mapped = found.map(fixed.frame.points())
    a = (mapped - goal).norm(dim=-1) < 6
    b = (fixed.frame.points() - start).norm(dim=-1) < 6
    before = (fixed.frame.points() - goal).norm(dim=-1) < 6
    dice = [2 * float((m & b).sum()) / float(m.sum() + b.sum()) for m in (before, a)]
    return 1 - dice[0], 1 - dice[1]


@pytest.mark.parametrize("kind", ["landmarks", "labels"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_prompts_weigh_against_features_of_any_size(kind: str, scale: float) -> None:
    """Last layers multiplied by a number: the network's features grow with it, the result does not."""
    kept = weights()
    for name in kept.state:
        if name.startswith("heads.") and name.split(".")[2] == "1":
            kept.state[name] *= scale
    equal = volume(FIXED)
    before, after = pulled(given(moving=equal, weights=kept), kind)
    assert after < 0.35 * before
    assert 0.2 < after / pulled(given(moving=equal), kind)[1] < 5 or after < 0.1 * before
