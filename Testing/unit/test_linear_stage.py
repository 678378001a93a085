"""The linear stage: large turns and shifts, other contrasts, landmarks, and leaving good starts alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from DeepRegistrationLib.demo.anatomy import Anatomy
from DeepRegistrationLib.errors import Cancelled
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.linear_stage import LinearPair, linear_stage
from DeepRegistrationLib.objective import Prompts
from DeepRegistrationLib.prepare import crop, normalised
from DeepRegistrationLib.progress import CancelToken, Progress, Reporter
from DeepRegistrationLib.transforms import LinearTransform

FIXED = Frame.regular((32, 37, 32), 6.0)
MOVING = Frame(
    (35, 38, 27), (5.7, 6.2, 7.6), (-88.0, -129.0, -95.0), ((0.98, -0.2, 0), (0.2, 0.98, 0), (0, 0, 1))
)


def turn(axis: tuple[float, ...], degrees: float, shift: tuple[float, ...]) -> LinearTransform:
    """Rotation about an axis through the origin (about z in 2-D), then a shift in mm."""
    d, angle = len(shift), math.radians(degrees)
    if d == 2:
        c, s = math.cos(angle), math.sin(angle)
        return LinearTransform.from_parts(
            torch.tensor([[c, -s], [s, c]], dtype=torch.float64), torch.tensor(shift, dtype=torch.float64)
        )
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.asarray([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)
    return LinearTransform.from_parts(torch.from_numpy(rotation), torch.tensor(shift, dtype=torch.float64))


def head(frame: Frame, truth: LinearTransform, contrast: str = "t1", noise: int = 0) -> Volume:
    """The procedural head as an image on `frame` sees it, carried by `truth` (fixed to moving points)."""
    generator = torch.Generator().manual_seed(7)
    anatomy = Anatomy(generator)
    rendered = anatomy.render(truth.inverse().map(frame.points()).float(), contrast).intensity
    grain = 0.02 * torch.randn(rendered.shape, generator=torch.Generator().manual_seed(noise))
    return normalised(Volume((rendered + grain).abs().reshape(1, *frame.shape), frame))


def head_points() -> torch.Tensor:
    """Points all over the head, LPS mm."""
    points = FIXED.points().reshape(-1, 3)
    return points[(points / torch.tensor([75.0, 90.0, 75.0])).norm(dim=-1) < 1]


def aligned(pair: LinearPair, stage: str, start: LinearTransform | None = None) -> LinearTransform:
    return linear_stage(pair, stage, start, Reporter()).transform


def error(found: LinearTransform, truth: LinearTransform, points: torch.Tensor) -> tuple[float, float]:
    distance = (found.map(points) - truth.map(points)).norm(dim=-1)
    return float(distance.mean()), float(distance.max())


@pytest.mark.parametrize(
    ("axis", "shift"),
    [
        ((0.0, 0.0, 1.0), (40.0, 0.0, 0.0)),
        ((1.0, 0.3, 0.0), (-20.0, 30.0, 17.0)),
        ((-0.2, 1.0, 0.4), (0.0, -12.0, -38.0)),
    ],
)
@pytest.mark.parametrize("contrast", ["t1", "t2"])
def test_thirty_degrees_and_forty_millimetres(
    axis: tuple[float, ...], shift: tuple[float, ...], contrast: str
) -> None:
    truth = turn(axis, 30.0, shift)
    # the moving image's box goes along with the head, as a scanner's does with the patient
    moving = Frame(
        MOVING.size, MOVING.spacing, tuple((np.asarray(MOVING.origin) + shift).tolist()), MOVING.direction
    )
    pair = LinearPair(
        head(FIXED, LinearTransform.identity(3)), head(moving, truth, contrast, noise=1), Prompts()
    )
    found = aligned(pair, "rigid")
    mean, largest = error(found, truth, head_points())
    assert mean < 2.0 and largest < 4.0
    assert found.determinant == pytest.approx(1.0)


def test_an_affine_stage_finds_stretch_and_shear() -> None:
    truth = turn((0.3, 0.2, 1.0), 20.0, (15.0, -10.0, 5.0)).matrix
    truth = truth @ torch.tensor(
        [[1.1, 0.05, 0, 0], [0, 0.95, 0, 0], [0, 0.04, 1.06, 0], [0, 0, 0, 1]], dtype=torch.float64
    )
    pair = LinearPair(
        head(FIXED, LinearTransform.identity(3)), head(MOVING, LinearTransform(truth), noise=1), Prompts()
    )
    rigid, affine = (aligned(pair, stage) for stage in ("rigid", "affine"))
    points = head_points()
    assert error(affine, LinearTransform(truth), points)[0] < 2.0
    assert (
        error(affine, LinearTransform(truth), points)[0]
        < 0.6 * error(rigid, LinearTransform(truth), points)[0]
    )


def test_an_aligned_pair_stays_aligned() -> None:
    identity = LinearTransform.identity(3)
    pair = LinearPair(head(FIXED, identity), head(MOVING, identity, noise=1), Prompts())
    for stage in ("rigid", "affine"):
        assert error(aligned(pair, stage), identity, head_points())[0] < 1.0


def flat_pair(degrees: float, shift: tuple[float, float]) -> tuple[LinearPair, LinearTransform, torch.Tensor]:
    truth = turn((), degrees, shift)

    def picture(frame: Frame, p: torch.Tensor) -> Volume:
        parts = (
            ((0, 0), (40, 28), 0.5),
            ((15, 5), (12, 6), 0.4),
            ((-18, -6), (7, 9), 0.3),
            ((5, -14), (6, 4), -0.3),
        )
        values = sum(
            h * torch.sigmoid(6 * (1 - ((p - torch.tensor(c)) / torch.tensor(w)).norm(dim=-1)))
            for c, w, h in parts
        )
        return normalised(Volume(values[None].float(), frame))

    fixed, moving = (
        Frame.regular((60, 50), 2.0),
        Frame((62, 58), (2.1, 2.2), (-64.0 + shift[0], -63.0 + shift[1]), ((1, 0), (0, 1))),
    )
    pair = LinearPair(
        picture(fixed, fixed.points()), picture(moving, truth.inverse().map(moving.points())), Prompts()
    )
    points = fixed.points().reshape(-1, 2)
    return pair, truth, points[(points / torch.tensor([40.0, 28.0])).norm(dim=-1) < 1]


@pytest.mark.parametrize(
    ("degrees", "shift"), [(30.0, (40.0, 0.0)), (-30.0, (-25.0, 31.0)), (50.0, (0.0, 5.0))]
)
def test_two_dimensions(degrees: float, shift: tuple[float, float]) -> None:
    pair, truth, points = flat_pair(degrees, shift)
    found = aligned(pair, "rigid")
    assert error(found, truth, points)[0] < 1.0


def test_landmarks_give_the_start_and_keep_their_word() -> None:
    """Images that say nothing and images that do: four landmark pairs know the turn."""
    truth = turn((0.1, 0.0, 1.0), 175.0, (10.0, 25.0, -10.0))
    fixed = Anatomy(torch.Generator().manual_seed(7)).landmarks()[:4]
    prompts = Prompts(landmarks=(fixed, truth.map(fixed)))
    images = head(FIXED, LinearTransform.identity(3)), head(MOVING, truth, noise=1)
    stages: list[str] = []
    found = linear_stage(
        LinearPair(*images, prompts), "rigid", None, Reporter(lambda p: stages.append(p.stage))
    ).transform
    assert error(found, truth, head_points())[0] < 2.0
    assert float((found.map(fixed) - truth.map(fixed)).norm(dim=-1).max()) < 3.0
    assert "Looking for a start" not in stages


def test_none_hands_back_the_start_itself() -> None:
    identity = LinearTransform.identity(3)
    pair = LinearPair(head(FIXED, identity), head(MOVING, identity), Prompts())
    start = turn((1.0, 0.0, 0.0), 10.0, (1.0, 2.0, 3.0))
    assert aligned(pair, "none", start) is start
    assert torch.equal(aligned(pair, "none").matrix, identity.matrix)


def test_a_start_is_refined_not_searched_for() -> None:
    truth = turn((0.0, 0.2, 1.0), 80.0, (12.0, -8.0, 10.0))  # further than any search
    pair = LinearPair(head(FIXED, LinearTransform.identity(3)), head(MOVING, truth, noise=1), Prompts())
    near = turn((0.0, 0.2, 1.0), 74.0, (6.0, -3.0, 6.0))
    stages: list[str] = []
    found = linear_stage(pair, "rigid", near, Reporter(lambda p: stages.append(p.stage))).transform
    assert error(near, truth, head_points())[0] > 6.0 > 2.0 > error(found, truth, head_points())[0]
    assert "Looking for a start" not in stages


def test_the_same_again_progress_and_cancelling() -> None:
    pair, _, _ = flat_pair(20.0, (10.0, 5.0))
    calls: list[Progress] = []
    one = linear_stage(pair, "affine", None, Reporter(calls.append))
    two = linear_stage(pair, "affine", None, Reporter())
    assert torch.equal(one.transform.matrix, two.transform.matrix)
    fractions = [c.fraction for c in calls]
    assert fractions == sorted(fractions) and fractions[0] == 0 and 0.9 < fractions[-1] <= 1
    for at in (3, len(calls) // 2, len(calls)):
        token, seen = CancelToken(), []

        def watch(progress: Progress, token: CancelToken = token, seen: list = seen, at: int = at) -> None:
            seen.append(progress)
            if len(seen) == at - 1:
                token.cancel()

        with pytest.raises(Cancelled):
            linear_stage(pair, "affine", None, Reporter(watch, token))
        assert len(seen) == at - 1


def noise_on(frame: Frame, seed: int) -> Volume:
    return Volume(torch.rand(1, *frame.shape, generator=torch.Generator().manual_seed(seed)), frame)


def test_intensities_that_say_nothing_are_not_followed() -> None:
    """Noise against noise: headers stand, or what is known better: labels, landmarks, the start given."""
    shifted = Frame((30, 30, 30), (6.0, 6.0, 6.0), (-70.0, -90.0, -99.0), FIXED.direction)
    images = noise_on(FIXED, 5), noise_on(shifted, 6)
    lain = linear_stage(LinearPair(*images, Prompts()), "affine", None, Reporter())
    assert not lain.informative and "where the images lie by their headers" in lain.warnings[0]
    assert torch.equal(lain.transform.matrix, torch.eye(4).double())

    labels = []
    for frame, place in ((FIXED, (10.0, 0.0, 0.0)), (shifted, (30.0, -20.0, 10.0))):
        ball = (frame.points() - torch.tensor(place)).norm(dim=-1) < 25
        labels.append(Volume(ball[None].float(), frame))
    prompts = Prompts(fixed_labels=labels[0], moving_labels=labels[1])
    found = linear_stage(LinearPair(*images, prompts), "rigid", None, Reporter())
    assert not found.informative and "the labels' centres" in found.warnings[0]
    shift = torch.tensor([20.0, -20.0, 10.0], dtype=torch.float64)
    centre = torch.from_numpy(FIXED.centre.copy())
    assert float((found.transform.map(centre) - centre - shift).norm()) < 2.0

    truth, fixed = turn((0.0, 0.0, 1.0), 25.0, (5.0, 5.0, 0.0)), 40 * torch.eye(3, dtype=torch.float64)
    prompts = Prompts(landmarks=(fixed, truth.map(fixed)))
    found = linear_stage(LinearPair(*images, prompts), "rigid", None, Reporter())
    assert float((found.transform.map(fixed) - truth.map(fixed)).norm(dim=-1).max()) < 1e-6
    assert "the landmarks" in found.warnings[0]
    found = linear_stage(LinearPair(*images, Prompts()), "rigid", truth, Reporter())
    assert found.transform is truth and not found.informative and "initial transform" in found.warnings[0]


def test_images_that_share_no_space_have_their_boxes_laid_on_one_another() -> None:
    far = Frame((30, 30, 30), (6.0, 6.0, 6.0), (700.0, -90.0, -99.0), FIXED.direction)
    found = linear_stage(
        LinearPair(noise_on(FIXED, 5), noise_on(far, 6), Prompts()), "rigid", None, Reporter()
    )
    assert not found.informative and "do not overlap" in found.warnings[0]
    expected = torch.from_numpy(far.centre - FIXED.centre)
    assert torch.allclose(found.transform.matrix[:3, 3], expected)


IDENTITY = LinearTransform.identity(3)
WIDE = Frame.regular((37, 37, 37), 6.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("degrees", [90.0, 180.0])
def test_turns_of_any_size_are_found(axis: int, degrees: float) -> None:
    truth = turn(tuple(float(k == axis) for k in range(3)), degrees, (12.0, -7.0, 4.0))
    result = linear_stage(
        LinearPair(head(FIXED, IDENTITY), head(WIDE, truth, noise=1), Prompts()), "rigid", None, Reporter()
    )
    assert error(result.transform, truth, head_points())[0] < 1.0
    assert result.informative and not result.warnings


@pytest.mark.parametrize(("scale", "degrees"), [(0.67, 0.0), (0.67, 70.0), (1.5, 0.0), (1.5, 180.0)])
def test_scales_are_found(scale: float, degrees: float) -> None:
    matrix = turn((0.2, 1.0, 0.0), degrees, (5.0, 10.0, -5.0)).matrix.clone()
    matrix[:3, :3] *= scale
    truth = LinearTransform(matrix)
    moving = Frame.regular((37, 37, 37), 6.0 * scale)
    pair = LinearPair(head(FIXED, IDENTITY), head(moving, truth, noise=1), Prompts())
    assert error(aligned(pair, "affine"), truth, head_points())[0] < 2.0


@pytest.mark.parametrize("box", [((8, 24), (4, 20), (10, 26)), ((0, 32), (0, 37), (15, 17))])
@pytest.mark.parametrize("stage", ["rigid", "affine"])
def test_a_part_stays_where_its_header_says(box: tuple[tuple[int, int], ...], stage: str) -> None:
    """A block of a head, and two slices of one, against the whole, both ways round."""
    whole, other = head(FIXED, IDENTITY), head(WIDE, IDENTITY, noise=1)
    part = crop(whole, box)
    points = part.frame.points().reshape(-1, 3)
    for pair in (LinearPair(part, other, Prompts()), LinearPair(other, part, Prompts())):
        result = linear_stage(pair, stage, None, Reporter())
        mean, _ = error(result.transform, IDENTITY, points)
        assert mean < 2.0, result.warnings


@pytest.mark.parametrize(
    "box",
    [
        ((8, 24), (4, 20), (10, 26)),
        ((0, 32), (0, 37), (14, 18)),
        ((0, 32), (0, 37), (15, 17)),
        ((0, 32), (17, 19), (0, 32)),
    ],
    ids=["block", "slab", "two slices", "two slices across"],
)
@pytest.mark.parametrize("stage", ["rigid", "affine"])
def test_a_part_cut_out_of_an_image_stays_in_it(box: tuple[tuple[int, int], ...], stage: str) -> None:
    """Against the image itself, both ways round."""
    whole = head(FIXED, IDENTITY)
    part = crop(whole, box)
    points = part.frame.points().reshape(-1, 3)
    for pair in (LinearPair(part, whole, Prompts()), LinearPair(whole, part, Prompts())):
        assert error(aligned(pair, stage), IDENTITY, points)[0] < 0.5


@pytest.mark.parametrize("stage", ["rigid", "affine"])
@pytest.mark.parametrize("prompt", ["none", "landmarks", "labels"])
def test_swapping_the_images_inverts_the_map(stage: str, prompt: str) -> None:
    truth = turn((0.3, -0.2, 1.0), 95.0, (15.0, -10.0, 5.0))
    fixed, moving = head(FIXED, IDENTITY), head(MOVING, truth, "t2", noise=1)
    there = back = Prompts()
    if prompt == "landmarks":
        points = Anatomy(torch.Generator().manual_seed(7)).landmarks()[:6]
        mapped = truth.map(points) + 2 * torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).double()
        there, back = Prompts(landmarks=(points, mapped)), Prompts(landmarks=(mapped, points))
    elif prompt == "labels":
        balls = [
            Volume(((m.map(f.points()) - torch.tensor([20.0, 10.0, 0.0])).norm(dim=-1) < 30)[None].float(), f)
            for m, f in ((IDENTITY, FIXED), (truth.inverse(), MOVING))
        ]
        there = Prompts(fixed_labels=balls[0], moving_labels=balls[1])
        back = Prompts(fixed_labels=balls[1], moving_labels=balls[0])
    one = aligned(LinearPair(fixed, moving, there), stage)
    other = aligned(LinearPair(moving, fixed, back), stage)
    points = FIXED.points().reshape(-1, 3)
    assert error(one, other.inverse(), points)[0] < 0.01 * min(FIXED.spacing)
    assert error(one, truth, head_points())[0] < 4.0


def test_equal_images_stay_where_they_are() -> None:
    image = head(FIXED, IDENTITY)
    for stage in ("rigid", "affine"):
        found = aligned(LinearPair(image, image, Prompts()), stage)
        assert error(found, IDENTITY, FIXED.points().reshape(-1, 3))[1] < 0.01 * min(FIXED.spacing)


def test_an_affine_map_of_a_thin_slab_is_not_worse_than_a_rigid_one() -> None:
    truth = turn((0.0, 0.3, 1.0), 6.0, (3.0, -4.0, 1.0))
    slab = crop(head(FIXED, IDENTITY), ((0, 32), (0, 37), (14, 18)))
    pair = LinearPair(slab, crop(head(FIXED, truth, noise=1), ((0, 32), (0, 37), (14, 18))), Prompts())
    points = slab.frame.points().reshape(-1, 3)
    points = points[(points / torch.tensor([75.0, 90.0, 75.0])).norm(dim=-1) < 1]
    rigid, affine = (error(aligned(pair, stage), truth, points)[0] for stage in ("rigid", "affine"))
    assert affine < 1.1 * rigid + 0.1


def test_a_shape_with_two_ends_alike_is_said_to_be_doubtful() -> None:
    """An ellipsoid without anything inside, turned by a right angle: it may be the wrong way round."""
    lengths = torch.tensor([60.0, 40.0, 30.0], dtype=torch.float64)

    def ellipsoid(frame: Frame, truth: LinearTransform) -> Volume:
        radius = (truth.inverse().map(frame.points()) / lengths).norm(dim=-1)
        return normalised(Volume(torch.sigmoid(8 * (1 - radius))[None].float(), frame))

    pair = LinearPair(
        ellipsoid(WIDE, IDENTITY), ellipsoid(WIDE, turn((0.0, 0.0, 1.0), 90.0, (0.0, 0.0, 0.0))), Prompts()
    )
    found = linear_stage(pair, "rigid", None, Reporter())
    assert any("Two different poses" in w for w in found.warnings)


def test_exchanged_landmarks_do_not_ruin_the_start_and_are_named() -> None:
    truth = turn((0.1, 0.0, 1.0), 40.0, (10.0, 25.0, -10.0))
    fixed = Anatomy(torch.Generator().manual_seed(7)).landmarks()[:8]
    moving = truth.map(fixed)
    moving[[1, 4]] = moving[[4, 1]]
    images = head(FIXED, IDENTITY), head(MOVING, truth, noise=1)
    names = tuple("ABCDEFGH")
    pair = LinearPair(*images, Prompts(landmarks=(fixed, moving)), landmark_names=names)
    result = linear_stage(pair, "rigid", None, Reporter())
    assert error(result.transform, truth, head_points())[0] < 2.0
    assert len(result.warnings) == 1 and "pairs B and E look exchanged" in result.warnings[0]
