"""Neither image is special: exchanging them exchanges the maps, and equal ones stay where they are.

On a small pair, with and without prompts. All representations take part: of the neural field both maps are
read from one network, whose last layer changes its sign when the images are exchanged; so it is as symmetric
as the others, although its path depends on the random numbers it starts from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from DeepRegistrationLib import presets
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.inputs import load_inputs
from DeepRegistrationLib.landmarks import Landmarks
from DeepRegistrationLib.metrics import landmark_errors
from DeepRegistrationLib.objectives import SIMILARITIES
from DeepRegistrationLib.options import Options
from DeepRegistrationLib.quality import label_numbers, warped_labels
from DeepRegistrationLib.registration import Registration
from DeepRegistrationLib.session import Session
from DeepRegistrationLib.transforms import REPRESENTATIONS
from torch import Tensor

FRAMES = (
    Frame.regular((20, 18, 16), (2.0, 2.2, 2.4)),
    Frame(
        (17, 20, 18), (2.4, 2.0, 2.2), (-13.0, -23.0, -18.0), ((0.96, -0.28, 0), (0.28, 0.96, 0), (0, 0, 1))
    ),
)
POINTS = torch.tensor(
    [[0, 0, 0], [8, 3, 2], [-8, 5, -4], [3, 8, -6], [-4, -8, 6], [2, 1, 9]], dtype=torch.float64
)
NAMES = tuple("abcdef")
PROMPTS = ("none", "landmarks", "labels", "masks")
DEFORMABLE = [name for name in REPRESENTATIONS if name not in ("rigid", "affine")]
SLOW = {"rigid": ("labels",), "affine": ("none",), "geodesic": ("labels",)}
"""Of these one kind of prompt; the linear stage has tests of its own."""

CASES = [(name, prompt) for name in REPRESENTATIONS for prompt in SLOW.get(name, PROMPTS)]


@pytest.fixture(autouse=True)
def shorter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said here holds after every iteration; after so many, most of the map is there."""
    slow = request.node.callspec.params.get("representation") == "geodesic"
    iterations = (3, 1, 1) if slow else (10, 5, 2)
    monkeypatch.setitem(presets.PRESETS, "fast", replace(presets.PRESETS["fast"], iterations=iterations))


def bent(points: Tensor) -> Tensor:
    """Moving points to fixed ones, LPS mm: a shift of some 2 mm that varies by another one."""
    waves = [1.2 + 1.2 * torch.sin(points[..., k - 1] / 6 + k) for k in range(3)]
    return points - torch.stack(waves, -1)


def unbent(points: Tensor) -> Tensor:
    """Fixed points to moving ones, by plain iteration."""
    found = points
    for _ in range(60):
        found = points + (found - bent(found))
    return found


def places(side: int, truth: int) -> Tensor:
    """Fixed points of the voxels of lattice `side`; `truth` tells whether it shows the moving anatomy."""
    points = FRAMES[side].points()
    return bent(points) if truth else points


def picture(side: int, truth: int) -> Volume:
    """A soft textured ball."""
    p = places(side, truth)
    ball = torch.sigmoid(1.5 * (13 - p.norm(dim=-1)))
    texture = sum(torch.sin(p[..., k] / 2.4 + torch.cos(p[..., k - 1] / 3)) for k in range(3))
    return Volume((100 * ball * (1 + 0.25 * texture))[None].float(), FRAMES[side])


def labels(side: int, truth: int) -> Volume:
    distance = places(side, truth).norm(dim=-1)
    return Volume((distance < 11).int()[None] + (distance < 6).int(), FRAMES[side])


def mask(side: int, truth: int) -> Volume:
    """All but what lies to one side."""
    return Volume((places(side, truth)[..., 0] > -9).float()[None], FRAMES[side])


def landmarks(truth: int) -> Landmarks:
    return Landmarks(unbent(POINTS) if truth else POINTS, NAMES)


def registered(fixed: tuple[int, int], moving: tuple[int, int], prompt: str, **options: str) -> Registration:
    """A pair, each image told by its lattice and whether it shows the moving anatomy."""
    given = {}
    if prompt == "landmarks":
        given = {"fixed_landmarks": landmarks(fixed[1]), "moving_landmarks": landmarks(moving[1])}
    elif prompt != "none":
        make = labels if prompt == "labels" else mask
        given = {f"fixed_{prompt}".replace("masks", "mask"): make(*fixed)}
        given |= {f"moving_{prompt}".replace("masks", "mask"): make(*moving)}
    return registered_with(picture(*fixed), picture(*moving), given, **options)


