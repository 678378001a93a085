"""NePhi's loss: what it measures, where it is zero, and what it keeps in memory."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from DeepRegistrationLib.methods.nephi.instance import from_scratch
from DeepRegistrationLib.methods.nephi.loss import BatchImages, SampledLoss, entry_gradient
from DeepRegistrationLib.methods.nephi.maps import MapPair
from DeepRegistrationLib.methods.nephi.predictor import Predictor
from DeepRegistrationLib.methods.nephi.training import TASK
from DeepRegistrationLib.networks.latent_encoder import LatentCode
from DeepRegistrationLib.training import TASKS
from DeepRegistrationLib.training.data import open_data
from torch import Tensor, nn

SOURCE = open_data("generated:shapes?size=24", 2)


@dataclass(frozen=True)
class Affine:
    """A stand-in for a network's map, known exactly."""

    matrix: Tensor
    shift: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        return points @ self.matrix.T + self.shift

    def inverse(self) -> Affine:
        back = torch.linalg.inv(self.matrix)
        return Affine(back, -back @ self.shift)

    def twice_differentiable(self) -> Affine:
        return self


@dataclass(frozen=True)
class Pair:
    """`MapPair`, of stand-ins."""

    forward: Affine
    backward: Affine
    code: LatentCode


def affine(d: int) -> Affine:
    draw = torch.Generator().manual_seed(d)
    noise = torch.randn(d, d, generator=draw, dtype=torch.float64)
    return Affine(torch.eye(d, dtype=torch.float64) + 0.2 * noise, 0.3 * noise[0])


def code(d: int, pairs: int = 1) -> LatentCode:
    grid = torch.ones(pairs, 4, *(3,) * d, dtype=torch.float64)
    return LatentCode(torch.ones(pairs, 9, dtype=torch.float64), grid)


def stirred(d: int = 2, size: float = 0.02, seed: int = 0) -> MapPair:
    """A pair of maps that move points."""
    maps = from_scratch(d, seed=seed)
    for network in maps.networks:
        nn.init.normal_(network.last.weight, std=size, generator=torch.Generator().manual_seed(seed))
    return maps


@pytest.mark.parametrize("d", [2, 3])
def test_the_regularity_is_zero_for_the_identity_and_for_exact_inverses(d: int) -> None:
    points = 2 * torch.rand(1, 40, d, dtype=torch.float64) - 1
    there = affine(d)
    still = Affine(torch.eye(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64))
    assert float(entry_gradient(still, still, points)) == 0
    for first, second in ((there, there.inverse()), (there.inverse(), there)):
        assert float(entry_gradient(first, second, points)) < 1e-28
    drift = Affine(there.inverse().matrix, there.inverse().shift + 0.1)  # a drift costs nothing
    assert float(entry_gradient(there, drift, points)) < 1e-28
    fresh = from_scratch(d)
    one, other = fresh.forward.twice_differentiable(), fresh.backward.twice_differentiable()
    assert float(entry_gradient(one, other, points.float()).detach()) == 0


@pytest.mark.parametrize("d", [2, 3])
def test_the_regularity_is_the_mean_squared_entry_for_linear_maps(d: int) -> None:
    a, b = affine(d), Affine(2 * affine(d).matrix.T, torch.zeros(d, dtype=torch.float64))
    expected = float((a.matrix @ b.matrix - torch.eye(d)).square().mean())
    assert float(entry_gradient(a, b, torch.rand(2, 9, d, dtype=torch.float64))) == pytest.approx(expected)


