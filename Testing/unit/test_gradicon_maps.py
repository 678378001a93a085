"""Maps as functions, and the steps that make one predictor of several networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.methods.gradicon.predictor import Predictor
from DeepRegistrationLib.methods.gradicon.steps import Displace, Downsample, TwoStep, multi_step
from DeepRegistrationLib.methods.maps import (
    BatchMap,
    ComposedMap,
    FieldMap,
    LargerBoxMap,
    read_at,
    voxel_centres,
)
from torch import Tensor, nn

DOUBLE = torch.float64


def random_map(seed: int, shape: tuple[int, ...], batch: int = 2) -> FieldMap:
    generator = torch.Generator().manual_seed(seed)
    return FieldMap(0.3 * torch.randn(batch, *shape, len(shape), generator=generator, dtype=DOUBLE))


def points(seed: int, d: int, batch: int = 2, count: int = 50) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, count, d, generator=generator, dtype=DOUBLE) * 2.4 - 1.2


class Constant(nn.Module):
    """A network that always gives the same displacement and remembers what it saw."""

    def __init__(self, *output: float) -> None:
        super().__init__()
        self.output = torch.tensor(output, dtype=DOUBLE)
        self.seen: Tensor | None = None

    def forward(self, image: Tensor) -> Tensor:
        self.seen = image
        shape = image.shape[2:]
        return self.output.view(1, -1, *(1,) * len(shape)).expand(len(image), -1, *shape)


class Sized(Constant):
    """A network whose displacement is a fixed random field on whatever lattice it sees."""

    def forward(self, image: Tensor) -> Tensor:
        self.seen = image
        generator = torch.Generator().manual_seed(3)
        d = image.ndim - 2
        return torch.randn(len(image), d, *image.shape[2:], generator=generator, dtype=DOUBLE)


@pytest.mark.parametrize("shape", [(5, 7), (4, 5, 6)])
def test_composition_is_associative_and_in_the_right_order(shape: tuple[int, ...]) -> None:
    a, b, c = (random_map(k, shape) for k in range(3))
    p = points(7, len(shape))
    left, right = ComposedMap(ComposedMap(a, b), c), ComposedMap(a, ComposedMap(b, c))
    assert torch.equal(left(p), right(p))
    assert torch.equal(left(p), a(b(c(p))))
    assert not torch.allclose(left(p), c(b(a(p))))


@pytest.mark.parametrize("shape", [(5, 7), (4, 5, 6)])
def test_the_grid_shortcut_changes_no_value(shape: tuple[int, ...]) -> None:
    maps: list[BatchMap] = [random_map(0, shape), ComposedMap(random_map(1, shape), random_map(2, shape))]
    maps.append(LargerBoxMap(maps[1], (1.2,) * len(shape)))
    for one in maps:
        for lattice in (shape, tuple(n + 3 for n in shape)):
            grid = voxel_centres(lattice, one.field).expand(2, *lattice, len(shape))
            torch.testing.assert_close(one.on_grid(lattice), one(grid), rtol=0, atol=1e-12)
            torch.testing.assert_close(one.displacement(lattice), one(grid) - grid, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 7), (4, 5, 6)])
def test_parts_and_the_twice_differentiable_reading_are_the_same_map(shape: tuple[int, ...]) -> None:
    one = LargerBoxMap(ComposedMap(random_map(1, shape), random_map(2, shape)), (1.1,) * len(shape))
    p = points(5, len(shape))
    torch.testing.assert_close(one.part(1, 2)(p[1:]), one(p)[1:])
    torch.testing.assert_close(one.twice_differentiable()(p), one(p))
    # the derivative of a derivative, which the fast reading does not have
    p.requires_grad_()
    slope = torch.autograd.grad(one.twice_differentiable()(p).sum(), p, create_graph=True)[0]
    torch.autograd.grad(slope.square().sum(), p)


def test_components_are_x_y_and_a_unit_of_output_is_a_tenth_of_the_training_images_side() -> None:
    image = torch.zeros(1, 1, 10, 10, dtype=DOUBLE)
    moved = Displace(Constant(1.0, 0.0), 10)(image, image).displacement((10, 10))
    torch.testing.assert_close(moved[..., 0], torch.full((1, 10, 10), 0.2, dtype=DOUBLE))  # of a box 2 wide
    assert not moved[..., 1].any()


def test_a_unit_of_output_is_as_long_along_all_sides_of_a_thin_image() -> None:
    image = torch.zeros(1, 1, 4, 20, 10, dtype=DOUBLE)
    moved = Displace(Constant(1.0, 1.0, 1.0), 10)(image, image).displacement((4, 20, 10))
    voxels = moved * torch.tensor([10, 20, 4], dtype=DOUBLE) / 2
    torch.testing.assert_close(voxels, torch.ones_like(voxels))


def test_the_second_step_sees_the_moving_image_warped_by_the_first() -> None:
    shape = (6, 10)
    moving, fixed = torch.rand(2, 1, *shape, dtype=DOUBLE), torch.rand(2, 1, *shape, dtype=DOUBLE)
    first, second = Constant(1.0, 0.0), Constant(0.0, 0.5)
    result = TwoStep(Displace(first, 10), Displace(second, 6))(moving, fixed)
    # 0.2 normalised units are one voxel of ten: values come from the right
    torch.testing.assert_close(second.seen[:, 0, :, :-1], moving[:, 0, :, 1:])
    assert torch.equal(second.seen[:, 1:], fixed)
    p = points(1, 2)
    torch.testing.assert_close(result(p), p + torch.tensor([0.2, 0.1], dtype=DOUBLE))


def test_a_step_after_which_nothing_happens_changes_nothing() -> None:
    torch.manual_seed(0)
    one = Predictor("small", 2, 1).double()
    nn.init.normal_(one.step.network.last.weight, std=0.3)
    fresh = Predictor("small", 2, 1).double()
    moving, fixed = torch.rand(2, 1, 12, 17, dtype=DOUBLE), torch.rand(2, 1, 12, 17, dtype=DOUBLE)
    p = points(2, 2)
    before, after = one(moving, fixed)(p), TwoStep(one.step, fresh.step)(moving, fixed)(p)
    assert (before - p).abs().max() > 0.01
    assert torch.equal(before, after)
    one.extend()
    assert torch.equal(one(moving, fixed)(p), before)


@pytest.mark.parametrize("shape", [(8, 12), (4, 6, 8)])
def test_a_coarse_step_is_its_displacement_upsampled(shape: tuple[int, ...]) -> None:
    images = torch.rand(2, 2, 1, *shape, dtype=DOUBLE)
    network = Sized()
    found = Downsample(Displace(network, 10))(*images).displacement(shape)
    assert network.seen.shape[2:] == tuple(n // 2 for n in shape)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    expected = F.interpolate(network(network.seen), size=shape, mode=mode, align_corners=False)
    box = torch.tensor([n / 2 for n in reversed(shape)], dtype=DOUBLE)  # coarse voxels
    torch.testing.assert_close(found * box / 2, expected.movedim(1, -1))  # a tenth of ten of them


@pytest.mark.parametrize("shape", [(9, 7), (5, 6, 1)])
def test_odd_sizes_are_neither_stretched_nor_shifted(shape: tuple[int, ...]) -> None:
    """Padding the far end to an even size by hand, and cutting it off, gives the same map."""
    d = len(shape)
    images = torch.rand(2, 2, 1, *shape, dtype=DOUBLE)
    even = tuple(n + n % 2 if n > 1 else 1 for n in shape)
    pads = [k for n, m in zip(reversed(shape), reversed(even), strict=True) for k in (0, m - n)]
    padded = [F.pad(i, pads, mode="replicate") for i in images]
    step = Downsample(Displace(Sized(), 10))
    cut = (slice(None), *(slice(n) for n in shape))
    scale = torch.tensor([m / n for n, m in zip(shape, even, strict=True)][::-1], dtype=DOUBLE)
    expected = step(*padded).displacement(even)[cut] * scale
    found = step(*images)
    torch.testing.assert_close(found.displacement(shape), expected)
    assert isinstance(found, LargerBoxMap) and found.ratio[d - 1] == even[0] / shape[0]


class Recorder(nn.Module):
    """A network that writes down its name and how wide the images are."""

    def __init__(self, name: str, log: list[tuple[str, int]]) -> None:
        super().__init__()
        self.name, self.log = name, log

    def forward(self, image: Tensor) -> Tensor:
        self.log.append((self.name, image.shape[-1]))
        return torch.zeros(len(image), 2, *image.shape[2:])


@pytest.mark.parametrize(("coarser", "sizes"), [(2, [8, 16, 32, 32]), (0, [32] * 4), (3, [4, 8, 16, 32])])
def test_which_network_sees_which_resolution(coarser: int, sizes: list[int]) -> None:
    log: list[tuple[str, int]] = []
    step = multi_step([Recorder(name, log) for name in "abcd"], coarser, 32)
    step(torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32))
    assert log == list(zip("abcd", sizes, strict=True))


def test_no_network_at_full_resolution() -> None:
    for networks, coarser in (([], 0), ([Constant(0, 0)], 1)):
        with pytest.raises(InputError):
            multi_step(networks, coarser, 32)


def test_reading_repeats_the_border() -> None:
    image = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 3, 4)
    p = torch.tensor([[[-5.0, 0.0], [0.0, 0.0], [3.0, 0.0]]])
    assert read_at(image, p)[0, 0].tolist() == [0.0, 1.5, 3.0]