def registered_with(fixed: Volume, moving: Volume, given: dict[str, Any], **options: str) -> Registration:
    inputs = load_inputs(fixed, moving, **given)
    chosen = {"method": "classical", "preset": "fast", "linear": "none", "similarity": "lncc", **options}
    return Session(inputs, Options(**chosen), "cpu").register()


@pytest.mark.parametrize(("representation", "prompt"), CASES)
def test_exchanging_the_images_exchanges_the_maps(representation: str, prompt: str) -> None:
    """Their lattices too, which lie at an angle."""
    one = registered((0, 0), (1, 1), prompt, representation=representation)
    other = registered((1, 1), (0, 0), prompt, representation=representation)
    assert float(one.forward_field.magnitude_mm().max()) > 0.4
    for a, b in ((one.forward_field, other.inverse_field), (one.inverse_field, other.forward_field)):
        assert a.frame == b.frame
        difference = (a.mm() - b.mm()).norm(dim=-1)
        assert float(difference.mean()) < 0.02 and float(difference.max()) < 0.2


def moved_voxels(result: Registration) -> float:
    """The longest way either map goes, voxels."""
    fields = result.forward_field, result.inverse_field
    return max(float((f.displacement * torch.tensor(f.frame.size) / 2).norm(dim=-1).max()) for f in fields)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_equal_images_stay_whatever_measures_them(similarity: str, prompt: str) -> None:
    """The optimum at equal inputs is the identity."""
    assert moved_voxels(registered((0, 0), (0, 0), prompt, similarity=similarity)) < 0.01


@pytest.mark.parametrize(("representation", "prompt"), CASES)
def test_equal_images_stay_in_every_representation(representation: str, prompt: str) -> None:
    assert moved_voxels(registered((0, 1), (0, 1), prompt, representation=representation)) < 0.01


def plain(truth: int) -> Volume:
    """A ball that tells nothing of what is inside."""
    distance = places(truth, truth).norm(dim=-1)
    return Volume(100 * torch.sigmoid(1.5 * (13 - distance))[None].float(), FRAMES[truth])


INNER = torch.tensor([2.5, -2.0, 1.5], dtype=torch.float64)
"""What lies within the ball is farther on in the moving image, mm."""


def inner_labels(truth: int) -> Volume:
    distance = (places(truth, truth) - truth * INNER).norm(dim=-1)
    return Volume((distance < 6).int()[None], FRAMES[truth])


INNER_POINTS = 0.5 * POINTS, unbent(0.5 * POINTS + INNER)


def prompted(representation: str, prompt: str) -> Registration:
    given = {}
    if prompt == "labels":
        given = {"fixed_labels": inner_labels(0), "moving_labels": inner_labels(1)}
    elif prompt == "landmarks":
        points = (Landmarks(side, NAMES) for side in INNER_POINTS)
        given = dict(zip(("fixed_landmarks", "moving_landmarks"), points, strict=True))
    return registered_with(plain(0), plain(1), given, representation=representation)


@pytest.mark.parametrize("representation", DEFORMABLE)
def test_prompts_never_worsen_what_they_speak_of(representation: str) -> None:
    """Dice and distances, in both images' spaces."""
    dice, distances = {}, {}
    for prompt in ("none", "labels", "landmarks"):
        result = prompted(representation, prompt)
        labels = inner_labels(0), inner_labels(1)
        dice[prompt] = [
            label_numbers(warped_labels(brought, field, onto.frame), onto, (1,))["dice"]["1"]
            for field, brought, onto in (
                (result.forward_field, labels[1], labels[0]),
                (result.inverse_field, labels[0], labels[1]),
            )
        ]
        distances[prompt] = [
            float(landmark_errors(map_, *points).mean())
            for map_, points in ((result.forward, INNER_POINTS), (result.inverse, INNER_POINTS[::-1]))
        ]
    for way in (0, 1):
        assert dice["labels"][way] > dice["none"][way]
        assert distances["landmarks"][way] < distances["none"][way]
