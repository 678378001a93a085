"""`register` from end to end on small pairs: what it promises about results, choices and its surroundings."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib import register, resources, session
from DeepRegistrationLib.demo.pair import demo_pair
from DeepRegistrationLib.errors import Cancelled, InputError, ResourceError
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.interpolation import sample
from DeepRegistrationLib.io import volume_to_sitk
from DeepRegistrationLib.progress import CancelToken, Progress
from DeepRegistrationLib.registration import Registration
from DeepRegistrationLib.transforms import REPRESENTATIONS, FieldTransform, LinearTransform

FLAT = Frame.regular((36, 32), (1.5, 1.8))
SOLID = Frame.regular((22, 20, 18), (2.0, 2.2, 2.6))
SHIFT = (3.0, -2.0, 1.5)


def picture(frame: Frame, shift: tuple[float, ...] = (0.0, 0.0, 0.0), inverted: bool = False) -> Volume:
    """Nested soft ellipsoids about the origin, moved by `shift` mm."""
    d = frame.dimension
    points = frame.points() - torch.tensor(shift[:d])
    parts = (
        ((0.0, 0.0, 0.0), (20.0, 18.0, 16.0), 0.5),
        ((5.0, 3.0, -2.0), (7.0, 6.0, 7.0), 0.4),
        ((-7.0, -3.0, 3.0), (5.0, 7.0, 6.0), -0.3),
        ((-2.0, 8.0, 2.0), (4.0, 3.0, 5.0), 0.25),
    )
    values = torch.zeros(frame.shape, dtype=torch.float64)
    for centre, width, height in parts:
        inside = ((points - torch.tensor(centre[:d])) / torch.tensor(width[:d])).norm(dim=-1)
        values += height * torch.sigmoid(8 * (1 - inside))
    texture = sum(
        torch.sin(points[..., k] / (1.7 + 0.4 * k) + torch.cos(points[..., k - 1] / 3)) for k in range(d)
    )
    values *= 1 + 0.12 * texture
    return Volume(100 * (1 - values if inverted else values)[None].float(), frame)


def run(frame: Frame = SOLID, **options: Any) -> Registration:
    """A quick run on the shifted pair, without a linear stage unless asked for."""
    pair = {"fixed": picture(frame), "moving": picture(frame, SHIFT)}
    settings = {**pair, "preset": "fast", "linear": "none", "device": "cpu", "similarity": "lncc", **options}
    return register(**settings)


def subject(frame: Frame) -> torch.Tensor:
    """Points of the edge of the largest ellipsoid and all within, LPS mm."""
    points = frame.points().reshape(-1, frame.dimension)
    return points[(points / torch.tensor((20.0, 18.0, 16.0)[: frame.dimension])).norm(dim=-1) < 1]


def miss(result: Registration, frame: Frame) -> float:
    """Mean distance, mm, of the found map from the known shift."""
    points = subject(frame)
    return float(
        (result.forward.map(points) - points - torch.tensor(SHIFT[: frame.dimension])).norm(dim=-1).mean()
    )


START_MISS = {2: 13**0.5, 3: 15.25**0.5}


@pytest.mark.parametrize("frame", [FLAT, SOLID], ids=["2-D", "3-D"])
@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_every_representation_finds_the_shift_and_its_way_back(name: str, frame: Frame) -> None:
    result = run(frame, representation=name)
    assert miss(result, frame) < (0.25 if name in ("rigid", "affine") else 0.6) * START_MISS[frame.dimension]
    points = subject(frame)
    back = result.inverse.map(result.forward.map(points))
    share = 0.25 if name == "geodesic" else 0.05  # shot backwards, not solved for
    assert float((back - points).norm(dim=-1).max()) < share * max(frame.spacing)
    quality = result.quality
    assert quality["similarity"]["after"]["ncc"] > quality["similarity"]["before"]["ncc"]
    assert quality["parameters"]["representation"] == name and json.loads(json.dumps(quality)) == quality
    assert result.warped.frame == result.forward_field.frame == frame
    assert result.linear_only == (name in ("rigid", "affine"))


@pytest.mark.parametrize("name", ["diffeomorphic", "neural-field", "affine"])
def test_same_seed_same_result(name: str) -> None:
    first, second = (run(representation=name, linear="rigid", seed=4) for _ in range(2))
    assert torch.equal(first.forward_field.displacement, second.forward_field.displacement)
    assert torch.equal(first.inverse_field.displacement, second.inverse_field.displacement)
    assert torch.equal(first.warped.data, second.warped.data)
    if name == "neural-field":
        other = run(representation=name, linear="rigid", seed=5)
        assert not torch.equal(first.forward_field.displacement, other.forward_field.displacement)


def test_the_surroundings_are_left_as_they_were() -> None:
    torch.manual_seed(11)
    np.random.seed(11)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    before = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    itk = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    fixed, moving = picture(SOLID), picture(SOLID, SHIFT)
    copies = fixed.data.clone(), moving.data.clone()
    run(fixed=fixed, moving=moving, representation="neural-field")
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == before
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == itk
    assert torch.equal(fixed.data, copies[0]) and torch.equal(moving.data, copies[1])


def test_threads_are_the_callers_again_whatever_happens() -> None:
    before, inside = torch.get_num_threads(), []
    flat = picture(FLAT.resized((12, 12)))
    run(
        fixed=flat, moving=flat, threads=before + 1, progress=lambda _: inside.append(torch.get_num_threads())
    )
    assert set(inside) == {before + 1} and torch.get_num_threads() == before
    with pytest.raises(Cancelled):
        run(threads=before + 1, cancel=_cancelled())
    for count in (0, 100_000):
        with pytest.raises(InputError, match="The number of threads must be at"):
            run(threads=count)
    assert torch.get_num_threads() == before


def _cancelled() -> CancelToken:
    token = CancelToken()
    token.cancel()
    return token


def test_it_works_inside_no_grad() -> None:
    """A caller's own torch mode neither stops the solver nor is changed by it."""
    expected = run().forward_field.displacement
    with torch.no_grad():
        result = run()
        assert not torch.is_grad_enabled()
    assert torch.equal(result.forward_field.displacement, expected)


