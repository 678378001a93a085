"""DIO's feature networks: published sizes, shapes of what they give, and that images never meet."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.filters import gaussian_smooth
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods.dio.features import KINDS, FeatureNetwork, features_of
from DeepRegistrationLib.methods.dio.training import CONFIGURATIONS
from torch import nn

SMALL = {kind: FeatureNetwork(kind, (8, 16, 16), 4, 8) for kind in KINDS}


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("network", "dimension", "parameters", "published"),
    [
        (FeatureNetwork(), 3, 523_546, "524"),
        (FeatureNetwork(), 2, 175_498, "175"),
        (FeatureNetwork(channels=8), 3, 463_026, "463"),
        (FeatureNetwork(widths=(8, 16, 16), channels=8), 2, 20_854, "21"),
        (FeatureNetwork("lku"), 3, 8_972_070, "8972"),
        (FeatureNetwork("lku", start=8), 3, 2_295_518, "2296"),
        (FeatureNetwork("lku", start=6), 3, 1_310_920, "1311"),
        (FeatureNetwork("lku", start=4), 3, 600_138, "600"),
        (FeatureNetwork("lku"), 2, 2_385_926, "2386"),
        (FeatureNetwork("lku", start=8), 2, 614_350, "614"),
        (FeatureNetwork("lku", start=6), 2, 352_276, "352"),
        (FeatureNetwork("lku", start=4), 2, 162_530, "163"),
    ],
)
def test_parameters_are_as_many_as_published(
    network: FeatureNetwork, dimension: int, parameters: int, published: str
) -> None:
    assert count(network.build(dimension)) == parameters
    assert f"{parameters / 1000:.0f}" == published


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(33, 20), (21, 18, 9)])
def test_any_size_gives_levels_that_cover_the_box(kind: str, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    frame = Frame.regular(size, 1.5)
    network = SMALL[kind].build(len(size))
    features = features_of(network, Volume(torch.rand(1, *frame.shape), frame))
    assert len(features.levels) == {"lku": 4, "stem": 2}.get(kind, 3) and features.frame == frame
    first = features.levels[0].frame
    assert first.spacing == frame.spacing and first.origin == frame.origin
    for k, level in enumerate(features.levels):
        assert level.channels == 8 and level.data.isfinite().all() and level.data.std() > 1e-3
        assert level.frame.spacing == pytest.approx([1.5 * 2**k] * len(size))
        assert bool(level.frame.contains(frame.points()).all())


@pytest.mark.parametrize("kind", KINDS)
def test_images_in_one_batch_do_not_meet(kind: str) -> None:
    torch.manual_seed(0)
    network = SMALL[kind].build(2)
    a, b, c = (torch.rand(1, 1, 32, 32) for _ in range(3))
    for with_b, with_c in zip(network(torch.cat([a, b])), network(torch.cat([a, c])), strict=True):
        torch.testing.assert_close(with_b[0], with_c[0])
        assert not torch.allclose(with_b[1], with_c[1])


def test_a_feature_sits_where_its_level_says() -> None:
    """The U-Net's lattices are exact: an image and its mirror image have mirrored levels of the same box."""
    torch.manual_seed(0)
    network = FeatureNetwork("unet-e", (8, 16, 16), channels=8).build(2)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # symmetric kernels commute with mirroring
            module.weight.data = module.weight.data + module.weight.data.flip(-1)
    image = torch.rand(1, 1, 32, 32)
    for one, other in zip(network(image), network(image.flip(-1)), strict=True):
        torch.testing.assert_close(one, other.flip(-1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(33, 20), (21, 18, 9)])
def test_a_margin_continues_the_image_and_keeps_its_place(size: tuple[int, ...]) -> None:
    """Features with a margin are those of an image on the larger box, where that has them."""
    d, margin = len(size), 8
    turn = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(1)).double())[0]
    frame = Frame(size, (1.5, 2.0, 1.2)[:d], (3.0, -5.0, 7.0)[:d], tuple(map(tuple, turn.tolist())))
    image = torch.rand(1, *frame.shape, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(0)
    plain, wide = (replace(SMALL["unet"], margin=m).build(d) for m in (0, margin))
    wide.load_state_dict(plain.state_dict())
    around = nn.functional.pad(image[None], (margin, margin) * d, mode="replicate")[0]
    corner = frame.points()[(0,) * d] - turn @ torch.tensor(frame.spacing, dtype=torch.float64) * margin
    larger = Frame(
        tuple(n + 2 * margin for n in size), frame.spacing, tuple(corner.tolist()), frame.direction
    )
    found, expected = features_of(wide, Volume(image, frame)), features_of(plain, Volume(around, larger))
    assert found.frame == frame
    for one, other in zip(found.levels, expected.levels, strict=True):
        assert torch.equal(one.data, other.data)
        torch.testing.assert_close(one.frame.points(), other.frame.points())


def test_weights_from_before_there_were_margins_have_none() -> None:
    values = {k: v for k, v in asdict(FeatureNetwork()).items() if k != "margin"}
    assert FeatureNetwork.from_mapping(values).margin == 0


@pytest.mark.parametrize("kind", SMALL)
def test_smoothed_features_are_the_plain_ones_after_a_gaussian(kind: str) -> None:
    built = []
    for smoothing in (0.0, 1.0):
        torch.manual_seed(0)
        built.append(replace(SMALL[kind], smoothing=smoothing).build(2))
    image = torch.rand(1, 1, 32, 32)
    for plain, smooth in zip(*(network(image) for network in built), strict=True):
        torch.testing.assert_close(smooth, gaussian_smooth(plain, (1.0, 1.0), border="replicate"))
        assert smooth.var() < plain.var()


def test_weights_of_earlier_versions_do_not_smooth() -> None:
    values = {k: v for k, v in asdict(FeatureNetwork()).items() if k != "smoothing"}
    assert FeatureNetwork.from_mapping(values) == FeatureNetwork()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_comes_back_from_json(name: str) -> None:
    features = CONFIGURATIONS[name].features
    values = asdict(features) | {"widths": list(features.widths)}
    assert FeatureNetwork.from_mapping(values) == features


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"kind": "transformer"},
            {"widths": [0]},
            {"widths": []},
            {"start": "16"},
            {"margin": -1},
            {"more": 1},
        ),
        *({"smoothing": -1}, {"smoothing": "1"}),
    ],
)
def test_a_wrong_description_is_a_sentence(wrong: dict) -> None:
    with pytest.raises(InputError):
        FeatureNetwork.from_mapping(asdict(replace(FeatureNetwork())) | wrong)
