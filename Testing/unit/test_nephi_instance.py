"""NePhi fitted to one pair: alone, from a prediction, and on what a coarse method leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from DeepRegistrationLib.errors import Cancelled
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods import MethodInput
from DeepRegistrationLib.methods.nephi.hybrid import coarse_start, fitted
from DeepRegistrationLib.methods.nephi.images import PairImages, measured_at_points
from DeepRegistrationLib.methods.nephi.instance import from_scratch, optimised
from DeepRegistrationLib.methods.nephi.loss import BatchImages, SampledLoss
from DeepRegistrationLib.methods.nephi.maps import MapPair
from DeepRegistrationLib.methods.nephi.predictor import Predictor
from DeepRegistrationLib.metrics import correlation, fold_statistics
from DeepRegistrationLib.objectives import (
    GlobalNCC,
    LocalNCC,
    MeanSquaredError,
    MindAndInformation,
    MindSSC,
    NormalisedMutualInformation,
    Similarity,
)
from DeepRegistrationLib.presets import PRESETS
from DeepRegistrationLib.progress import CancelToken, Progress, Reporter
from DeepRegistrationLib.registration import warped_volume
from DeepRegistrationLib.transforms import FieldTransform, LinearTransform, Transform
from torch import Tensor

SIZES = {2: (45, 33), 3: (23, 19, 16)}
LOSS = SampledLoss(300, 24)
NONE = SampledLoss(300, 24, weight=0.0, prior=0.0)


def turned(d: int) -> Frame:
    """An oblique, anisotropic frame of odd sizes somewhere in the world."""
    c, s = math.cos(0.4), math.sin(0.4)
    direction = ((c, -s), (s, c)) if d == 2 else ((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))
    return Frame(SIZES[d], (1.2, 1.5, 2.0)[:d], (30.0, -20.0, 10.0)[:d], direction)


def ball(frame: Frame, centre: Tensor, radii: Sequence[float] = (11.0, 8.0, 9.0)) -> Volume:
    away = ((frame.points() - centre) / torch.tensor(radii[: frame.dimension])).norm(dim=-1)
    return Volume(torch.sigmoid(20 * (1 - away))[None].float(), frame)


def pair(d: int, similarity: Similarity | None = None, linear: LinearTransform | None = None) -> MethodInput:
    """An ellipsoid, and a rounder one elsewhere on a larger straight frame of its own."""
    frame = turned(d)
    centre = torch.tensor(frame.centre)
    other = Frame.regular(tuple(n + 14 for n in frame.size), 1.3)
    origin = tuple(float(o + c) for o, c in zip(other.origin, frame.centre, strict=True))
    moving = ball(replace(other, origin=origin), centre + 2.0, (9.0, 10.0, 9.0))
    linear = linear or LinearTransform.identity(d)
    return MethodInput(ball(frame, centre), moving, linear, similarity or GlobalNCC(), PRESETS["fast"])


def alike(given: MethodInput, found: Transform) -> float:
    frame = given.fixed.frame
    warped = warped_volume(given.moving, given.linear.compose(found).field(frame), frame)
    return correlation(warped.data[0], given.fixed.data[0])


def quarter() -> LinearTransform:
    return LinearTransform(torch.tensor([[0.9, -0.2, 8.0], [0.2, 1.1, 3.0], [0.0, 0.0, 1.0]]))


def test_images_are_read_where_the_maps_lead() -> None:
    """Against the moving image resampled by the engine's ordinary way."""
    given = pair(2, linear=quarter())
    frame = given.fixed.frame
    start = Field.from_mm(torch.full((*frame.shape, 2), 1.7, dtype=torch.float64).float(), frame)
    images = PairImages.of(given.fixed, given.moving, given.linear, GlobalNCC(), start)
    points = frame.grid().reshape(1, -1, 2)
    total = given.linear.compose(FieldTransform(start)).field(frame)
    expected = warped_volume(given.moving, total, frame).data.reshape(1, 1, -1)
    inside = (images._moving_points(points[0]).abs() <= 1).all(-1)
    assert 0.3 < float(inside.float().mean()) <= 1
    seen = images.moving_at(points)
    torch.testing.assert_close(seen[..., inside], expected[..., inside], rtol=0, atol=1e-4)
    torch.testing.assert_close(images.fixed_at(points)[0, 0], given.fixed.data.flatten(), rtol=0, atol=1e-5)


