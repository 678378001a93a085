"""NePhi's encoder and networks of the position: sizes, starts, and what they may not depend on."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.methods.nephi.predictor import CONFIGURATIONS, Predictor, field_networks
from DeepRegistrationLib.networks.latent_encoder import LatentCode, LatentEncoder
from DeepRegistrationLib.networks.latent_unet import LatentUNet
from DeepRegistrationLib.networks.modulated_siren import ModulatedSiren
from DeepRegistrationLib.weights import Weights
from torch import Tensor, nn


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def images(shape: tuple[int, ...], pairs: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    both = torch.rand(2, pairs, 1, *shape, generator=torch.Generator().manual_seed(seed))
    return both[0], both[1]


def stirred(network: nn.Module, size: float = 0.02) -> nn.Module:
    """Last layers that are not zero."""
    for module in network.modules():
        if isinstance(module, ModulatedSiren):
            nn.init.normal_(module.last.weight, std=size, generator=torch.Generator().manual_seed(1))
    return network


@pytest.mark.parametrize(("d", "each"), [(2, 140_290), (3, 140_419)])
def test_the_networks_of_the_position_have_the_published_size(d: int, each: int) -> None:
    assert count(ModulatedSiren(d)) == each
    assert count(field_networks(CONFIGURATIONS["paper"].sizes[d], d)) == 2 * each
    assert 2 * 140_419 == 280_838


@pytest.mark.parametrize(
    ("shape", "parameters", "grid"),
    [
        ((64,) * 3, 1_268_376, (16,) * 3),
        ((96,) * 3, 1_740_952, (12,) * 3),
        ((128,) * 3, 1_740_952, (16,) * 3),
        ((175,) * 3, 2_986_136, (22,) * 3),
        ((512,) * 2, 1_883_256, (16,) * 2),
    ],
)
def test_the_encoder_follows_the_size_of_the_images(
    shape: tuple[int, ...], parameters: int, grid: tuple[int, ...]
) -> None:
    encoder = LatentEncoder(len(shape), shape)
    assert count(encoder) == parameters and encoder.grid_shape == grid


def test_the_configurations() -> None:
    assert count(Predictor("small", 2)) == 374_780
    assert count(Predictor("small", 3)) == 1_268_376 + 280_838
    assert count(Predictor("small-unet", 3)) == 966_016 + 280_838
    assert count(Predictor("paper", 3)) == 2_986_136 + 280_838
    assert count(Predictor("paper", 2)) == 1_883_256 + 280_580


def unet(shape: tuple[int, ...]) -> LatentUNet:
    return LatentUNet(len(shape), shape, (4, 8, 8), (4, 4, 4))


@pytest.mark.parametrize("kind", [lambda shape: LatentEncoder(len(shape), shape), unet])
@pytest.mark.parametrize("shape", [(31, 40), (19, 16, 33)])
def test_the_code_has_the_shape_it_says(shape: tuple[int, ...], kind: Callable) -> None:
    """Odd sizes, and sizes other than the encoder's own, which are brought to it."""
    encoder = kind(shape).eval()
    with torch.no_grad():
        own = encoder(*images(shape, 2))
        other = encoder(*images(tuple(n + 7 for n in shape), 2))
    for code in (own, other):
        assert code.whole.shape == (2, 32) and code.grid.shape == (2, 32, *encoder.grid_shape)


def test_smooth_images_have_nearly_the_same_code_at_any_size() -> None:
    encoder = LatentEncoder(2, (64, 64)).eval()

    def code(n: int) -> Tensor:
        axis = (2 * torch.arange(n) + 1) / n - 1
        wave = (1 + torch.sin(3 * axis)[:, None] * torch.cos(2 * axis)[None])[None, None] / 2
        with torch.no_grad():
            return encoder(wave, wave.flip(-1)).grid

    spread = float(code(64).std())
    assert float((code(64) - code(128)).abs().max()) < 0.05 * spread
    assert float((code(64) - code(48)).abs().max()) < 0.2 * spread


def test_a_batch_of_one_in_evaluation_mode_is_its_part_of_any_batch() -> None:
    """Nothing of a batch's statistics is used, down to a last stage of a single voxel."""
    encoder = LatentEncoder(3, (16, 16, 16))
    encoder(*images((16,) * 3, 4))  # running statistics
    encoder.eval()
    fixed, moving = images((16,) * 3, 3, seed=2)
    with torch.no_grad():
        whole = encoder(fixed, moving).part(1)
        single = encoder(fixed[1:2], moving[1:2])
    torch.testing.assert_close(single.whole, whole.whole)
    torch.testing.assert_close(single.grid, whole.grid)


