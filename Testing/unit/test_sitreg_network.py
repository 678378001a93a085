"""SITReg's network: its size, its symmetry, and what its levels see."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import pytest
import torch
from DeepRegistrationLib.errors import Cancelled, InputError
from DeepRegistrationLib.methods.maps import BatchMap, voxel_centres
from DeepRegistrationLib.methods.sitreg.affine import AffineStage
from DeepRegistrationLib.methods.sitreg.extraction import Extraction, swapped
from DeepRegistrationLib.methods.sitreg.network import CONFIGURATIONS, Configuration, SitRegNetwork
from DeepRegistrationLib.networks.feature_pyramid import FeaturePyramid
from DeepRegistrationLib.progress import CancelToken, Reporter
from DeepRegistrationLib.weights import Weights
from torch import Tensor, nn

SMALL = Configuration((4, 6, 6), (6, 8, 8))
WITH_AFFINE = Configuration((4, 6, 6, 8), (6, 8, 8), affine=True)
SHAPES = [(16, 24), (17, 22), (9, 12, 8), (11, 13, 10)]
SPACING = (1.0, 2.5, 0.7)


@pytest.fixture(autouse=True)
def untouched_generator() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def images(shape: tuple[int, ...], batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, batch, 1, *shape, generator=generator, dtype=dtype)


@torch.no_grad()
def both(network: SitRegNetwork, one: Tensor, other: Tensor, **options) -> list[Tensor]:
    shape, d = one.shape[2:], one.ndim - 2
    maps = network(one, other, SPACING[:d], **options).directions()
    return [m.displacement(shape) * torch.tensor(shape[::-1]) / 2 for m in maps]


@pytest.mark.parametrize(
    ("configuration", "count"),
    [
        (Configuration((8, *(40,) * 3), (16, *(72,) * 3)), 1_196_820),
        (Configuration((8, *(36,) * 4), (16, *(62,) * 4)), 1_234_615),
        (Configuration((8, *(36,) * 5), (16, *(62,) * 5)), 1_541_180),
        (Configuration((8, *(36,) * 6), (16, *(62,) * 6)), 1_847_745),
        (CONFIGURATIONS["affine"], 2_464_872),
        (
            Configuration(
                (12, 32, 64, 128, 128, 128), (12, 64, 128, 256, 256, 256), groups=4, extraction_groups=4
            ),
            15_076_110,
        ),
    ],
    ids=["OASIS", "OASIS deep", "Lung250M", "LPBA40", "OASIS raw", "LUMIR"],
)
def test_as_many_weights_as_published(configuration: Configuration, count: int) -> None:
    with torch.device("meta"):
        network = SitRegNetwork(configuration, 3)
    assert sum(p.numel() for p in network.parameters()) == count


def test_the_configurations_by_name() -> None:
    for (name, d), count in {("paper", 3): 1_196_820, ("small", 3): 409_140, ("small", 2): 139_816}.items():
        assert sum(p.numel() for p in SitRegNetwork.named(name, d).parameters()) == count
    with pytest.raises(InputError, match="choose small, paper, affine"):
        SitRegNetwork.named("medium", 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("configuration", [SMALL, WITH_AFFINE], ids=["plain", "affine"])
@pytest.mark.parametrize("complete", [False, True])
def test_exchanging_the_images_exchanges_the_maps(
    shape: tuple[int, ...], configuration: Configuration, complete: bool
) -> None:
    network = SitRegNetwork(configuration, len(shape))
    one, other = images(shape)
    there, back = both(network, one, other, complete=complete)
    swapped_there, swapped_back = both(network, other, one, complete=complete)
    assert there.abs().max() > 0.05  # an untrained network does something
    for found, expected in ((swapped_there, back), (swapped_back, there)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("configuration", [SMALL, WITH_AFFINE], ids=["plain", "affine"])
@pytest.mark.parametrize("complete", [False, True])
def test_equal_images_are_left_alone(
    shape: tuple[int, ...], configuration: Configuration, complete: bool
) -> None:
    one, _ = images(shape)
    found = both(SitRegNetwork(configuration, len(shape)), one, one.clone(), complete=complete)
    for displacement in found:  # two inversions a level, each below 0.01 voxel
        assert displacement.abs().max() < (1e-2 if complete else 0.01 * 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_map_undoes_the_other(shape: tuple[int, ...]) -> None:
    network = SitRegNetwork(WITH_AFFINE, len(shape))
    one, other = images(shape)
    for complete, limit in ((True, 0.01), (False, 0.1)):
        with torch.no_grad():
            there, back = network(one, other, SPACING[: len(shape)], complete).directions()
        points = 0.5 * voxel_centres(shape, one)
        points = points.expand(2, *points.shape)
        for a, b in ((there, back), (back, there)):
            error = (a(b(points)) - points) * torch.tensor(shape[::-1]) / 2
            assert error.abs().max() < limit


def test_a_pair_does_not_depend_on_the_others_of_its_batch() -> None:
    network = SitRegNetwork(WITH_AFFINE, 2).double()
    one, other = images((17, 22), 3, torch.float64)
    together = both(network, one, other)
    alone = both(network, one[1:2], other[1:2])
    for a, b in zip(together, alone, strict=True):
        # the inverses stop with the whole batch: only their tolerance differs
        torch.testing.assert_close(a[1:2], b, rtol=0, atol=0.02)


@pytest.mark.parametrize("shape", [(8, 8), (1, 9), (5, 3, 2)])
def test_sizes_below_the_coarsest_voxel(shape: tuple[int, ...]) -> None:
    found = both(SitRegNetwork(WITH_AFFINE, len(shape)), *images(shape, 1))
    assert all(u.shape == (1, *shape, len(shape)) and u.isfinite().all() for u in found)


def test_every_weight_learns() -> None:
    network = SitRegNetwork(WITH_AFFINE, 2)
    maps: BatchMap = network(*images((16, 20)), SPACING[:2]).maps
    maps.on_grid((16, 20)).square().sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_what_constant_displacements_come_to() -> None:
    """With u12 = a and u21 = -a the update is 2 a on either side, and the map 4 a, along x."""
    network = SitRegNetwork(Configuration((2,), (2,)), 2)
    network.extractions[0] = _Constant()
    u, v = both(network, *images((12, 14), 1))
    expected = torch.tensor([4 * 0.99 * 0.45 * math.tanh(0.2), 0.0]).expand(1, 12, 14, 2)  # voxels
    torch.testing.assert_close(u, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(v, -expected, rtol=1e-4, atol=1e-5)


class _Constant(nn.Module):
    """Stands in for an extraction network: 0.2 along x, with the sign of the order."""

    def forward(self, features: Tensor, watch: object) -> Tensor:
        x = torch.full_like(features[:1, :1], 0.2)
        along_x = torch.cat([x, torch.zeros_like(x)], 1)
        return torch.cat([along_x, -along_x])


# --- its parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 8), (13, 9), (7, 5, 6)])
def test_the_pyramids_sizes(shape: tuple[int, ...]) -> None:
    features = FeaturePyramid(len(shape), (4, 6, 8))(torch.rand(3, 1, *shape))
    for k, level in enumerate(features):
        assert level.shape == (3, (4, 6, 8)[k], *(-(-n // 2**k) for n in shape))


def test_a_coarse_feature_lies_where_its_block_of_voxels_lies() -> None:
    """A pyramid whose skips are plain means, seen without its blocks."""
    pyramid = FeaturePyramid(2, (1, 1, 1), groups=1)
    with torch.no_grad():
        for parameter in pyramid.parameters():
            parameter.zero_()
        for project in pyramid.project:
            project.weight.fill_(1.0)
    pyramid.blocks = nn.ModuleList(nn.Sequential() for _ in range(3))
    image = torch.rand(1, 1, 8, 12)
    with torch.no_grad():
        levels = pyramid(image)
    blocks = image.reshape(1, 1, 2, 4, 3, 4).mean((3, 5))
    torch.testing.assert_close(levels[2], blocks)


@pytest.mark.parametrize("groups", [None, 2])
def test_extraction_sees_both_orders_alike(groups: int | None) -> None:
    network = Extraction(2, 4, 6, groups)
    features = torch.rand(6, 4, 7, 8)
    with torch.no_grad():
        found = network(features)
        torch.testing.assert_close(network(swapped(features)), swapped(found))
        torch.testing.assert_close(found[:3], network.last(network.units(_ordered(features))))
    assert found.shape == (6, 2, 7, 8) and not torch.equal(found[:3], found[3:])


def _ordered(features: Tensor) -> Tensor:
    a, b = features.chunk(2)
    return torch.cat([a - b, a + b], 1)


@pytest.mark.parametrize("d", [2, 3])
def test_the_affine_stage_is_antisymmetric_and_uses_both_hidden_layers(d: int) -> None:
    stage = AffineStage(d, 5).double()
    features, extent = torch.randn(4, 5, *(2,) * d, dtype=torch.float64), (3.0, 1.5, 2.0)[:d]
    found = stage(features, extent)
    assert found.shape == (4, d + 1, d + 1) and (torch.linalg.det(found) > 0).all()
    eye = torch.eye(d + 1, dtype=torch.float64)
    torch.testing.assert_close(found[:2] @ found[2:], eye.expand(2, -1, -1))
    torch.testing.assert_close(stage(swapped(features), extent), swapped(found))
    assert not torch.allclose(found, eye)
    found.square().sum().backward()
    assert all(p.grad.any() for p in stage.parameters())
    linear = [layer for layer in stage.layers if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        linear[0].bias.add_(1.0)  # the first layer matters to the result
        assert not torch.allclose(stage(features, extent), found)


def test_the_affine_stage_works_in_isotropic_coordinates() -> None:
    """A rotation in a box twice as long as wide is a rotation in millimetres."""
    stage = AffineStage(2, 3).double()
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.zero_()
        # only the turn, of opposite signs for the two orders
        stage.layers = _Turn()
        extent = (20.0, 10.0)
        found = stage(torch.rand(2, 3, 1, 1, dtype=torch.float64), extent)[0]
    scale = torch.diag(torch.tensor([10.0, 5.0], dtype=torch.float64))
    in_mm = scale @ found[:2, :2] @ torch.linalg.inv(scale)
    angle = torch.tensor(0.6, dtype=torch.float64)
    c, s = angle.cos(), angle.sin()
    torch.testing.assert_close(in_mm, torch.stack([torch.stack([c, s]), torch.stack([-s, c])]))


class _Turn(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        numbers = values.new_zeros(2, 6)
        numbers[0, 3], numbers[1, 3] = 0.3, -0.3
        return numbers


# --- around it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("complete", [False, True])
def test_it_can_be_cancelled_at_any_layer_and_within_an_inversion(complete: bool) -> None:
    def calls_until(last: float) -> int:
        token, count = CancelToken(), []
        report = Reporter(cancel=token)

        def watch() -> None:
            count.append(1)
            if len(count) == last:
                token.cancel()
            report("Predicting", 0.0)

        with contextlib.suppress(Cancelled):
            both(SitRegNetwork(SMALL, 2), *images((16, 24)), complete=complete, watch=watch)
        return len(count)

    calls = calls_until(math.inf)
    layers = 6 + 4  # of the pyramid's and of an extraction's blocks
    assert calls >= 3 * (layers + 2) + (3 * 4 if complete else 0)  # two iterations of an inversion at least
    for last in (1, layers, calls // 2, calls - 1):
        assert calls_until(last) == last


def test_weights_bring_it_back_and_wrong_ones_are_refused() -> None:
    network = SitRegNetwork.named("small", 2)
    state = dict(network.state_dict())
    back = SitRegNetwork.from_weights(Weights("sitreg", "small", 2, state, {}, {}, ""))
    assert not back.training and not any(p.requires_grad for p in back.parameters())
    assert torch.equal(both(back, *images((16, 24)))[0], both(network, *images((16, 24)))[0])
    for configuration, tensors in (
        ("small", {}),
        ("small", dict(list(state.items())[1:])),
        ("paper", state),
        ("unknown", state),
    ):
        with pytest.raises(InputError):
            SitRegNetwork.from_weights(Weights("sitreg", configuration, 2, tensors, {}, {}, ""))