def test_progress_rises_to_one_and_cancelling_is_quick() -> None:
    calls: list[Progress] = []
    run(linear="affine", progress=calls.append)
    fractions = [c.fraction for c in calls]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert calls[-1].stage == "Done" and max(np.diff(fractions)) < 0.12
    for at in (1, 2, 40, len(calls) - 60, len(calls) - 1):
        token, seen = CancelToken(), []

        def watch(_: Progress, token: CancelToken = token, seen: list = seen, at: int = at) -> None:
            seen.append(1)
            if len(seen) == at:
                token.cancel()

        with pytest.raises(Cancelled):
            run(linear="affine", progress=watch, cancel=token)
        assert len(seen) == at


@pytest.mark.parametrize(("inverted", "expected"), [(False, "lncc"), (True, "mind-nmi")])
@pytest.mark.parametrize("frame", [FLAT, SOLID], ids=["2-D", "3-D"])
def test_auto_takes_the_measure_that_fits_the_contrast(inverted: bool, expected: str, frame: Frame) -> None:
    moving = picture(frame, SHIFT, inverted)
    result = run(frame, moving=moving, similarity="auto", linear="rigid")
    assert result.quality["parameters"]["similarity_used"] == expected
    assert result.quality["parameters"]["similarity"] == "auto"
    assert miss(result, frame) < 0.6 * START_MISS[frame.dimension]


@pytest.mark.parametrize(("contrast", "expected"), [("t1", "lncc"), ("t2", "mind-nmi")])
def test_auto_on_a_head_of_the_same_and_of_another_contrast(contrast: str, expected: str) -> None:
    pair = demo_pair(spacing=8.0, contrast=contrast)
    result = register(pair.fixed, pair.moving, representation="rigid", preset="fast", device="cpu")
    assert result.quality["parameters"]["similarity_used"] == expected


@pytest.mark.parametrize("similarity", ["mse", "ncc", "lncc", "adaptive-ncc", "nmi", "mind", "mind-nmi"])
def test_every_similarity_finds_the_shift(similarity: str) -> None:
    assert miss(run(similarity=similarity), SOLID) < 0.6 * START_MISS[3]


@pytest.mark.parametrize("option", ["method", "representation", "similarity", "preset", "linear", "device"])
def test_unknown_names_are_answered_with_the_known_ones(option: str) -> None:
    with pytest.raises(InputError, match=r"choose .*,"):
        run(**{option: "nonsense"})