def test_a_code_of_the_u_net_knows_nothing_of_other_pairs_and_sees_far() -> None:
    """In training, too; and a place's code changes with what is a third of the image away."""
    encoder = unet((24, 24)).train()
    fixed, moving = images((24, 24), 3)
    whole, single = encoder(fixed, moving).part(1), encoder(fixed[1:2], moving[1:2])
    torch.testing.assert_close(single.whole, whole.whole)
    torch.testing.assert_close(single.grid, whole.grid)
    fixed[1, 0, 12, 20] += 1
    change = (encoder(fixed[1:2], moving[1:2]).grid - single.grid)[0, :, 12, 12].norm()
    assert change.item() > 1e-4 * single.grid.std().item()


@pytest.mark.parametrize("configuration", ["small", "small-unet"])
@pytest.mark.parametrize("d", [2, 3])
def test_the_maps_are_the_identity_to_begin_with(d: int, configuration: str) -> None:
    maps = Predictor(configuration, d).eval()(*images((20,) * d))
    points = 2.4 * torch.rand(1, 50, d) - 1.2
    for found in (maps.forward, maps.backward):
        assert torch.equal(found(points), points)


def test_the_decoder_follows_its_formula() -> None:
    """Against the same sum written out for a single point."""
    network = stirred(ModulatedSiren(2, latents=3, frequencies=4, hidden=5)).double()
    point, code = torch.tensor([0.3, -0.2], dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    waves = [sum(network.frequencies[a, k] * point[a] for a in range(2)) * 2 * math.pi for k in range(4)]
    features = torch.stack([*(torch.sin(w) for w in waves), *(torch.cos(w) for w in waves)])

    def layer(module: nn.Module, values: Tensor, omega: float) -> Tensor:
        return torch.sin(omega * (module.weight @ values + module.bias))

    m, s = network.modulator, network.synthesis
    skip = layer(m[0], torch.cat([code, features]), 30)
    first = layer(m[1], skip, 30) + skip
    second = layer(m[2], first, 30) + skip
    values = layer(s[2], layer(s[1], layer(s[0], features, 1), 30) * first, 30) * second
    expected = network.last.weight @ values + network.last.bias
    torch.testing.assert_close(network(point[None], code[None])[0], expected)
    assert float(expected.detach().abs().max()) > 0


def test_the_layers_start_within_their_bounds() -> None:
    network = ModulatedSiren(3)
    bounds = {
        **{network.modulator[0]: 1 / 320, network.synthesis[0]: 1 / 256},
        **{layer: math.sqrt(6 / 128) / 30 for stack in (network.modulator, network.synthesis)
           for layer in stack[1:]},
    }  # fmt: skip
    for layer, bound in bounds.items():
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert network.frequencies.std() == pytest.approx(1, abs=0.1)
    assert "frequencies" in network.state_dict() and not network.frequencies.requires_grad


def test_a_seed_decides_the_networks_without_touching_the_global_one() -> None:
    size, before = CONFIGURATIONS["small"].sizes[2], torch.random.get_rng_state()
    one, other, third = (field_networks(size, 2, torch.Generator().manual_seed(k)) for k in (5, 5, 6))
    pairs = [(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one[0].frequencies, third[0].frequencies)
    assert not torch.equal(one[0].frequencies, one[1].frequencies)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("d", [2, 3])
def test_both_ways_of_reading_the_code_agree(d: int) -> None:
    shape = (5, 4, 7)[:d]
    code = LatentCode(torch.randn(2, 3), torch.randn(2, 4, *shape))
    points = 2.6 * torch.rand(2, 60, d) - 1.3
    read = code.at(points)
    assert read.shape == (2, 60, 7)
    torch.testing.assert_close(read, code.at(points, twice=True), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(read[1, :, :3], code.whole[1].expand(60, 3))


def test_weights_that_do_not_fit() -> None:
    good = Predictor("small", 2).state_dict()
    back = Predictor.from_weights(Weights("nephi", "small", 2, good, {}, {}, ""))
    assert not back.training and not any(p.requires_grad for p in back.parameters())
    cases = [("small", {}), ("small", dict(list(good.items())[1:])), ("paper", good), ("medium", good)]
    for configuration, tensors in cases:
        with pytest.raises(InputError):
            Predictor.from_weights(Weights("nephi", configuration, 2, dict(tensors), {}, {}, ""))
