"""Landmarks solve what intensities cannot: a repeated structure, started one repetition away."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.registration import Registration
from DeepRegistrationLib.transforms import REPRESENTATIONS
from torch import Tensor

PERIOD = 40.0
"""Millimetres from one block to the next, and how far the start is off."""

DEFORMABLE = [name for name in REPRESENTATIONS if name not in ("rigid", "affine")]
pytestmark = pytest.mark.slow


def spine(points: Tensor) -> Tensor:
    """A row of equal vertebra-like blocks along z without end: body, arch and spinous process."""
    x, y, z = points.unbind(-1)
    z = z - PERIOD * (z / PERIOD).round()

    def block(centre: tuple[float, float], half: tuple[float, float, float]) -> Tensor:
        distance = torch.stack(
            [((v - c).abs() - h) for v, c, h in zip((x, y, z), (*centre, 0.0), half, strict=True)]
        ).amax(0)
        return torch.sigmoid(-distance / 1.2)

    body, process = block((0, -8), (17, 13, 13)), block((0, 18), (4, 12, 7))
    arch, canal = block((0, 8), (15, 7, 9)), block((0, 9), (6, 5, 30))
    bone = torch.maximum(torch.maximum(body, process), arch) * (1 - canal)
    grain = torch.sin(x / 2.1) * torch.sin(y / 2.7) * torch.cos(2 * torch.pi * z / 20)
    flesh = torch.sigmoid((36 - torch.stack([x, y]).norm(dim=0)) / 2)
    return 300 * flesh + bone * (600 + 120 * grain)


def truth(points: Tensor) -> Tensor:
    """Fixed to moving points: one repetition up, and a bend of a few millimetres."""
    x, y, z = points.unbind(-1)
    bend = torch.stack(
        [3 * torch.sin(z / 45), 2.5 * torch.cos(z / 55 + 1), 1.5 * torch.sin((x + y) / 40)], -1
    )
    return points + bend + torch.tensor([0.0, 0.0, PERIOD], dtype=points.dtype)


@dataclass(frozen=True)
class Problem:
    """The images, four landmark pairs to be given and others to be held back."""

    fixed: Volume
    moving: Volume
    given: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def problem() -> Problem:
    frames = Frame.regular((30, 32, 68), (3.0, 3.0, 3.0)), Frame.regular((32, 30, 70), (2.9, 3.2, 3.1))
    images = spine(truth(frames[0].points())), spine(frames[1].points())
    noise = torch.Generator().manual_seed(0)
    fixed, moving = (
        Volume((i + 20 * torch.randn(i.shape, generator=noise))[None].float(), f)
        for i, f in zip(images, frames, strict=True)
    )
    given = torch.tensor([[0.0, 30, -80], [14, -18, -40], [-14, -18, 0], [0, 30, 40]], dtype=torch.float64)
    held_out = torch.tensor(
        [[0.0, -20, -60], [15, 12, -20], [-15, 12, 20], [0, -8, 0], [10, 0, -70], [0, 25, -40]],
        dtype=torch.float64,
    )
    return Problem(fixed, moving, (given, truth(given)), (held_out, truth(held_out)))


def run(problem: Problem, name: str, prompted: bool, linear: str, symmetric: str = "on") -> Registration:
    landmarks = dict(zip(("fixed_landmarks", "moving_landmarks"), problem.given, strict=True))
    return register(
        problem.fixed,
        problem.moving,
        representation=name,
        linear=linear,
        preset="fast",
        device="cpu",
        symmetric=symmetric,
        held_out_landmarks=problem.held_out,
        **(landmarks if prompted else {}),
    )


@pytest.mark.parametrize("name", ["diffeomorphic", "b-spline"])
def test_intensities_alone_stay_a_repetition_away(problem: Problem, name: str) -> None:
    result = run(problem, name, False, "affine")
    assert result.quality["landmarks"]["held_out"]["after"]["mean_mm"] > 30


@pytest.mark.parametrize("name", DEFORMABLE)
def test_four_landmark_pairs_solve_it(problem: Problem, name: str) -> None:
    numbers = run(problem, name, True, "affine").quality["landmarks"]
    assert numbers["held_out"]["before"]["mean_mm"] > 35
    assert numbers["fitted"]["after"]["mean_mm"] < 3.0
    assert numbers["held_out"]["after"]["mean_mm"] < 3.0


@pytest.mark.parametrize("name", [name for name in DEFORMABLE if name != "b-spline"])
def test_landmarks_pull_even_without_a_linear_stage(problem: Problem, name: str) -> None:
    """Forty millimetres by deformation alone: held-out landmarks come along."""
    numbers = run(problem, name, True, "none").quality["landmarks"]
    assert numbers["fitted"]["after"]["mean_mm"] < 0.6 * numbers["fitted"]["before"]["mean_mm"]
    assert numbers["held_out"]["after"]["mean_mm"] < 0.8 * numbers["held_out"]["before"]["mean_mm"]


@pytest.mark.parametrize(("symmetric", "least", "most"), [("off", 10, 14), ("on", 20, 28)])
def test_the_bounded_spline_goes_as_far_as_its_bound_alone(
    problem: Problem, symmetric: str, least: float, most: float
) -> None:
    """What excludes folds bounds its reach too: 0.3 of each level's control spacing, here 13 mm; half-way,
    twice as far, for there are two of them."""
    numbers = run(problem, "b-spline", True, "none", symmetric).quality["landmarks"]["fitted"]
    assert least < numbers["before"]["mean_mm"] - numbers["after"]["mean_mm"] < most
