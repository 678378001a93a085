"""Learning features from known maps: the loss against loops, and what it rewards."""

from __future__ import annotations

import math

import pytest
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.methods.dio import matching
from DeepRegistrationLib.methods.dio.features import padded
from DeepRegistrationLib.methods.dio.matching import match_loss
from DeepRegistrationLib.methods.dio.training import TASK
from DeepRegistrationLib.training import Batch
from torch import Tensor


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shifted(shape: tuple[int, ...], channels: int, shift: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features of a fixed image, those of a moving one whose content lies `shift` voxels further along the
    last axis, and the true map."""
    fixed = torch.randn(1, channels, *shape, generator=generator())
    moving = fixed.roll(shift, -1)
    displacement = torch.zeros(*shape, len(shape))
    displacement[..., 0] = 2 * shift / shape[-1]
    return fixed, moving, displacement


@pytest.mark.parametrize(("shape", "margin"), [((20, 22), 0), ((20, 22), 4), ((9, 12, 10), 0)])
def test_the_right_map_costs_least(shape: tuple[int, ...], margin: int) -> None:
    fixed, moving, displacement = shifted(shape, 6, 3)
    seen = torch.ones(1, *shape)
    levels = [[padded(features, 8, margin)] for features in (fixed, moving)]
    right = match_loss(*levels, seen, displacement, margin, generator(1))
    wrong = match_loss(*levels, seen, -displacement, margin, generator(1))
    assert right < 0.5 * wrong


def test_against_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two levels, two dimensions; the places are the voxels themselves, where nothing is interpolated."""
    fixed, moving, displacement = shifted((6, 8), 3, 2)
    coarse = torch.randn(1, 3, 3, 4, generator=generator(5)), torch.randn(1, 3, 3, 4, generator=generator(6))
    places = [(0, 0), (2, 3), (3, 3), (5, 1), (4, 5)]
    here = torch.tensor([[(x + 0.5) / 4 - 1, (y + 0.5) / 3 - 1] for y, x in places])
    there = here + torch.tensor([0.5, 0.0])
    monkeypatch.setattr(matching, "_places", lambda *_: (here, there))
    found = match_loss(
        [fixed, coarse[0]], [moving, coarse[1]], torch.ones(1, 6, 8), displacement, 0, generator()
    )

    def read(level: Tensor, point: Tensor) -> list[float]:
        """Bilinear, the border repeated."""
        height, width = level.shape[2:]
        x, y = (float(point[0]) + 1) * width / 2 - 0.5, (float(point[1]) + 1) * height / 2 - 0.5
        values = []
        for channel in level[0]:
            value = 0.0
            for j in (math.floor(y), math.floor(y) + 1):
                for i in (math.floor(x), math.floor(x) + 1):
                    weight = max(0, 1 - abs(y - j)) * max(0, 1 - abs(x - i))
                    value += weight * float(channel[min(max(j, 0), height - 1), min(max(i, 0), width - 1)])
            values.append(value)
        return values

    total = 0.0
    for k, (a_level, b_level) in enumerate(((fixed, moving), coarse)):
        a, b = [read(a_level, p) for p in here], [read(b_level, p) for p in there]
        n = len(a)
        means = [sum(row[c] for row in a) / n for c in range(3)]
        spread = sum((row[c] - means[c]) ** 2 for row in a for c in range(3)) / n
        cost = [[sum((u - v) ** 2 for u, v in zip(p, q, strict=True)) / (0.1 * spread) for q in b] for p in a]
        for transposed in (False, True):
            for i in range(n):
                others = [
                    math.exp(-(cost[j][i] if transposed else cost[i][j]))
                    for j in range(n)
                    if j == i or math.dist(places[i], places[j]) >= 2**k
                ]
                total += (cost[i][i] + math.log(sum(others))) / n
    assert float(found) == pytest.approx(total / 4, rel=1e-4)


def test_an_empty_image_costs_nothing() -> None:
    fixed, moving, displacement = shifted((8, 8), 2, 1)
    fixed.requires_grad_()
    loss = match_loss([fixed], [moving], torch.zeros(1, 8, 8), displacement, 0, generator())
    loss.backward()
    assert float(loss.detach()) == 0 and fixed.grad is not None and not fixed.grad.any()


def test_places_are_seen_in_both_images() -> None:
    image = torch.zeros(1, 16, 24)
    image[0, 4:12, 4:20] = 1
    displacement = torch.zeros(16, 24, 2)
    displacement[..., 0] = 1.0  # by half of the width
    here, there = matching._places(image, displacement, generator())
    assert len(here) > 50 and here.abs().max() <= 1 and there.abs().max() <= 1
    assert torch.allclose(there - here, torch.tensor([1.0, 0.0]))


def test_training_without_maps_is_refused() -> None:
    image = torch.rand(1, 1, 16, 16)
    labels = torch.ones(1, 1, 16, 16)
    batch = Batch(image, image, labels, labels, None, None, (1.0, 1.0))
    with pytest.raises(InputError, match="known maps"):
        TASK.loss(TASK.network("small-match", 2), batch, 0.5, generator())


def test_it_learns_a_contrast() -> None:
    """The moving image is the square of the fixed one, upside down: found again after some steps."""
    torch.manual_seed(0)
    network = TASK.network("small-match", 2)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    image = torch.rand(4, 1, 8, 8, generator=generator())
    image = torch.nn.functional.interpolate(image, size=(32, 32), mode="bicubic").clamp(0, 1)
    batch = Batch(image, 1 - image.square(), None, None, None, None, (1.0, 1.0), torch.zeros(4, 32, 32, 2))
    losses = []
    for step in range(40):
        optimiser.zero_grad()
        loss = TASK.loss(network, batch, 0.5, generator(step))["loss"]
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
