"""A session kept warm: the same as `register`, and refinement from where the map stands."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from DeepRegistrationLib import register, session
from DeepRegistrationLib.errors import Cancelled, InputError
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.inputs import load_inputs
from DeepRegistrationLib.landmarks import Landmarks
from DeepRegistrationLib.methods import METHODS
from DeepRegistrationLib.metrics import landmark_errors
from DeepRegistrationLib.objective import Channel
from DeepRegistrationLib.options import Options
from DeepRegistrationLib.progress import CancelToken, Progress, Reporter
from DeepRegistrationLib.quality import label_numbers, warped_labels
from DeepRegistrationLib.registration import Registration
from DeepRegistrationLib.session import Session
from DeepRegistrationLib.transforms import REPRESENTATIONS

SOLID = Frame.regular((24, 22, 20), (2.0, 2.2, 2.4))
SHIFT = torch.tensor([3.0, -2.0, 1.5], dtype=torch.float64)
POINTS = torch.tensor(
    [[0, 0, 0], [12, 3, 2], [-11, 5, -4], [3, 12, -6], [-4, -11, 6], [2, 3, 13]], dtype=torch.float64
)
NAMES = tuple("abcdef")


def picture(frame: Frame, shift: Any = (0.0, 0.0, 0.0), inverted: bool = False) -> Volume:
    """A soft textured ball, moved by `shift` mm."""
    points = frame.points() - torch.as_tensor(shift, dtype=torch.float64)
    ball = torch.sigmoid(2 * (17 - points.norm(dim=-1)))
    texture = sum(torch.sin(points[..., k] / 2.7 + torch.cos(points[..., k - 1] / 3)) for k in range(3))
    values = ball * (1 + 0.2 * texture)
    return Volume(100 * (1 - values if inverted else values)[None].float(), frame)


def pairs(moving: torch.Tensor, rows: slice = slice(None)) -> tuple[Landmarks, Landmarks]:
    names = NAMES[rows]
    return Landmarks(POINTS[rows], names), Landmarks(moving[rows], names)


def fresh(landmarks: tuple[Landmarks, Landmarks] | None = None, **options: Any) -> Session:
    inputs = load_inputs(picture(SOLID), picture(SOLID, SHIFT), *(landmarks or (None, None)))
    settings = {"preset": "fast", "linear": "none", "similarity": "lncc", **options}
    return Session(inputs, Options(**settings), "cpu")


def same(a: Registration, b: Registration) -> bool:
    return (
        torch.equal(a.forward_field.displacement, b.forward_field.displacement)
        and torch.equal(a.inverse_field.displacement, b.inverse_field.displacement)
        and torch.equal(a.warped.data, b.warped.data)
    )


def errors(result: Registration, moving: torch.Tensor) -> torch.Tensor:
    return landmark_errors(result.forward, POINTS, moving)


@pytest.mark.parametrize("name", ["diffeomorphic", "affine"])
def test_a_session_registers_as_register_does(name: str) -> None:
    options = {"representation": name, "preset": "fast", "linear": "rigid", "similarity": "lncc"}
    expected = register(picture(SOLID), picture(SOLID, SHIFT), device="cpu", **options)
    first = fresh(**options)
    assert same(first.register(), expected)
    # what another session of the pair has prepared and aligned gives the same again
    second = Session(
        first.inputs, first.options, "cpu", prepared=first.prepared, aligned=first.aligned
    ).register()
    assert same(second, expected)


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_a_landmark_that_is_moved_is_followed(name: str) -> None:
    """The linear representations get a shift of all landmarks, which they can follow."""
    target = POINTS + SHIFT
    warm = fresh(pairs(target), representation=name)
    before = warm.register()
    moved = target.clone()
    rows = slice(None) if name in ("rigid", "affine") else slice(1, 2)
    moved[rows] += torch.tensor([0.0, 5.0, 3.0], dtype=torch.float64)
    start = errors(before, moved)
    after = warm.refine(landmarks=pairs(moved))
    reached = errors(after, moved)
    assert float(reached[rows].mean()) < 0.5 * float(start[rows].mean())
    others = [k for k in range(len(POINTS)) if k not in range(*rows.indices(len(POINTS)))]
    if others:
        assert float(reached[others].mean()) < float(start[others].mean()) + 0.7
    numbers = after.quality["landmarks"]["fitted"]["after"]["each_mm"]
    in_file = landmark_errors(after.written[0], POINTS, moved)  # linear between the field's voxels
    assert list(numbers.values()) == pytest.approx(in_file.tolist(), abs=1e-4)
    if after.forward is not before.forward and name in ("diffeomorphic", "stationary-velocity", "b-spline"):
        assert after.quality["regularity"]["folds_percent"] == 0


def test_refining_with_nothing_new_stays_where_it_is() -> None:
    warm = fresh(pairs(POINTS + SHIFT))
    first = warm.register()
    second = warm.refine()
    inside = SOLID.points().reshape(-1, 3)
    inside = inside[inside.norm(dim=-1) < 15]
    assert float((second.forward.map(inside) - first.forward.map(inside)).norm(dim=-1).mean()) < 0.5
    assert second.quality["similarity"]["after"]["ncc"] > first.quality["similarity"]["after"]["ncc"] - 0.01
    assert second.quality["similarity"]["before"] == first.quality["similarity"]["before"]


def test_prompts_come_and_go() -> None:
    """Landmarks, labels and a mask first given at refinement, and taken away again."""
    warm = fresh()
    assert "landmarks" not in warm.register().quality
    target = POINTS + SHIFT + torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64)
    result = warm.refine(landmarks=pairs(target, slice(4)), held_out=pairs(target, slice(4, 6)))
    numbers = result.quality["landmarks"]
    assert list(numbers["fitted"]["after"]["each_mm"]) == list("abcd")
    assert list(numbers["held_out"]["after"]["each_mm"]) == list("ef")
    assert numbers["fitted"]["after"]["mean_mm"] < 1.5  # the images say 3
    labels = [Volume((picture(SOLID, s).data > 50).int() * 3, SOLID) for s in ((0, 0, 0), SHIFT)]
    mask = Volume((SOLID.points()[None, ..., 0] > -15).float(), SOLID)
    result = warm.refine(labels=tuple(labels), masks=(mask, None))
    assert result.quality["labels"]["after"]["dice"]["3"] > result.quality["labels"]["before"]["dice"]["3"]
    assert result.quality["landmarks"]["fitted"]["after"]["mean_mm"] < 1.5  # kept
    assert warm.inputs.fixed_mask is not None and warm.inputs.moving_mask is None
    result = warm.refine(landmarks=([], []), held_out=None, labels=None, masks=None)
    assert "landmarks" not in result.quality and "labels" not in result.quality
    assert warm.inputs.fixed_mask is None and warm.inputs.landmarks is None


def test_labels_that_appear_pull() -> None:
    """Images of one edge: where they are alike only labels know what to do."""
    flat = torch.full((1, *SOLID.shape), 100.0)
    flat[:, : SOLID.shape[0] // 2] = 0
    warm = Session(
        load_inputs(Volume(flat, SOLID), Volume(flat.clone(), SOLID)),
        Options(preset="fast", linear="none", similarity="lncc"),
        "cpu",
    )
    before = warm.register()
    labels = [Volume((picture(SOLID, s).data > 50).int(), SOLID) for s in ((0, 0, 0), (5.0, 0.0, 0.0))]
    numbers = warm.refine(labels=tuple(labels)).quality["labels"]
    untouched = label_numbers(warped_labels(labels[1], before.forward_field, SOLID), labels[0], (1,))
    assert numbers["after"]["dice"]["1"] > untouched["dice"]["1"] + 0.08


def test_images_that_say_nothing_leave_a_rigid_map_to_the_landmarks() -> None:
    noise = [
        Volume(100 * torch.rand(1, *SOLID.shape, generator=torch.Generator().manual_seed(k)), SOLID)
        for k in (1, 2)
    ]
    target = POINTS + SHIFT
    inputs = load_inputs(*noise, *pairs(target))
    warm = Session(inputs, Options(representation="rigid", preset="fast", similarity="nmi"), "cpu")
    assert any("say little about each other" in w for w in warm.register().quality["warnings"])
    further = target + torch.tensor([0.0, 6.0, 0.0], dtype=torch.float64)
    assert float(errors(warm.refine(landmarks=pairs(further)), further).max()) < 1e-3


@pytest.mark.parametrize("at", [1, 5, 30, -2])
def test_a_cancelled_refinement_leaves_the_session_as_it_was(at: int) -> None:
    warm, other = (fresh(pairs(POINTS + SHIFT)) for _ in range(2))
    warm.register(), other.register()
    moved = POINTS + SHIFT
    moved[1, 1] += 5
    calls: list[Progress] = []
    expected = other.refine(landmarks=pairs(moved), report=Reporter(calls.append))
    fractions = [c.fraction for c in calls]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    token, seen = CancelToken(), []

    def watch(_: Progress) -> None:
        seen.append(1)
        if len(seen) == at % len(calls):
            token.cancel()

    with pytest.raises(Cancelled):
        warm.refine(landmarks=([[0.0, 0, 0]], [[9.0, 0, 0]]), report=Reporter(watch, token))
    assert torch.equal(warm.inputs.landmarks[1], POINTS + SHIFT)
    assert same(warm.refine(landmarks=pairs(moved)), expected)


def test_unusable_prompts_are_refused_and_change_nothing() -> None:
    warm = fresh(pairs(POINTS + SHIFT))
    warm.register()
    with pytest.raises(InputError, match="each needs its partner"):
        warm.refine(landmarks=(POINTS, POINTS[:2]))
    with pytest.raises(InputError, match="outside the moving image"):
        warm.refine(landmarks=(POINTS[:1], POINTS[:1] + 500))
    with pytest.raises(InputError, match="Labels come in pairs"):
        warm.refine(labels=(Volume(torch.ones(1, *SOLID.shape), SOLID), None))
    assert torch.equal(warm.inputs.landmarks[1], POINTS + SHIFT)


def test_a_session_that_was_never_run_is_run_by_refining() -> None:
    assert same(fresh().refine(landmarks=pairs(POINTS + SHIFT)), fresh(pairs(POINTS + SHIFT)).register())


def test_what_is_warm_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither images nor the method's features nor the numbers before."""
    warm = fresh(pairs(POINTS + SHIFT), linear="rigid")
    warm.register()

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("done again")

    for name in ("normalised", "foreground_box", "linear_stage", "method_by_name"):
        monkeypatch.setattr(session, name, again)
    monkeypatch.setattr("DeepRegistrationLib.quality.resampled", again)
    warm.refine(landmarks=pairs(POINTS + SHIFT + 1))


def test_features_are_handed_back_when_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import SimpleITK as sitk
    from DeepRegistrationLib.methods import Prediction

    def predict(pair: Any) -> Prediction:
        features = tuple(
            Volume(torch.cat([v.data, 2 * v.data]).half(), v.frame) for v in (pair.fixed, pair.moving)
        )
        return Prediction((Channel(pair.fixed, pair.moving, pair.similarity),), features=features)

    monkeypatch.setattr(METHODS["dio"], "predict", predict)
    assert fresh().register().features is None
    warm = fresh(features=True)
    warm.register().save(tmp_path)
    image = sitk.ReadImage(str(tmp_path / "features_moving.nii.gz"))
    assert image.GetNumberOfComponentsPerPixel() == 2 and image.GetSize() == SOLID.size
    assert image.GetPixelID() == sitk.sitkVectorFloat32
    assert (tmp_path / "features_fixed.nii.gz").is_file()
    assert warm.refine().features is not None