def test_points_that_only_one_image_has_do_not_count() -> None:
    frame = Frame.regular((20, 20))
    half = replace(Frame.regular((10, 20)), origin=frame.origin)  # the left half only
    fixed, moving = (Volume(torch.rand(1, *f.shape), f) for f in (frame, half))
    images = PairImages.of(fixed, moving, LinearTransform.identity(2), GlobalNCC())
    points = 2 * torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) - 1
    assert torch.equal(images.both_seen(points), points[points[:, 0] <= 0])
    away = LinearTransform.from_parts(torch.eye(2), torch.tensor([100.0, 0.0]))
    nowhere = PairImages.of(fixed, moving, away, GlobalNCC())
    assert torch.equal(nowhere.both_seen(points), points)


def test_what_needs_neighbourhoods_is_replaced_by_the_correlation() -> None:
    descriptors = MindSSC(), MindAndInformation()  # which are compared point by point
    for kept in (MeanSquaredError(), GlobalNCC(), NormalisedMutualInformation(), *descriptors):
        assert measured_at_points(kept) is kept
    assert isinstance(measured_at_points(LocalNCC(2)), GlobalNCC)


@pytest.mark.parametrize(("d", "steps"), [(2, 30), (3, 15)])
def test_from_scratch_the_images_grow_alike_without_folds(d: int, steps: int) -> None:
    given = pair(d)
    found = fitted(given, steps=steps, loss=LOSS, rates=(3e-4, 3e-3))
    before = alike(given, LinearTransform.identity(d))
    assert alike(given, found) > before + 0.5 * (1 - before)
    assert fold_statistics(found.field(given.fixed.frame))["folds_percent"] == 0


@pytest.mark.parametrize(
    "similarity",
    [MeanSquaredError(), LocalNCC(2), MindSSC(), NormalisedMutualInformation(), MindAndInformation()],
)
def test_any_measure_of_the_pair_is_taken(similarity: Similarity) -> None:
    given = pair(2, similarity)
    loss = replace(LOSS, similarity=measured_at_points(similarity))
    found = fitted(given, steps=20, loss=loss, rates=(3e-4, 3e-3))
    assert alike(given, found) > alike(given, LinearTransform.identity(2)) + 0.02