def test_the_loss_is_made_of_its_terms() -> None:
    """Planted affine maps over linear intensities, whose correlation is known."""
    a = affine(2)
    axis = (2 * torch.arange(64, dtype=torch.float64) + 1) / 64 - 1
    ramp = axis.expand(1, 1, 64, 64).contiguous()  # grows along x
    images = BatchImages(ramp, -ramp)
    pair = Pair(a, a, code(2))
    terms = SampledLoss(4000, 50, weight=7, prior=0.3)(pair, images, torch.Generator().manual_seed(0))
    expected = float((a.matrix @ a.matrix - torch.eye(2)).square().mean())
    assert float(terms["inverse_consistency"]) == pytest.approx(expected)
    assert float(terms["prior"]) == pytest.approx(3 + 2)  # lengths, not squares, of ones
    total = terms["similarity"] + 7 * terms["inverse_consistency"] + 0.3 * terms["prior"]
    torch.testing.assert_close(terms["loss"], total)
    still = Affine(torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    opposite = SampledLoss(500, 50)(Pair(still, still, code(2)), images, torch.Generator().manual_seed(0))
    assert float(opposite["similarity"]) == pytest.approx(2, abs=1e-9)


def test_the_directions_are_not_mixed_up() -> None:
    """A ball that lies further right in the moving image: only its own direction's map brings it back."""
    axis = (2 * torch.arange(48, dtype=torch.float64) + 1) / 48 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")

    def ball(centre: float) -> Tensor:
        return torch.sigmoid(20 * (0.4 - ((x - centre) ** 2 + y**2).sqrt()))[None, None]

    eye = torch.eye(2, dtype=torch.float64)
    right, left = (Affine(eye, torch.tensor([s, 0.0], dtype=torch.float64)) for s in (0.3, -0.3))
    images = BatchImages(ball(0.0), ball(0.3))

    def unlike(forward: Affine, backward: Affine) -> float:
        terms = SampledLoss(4000, 20)(Pair(forward, backward, code(2)), images, torch.manual_seed(0))
        return float(terms["similarity"])

    assert unlike(right, left) < 0.01
    assert unlike(left, right) > 0.5


def test_a_batch_is_the_mean_of_its_pairs() -> None:
    batch = SOURCE.batch(3, 0, 0)
    network = Predictor("small", 2).eval()
    for field in network.fields:
        nn.init.normal_(field.last.weight, std=0.02)
    loss = SampledLoss(300, 40)

    def value(k: slice) -> float:
        fixed, moving = batch.fixed[k], batch.moving[k]
        return float(
            loss(network(fixed, moving), BatchImages(fixed, moving), torch.manual_seed(0))["loss"].detach()
        )

    whole, single = value(slice(0, 3)), [value(slice(k, k + 1)) for k in range(3)]
    assert whole == pytest.approx(sum(single) / 3, rel=1e-4)


def test_points_are_drawn_anew_and_separately() -> None:
    seen: list[Tensor] = []

    class Watched(BatchImages):
        def fixed_at(self, points: Tensor) -> Tensor:
            seen.append(points.detach())
            return super().fixed_at(points)

    maps, image = from_scratch(2), torch.rand(1, 1, 16, 16)
    draw = torch.Generator().manual_seed(0)
    for _ in range(2):
        SampledLoss(30, 8)(maps, Watched(image, image), draw)
    assert all(p.shape == (1, 30, 2) and float(p.abs().max()) <= 1 for p in seen)
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


@pytest.mark.parametrize("d", [2, 3])
def test_what_a_step_keeps_does_not_grow_with_the_images(d: int) -> None:
    """Bytes kept for the derivative, the images themselves left out."""

    def kept(n: int) -> int:
        fixed, moving = torch.rand(2, 1, 1, *(n,) * d).unbind(0)
        own = {fixed.untyped_storage().data_ptr()}
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
                held.append(tensor)  # so that no address is used twice
            return tensor

        held: list[Tensor] = []
        maps = stirred(d)
        maps.networks.requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            SampledLoss(200, 20)(maps, BatchImages(fixed, moving), torch.Generator().manual_seed(0))
        return sum(sizes.values())

    small, large = kept(12), kept(36)
    assert small > 200 * 128 * 4
    assert large == small


def test_every_weight_learns() -> None:
    network, batch = TASK.network("small", 2), SOURCE.batch(3, 0, 0)
    assert TASKS["nephi"] is TASK
    optimiser = TASK.optimiser(network, TASK.stages("small")[0])
    draw = torch.Generator().manual_seed(0)
    for _ in range(2):  # while the last layers are zero nothing reaches the others
        optimiser.zero_grad()
        TASK.loss(network, batch, 0.0, draw)["loss"].backward()
        optimiser.step()
    still = [n for n, p in network.named_parameters() if p.grad is None or float(p.grad.abs().max()) == 0]
    # what normalisation takes out again
    assert all(n.startswith("encoder") and n.endswith("0.bias") for n in still), still


def test_some_steps_of_training_help() -> None:
    torch.manual_seed(0)
    network, batch = TASK.network("small", 2), SOURCE.batch(3, 0, 0)
    optimiser = TASK.optimiser(network, TASK.stages("small")[0])
    losses = []
    for step in range(15):
        optimiser.zero_grad()
        terms = TASK.loss(network, batch, 0.0, torch.Generator().manual_seed(step))
        terms["loss"].backward()
        optimiser.step()
        losses.append(float(terms["similarity"].detach()))
    assert losses[-1] < 0.9 * losses[0]
    network.eval()
    with torch.no_grad():
        assert TASK.displacement(network, batch).shape == (3, 24, 24, 2)


def test_the_networks_of_the_position_learn_slower_than_the_encoder() -> None:
    network, stage = TASK.network("small", 2), TASK.stages("small")[0]
    groups = TASK.optimiser(network, stage).param_groups
    assert [group["lr"] for group in groups] == [1e-3, 1e-4]
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_the_terms_one_by_one_are_the_loss() -> None:
    """Differentiated one after another, as a fit does to save memory, and as a whole."""
    images = BatchImages(*torch.rand(2, 1, 1, 20, 20).unbind(0))
    maps, loss = stirred(), SampledLoss(50, 10, weight=3.0, prior=0.2)
    maps.networks.requires_grad_()
    parameters = list(maps.networks.parameters())

    def whole() -> tuple[Tensor, ...]:
        terms = loss(maps, images, torch.Generator().manual_seed(4))
        return torch.autograd.grad(terms["loss"], parameters)

    sums = [torch.zeros_like(p) for p in parameters]
    for name, share, term in loss.terms(maps, images, torch.Generator().manual_seed(4)):
        if name != "prior":  # which the weights have no part in
            gradients = torch.autograd.grad(loss.weights[name] * share * term, parameters, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                total += 0 if gradient is None else gradient
    for total, gradient in zip(sums, whole(), strict=True):
        torch.testing.assert_close(total, gradient, rtol=1e-4, atol=1e-6)


def test_the_published_recipe() -> None:
    stage = TASK.stages("paper")[0]
    assert (stage.rate, stage.batch) == (1e-4, 8)
    assert TASK.convention("paper", 3)["shape"] == [175] * 3
    network = TASK.network("paper", 3)
    assert {group["lr"] for group in TASK.optimiser(network, stage).param_groups} == {1e-4}
    loss = network.loss()
    assert (loss.similarity_points, loss.regularity_points) == (100_000, 500)
    assert (loss.weight, loss.prior) == (10, 0.01)
