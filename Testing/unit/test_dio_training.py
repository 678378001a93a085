"""DIO's training task: what its loss sees and moves, and weights that a registration can use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods.dio import training
from DeepRegistrationLib.methods.dio.features import FeatureNetwork
from DeepRegistrationLib.methods.dio.inference import feature_network
from DeepRegistrationLib.methods.dio.training import CONFIGURATIONS, DioTask, _cut, _losses
from DeepRegistrationLib.solver import Energy, Scale, Settings, solve
from DeepRegistrationLib.training.base import Batch
from DeepRegistrationLib.transforms import FreeForm
from DeepRegistrationLib.weights import Weights, load_weights, save_weights
from torch import Tensor, nn

QUICK = replace(CONFIGURATIONS["small"], scales=((4, 6), (2, 4), (1, 3)))


class Quick(DioTask):
    configurations = {"small": QUICK, "free": replace(QUICK, representation="free-form")}  # noqa: RUF012


def batch(shape: tuple[int, ...] = (32, 28), count: int = 2, landmarks: bool = False) -> Batch:
    d = len(shape)
    frame = Frame.regular(tuple(reversed(shape)))
    blobs, labels = [], []
    for shift in (0.0, 3.0):
        distance = (frame.points(dtype=torch.float32) - shift).norm(dim=-1)
        blobs.append(torch.sigmoid(6 - distance).expand(count, 1, *shape).contiguous())
        labels.append((distance < 6).float().expand(count, 1, *shape).contiguous())
    points = torch.tensor([[[0.1, -0.2, 0.3][:d], [0.0, 0.1, -0.1][:d]]]).expand(count, 2, d)
    moved = points + 6 / torch.tensor(frame.size)
    return Batch(*blobs, *labels, *((points, moved) if landmarks else (None, None)), (1.0,) * d)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(network: nn.Module, terms: dict[str, Tensor]) -> Tensor:
    network.zero_grad()
    terms["loss"].backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize("shape", [(32, 28), (16, 18, 16)])
@pytest.mark.parametrize("name", ["small", "free"])
def test_a_step_moves_the_network_and_lowers_the_loss(name: str, shape: tuple[int, ...]) -> None:
    task, given = Quick(), batch(shape, 1)
    torch.manual_seed(0)
    network = task.network(name, len(shape))
    terms = task.loss(network, given, 1.0, generator())
    assert set(terms) == {"loss", "image", "labels"}
    chosen = task.configurations[name]
    expected = chosen.image_weight * terms["image"] + chosen.label_weight * terms["labels"]
    assert float(terms["loss"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    gradient = gradients(network, terms)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    optimiser = task.optimiser(network, task.stages(name)[0])
    before = float(terms["loss"].detach())
    for k in range(12):
        terms = task.loss(network, given, 1.0, generator(k))
        gradients(network, terms)
        optimiser.step()
    assert float(task.loss(network, given, 1.0, generator())["loss"].detach()) < before


def test_the_loss_is_the_mean_over_pairs_and_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(chosen, aligned, given, k):  # type: ignore[no-untyped-def]
        seen.append((k, aligned.frame.size, _losses(chosen, aligned, given, k)))
        return seen[-1][-1]

    monkeypatch.setattr(training, "_losses", watched)
    task = Quick()
    torch.manual_seed(0)
    terms = task.loss(task.network("small", 2), batch(), 1.0, generator())
    assert [(k, size) for k, size, _ in seen] == [
        (k, size) for k in (0, 1) for size in ((8, 8), (14, 16), (28, 32))
    ]
    for name, value in terms.items():
        mean = torch.stack([row[name] for _, _, row in seen]).mean()
        assert float(value.detach()) == pytest.approx(float(mean.detach()), rel=1e-6)


def test_the_largest_numbers_of_a_gradient_are_cut_off_also_where_most_are_zero() -> None:
    numbers = torch.zeros(10_000)
    numbers[:100] = torch.linspace(-1, 1, 100)
    numbers[50] = 40.0
    cut = _cut(numbers)
    assert float(cut.max()) < 1.01 and torch.equal(cut[51:90], numbers[51:90])
    assert torch.count_nonzero(cut) == torch.count_nonzero(numbers)
    assert torch.equal(_cut(torch.zeros(5)), torch.zeros(5))


def test_one_image_drawn_at_random_sends_gradients() -> None:
    """Which one is in the generator: both occur, and give different gradients for the same loss."""
    task, given = Quick(), batch(count=1)
    torch.manual_seed(0)
    network = task.network("small", 2)
    found = {}
    for seed in range(8):
        terms = task.loss(network, given, 1.0, generator(seed))
        found[round(float(gradients(network, terms).norm()), 9)] = float(terms["loss"].detach())
    assert len(found) == 2 and len(set(found.values())) == 1


def test_finer_scales_begin_later() -> None:
    chosen = CONFIGURATIONS["paper"]
    assert [s.factor for s in chosen.settings(0.0).scales] == [4]
    assert [s.factor for s in chosen.settings(0.1).scales] == [4, 2]
    assert [s.factor for s in chosen.settings(0.5).scales] == [s.factor for s in chosen.settings().scales]
    assert [s.factor for s in chosen.settings().scales] == [4, 2, 1]


def test_landmarks_are_a_term_in_voxels() -> None:
    task = Quick()
    torch.manual_seed(0)
    network = task.network("small", 2)
    still = replace(QUICK, scales=((1, 0),), begin=(0.0,), phantom_steps=1, warp_sigma=0.0)
    network.configuration = replace(still, rate=1e-9)
    terms = task.loss(network, batch(landmarks=True), 1.0, generator())
    # nothing moved but one differentiable step of less than a voxel; partners are 3 voxels off per axis
    assert 6 < float(terms["landmarks"].detach()) < 34
    assert float(gradients(network, {"loss": terms["landmarks"]}).abs().max()) > 0


def test_displacement_takes_no_step_after_the_optimum_and_keeps_no_gradient() -> None:
    task, given = Quick(), batch()
    torch.manual_seed(0)
    network = task.network("free", 2).eval()
    with torch.no_grad():
        first = task.displacement(network, given)
    network.configuration = replace(network.configuration, phantom_steps=5)
    with torch.no_grad():
        assert torch.equal(task.displacement(network, given), first)
    assert first.shape == (2, 32, 28, 2) and not first.requires_grad and first.abs().max() > 0
    assert torch.equal(first[0], first[1])


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_convention_is_enough_to_build_the_network_again(name: str, tmp_path: Path) -> None:
    task = DioTask({1: 500.0, 2: 30.0})
    torch.manual_seed(0)
    network = task.network(name, 2)
    save_weights(tmp_path / "w.pt", "dio", name, 2, network.state_dict(), task.convention(name, 2), {})
    again = feature_network(load_weights(tmp_path / "w.pt", "dio", 2), 2)
    image = torch.rand(1, 1, network.stride, 2 * network.stride)
    for one, other in zip(network.eval()(image), again(image), strict=True):
        assert torch.equal(one, other)
    assert task.steps(name) > 0 and sum(s.share for s in task.stages(name)) == 1


@pytest.mark.parametrize("representation", ["diffeomorphic", "affine"])
def test_register_uses_weights_and_hands_back_features(representation: str, tmp_path: Path) -> None:
    task = DioTask()
    torch.manual_seed(0)
    state = task.network("small", 2).state_dict()
    save_weights(tmp_path / "w.pt", "dio", "small", 2, state, task.convention("small", 2), {})
    frames = Frame.regular((60, 56), 1.0), Frame.regular((40, 44), 1.5)
    images = []
    for frame, shift in zip(frames, (0.0, 3.0), strict=True):
        distance = (frame.points(dtype=torch.float32) - shift).norm(dim=-1)
        images.append(Volume((torch.sigmoid(14 - distance) + 0.5 * torch.sigmoid(7 - distance))[None], frame))
    done = register(
        *images,
        method="dio",
        weights=tmp_path / "w.pt",
        features=True,
        representation=representation,
        linear="none",
        preset="fast",
        device="cpu",
        fixed_landmarks=torch.tensor([[10.0, 0.0], [0.0, -10.0], [-7.0, 7.0]]).double(),
        moving_landmarks=torch.tensor([[13.0, 3.0], [3.0, -7.0], [-4.0, 10.0]]).double(),
    )
    assert done.features is not None and [v.channels for v in done.features] == [8, 8]
    fitted = done.quality["landmarks"]["fitted"]
    assert fitted["after"]["mean_mm"] < 0.4 * fitted["before"]["mean_mm"]
    assert done.quality["regularity"]["folds_percent"] == 0


def test_a_scale_ends_after_four_iterations_that_gain_too_little() -> None:
    class Bowl:
        def at(self, frame: Frame, for_update: bool) -> Energy:
            return lambda u: (u - 0.05).square().mean() + 1.0

    frame = Frame.regular((16, 16))
    settings = Settings((Scale(1, 200),), 0.05, warp_sigma=0, tolerance=-1e9, patience=4)
    _, (report,) = solve(Bowl(), FreeForm(frame), settings)
    falls = [(a - b) / a for a, b in zip(report.energies, report.energies[1:], strict=False)]
    assert report.converged and all(f < 1e-3 for f in falls[-4:])
    for k in range(len(falls) - 4):  # and at the first such run
        assert any(f >= 1e-3 for f in falls[k : k + 4])
    _, (endless,) = solve(Bowl(), FreeForm(frame), replace(settings, patience=0))
    assert len(endless.energies) == 200


def test_weights_of_another_shape_of_network_are_told_apart() -> None:
    task = DioTask()
    wrong = FeatureNetwork("unet", (8, 16, 16), channels=4).build(2).state_dict()
    with pytest.raises(Exception, match="do not fit"):
        feature_network(Weights("dio", "small", 2, wrong, task.convention("small", 2), {}, ""), 2)