def test_a_linear_initial_transform_is_where_it_starts() -> None:
    """Half a turn away, with and without a linear stage that goes on from there."""
    matrix = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))
    matrix[:3, 3] = torch.tensor([4.0, 2.0, -3.0])
    truth = LinearTransform(matrix)
    seen = truth.inverse().map(SOLID.points())
    fine = picture(SOLID.resized((88, 80, 72)))
    moving = Volume(fine.data.new_zeros(1, *SOLID.shape), SOLID)
    here = (seen @ torch.from_numpy(SOLID.world_to_normalised[:3, :3]).T).float()
    moving.data.copy_(sample(fine.data[None], here)[0])
    near = LinearTransform.from_parts(matrix[:3, :3], matrix[:3, 3] + torch.tensor([1.0, -1.0, 0.5]))
    points = subject(SOLID)

    def distance(result: Registration) -> float:
        return float((result.forward.map(points) - truth.map(points)).norm(dim=-1).mean())

    for linear in ("none", "rigid"):
        assert distance(run(moving=moving, initial=near, linear=linear)) < 1.3
    assert distance(run(moving=moving, initial=near, representation="rigid")) < 1.3


@pytest.mark.parametrize("name", ["free-form", "b-spline", "stationary-velocity", "diffeomorphic"])
def test_a_deformable_initial_transform_is_taken_over(name: str) -> None:
    """Noise to register: what comes out is what went in, of which a representation keeps most."""
    points = SOLID.points()
    shift = torch.stack(
        [2.5 * torch.cos(points[..., 1] / 20), 1.5 * torch.sin(points[..., 2] / 18), 0 * points[..., 0]], -1
    )
    start = FieldTransform(Field.from_mm(shift, SOLID))
    vectors = sitk.GetImageFromArray(shift.numpy(), isVector=True)
    vectors.CopyInformation(volume_to_sitk(picture(SOLID)))
    copy = sitk.Cast(vectors, sitk.sitkVectorFloat64)  # a transform takes its image away
    warped = sitk.Resample(
        volume_to_sitk(picture(SOLID)),
        volume_to_sitk(picture(SOLID)),
        sitk.DisplacementFieldTransform(vectors),
    )
    # the fixed image is the warped moving one: the start is already the answer
    for initial in (start, sitk.DisplacementFieldTransform(copy)):
        result = run(
            fixed=warped, moving=picture(SOLID), initial=initial, representation=name, linear="affine"
        )
        inside = subject(SOLID)
        distance = (result.forward.map(inside) - start.map(inside)).norm(dim=-1)
        assert (
            float(distance.mean()) < 0.8 < 0.5 * float((start.map(inside) - inside).norm(dim=-1).mean()) + 0.5
        )
        assert result.quality["similarity"]["after"]["ncc"] > 0.99


@pytest.mark.parametrize("frame", [FLAT, SOLID], ids=["2-D", "3-D"])
def test_output_spacing_is_that_of_the_fields_and_of_nothing_else(frame: Frame) -> None:
    fine, coarse = run(frame), run(frame, output_spacing=4.0)
    for field in (coarse.forward_field, coarse.inverse_field):
        assert np.allclose(field.frame.spacing, 4.0, rtol=0.15)
        assert np.allclose(field.frame.corners(), frame.corners(), atol=4.0)
    assert coarse.warped.frame == frame
    points = subject(frame)
    assert torch.equal(fine.forward.map(points), coarse.forward.map(points))
    assert (
        float((coarse.forward_field.map(points) - fine.forward_field.map(points)).norm(dim=-1).mean()) < 0.3
    )


def test_slices_of_three_dimensional_images() -> None:
    """One slice each, turned in space."""
    turn = ((1.0, 0.0, 0.0), (0.0, 0.6, -0.8), (0.0, 0.8, 0.6))
    frame = Frame((36, 32, 1), (1.5, 1.8, 5.0), (-26.0, -16.0, -22.0), turn)
    flat = [picture(FLAT, s).data[:, None] for s in ((0.0, 0.0), SHIFT[:2])]
    for linear in ("none", "rigid"):
        slices = {"fixed": Volume(flat[0], frame), "moving": Volume(flat[1], frame)}
        result = run(**slices, linear=linear, preset="balanced")
        assert any("single slice" in w for w in result.quality["warnings"])
        moved = result.forward_field.mm().reshape(-1, 3) @ torch.tensor(turn)
        # a turn out of the plane only shortens the picture; it must not leave the slice
        assert float(moved[:, 2].abs().max()) < (0.05 if linear == "none" else 2.5)
        assert result.quality["similarity"]["after"]["ncc"] > 0.96
        middle = (flat[0].reshape(-1) > 40) & (flat[0].reshape(-1) < 200)
        assert float((moved[middle, :2] - torch.tensor(SHIFT[:2])).norm(dim=-1).mean()) < 0.75 * START_MISS[2]


