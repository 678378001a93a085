"""The tall U-Net: its published size, its zero start, and any image size."""

from __future__ import annotations

import pytest
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.methods.gradicon.predictor import CONFIGURATIONS, Predictor
from DeepRegistrationLib.networks.tall_unet import TallUNet, halved
from DeepRegistrationLib.weights import Weights


def network(configuration: str, dimension: int) -> TallUNet:
    c = CONFIGURATIONS[configuration]
    return TallUNet(dimension, c.down, c.up, dimension, c.alone)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("configuration", "dimension", "count"),
    [
        *(("paper", 3, 17_670_229), ("paper", 2, 4_756_902)),
        *(("small", 3, 936_309), ("small", 2, 249_542), ("small-alone", 3, 936_309)),
    ],
)
def test_parameter_counts(configuration: str, dimension: int, count: int) -> None:
    assert parameters(network(configuration, dimension)) == count


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_predictor_has_a_network_of_its_own_for_each_step(count: int) -> None:
    assert parameters(Predictor("small", 2, count)) == count * 249_542
    with pytest.raises(InputError, match="small, small-alone, paper"):
        Predictor("tiny", 2, count)


def test_the_output_starts_at_zero_and_every_weight_is_reached() -> None:
    net = network("small", 2)
    image = torch.rand(2, 2, 24, 20)
    assert not net(image).any()
    torch.nn.init.normal_(net.last.weight, std=0.1)
    net(image).square().sum().backward()
    for name, parameter in net.named_parameters():
        # what batch normalisation follows loses its bias
        if not (name.startswith("up.") and name.endswith(".bias")):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (33, 16), (1, 9, 4), (6, 5, 11)])
@pytest.mark.parametrize("configuration", ["small", "small-alone"])
def test_any_size(configuration: str, shape: tuple[int, ...]) -> None:
    net = network(configuration, len(shape)).eval()
    torch.nn.init.normal_(net.last.weight, std=0.1)
    out = net(torch.rand(1, 2, *shape))
    assert out.shape == (1, len(shape), *shape)
    assert bool(out.isfinite().all())


def test_in_evaluation_a_pair_does_not_depend_on_the_rest_of_the_batch() -> None:
    net = network("small", 2)
    torch.nn.init.normal_(net.last.weight, std=0.1)
    images = torch.rand(3, 2, 16, 16)
    net(images)  # running statistics other than the initial ones
    net.eval()
    torch.testing.assert_close(net(images)[1:2], net(images[1:2]))


def test_alone_a_pair_does_not_depend_on_the_rest_of_the_batch_in_training_either() -> None:
    images, pairs = torch.rand(3, 2, 16, 16), {}
    for configuration in ("small", "small-alone"):
        torch.manual_seed(0)
        net = network(configuration, 2).train()
        torch.nn.init.normal_(net.last.weight, std=0.1)
        pairs[configuration] = net(images)[1:2], net(images[1:2])
    torch.testing.assert_close(*pairs["small-alone"])
    assert not torch.allclose(*pairs["small"], atol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_asked_both_ways_round_equal_images_stay_and_exchanged_ones_move_back(count: int) -> None:
    first, second = torch.rand(2, 1, 1, 21, 26)
    for name, odd in (("small-alone", True), ("small", False)):
        torch.manual_seed(0)
        predictor = Predictor(name, 2, count).eval()
        for part in predictor.modules():
            if isinstance(part, TallUNet):
                torch.nn.init.normal_(part.last.weight, std=0.02)
                torch.nn.init.constant_(part.last.bias, 0.05)
        with torch.no_grad():
            still = predictor(first, first).displacement((21, 26))
            assert float(still.abs().max()) < 1e-5 if odd else float(still.abs().max()) > 0.01
            if count == 1:
                there, back = predictor(first, second), predictor(second, first)
                assert torch.equal(there.field, -back.field) == odd and bool(there.field.any())


def test_halving_averages_the_voxels_there_are() -> None:
    image = torch.arange(5.0).view(1, 1, 1, 5)
    assert halved(image)[0, 0, 0].tolist() == [0.5, 2.5, 4.0]
    assert halved(torch.ones(1, 1, 3, 3, 3)).eq(1).all()


def test_weights_of_more_networks_than_a_training_makes_are_refused() -> None:
    state = {f"{k}.network.last.weight": torch.zeros(0) for k in range(17)}
    weights = Weights("gradicon", "small", 2, state, {}, {}, "")
    with pytest.raises(InputError, match="of 17 networks"):
        Predictor.from_weights(weights)
