"""The looks a network takes at a pair: which lattices, and what becomes of what they find."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods import METHODS, MethodInput
from DeepRegistrationLib.methods.maps import FieldMap
from DeepRegistrationLib.methods.predicting import Looked, looks
from DeepRegistrationLib.objectives import LocalNCC, MeanSquaredError, Similarity
from DeepRegistrationLib.presets import PRESETS
from DeepRegistrationLib.transforms import LinearTransform
from DeepRegistrationLib.weights import Weights
from torch import Tensor, nn

SITREG = METHODS["sitreg"]


def weights(*shape: int) -> Weights:
    return Weights("sitreg", "small", len(shape), {}, {"shape": list(shape)}, {}, "")


def test_voxels_are_equally_long_and_a_thin_box_stays_thin() -> None:
    frame = Frame.regular((400, 360, 36), 0.5)
    coarse, fine, finer = looks(weights(48, 48, 48), frame)
    for found, share in ((coarse, 0.75), (fine, 1.4), (finer, 2.0)):
        assert found.voxels == pytest.approx(48**3 * share**3, rel=0.15)
        assert max(found.spacing) < 1.15 * min(found.spacing)
        assert found.extent == pytest.approx(frame.extent)
    assert coarse.size[2] < coarse.size[0] / 8


def test_no_look_is_finer_than_the_image() -> None:
    small = Frame.regular((24, 20, 18), 2.0)
    (only,) = looks(weights(48, 48, 48), small)
    assert only.size == small.size
    coarse, fine, _ = looks(weights(22, 22, 22), small)
    assert coarse.voxels < fine.voxels <= 1.05 * small.voxels
    assert len(looks(weights(22, 22, 22), small, (2.0, 2.0))) == 1


def blob(frame: Frame, at: float) -> Volume:
    """A soft ball, shifted along x by so many mm, LPS."""
    points = frame.points()
    away = (points - torch.tensor([at, 0.0], dtype=torch.float64)).norm(dim=-1)
    texture = 0.2 * torch.sin(points[..., 0] - at) * torch.cos(0.7 * points[..., 1])
    return Volume((torch.sigmoid(12 - away) * (0.7 + texture))[None].float(), frame)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        *(((4.0, 1.0, 1.0), 6.0), ((4.0, 2.0, -3.0), 6.0)),
        *(((6.0, 3.0), 6.0), ((-5.0,), None)),
    ],
)
def test_what_helps_is_composed_and_the_rest_left_out(
    steps: tuple[float, ...], expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The true shift is 6 mm; a look sees what those before it have left, and one that fails is the last."""
    frame = Frame.regular((64, 64), 1.0)
    seen: list[Tensor] = []

    def proposal(network: object, moving: Tensor, fixed: Tensor, at: Frame, pair: MethodInput) -> FieldMap:
        seen.append(moving)
        u = torch.tensor([steps[len(seen) - 1] * 2 / at.extent[0], 0.0], dtype=torch.float32)
        return FieldMap(u.expand(1, *at.shape, 2))

    monkeypatch.setattr(SITREG, "network", lambda weights: nn.Identity(), raising=False)
    monkeypatch.setattr(SITREG, "proposals", lambda *given: (proposal(*given), None), raising=False)
    linear = LinearTransform.identity(2)
    given = MethodInput(
        blob(frame, 0.0), blob(frame, 6.0), linear, LocalNCC(2), PRESETS["prediction"], weights(32, 32)
    )
    found = SITREG.predict(given)
    assert len(seen) == len(steps)
    if expected is None:
        assert found.start is None and "more alike" in found.warnings[0]
        return
    middle = torch.zeros(1, 2, dtype=torch.float64)
    assert found.start is not None and found.warnings == ()
    assert seen[1].shape[-1] > seen[0].shape[-1]
    torch.testing.assert_close(
        found.start.map(middle), torch.tensor([[expected, 0.0]], dtype=torch.float64), rtol=0, atol=1e-3
    )
    seen.clear()
    refined = SITREG.predict(replace(given, preset=PRESETS["fast"]))  # the solver sees the rest itself
    assert len(seen) == 1 and (refined.start is not None) is (steps[0] > 0)


@pytest.mark.parametrize(
    ("configuration", "preset", "sides"),
    [
        *(("small", "prediction", [24, 45, 64]), ("small-alone", "prediction", [64, 64])),
        *(("small", "fast", [24]), ("small-alone", "fast", [24])),
    ],
)
def test_gradicon_looks_finer_where_it_is_alone(
    configuration: str, preset: str, sides: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, method, seen = Frame.regular((80, 80), 1.0), METHODS["gradicon"], []

    def proposal(network: object, moving: Tensor, fixed: Tensor, at: Frame, pair: MethodInput) -> FieldMap:
        seen.append(at.size[0])
        u = torch.tensor([3.0 * 2 / at.extent[0], 0.0], dtype=torch.float32)
        return FieldMap(u.expand(1, *at.shape, 2))

    monkeypatch.setattr(method, "network", lambda weights: nn.Identity(), raising=False)
    monkeypatch.setattr(method, "proposal", proposal, raising=False)
    given = Weights("gradicon", configuration, 2, {}, {"shape": [32, 32]}, {}, "")
    linear = LinearTransform.identity(2)
    method.predict(
        MethodInput(blob(frame, 0.0), blob(frame, 8.0), linear, LocalNCC(2), PRESETS[preset], given)
    )
    assert seen == sides


class OfTheMiddle(Similarity):
    """Sees the middle of the images only."""

    def __call__(self, warped: Tensor, fixed: Tensor, weight: Tensor | None = None) -> Tensor:
        return MeanSquaredError()(*(image[..., 12:20, 12:20] for image in (warped, fixed)))


def test_what_parts_the_rest_of_the_images_does_not_help() -> None:
    """A map has to do well by the measure, without the mutual information of the whole falling."""
    fixed = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    moving = fixed.clone()
    moving[..., 12:20, 12:20] = fixed[..., 12:20, 11:19]  # there and nowhere else shifted by a voxel
    everywhere, there = torch.zeros(2, 1, 32, 32, 2)
    everywhere[..., 0] = 2 / 32
    there[:, 12:20, 12:20, 0] = 2 / 32
    for displacement, expected in ((everywhere, False), (there, True)):
        looked = Looked(FieldMap(displacement), None)
        assert looked.improves(moving, fixed, OfTheMiddle(), 0.5) is expected
    nothing = Looked(FieldMap(torch.zeros_like(there)), None)
    assert not nothing.improves(moving, fixed, OfTheMiddle(), 0.0)
