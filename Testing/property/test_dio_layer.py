"""What alignment by features promises, whatever the network: tested with untrained ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.field import jacobian_determinant
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods import MethodInput, method_by_name
from DeepRegistrationLib.methods.dio.features import FeatureNetwork, features_of
from DeepRegistrationLib.methods.dio.layer import AlignmentLayer, Differentiation, differentiable
from DeepRegistrationLib.methods.dio.training import DioTask
from DeepRegistrationLib.objective import Channel, PairObjective, Pyramid
from DeepRegistrationLib.objectives import MeanSquaredError, diffusion
from DeepRegistrationLib.prepare import resampled
from DeepRegistrationLib.presets import PRESETS, settings_for, similarity_for
from DeepRegistrationLib.solver import Scale, Settings, solve
from DeepRegistrationLib.transforms import REPRESENTATIONS, FreeForm, LinearTransform
from DeepRegistrationLib.weights import Weights
from torch import Tensor, nn

FRAMES = [Frame.regular((40, 36)), Frame.regular((20, 18, 22), 1.5)]
QUICK = Settings((Scale(2, 12), Scale(1, 6)), smallest=8)


def image(frame: Frame, shift: float = 0.0, seed: int = 0) -> Volume:
    """Smooth waves and a blob, moved along every axis by `shift` voxels."""
    points = (frame.points(dtype=torch.float32) - shift * frame.spacing[0]) / float(frame.extent.max())
    generator = torch.Generator().manual_seed(seed)
    waves = 2 * torch.randn(3, frame.dimension, generator=generator)
    value = torch.cos(points @ (2 * torch.pi * waves.T)).sum(-1) / 6 + 0.5
    return Volume((value * torch.exp(-6 * points.square().sum(-1)))[None], frame)


def network(dimension: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return FeatureNetwork("unet", (8, 16, 16), channels=8).build(dimension).eval()


def features(frame: Frame, shift: float = 0.0) -> Pyramid:
    with torch.no_grad():
        return features_of(network(frame.dimension), image(frame, shift))


def energy_of(frame: Frame, shift: float) -> PairObjective:
    channel = Channel(features(frame), features(frame, shift), MeanSquaredError())
    return PairObjective([channel], LinearTransform.identity(frame.dimension))


@pytest.mark.parametrize("frame", FRAMES, ids=["2-D", "3-D"])
def test_the_objective_does_not_rise_at_a_small_rate(frame: Frame) -> None:
    settings = Settings(
        (Scale(1, 30),), 0.02, gradient_sigma=1.0, warp_sigma=0, optimiser="descent", tolerance=0
    )
    _, (report,) = solve(energy_of(frame, 1.0), FreeForm(frame), settings)
    energies = np.array(report.energies)
    assert len(energies) == 30 and (np.diff(energies) <= 0).all() and energies[-1] < 0.99 * energies[0]


@pytest.mark.parametrize("frame", FRAMES, ids=["2-D", "3-D"])
def test_the_gradient_falls_tenfold_on_smooth_images(frame: Frame) -> None:
    """Channels are smooth images here: untrained features of them are not smooth enough to promise it."""
    pairs = [
        Channel(image(frame, 0.0, s), image(frame, 1.0, s), MeanSquaredError())
        for s in range(frame.dimension + 1)
    ]
    objective = PairObjective(pairs, LinearTransform.identity(frame.dimension))

    def gradient(w: Tensor) -> float:
        w = w.detach().clone().requires_grad_()
        return float(torch.autograd.grad(objective.at(frame)(w), w)[0].norm())

    settings = Settings(
        (Scale(1, 400),), 0.5, gradient_sigma=0.5, warp_sigma=0, optimiser="descent", tolerance=0
    )
    found, _ = solve(objective, FreeForm(frame), settings)
    assert gradient(found.displacement()) < 0.1 * gradient(torch.zeros(*frame.shape, frame.dimension))


@pytest.mark.parametrize("size", [(32, 32), (37, 29), (16, 16, 16), (19, 16, 14)])
@pytest.mark.parametrize("optimiser", ["adam", "sgd", "descent"])
def test_equal_images_stay_where_they_are_to_the_last_bit(size: tuple[int, ...], optimiser: str) -> None:
    frame = Frame.regular(size, 1.3)
    layer = AlignmentLayer(Settings((Scale(2, 5), Scale(1, 5)), smallest=8, optimiser=optimiser))
    same = features(frame)
    for kind in ("free-form", "diffeomorphic"):
        for aligned in layer(same, same, REPRESENTATIONS[kind](frame)):
            assert torch.count_nonzero(aligned.displacement) == 0


def test_the_layer_is_deterministic() -> None:
    frame = FRAMES[0]
    torch.manual_seed(1)
    runs = []
    for _ in range(2):
        net = network(2)
        fixed, moving = (features_of(net, image(frame, s)) for s in (0.0, 1.5))
        found = AlignmentLayer(QUICK)(fixed, moving, FreeForm(frame))
        sum(a.displacement.square().sum() for a in found).backward()
        runs.append(
            ([a.displacement for a in found], [p.grad for p in net.parameters() if p.grad is not None])
        )
    for one, other in zip(*runs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(runs[0][0]) == 2 and any(g.abs().max() > 0 for g in runs[0][1])


@pytest.mark.parametrize("kind", ["free-form", "diffeomorphic", "affine"])
def test_the_size_of_features_does_not_matter(kind: str) -> None:
    """Neither for the optimum nor for what is learnt: features k times as large have 1 / k of the slope."""
    frame, found = FRAMES[0], []
    for factor in (1.0, 1024.0):
        leaves = []
        for shift in (0.0, 1.5):
            levels = features(frame, shift).levels
            scaled = (Volume((factor * v.data).requires_grad_(), v.frame) for v in levels)
            leaves.append(Pyramid(tuple(scaled), frame))
        (*_, last) = AlignmentLayer(QUICK)(*leaves, REPRESENTATIONS[kind](frame))
        slope = torch.autograd.grad(last.displacement.square().sum(), leaves[0].levels[0].data)[0]
        found.append((last.displacement.detach(), factor * slope))
    (one, slope), (other, scaled_slope) = found
    # a power of two changes no rounding
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert float((slope - scaled_slope).norm()) < 1e-3 * float(slope.norm()) > 0


def test_every_scale_sends_gradients_to_its_own_level() -> None:
    frame = FRAMES[0]
    leaves = []
    for shift in (0.0, 1.5):
        levels = tuple(
            Volume(v.data.clone().requires_grad_(), v.frame) for v in features(frame, shift).levels
        )
        leaves.append(Pyramid(levels, frame))
    found = AlignmentLayer(QUICK)(*leaves, FreeForm(frame))
    for aligned, used in zip(found, (1, 0), strict=True):
        gradients = torch.autograd.grad(
            aligned.displacement.square().sum(),
            [v.data for side in leaves for v in side.levels],
            allow_unused=True,
        )
        for k, gradient in enumerate(gradients):
            assert (gradient is not None and bool(gradient.abs().max() > 0)) == (k % 3 == used)


def test_no_steps_follow_the_optimum_at_inference() -> None:
    frame = FRAMES[0]
    fixed, moving = features(frame), features(frame, 1.5)
    (*_, last) = AlignmentLayer(QUICK, Differentiation(steps=0))(fixed, moving, FreeForm(frame))
    objective = PairObjective([Channel(fixed, moving, MeanSquaredError())], LinearTransform.identity(2))
    optimum, _ = solve(objective, FreeForm(frame), QUICK)
    assert torch.equal(last.displacement, optimum.displacement()) and not last.displacement.requires_grad
    (*_, stepped) = AlignmentLayer(QUICK)(fixed, moving, FreeForm(frame))
    assert not torch.equal(stepped.displacement, last.displacement)


@pytest.mark.parametrize("name", REPRESENTATIONS)
@pytest.mark.parametrize("frame", FRAMES, ids=["2-D", "3-D"])
def test_switching_leaves_weights_and_features_as_they_were(name: str, frame: Frame) -> None:
    net = network(frame.dimension)
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        fixed, moving = (features_of(net, image(frame, s)) for s in (0.0, 1.0))
    before = [v.data.clone() for v in (*fixed.levels, *moving.levels)]
    kind = REPRESENTATIONS[name]
    start = kind.seeded(frame, "cpu", 0)
    (*_, last) = AlignmentLayer(QUICK, Differentiation(steps=0))(fixed, moving, start)
    assert last.displacement.abs().max() > 1e-3 and last.displacement.isfinite().all()
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(v.data, b) for v, b in zip((*fixed.levels, *moving.levels), before, strict=True))
    if kind.diffeomorphic:
        assert float(jacobian_determinant(last.displacement, strict=True).min()) > 0


def test_the_regulariser_can_be_switched_too() -> None:
    frame = FRAMES[0]
    channel = Channel(features(frame), features(frame, 1.5), MeanSquaredError())
    before = [v.data.clone() for v in channel.fixed.levels]
    rough = []
    for weight in (0.0, 5.0):
        objective = PairObjective([channel], LinearTransform.identity(2), regularity=weight)
        found, _ = solve(objective, FreeForm(frame), QUICK)
        rough.append(float(diffusion(found.displacement().detach(), tuple(frame.extent.tolist()))))
    assert 0 < rough[1] < 0.3 * rough[0]
    assert all(torch.equal(v.data, b) for v, b in zip(channel.fixed.levels, before, strict=True))


def test_only_some_optima_can_be_differentiated() -> None:
    frame = FRAMES[0]
    with pytest.raises(InputError):
        differentiable(energy_of(frame, 1.0), REPRESENTATIONS["b-spline"](frame), Differentiation())
    with pytest.raises(InputError):
        Differentiation("guess")


@pytest.mark.parametrize("learned", [True, False], ids=["features", "intensities"])
def test_a_coarse_oblique_moving_image_gives_what_its_resampled_pair_gives(learned: bool) -> None:
    """1 mm fixed, 2 mm oblique moving: within half a voxel of the pair on the fixed lattice."""
    task, name = DioTask(), "small"
    torch.manual_seed(0)
    state = task.network(name, 3).state_dict()
    weights = Weights("dio", name, 3, state, task.convention(name, 3), {}, "") if learned else None
    fixed_frame = Frame.regular((40, 44, 36), 1.0)
    angle = np.radians(12)
    turn = ((np.cos(angle), -np.sin(angle), 0.0), (np.sin(angle), np.cos(angle), 0.0), (0.0, 0.0, 1.0))
    centred = Frame((26, 28, 22), (2.0,) * 3, (0.0,) * 3, turn)
    oblique = Frame(centred.size, centred.spacing, tuple((-centred.centre).tolist()), turn)

    def scene(points: Tensor) -> Tensor:
        x, y, z = points.unbind(-1)
        waves = torch.sin(x / 3.5 + 0.4) + torch.cos(y / 4 - z / 6) + torch.sin(z / 3.2 + x / 7)
        return (0.5 + waves / 6) * torch.sigmoid((16 - points.norm(dim=-1)) / 2)

    def bent(points: Tensor) -> Tensor:
        return points + 1.6 * torch.sin(points.roll(1, -1) / 9 + 0.5)

    fixed = Volume(scene(bent(fixed_frame.points())).float()[None], fixed_frame)
    coarse = Volume(scene(oblique.points()).float()[None], oblique)
    maps = []
    for moving in (coarse, resampled(coarse, fixed_frame)):
        similarity = similarity_for("lncc", PRESETS["fast"])
        pair = MethodInput(fixed, moving, LinearTransform.identity(3), similarity, PRESETS["fast"], weights)
        channels = method_by_name("dio").predict(pair).channels
        objective = PairObjective(channels, LinearTransform.identity(3))
        settings = settings_for(PRESETS["fast"], "diffeomorphic", "lncc")
        found, _ = solve(objective, REPRESENTATIONS["diffeomorphic"](fixed_frame), settings)
        maps.append(found.field(fixed_frame))
    points = fixed_frame.points()
    inside = points.norm(dim=-1) < 13
    apart = (maps[0].map(points) - maps[1].map(points)).norm(dim=-1)[inside]
    assert float(apart.mean()) < 0.5 and float(apart.quantile(0.95)) < 1.0
    moved = (maps[0].map(points) - bent(points)).norm(dim=-1)[inside]
    # untrained features move points the right way too, though not all the way
    share = 0.8 if learned else 0.3
    assert float(moved.mean()) < share * float((points - bent(points)).norm(dim=-1)[inside].mean())