@pytest.mark.parametrize("role", ["fixed", "moving"])
@pytest.mark.parametrize("name", ["rigid", "diffeomorphic"])
def test_a_mask_decides_what_counts(role: str, name: str) -> None:
    """A bright object that only one of the images has draws the other along, unless it is masked."""
    pair = {"fixed": picture(SOLID), "moving": picture(SOLID, SHIFT)}
    object_ = (slice(None), slice(4, 14), slice(5, 15), slice(2, 7) if role == "fixed" else slice(16, 21))
    pair[role].data[object_] = 150.0
    mask = Volume(torch.ones(1, *SOLID.shape), SOLID)
    mask.data[object_] = 0
    options = {**pair, "representation": name, "similarity": "mse", "preset": "balanced"}
    free, masked = run(**options), run(**options, **{f"{role}_mask": mask})
    assert miss(masked, SOLID) < (0.6 if name == "rigid" else 1.7)
    assert miss(masked, SOLID) < 0.7 * miss(free, SOLID)


def test_only_the_subject_is_worked_on() -> None:
    """A large empty field of view costs nothing, and its fields cover it all the same."""
    large = Frame.regular((80, 76, 70), 2.2)
    result = run(fixed=picture(large), moving=picture(large, SHIFT))
    worked = result.quality["scales"][-1]["size"]
    assert all(20 < w < 45 for w in worked)
    assert result.forward_field.frame == large
    assert miss(result, SOLID) < 0.5 * START_MISS[3]


def test_labels_and_landmarks_help_and_are_measured() -> None:
    """Flat images with one edge: where they are alike only the prompts know what to do."""
    fixed, moving = (torch.full((1, *SOLID.shape), 100.0) for _ in range(2))
    for image in (fixed, moving):
        image[:, : SOLID.shape[0] // 2] = 0
    labels = [
        Volume((picture(SOLID, s).data > 75).int() * 5, SOLID) for s in ((0.0, 0.0, 0.0), (5.0, 0.0, 0.0))
    ]
    images = {"fixed": Volume(fixed, SOLID), "moving": Volume(moving, SOLID)}
    with_labels = run(**images, fixed_labels=labels[0], moving_labels=labels[1])
    numbers = with_labels.quality["labels"]
    assert numbers["after"]["dice"]["5"] > numbers["before"]["dice"]["5"] + 0.1
    points = torch.tensor([[0.0, 0, 0], [6, 0, 0], [0, 7, 0], [0, 0, 8]], dtype=torch.float64)
    shift = torch.tensor([4.0, 0, 0], dtype=torch.float64)
    with_points = run(
        **images,
        fixed_landmarks=points[:3],
        moving_landmarks=points[:3] + shift,
        held_out_landmarks=(points[3:] * 0.5, points[3:] * 0.5 + shift),
    )
    numbers = with_points.quality["landmarks"]
    assert numbers["fitted"]["after"]["mean_mm"] < 0.4 * numbers["fitted"]["before"]["mean_mm"]
    assert numbers["held_out"]["after"]["mean_mm"] < 0.6 * numbers["held_out"]["before"]["mean_mm"]
    assert list(numbers["fitted"]["after"]["each_mm"]) == ["1", "2", "3"]


def test_memory_is_asked_about_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Progress] = []
    monkeypatch.setattr(resources, "available_memory", lambda: 1000)
    with pytest.raises(ResourceError, match="GB are free"):
        run(progress=calls.append)
    assert [c.stage for c in calls] == ["Reading images"]
    monkeypatch.setattr(resources, "available_memory", lambda: None)

    def exhausted(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(session, "solve", exhausted)
    with pytest.raises(ResourceError, match="Use a larger output spacing"):
        run()
