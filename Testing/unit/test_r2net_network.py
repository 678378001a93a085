"""R2Net's U-Net, its normalised convolutions and its residual blocks: sizes, gains, bounds."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from DeepRegistrationLib.errors import Cancelled, InputError
from DeepRegistrationLib.methods.r2net import flow as flow_module
from DeepRegistrationLib.methods.r2net.flow import STEPS, LipschitzBlock, ResidualFlow
from DeepRegistrationLib.methods.r2net.network import CONFIGURATIONS, R2Net
from DeepRegistrationLib.networks.spectral import SpectralConv, norm_bound
from DeepRegistrationLib.networks.voxel_unet import VoxelUNet
from torch import Tensor, nn

LEFT = 0.9238795325
"""cos(pi / 8): how much of the gain that would be possible the strict norm leaves at least, for each axis."""


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def flattened_norm(kernel: Tensor) -> float:
    return float(torch.linalg.svdvals(kernel.detach().double().flatten(1))[0])


def dense_matrix(kernel: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A convolution with zeros outside as the matrix it is, written out entry by entry in double precision.

    Rows are outputs, columns inputs: channel, then voxel.
    """
    outputs, inputs, width = kernel.shape[:3]
    voxels = list(product(*map(range, shape)))
    index = {voxel: k for k, voxel in enumerate(voxels)}
    matrix = torch.zeros(outputs, len(voxels), inputs, len(voxels), dtype=torch.float64)
    for voxel in voxels:
        for tap in product(range(width), repeat=len(shape)):
            source = tuple(v + t - width // 2 for v, t in zip(voxel, tap, strict=True))
            if source in index:
                matrix[:, index[voxel], :, index[source]] = kernel[(..., *tap)].detach().double()
    return matrix.flatten(0, 1).flatten(1)


def largest_singular_value(matrix: Tensor) -> float:
    return float(torch.linalg.svdvals(matrix)[0])


def convolution_norm(convolution: SpectralConv, kernel: Tensor, side: int = 10, rounds: int = 60) -> float:
    """Operator norm by power iteration on the convolution itself; the transpose comes from autograd."""
    d = kernel.ndim - 2
    values = torch.randn(1, kernel.shape[1], *(side,) * d, generator=torch.Generator().manual_seed(1))
    for _ in range(rounds):
        values = (values / values.norm()).requires_grad_()
        out = convolution(values, kernel.detach())
        values = torch.autograd.grad(out, values, out.detach())[0]
    return float(values.norm()) ** 0.5


def stirred(configuration: str, dimension: int, shared: bool, seed: int = 0) -> R2Net:
    """A network whose velocities are some voxels long."""
    torch.manual_seed(seed)
    network = R2Net.named(configuration, dimension, shared)
    nn.init.normal_(network.velocity.weight, std=2.0)
    return network


@pytest.mark.parametrize(
    ("dimension", "shared", "count", "spread"),
    [(3, False, 233_434, 246), (3, True, 231_922, 246), (2, False, 77_821, 56), (2, True, 77_461, 56)],
)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_parameter_counts(dimension: int, shared: bool, count: int, spread: int, name: str) -> None:
    """The published ones are those of networks without the head for the variance."""
    c = CONFIGURATIONS[name]
    assert parameters(R2Net(replace(c, variational=False), dimension, shared)) == count
    assert parameters(R2Net(c, dimension, shared)) == count + (spread if c.variational else 0)


def test_parameter_counts_of_the_parts() -> None:
    assert parameters(VoxelUNet(3)) == 231_427
    assert parameters(LipschitzBlock(3)) == 252
    assert parameters(ResidualFlow(3, shared=False)) - parameters(ResidualFlow(3, shared=True)) == 6 * 252
    with pytest.raises(InputError, match="small, small-lncc, paper"):
        R2Net.named("tiny", 2, True)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("width", [1, 3])
def test_the_published_norm_is_followed_by_one_iteration_for_each_use(dimension: int, width: int) -> None:
    torch.manual_seed(0)
    conv = SpectralConv(dimension, 3, 3, width)
    values = torch.randn(1, 3, *(5,) * dimension)
    for _ in range(40):
        conv(values)
    conv.eval()
    assert flattened_norm(conv.kernel()) == pytest.approx(1, abs=1e-2)


def test_the_stored_vector_moves_in_training_only_and_not_with_the_gradient() -> None:
    torch.manual_seed(0)
    conv, values = SpectralConv(2, 3, 3, 3), torch.randn(1, 3, 6, 6)
    before = conv.direction.clone()
    first = conv.eval()(values)
    assert torch.equal(conv.direction, before) and torch.equal(conv(values), first)
    conv.train()(values)
    assert not torch.equal(conv.direction, before)
    assert float(conv.direction.norm()) == pytest.approx(1)
    assert not conv.direction.requires_grad and "direction" in dict(conv.named_buffers())


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_flattened_norm_does_not_bound_the_convolution_but_the_strict_one_does(dimension: int) -> None:
    """A constant kernel adds up what it overlaps: sqrt(3^d) times the flattened norm."""
    for strict, expected in ((False, 3 ** (dimension / 2)), (True, LEFT**dimension)):
        conv = SpectralConv(dimension, 1, 1, 3, strict)
        nn.init.ones_(conv.weight)
        # what a constant image gives inside, where no zeros from outside come in
        inside = conv.eval()(torch.ones(1, 1, *(5,) * dimension))[(0, 0, *(2,) * dimension)]
        assert float(inside.detach()) == pytest.approx(expected, rel=1e-5)
        norm = convolution_norm(conv, conv.kernel())
        assert norm <= 1 if strict else norm > 0.8 * expected


@pytest.mark.parametrize("shape", [(8, 7), (1, 6), (5, 4, 4), (3, 1, 5)])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_strict_norm_bounds_the_convolutions_matrix(
    shape: tuple[int, ...], width: int, seed: int
) -> None:
    """Against the largest singular value of the whole matrix, for weights of any size and channels."""
    torch.manual_seed(seed)
    d = len(shape)
    strict = SpectralConv(d, 2, 3, width, strict=True)
    strict.weight.data.mul_(10.0 ** (2 * seed - 2))
    matrix = dense_matrix(strict.kernel(), shape)
    values = torch.randn(1, 2, *shape)
    applied = (matrix @ values.flatten().double()).view(3, *shape)
    torch.testing.assert_close(strict(values)[0].detach().double(), applied, rtol=1e-4, atol=1e-5)
    norm = largest_singular_value(matrix)
    assert norm <= 1 + 1e-6
    if width == 1:
        assert norm == pytest.approx(1, rel=1e-5)  # each voxel alone: nothing to be careful about
    else:
        published = SpectralConv(d, 2, 3, width).eval()
        published.weight.data.copy_(strict.weight)
        published.direction.copy_(torch.linalg.svd(strict.weight.detach().flatten(1)).U[:, 0])
        assert flattened_norm(published.kernel()) == pytest.approx(1, rel=1e-5)
        unlimited = largest_singular_value(dense_matrix(published.kernel(), shape))
        assert min(shape) < 4 or unlimited > 1.1


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_operator_norm_is_at_most_one_in_the_strict_option_only(dimension: int, seed: int) -> None:
    torch.manual_seed(seed)
    published, strict = SpectralConv(dimension, 3, 3, 3), SpectralConv(dimension, 3, 3, 3, strict=True)
    strict.weight.data.copy_(100 * published.weight)
    for _ in range(50):
        published.kernel()
    assert flattened_norm(published.kernel()) == pytest.approx(1, abs=1e-2)
    assert convolution_norm(published, published.kernel()) > 1.2
    norm = convolution_norm(strict, strict.kernel(), side=24)
    assert 0.9 * LEFT**dimension < norm <= 1  # not much less than what would be possible


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_bound_is_above_every_frequency_and_not_far_above(dimension: int) -> None:
    """Against the transform written out as a sum, at frequencies it was not computed at."""
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        kernel = torch.randn(3, 2, *(3,) * dimension, generator=draw, dtype=torch.float64)
        frequencies = 2 * torch.pi * torch.rand(4000, dimension, generator=draw, dtype=torch.float64)
        taps = torch.tensor(list(product((-1.0, 0.0, 1.0), repeat=dimension)), dtype=torch.float64)
        waves = torch.polar(torch.ones(4000, len(taps), dtype=torch.float64), frequencies @ taps.T)
        transform = torch.einsum("ft,oit->foi", waves, kernel.flatten(2).to(waves.dtype))
        seen = float(torch.linalg.svdvals(transform).max())
        bound = float(norm_bound(kernel))
        assert seen <= bound < 1.03 * seen / LEFT**dimension


def test_both_norms_have_the_derivative_of_a_normalisation() -> None:
    """The kernel does not depend on the weight's length, so the gradient is orthogonal to it."""
    for strict in (False, True):
        torch.manual_seed(3)
        conv = SpectralConv(2, 3, 3, 3, strict).double()
        for _ in range(100):
            conv.kernel()
        conv.eval()
        assert torch.autograd.gradcheck(lambda _, c=conv: c.kernel(), (conv.weight,))
        (conv.kernel() * torch.randn_like(conv.weight)).sum().backward()
        assert abs(float((conv.weight.grad * conv.weight).detach().sum())) < 1e-10
        assert float(conv.weight.grad.abs().max()) > 1e-3


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", [(9, 12), (5, 8, 7)])
def test_seven_steps_of_at_most_half_a_voxel(strict: bool, shared: bool, shape: tuple[int, ...]) -> None:
    d = len(shape)
    torch.manual_seed(0)
    flow = ResidualFlow(d, shared, strict)
    with torch.no_grad():
        for size in (0.0, 0.1, 100.0):
            velocity = size * torch.randn(2, d, *shape)
            moved = (flow(velocity) - velocity).abs().max()
            assert float(moved) <= 3.5 * (1 + 1e-6) + 1e-6 * size
            assert (moved == 0) == (size == 0)  # zero velocity stays zero, whatever the weights
    if shared and not strict:
        assert float(moved) > 3  # the bound is met where tanh saturates


@pytest.mark.parametrize(("shared", "modules", "calls"), [(True, 1, 7), (False, 7, 1)])
def test_one_block_called_seven_times_or_seven(shared: bool, modules: int, calls: int) -> None:
    flow = ResidualFlow(2, shared)
    count = {block: 0 for block in flow.blocks}

    def seen(block: nn.Module, *_: object) -> None:
        count[block] += 1

    for block in flow.blocks:
        block.register_forward_hook(seen)
    directions = [block.first.direction.clone() for block in flow.blocks]
    weights = [block.first.weight.detach().flatten(1) for block in flow.blocks]
    flow(torch.randn(1, 2, 6, 6))
    assert len(count) == modules and set(count.values()) == {calls} and modules * calls == STEPS
    for block, u, w in zip(flow.blocks, directions, weights, strict=True):  # one power iteration, not seven
        once = w @ (w.T @ u)
        torch.testing.assert_close(block.first.direction, once / once.norm())


def test_the_steps_are_the_stated_formula() -> None:
    torch.manual_seed(0)
    flow, velocity = ResidualFlow(2, shared=False).eval(), torch.randn(1, 2, 6, 5)
    expected = velocity
    for block in flow.blocks:
        first, second = block.kernels()
        hidden = torch.conv2d(expected, first, padding=1)
        hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
        expected = expected + torch.tanh(torch.einsum("oi,bixy->boxy", second[..., 0, 0], hidden)) / 2
    torch.testing.assert_close(flow(velocity), expected)


@pytest.mark.parametrize("shared", [False, True])
def test_each_step_keeps_its_velocity_only_and_the_gradient_is_that_of_the_blocks(shared: bool) -> None:
    torch.manual_seed(0)
    flow = ResidualFlow(2, shared, strict=True).double()
    velocity = torch.randn(1, 2, 40, 41, dtype=torch.float64, requires_grad=True)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    inputs = [velocity, *flow.parameters()]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = flow(velocity)
    field = velocity.numel() * velocity.element_size()
    # the rest are kernels and what they were computed from
    assert [size for size in kept.values() if size > field / 2] == [field] * STEPS
    found = torch.autograd.grad(out.square().sum(), inputs)
    plain = velocity
    for step in range(STEPS):
        plain = flow.blocks[step % len(flow.blocks)](plain)
    expected = torch.autograd.grad(plain.square().sum(), inputs)
    torch.testing.assert_close(found, expected)


def test_a_prediction_is_spared_the_machinery_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first checkpoint of a process imports for a second; the numbers are the same without."""
    torch.manual_seed(0)
    flow, velocity = ResidualFlow(2, False, strict=True), torch.randn(1, 2, 20, 21)
    expected = flow(velocity).detach()
    monkeypatch.setattr(flow_module, "checkpoint", None)
    with torch.no_grad():
        torch.testing.assert_close(flow(velocity), expected)


def test_a_strict_block_is_invertible() -> None:
    """Its residual is a contraction by a half: the fixed-point iteration finds what went in."""
    torch.manual_seed(0)
    block = LipschitzBlock(2, strict=True).double()
    velocity = 3 * torch.randn(1, 2, 8, 9, dtype=torch.float64)
    with torch.no_grad():
        out = block(velocity)
        found = out
        for _ in range(60):
            found = out - (block(found) - found)
    torch.testing.assert_close(found, velocity, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["small", "small-lncc"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 33), (16, 32), (17, 31), (1, 9, 4), (18, 5, 11)])
def test_any_size(shape: tuple[int, ...], name: str) -> None:
    d = len(shape)
    network = stirred(name, d, True).eval()
    moving, fixed = torch.rand(2, 1, 1, *shape)
    with torch.no_grad():
        found = network(moving, fixed)
        assert found.field.shape == (1, *shape, d) and bool(found.field.isfinite().all())
        longer = [n + (-n) % 16 for n in shape]
        filled = torch.zeros(2, 1, 1, *longer)
        filled[(..., *(slice(n) for n in shape))] = torch.stack([moving, fixed])
        inside = network.unet(torch.cat(list(filled), 1))[(..., *(slice(n) for n in shape))]
        torch.testing.assert_close(network.unet(torch.cat([moving, fixed], 1)), inside)


def test_the_normalised_form_does_not_see_how_bright_and_how_strong_features_are() -> None:
    torch.manual_seed(0)
    network = VoxelUNet(2, 2, normalised=True)
    for layer in (network.down[0], network.down[2]):  # the mean and the size of what they say do not matter
        image = torch.rand(1, 2, 32, 32)
        before = network(image)
        with torch.no_grad():
            layer.weight *= 3
            layer.bias.fill_(0.4)
        torch.testing.assert_close(network(image), before, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(network(image.flip(-1)), before, atol=0.01)
    with torch.no_grad():  # but on the way up they do: how far everything moves is said there
        network.level[1].weight *= 3
    assert not torch.allclose(network(image), before, atol=0.01)


def test_the_map_is_in_voxels_of_each_axis() -> None:
    network = R2Net.named("small", 3, True).eval()
    velocity = torch.zeros(1, 3, 4, 8, 16)
    for step in network.flow.blocks:
        nn.init.zeros_(step.second.weight)
    velocity[:, 0], velocity[:, 1], velocity[:, 2] = 1.0, -2.0, 0.5
    found = network.displaced(velocity).field
    expected = torch.tensor([1 * 2 / 16, -2 * 2 / 8, 0.5 * 2 / 4])
    torch.testing.assert_close(found, expected.expand_as(found))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_no_velocity_is_the_identity(name: str) -> None:
    network = stirred(name, 2, False)
    nn.init.zeros_(network.velocity.weight)
    points = torch.rand(1, 20, 2) * 2 - 1
    assert torch.equal(network(*torch.rand(2, 1, 1, 13, 18))(points), points)


def test_a_prediction_takes_the_mean_and_a_training_draws() -> None:
    network = stirred("paper", 2, True).eval()
    nn.init.constant_(network.log_variance.bias, -1.0)
    moving, fixed = torch.rand(2, 2, 1, 20, 18)
    with torch.no_grad():
        initial = network.initial(moving, fixed)
        first, second = network(moving, fixed).field, network(moving, fixed).field
        assert torch.equal(first, second) and torch.equal(first, network.displaced(initial.mean).field)
        torch.manual_seed(0)
        drawn = initial.drawn(3000)
        assert drawn.shape == (6000, 2, 20, 18)
        torch.manual_seed(0)
        assert torch.equal(initial.drawn(3000), drawn)
    of_pair = drawn.unflatten(0, (2, 3000))  # those of a pair lie side by side
    torch.testing.assert_close(of_pair.mean(1), initial.mean, rtol=0, atol=0.08)
    torch.testing.assert_close(of_pair.var(1).log(), initial.log_variance, rtol=0, atol=0.2)
    plain = R2Net(replace(CONFIGURATIONS["paper"], variational=False), 2, True)
    assert torch.equal(*(plain.initial(moving, fixed).drawn(1) for _ in range(2)))


def test_in_evaluation_a_pair_does_not_depend_on_the_rest_of_the_batch() -> None:
    network = stirred("paper", 2, False).eval()
    moving, fixed = torch.rand(2, 3, 1, 16, 16)
    with torch.no_grad():
        alone = network(moving[1:2], fixed[1:2]).field
        torch.testing.assert_close(network(moving, fixed).field[1:2], alone, rtol=1e-4, atol=1e-5)


def test_the_order_of_the_images_matters_and_every_weight_is_reached() -> None:
    network = stirred("paper", 2, False)
    moving, fixed = torch.rand(2, 1, 1, 18, 20)
    initial = network.initial(moving, fixed)
    assert not torch.allclose(initial.mean, network.initial(fixed, moving).mean)
    nn.init.normal_(network.log_variance.weight)
    network.displaced(network.initial(moving, fixed).drawn(1)).field.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("shared", [True, False])
def test_asked_both_ways_round_equal_images_stay_and_exchanged_ones_move_back(shared: bool) -> None:
    network = stirred("small-lncc", 2, shared).eval()
    first, second = torch.rand(2, 1, 1, 17, 22)
    with torch.no_grad():
        assert not network(first, first).field.any()
        there, back = network.initial(first, second).mean, network.initial(second, first).mean
        assert float(there.abs().max()) > 0.1 and torch.equal(there, -back)
        assert torch.equal(network(first, second).field, network.displaced(there).field)
        bare = stirred("small", 2, shared).eval()
        assert bool(bare(first, first).field.any())


def test_it_is_watched_between_layers() -> None:
    network, calls = stirred("small", 2, True).eval(), []
    images = torch.rand(2, 1, 1, 16, 16)
    network(*images, lambda: calls.append(1))
    assert len(calls) == 11 + 1 + STEPS  # the U-Net's convolutions, the head, the steps

    def stop() -> None:
        raise Cancelled("The registration was cancelled.")

    with pytest.raises(Cancelled):
        network(*images, stop)
