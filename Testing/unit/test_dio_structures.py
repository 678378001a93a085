"""DIO's features that tell structures apart: the network, its loss, and what a registration makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods.dio.features import FeatureNetwork, padded, structures_of
from DeepRegistrationLib.methods.dio.inference import recognised, usual_volumes
from DeepRegistrationLib.methods.dio.structures import structure_loss
from DeepRegistrationLib.methods.dio.training import TASK
from DeepRegistrationLib.networks.stem_unet import StemUNet, spread_codes
from DeepRegistrationLib.objective import Channel, PairObjective
from DeepRegistrationLib.objectives import MeanSquaredError
from DeepRegistrationLib.pipeline import register
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.loop import train
from DeepRegistrationLib.training.options import TrainingOptions
from DeepRegistrationLib.transforms.linear import LinearTransform
from DeepRegistrationLib.weights import Weights, load_weights


def one_hot(labels: torch.Tensor, count: int) -> torch.Tensor:
    return torch.stack([labels == k for k in range(1, count + 1)], 1).float()


def test_the_loss_is_its_formula_and_small_for_the_right_answer() -> None:
    torch.manual_seed(0)
    index = torch.randint(0, 3, (2, 8, 12))
    labels = one_hot(index, 2)
    logits = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    found = structure_loss([logits], labels, 0)
    logp = torch.log_softmax(logits.float(), 1).gather(1, index[:, None])[:, 0]
    volumes = torch.tensor([float((index == k).sum()) for k in range(3)])
    weight = (volumes + 1).rsqrt()[index]
    entropy = -(logp * weight).sum() / weight.sum()
    p, y = logits.float().softmax(1), F.one_hot(index, 3).movedim(-1, 1).float()
    dice = (2 * (p * y).sum((2, 3)) + 1) / ((p**2 + y**2).sum((2, 3)) + 1)
    assert float(found["loss"]) == pytest.approx(float(entropy + 1 - dice.mean()), rel=1e-5)
    assert float(found["dice"]) == pytest.approx(float(dice[:, 1:].mean()), rel=1e-5)
    right = structure_loss([20 * F.one_hot(index, 3).movedim(-1, 1).float()], labels, 0)
    assert float(right["loss"]) < 1e-4 and float(right["dice"]) > 0.9999


def test_coarse_levels_are_held_against_shares_and_margins_left_out() -> None:
    labels = torch.zeros(1, 1, 8, 8)
    labels[..., 3:] = 1
    fine, coarse = torch.full((1, 2, 16, 16), 7.0), torch.zeros(1, 2, 8, 8)
    for logits, step in ((fine, 1), (coarse, 2)):
        inner = logits[..., 4 // step : 12 // step, 4 // step : 12 // step]
        share = F.avg_pool2d(labels, step) if step > 1 else labels
        inner[:, 1:] = torch.logit(share.clamp(1e-4, 1 - 1e-4))
        inner[:, :1] = 0
    exact = structure_loss([fine, coarse], labels, 4)
    wrong = structure_loss([fine, coarse.flip(-1)], labels, 4)
    assert float(exact["loss"]) < 0.2 < float(wrong["loss"])


def test_gradients_reach_every_weight_of_the_network() -> None:
    torch.manual_seed(0)
    network = StemUNet(2, (8, 16, 16), 4, 2)
    image, labels = torch.rand(2, 1, 16, 24), one_hot(torch.randint(0, 3, (2, 16, 24)), 2)
    structure_loss(network.outputs(image), labels, 0)["loss"].backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


@pytest.mark.parametrize(("count", "channels"), [(3, 8), (8, 8), (21, 8), (6, 2)])
def test_codes_are_unit_vectors_far_apart(count: int, channels: int) -> None:
    codes = spread_codes(count, channels)
    assert codes.shape == (count, channels) and torch.equal(codes, spread_codes(count, channels))
    assert codes.norm(dim=1).numpy() == pytest.approx(1, abs=1e-5)
    apart = torch.cdist(codes, codes)[~torch.eye(count, dtype=torch.bool)]
    if count <= channels:
        assert apart.numpy() == pytest.approx(np.sqrt(2), abs=1e-5)
    else:  # at random the nearest two of 21 in 8 channels are 0.5 apart
        assert float(apart.min()) > (0.9 if channels == 8 else 0.8)


def test_features_are_the_codes_mean_by_probability() -> None:
    torch.manual_seed(0)
    network = StemUNet(3, (8, 16, 16), 4, 2).eval()
    image = torch.rand(1, 1, 16, 16, 8)
    for output, features in zip(network.outputs(image), network(image), strict=True):
        p = output.softmax(1)
        expected = sum(p[:, k : k + 1] * network.codes[k].view(1, -1, 1, 1, 1) for k in range(3))
        assert torch.allclose(features, expected, atol=1e-6)


def test_volumes_are_those_of_the_likeliest_structure() -> None:
    torch.manual_seed(0)
    network = FeatureNetwork("stem", (8, 16, 16), channels=4, structures=2).build(2).eval()
    image = Volume(torch.rand(1, 10, 14), Frame.regular((14, 10), 2.0))
    with torch.no_grad():
        features, volumes = structures_of(network, image)
        best = network.outputs(padded(image.data[None], network.stride))[0].argmax(1)
    assert volumes == [4.0 * int((best == k).sum()) for k in (1, 2)]
    assert len(features.levels) == 2 and features.levels[0].frame.spacing == (2.0, 2.0)


def test_images_are_recognised_by_the_volumes_of_most_structures() -> None:
    usual = [1000.0, 500.0, 50.0, 10.0]
    assert recognised([usual, [800.0, 900.0, 120.0, 10.0]], usual)
    assert recognised([usual, [1000.0, 500.0, 50.0, 0.0]], usual)
    assert not recognised([usual, [1000.0, 500.0, 0.0, 0.0]], usual)
    assert not recognised([[9000.0, 9000.0, 9000.0, 9000.0], usual], usual)


def test_a_channel_may_stop_before_the_finest_scales() -> None:
    frame = Frame.regular((16, 16))
    images = [Volume(torch.rand(1, 16, 16), frame) for _ in range(4)]
    plain = Channel(*images[:2], MeanSquaredError())
    coarse = Channel(*images[2:], MeanSquaredError(), finest=1.5)

    def energy(scale: Frame, *channels: Channel) -> float:
        zero = torch.zeros(*scale.shape, 2)
        return float(PairObjective(channels, LinearTransform.identity(2)).at(scale)(zero))

    assert energy(frame, plain, coarse) == energy(frame, plain)
    half = frame.resized((8, 8))
    both = energy(half, plain, coarse)
    assert both == pytest.approx(energy(half, plain) + energy(half, coarse), rel=1e-5)
    assert energy(frame, coarse) > 0  # nothing else to compare


def test_a_training_without_a_shape_takes_the_configurations(tmp_path: Path) -> None:
    for k in range(3):
        person(tmp_path, str(k), (0.0, 0.0), 1.0, k)
    options = TrainingOptions(
        tmp_path / "out", "dio", "structures", f"{tmp_path}?voxel=1", steps=1, threads=1
    )
    assert train(options).reason == "finished"
    weights = load_weights(tmp_path / "out" / "weights.pt")
    assert weights.convention["shape"] == [80, 80] and len(usual_volumes(weights)) == 2


def test_weights_name_the_datas_structures() -> None:
    class Source:
        structures = {2: 700.0, 5: 30.0}  # noqa: RUF012

    task = TASK.for_data(Source())
    convention = task.convention("structures", 3)
    assert convention["structures"] == [(2, 700.0), (5, 30.0)] and convention["feature_weight"] > 0
    assert FeatureNetwork.from_mapping(convention["network"]).structures == 2
    assert task.network("structures", 3).codes.shape == (3, 8)
    with pytest.raises(InputError, match="labels"):
        TASK.network("structures", 3)


# --- from training to a registration --------------------------------------------------------------

SIDE, PLACES = 48, ((0.0, 0.0), (0.0, 5.0), (4.0, -3.0))


def person(folder: Path, name: str, place: tuple[float, float], stretch: float, draw: int) -> None:
    """A disc of one tissue whose two halves, told apart by a fine stripe alone, have a label each."""
    y, x = np.meshgrid(*2 * (np.arange(SIDE) - SIDE / 2,), indexing="ij")
    y, x = y - place[0], x - place[1]
    disc = x**2 + (y * stretch) ** 2 < 14**2
    labels = disc * (1 + (x > 0))
    image = 0.5 * disc + 0.3 * (disc & (np.abs(x) < 1)) + 0.2 * (disc & (x > 0) & (np.floor(y) % 4 < 2))
    image += 0.03 * np.random.default_rng(draw).standard_normal(image.shape)
    for kind, values, type_ in (("images", image, np.float32), ("labels", labels, np.uint8)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(values.astype(type_)), str(folder / kind / f"{name}.nrrd"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    draw = np.random.default_rng(0)
    for k in range(6):
        person(folder, str(k), tuple(draw.uniform(-4, 4, 2)), float(draw.uniform(0.8, 1.2)), k)
    out = folder / "training"
    train(
        TrainingOptions(
            out, "dio", "structures", f"{folder}?voxel=1&vary=0.5", shape=(48, 48), steps=60, threads=1
        )
    )
    return out / "weights.pt"


def dice(transform: sitk.Transform, target: sitk.Image, source: sitk.Image) -> float:
    moved = sitk.GetArrayFromImage(sitk.Resample(source, target, transform, sitk.sitkNearestNeighbor))
    own = sitk.GetArrayFromImage(target)
    both = [((moved == k) & (own == k)).sum() / ((moved == k).sum() + (own == k).sum()) for k in (1, 2)]
    return float(2 * np.mean(both))


def test_learned_structures_guide_a_registration(trained: Path, tmp_path: Path) -> None:
    person(tmp_path, "a", PLACES[1], 1.1, 7)
    person(tmp_path, "b", PLACES[2], 0.85, 8)
    images = [str(tmp_path / "images" / f"{name}.nrrd") for name in "ab"]
    labels = [sitk.ReadImage(str(tmp_path / "labels" / f"{name}.nrrd")) for name in "ab"]
    result = register(*images, method="dio", preset="fast", linear="none", weights=trained, threads=1)
    assert result.quality["warnings"] == []
    result.save(tmp_path / "out")
    forward, inverse = (sitk.ReadTransform(str(tmp_path / "out" / f"{n}.h5")) for n in ("forward", "inverse"))
    before = dice(sitk.Transform(2, sitk.sitkIdentity), *labels)
    assert dice(forward, *labels) > max(0.9, before) and dice(inverse, *labels[::-1]) > 0.9


def test_images_that_show_something_else_are_compared_by_themselves(trained: Path, tmp_path: Path) -> None:
    person(tmp_path, "a", PLACES[1], 1.1, 7)
    person(tmp_path, "b", PLACES[2], 0.85, 8)
    images = [sitk.ReadImage(str(tmp_path / "images" / f"{name}.nrrd")) for name in "ab"]
    for image in images:
        image.SetSpacing((4.0, 4.0))  # sixteen times as large as what was learned
    result = register(*images, method="dio", preset="fast", linear="none", weights=trained, threads=1)
    assert any("know structures" in warning for warning in result.quality["warnings"])
    plain = register(*images, method="classical", preset="fast", linear="none", threads=1)
    assert torch.equal(result.forward_field.displacement, plain.forward_field.displacement)


def test_a_folder_without_labels_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for k in range(3):
        person(tmp_path, str(k), (0.0, 0.0), 1.0, k)
    source = open_data(f"{tmp_path}?voxel=1", 2, (48, 48))
    assert list(source.structures) == [1, 2]
    with pytest.raises(InputError, match="labels"):
        train(TrainingOptions(tmp_path / "out", "dio", "structures", str(tmp_path), steps=1, threads=1))


@pytest.mark.parametrize(
    ("known", "count"),
    [(None, 2), ([[1, 5.0]], 2), ([[1, "large"], [2, 3.0]], 2), (7, 2), ([[1, 5.0]], None)],
)
def test_weights_that_do_not_say_what_they_know_are_refused(known: object, count: object) -> None:
    network = {"structures": count} if count is not None else None
    weights = Weights("dio", "structures", 2, {}, {"structures": known, "network": network}, {}, "")
    with pytest.raises(InputError, match="structures"):
        usual_volumes(weights)


def test_a_description_without_widths_is_refused() -> None:
    with pytest.raises(InputError, match="sizes"):
        FeatureNetwork.from_mapping({"kind": "stem", "widths": None, "start": 8, "channels": 4})
