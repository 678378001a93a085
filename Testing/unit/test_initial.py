"""Starts: what may be one, what is refused, and what is said of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib.demo.pair import demo_pair
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.initial import load_transform
from DeepRegistrationLib.inputs import check_pair, load_inputs
from DeepRegistrationLib.io import volume_to_sitk
from DeepRegistrationLib.transforms import FieldTransform, LinearTransform

FRAME = Frame.regular((20, 18, 16), 2.5)
PAIR = demo_pair(spacing=8.0)


def picture(frame: Frame = FRAME) -> Volume:
    points = frame.points()
    values = 100 * torch.exp(-points.square().sum(-1) / 150) + 40 * torch.sin(points[..., 0] / 5)
    return Volume(values[None].float(), frame)


def spline() -> sitk.Transform:
    transform = sitk.BSplineTransformInitializer(volume_to_sitk(picture()), (5, 5, 5))
    rng = np.random.default_rng(0)
    transform.SetParameters(rng.normal(0, 2, len(transform.GetParameters())).tolist())
    return transform


def turned() -> sitk.Transform:
    return sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, -0.05, 0.2, (4.0, -3.0, 2.0))


def displaced() -> sitk.Transform:
    image = sitk.GetImageFromArray(np.full((*FRAME.shape, 3), 1.5), isVector=True)
    image.CopyInformation(volume_to_sitk(picture()))
    return sitk.DisplacementFieldTransform(image)


MADE = {
    "spline": spline,
    "spline after turn": lambda: sitk.CompositeTransform([spline(), turned()]),
    "turn after field": lambda: sitk.CompositeTransform([turned(), displaced()]),
    "field after turn": lambda: sitk.CompositeTransform([displaced(), turned()]),
    "turn after turn": lambda: sitk.CompositeTransform([turned(), turned()]),
}


@pytest.mark.parametrize("kind", MADE)
def test_composites_and_splines_may_be_starts(kind: str, tmp_path: Path) -> None:
    sitk.WriteTransform(MADE[kind](), str(tmp_path / "t.h5"))
    inputs = load_inputs(picture(), picture(), initial=tmp_path / "t.h5")
    assert inputs.initial is not None
    assert isinstance(inputs.initial, LinearTransform) == (kind == "turn after turn")
    points = FRAME.points()[4:-4:3, 4:-4:3, 4:-4:3].reshape(-1, 3)
    expected = np.array([MADE[kind]().TransformPoint(p) for p in points.tolist()])
    assert np.abs(inputs.initial.map(points).numpy() - expected).max() < 1e-3
    said = [w for w in inputs.warnings if "linear part takes the place of the linear stage" in w]
    assert len(said) == (kind != "turn after turn")


def test_a_spline_alone_needs_a_lattice() -> None:
    with pytest.raises(InputError, match="on which image grid"):
        load_transform(spline(), 3)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.diag([-1.0, 1, 1, 1]), "mirrors the images"),
        (np.diag([1.0, 1, 1e-7, 1]), "flat"),
        (np.diag([1.0, math.nan, 1, 1]), "finite"),
    ],
)
def test_mirrored_flat_and_broken_starts_are_refused(matrix: np.ndarray, words: str) -> None:
    start = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    with pytest.raises(InputError, match=words):
        load_inputs(picture(), picture(), initial=start)


def test_deformations_that_mirror_or_are_broken_are_refused() -> None:
    mirrored = Field.from_mm((FRAME.points() * torch.tensor([-2.0, 0.0, 0.0])).float(), FRAME)
    with pytest.raises(InputError, match="mirrors the images"):
        load_inputs(picture(), picture(), initial=FieldTransform(mirrored))
    mirrored.displacement[3, 4, 5, 1] = math.nan
    image = sitk.GetImageFromArray(mirrored.mm().double().numpy(), isVector=True)
    with pytest.raises(InputError, match="finite"):
        load_inputs(picture(), picture(), initial=sitk.DisplacementFieldTransform(image))


def test_overlap_is_looked_at_after_the_start() -> None:
    away = Frame(FRAME.size, FRAME.spacing, (400.0, 300.0, 200.0), FRAME.direction)
    shift = np.subtract(away.origin, FRAME.origin).tolist()
    load_inputs(picture(), picture(away), initial=sitk.TranslationTransform(3, shift))
    load_inputs(picture(), picture(), initial=sitk.TranslationTransform(3, [5.0, 0.0, 0.0]))
    for start, hint in (
        (sitk.TranslationTransform(3, [900.0, 0.0, 0.0]), r"overlap in space\.$"),
        (sitk.TranslationTransform(3, [-shift[0], -shift[1], shift[2]]), "if it is in RAS"),
        (sitk.TranslationTransform(3, [-s for s in shift]), "moving to fixed points instead"),
    ):
        with pytest.raises(InputError, match=hint):
            load_inputs(picture(), picture(away), initial=start)


def turn_of(angle: float, shift: tuple[float, ...] = (0.0, 0.0, 0.0)) -> LinearTransform:
    transform = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.0, 0.0, angle, shift)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.reshape(transform.GetMatrix(), (3, 3)), shift
    return LinearTransform(matrix)


def said_of(start: LinearTransform | None, moved: LinearTransform) -> list[str]:
    """What is said where the moving image is the fixed one, moved."""
    field = moved.inverse().field(PAIR.fixed.frame)
    from DeepRegistrationLib.registration import warped_volume

    moving = warped_volume(PAIR.fixed, field, PAIR.fixed.frame)
    inputs = load_inputs(PAIR.fixed, moving, initial=start)
    check_pair(inputs, "rigid")
    return inputs.warnings


def test_starts_are_compared_with_what_they_may_have_been_meant_to_be() -> None:
    right = turn_of(0.1, (25.0, 20.0, 0.0))
    flipped = turn_of(0.1, (-25.0, -20.0, 0.0))
    assert said_of(right, right) == []
    assert said_of(None, right) == []
    assert said_of(turn_of(0.0), right) == []
    (wrong,) = said_of(turn_of(1.5, (30.0, 0.0, 0.0)), turn_of(0.02))
    assert wrong == "The initial transform makes the images less alike than they are without it."
    assert any("RAS" in text or "less alike" in text for text in said_of(flipped, right))


def test_noise_is_called_noise() -> None:
    noise = Volume(torch.rand(1, *FRAME.shape, generator=torch.Generator().manual_seed(0)), FRAME)
    inputs = load_inputs(picture(), noise)
    check_pair(inputs, "rigid")
    (text,) = inputs.warnings
    assert text.startswith("The moving image looks like noise")
    fine = load_inputs(PAIR.fixed, PAIR.moving)
    check_pair(fine, "rigid")
    assert fine.warnings == []


@pytest.mark.parametrize(("spacing", "fine"), [(None, True), (9.0, True), (999.0, False), (20.0, False)])
def test_results_too_coarse_to_hold_a_deformation_are_refused(spacing: float | None, fine: bool) -> None:
    inputs = load_inputs(picture(), picture())
    if fine:
        check_pair(inputs, "rigid", spacing)
        return
    with pytest.raises(InputError, match=r"too coarse for the fixed image: choose at most 11.4 mm\."):
        check_pair(inputs, "rigid", spacing)


def test_thin_images_may_have_their_own_few_slices() -> None:
    thin = picture(Frame.regular((20, 18, 2), (2.0, 2.0, 5.0)))
    check_pair(load_inputs(thin, thin), "rigid", 6.0)
    with pytest.raises(InputError, match="too coarse"):
        check_pair(load_inputs(thin, thin), "rigid", 8.0)


SPREAD = torch.randn(9, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * torch.tensor(
    [12.0, 10.0, 8.0]
)
NAMES = tuple("abcdefghi")


def landmark_warnings(fixed: torch.Tensor, moving: torch.Tensor) -> list[str]:
    from DeepRegistrationLib.landmarks import Landmarks

    big = Frame.regular((20, 20, 20), 6.0)
    return load_inputs(
        picture(big),
        picture(big),
        fixed_landmarks=Landmarks(fixed, NAMES),
        moving_landmarks=Landmarks(moving, NAMES),
    ).warnings


def test_landmarks_in_ras_and_lps_are_noticed() -> None:
    bent = SPREAD + 0.8 * torch.sin(SPREAD / 5) + 3
    assert landmark_warnings(SPREAD, bent) == []
    (text,) = landmark_warnings(SPREAD, bent * torch.tensor([-1.0, -1.0, 1.0]))
    assert "is one file in RAS and the other in LPS?" in text


def test_landmarks_that_contradict_the_others_are_named() -> None:
    moved = turn_of(0.4, (5.0, 2.0, 0.0)).map(SPREAD) + torch.sin(SPREAD.flip(0))
    assert landmark_warnings(SPREAD, moved) == []
    swapped = moved[[0, 4, 2, 3, 1, 5, 6, 7, 8]]
    (text,) = landmark_warnings(SPREAD, swapped)
    assert text.startswith("The landmarks b and e contradict the others; exchanged")
    off = moved.clone()
    off[6, 1] += 30
    (text,) = landmark_warnings(SPREAD, off)
    assert text.startswith("The landmark g (") and "contradicts the others" in text