def test_from_a_prediction_codes_and_networks_move_and_the_encoder_does_not() -> None:
    given = pair(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Predictor("small", 2).eval().requires_grad_(False)
    images = PairImages.of(given.fixed, given.moving, given.linear, GlobalNCC())
    with torch.no_grad():
        start = network(images.fixed, images.fixed)
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    code = start.code.grid.clone()
    found = optimised(start, images, LOSS, 3)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(start.code.grid, code) and not torch.equal(found.code.grid, code)
    assert not torch.equal(found.code.whole, start.code.whole)
    for new, old in zip(found.networks, start.networks, strict=True):
        moved = [
            n
            for (n, a), b in zip(new.named_parameters(), old.parameters(), strict=True)
            if not torch.equal(a, b)
        ]
        assert len(moved) == len(list(old.parameters()))
    assert not any(p.requires_grad for p in found.networks.parameters()) and not found.code.grid.requires_grad


def test_a_better_start_needs_fewer_steps() -> None:
    """Going on from where a fit stands is not beginning anew."""
    given = pair(2)
    images = PairImages.of(given.fixed, given.moving, given.linear, GlobalNCC())
    first = optimised(from_scratch(2), images, LOSS, 15, (3e-4, 3e-3))
    losses: list[float] = []
    watch = Reporter(lambda p: losses.append(p.objective) if p.objective is not None else None)
    optimised(first, images, LOSS, 2, (3e-4, 3e-3), report=watch)
    with torch.no_grad():
        fresh = float(LOSS(from_scratch(2), images, torch.Generator().manual_seed(0))["loss"])
    assert losses[0] < 0.7 * fresh


def test_the_seed_decides_and_the_global_one_is_left_alone() -> None:
    given, state = pair(2), torch.random.get_rng_state()
    points = given.fixed.frame.points()

    def found(seed: int) -> Tensor:
        return fitted(given, steps=2, loss=LOSS, seed=seed).map(points)

    first = found(0)
    assert torch.equal(first, found(0)) and not torch.equal(first, found(1))
    assert torch.equal(state, torch.random.get_rng_state())


def test_it_works_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        found = fitted(pair(2), steps=2, loss=LOSS)
    assert float((found.map(turned(2).points()) - turned(2).points()).abs().max()) > 0


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_it_can_be_cancelled_within_a_step(calls: int) -> None:
    """Before the loss is computed, and again before it is differentiated."""
    token, seen = CancelToken(), []
    maps = from_scratch(2)
    before = [p.clone() for p in maps.networks.parameters()]
    images = BatchImages(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16))

    def watch(progress: Progress) -> None:
        seen.append(progress.fraction)
        if len(seen) == calls:
            token.cancel()

    with pytest.raises(Cancelled):
        optimised(maps, images, LOSS, 10, report=Reporter(watch, token))
    assert len(seen) == calls and seen == sorted(seen)
    assert all(torch.equal(a, b) for a, b in zip(maps.networks.parameters(), before, strict=True))


@pytest.mark.parametrize("d", [2, 3])
def test_the_coarse_start_helps_and_does_not_fold(d: int) -> None:
    given = pair(d, LocalNCC(3))
    start = coarse_start(given)
    assert alike(given, FieldTransform(start)) > alike(given, LinearTransform.identity(d))
    assert fold_statistics(start)["folds_percent"] == 0


@pytest.mark.parametrize("d", [2, 3])
def test_the_two_maps_are_composed(d: int) -> None:
    """Without a step the coarse map alone; with some, the neural field first and the coarse map after."""
    given = pair(d)
    frame = given.fixed.frame
    start = Field.from_mm(torch.full((*frame.shape, d), 1.5), frame)
    points = frame.points()
    coarse = FieldTransform(start)
    nothing = fitted(given, start=start, steps=0, loss=LOSS)
    torch.testing.assert_close(nothing.map(points), coarse.map(points))
    maps: MapPair = from_scratch(d)
    shift = torch.full((d,), 0.1)
    with torch.no_grad():
        for network, sign in zip(maps.networks, (1.0, -1.0), strict=True):
            network.last.bias.copy_(sign * shift)
    both = fitted(given, maps, start, steps=0, loss=LOSS)
    neural = maps.transform(frame)
    torch.testing.assert_close(both.map(points), coarse.map(neural.map(points)))
    back = both.inverse().map(both.map(points))
    torch.testing.assert_close(back, points, rtol=0, atol=1e-3)


def test_on_a_start_it_fits_what_the_start_leaves() -> None:
    """The start brings the images half way; the rest is the networks'."""
    frame = Frame.regular((40, 40))
    fixed, moving = (ball(frame, torch.tensor([x, 0.0]), (11.0, 11.0)) for x in (0.0, 8.0))
    given = MethodInput(fixed, moving, LinearTransform.identity(2), GlobalNCC(), PRESETS["fast"])
    start = Field.from_mm(torch.tensor([4.0, 0.0]).expand(*frame.shape, 2).contiguous(), frame)
    found = fitted(given, start=start, steps=40, loss=NONE, rates=(3e-4, 3e-3))
    values = [alike(given, t) for t in (LinearTransform.identity(2), FieldTransform(start), found)]
    assert values[0] < values[1] < 0.95 < values[2]
    centre = torch.zeros(1, 2, dtype=torch.float64)
    assert float(found.map(centre)[0, 0]) == pytest.approx(8.0, abs=2.5)
