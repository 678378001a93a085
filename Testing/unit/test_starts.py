"""Where the solver begins from a method's map: on which lattice it is read, and what work it spares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods import METHODS, MethodInput, Prediction
from DeepRegistrationLib.methods.classical import classical_features
from DeepRegistrationLib.presets import PRESETS, finest_frame, settings_for, start_frame
from DeepRegistrationLib.transforms import FieldTransform

FRAME = Frame.regular((48, 44), 1.0)
POINTS = torch.tensor([[0.0, 0.0], [8.0, 3.0], [-7.0, 5.0]], dtype=torch.float64)


def ring(shift: float) -> Volume:
    points = FRAME.points(dtype=torch.float32) - shift
    soft = torch.exp(-((points.norm(dim=-1) - 10) ** 2) / 20)
    return Volume((soft * (0.7 + 0.3 * torch.sin(points.sum(-1) / 4)))[None], FRAME)


def shift_map(mm: float) -> FieldTransform:
    u = torch.full((*FRAME.shape, 2), mm)
    return FieldTransform(Field.from_mm(u, FRAME))


def coarsest(monkeypatch: pytest.MonkeyPatch, start: FieldTransform | None, **more: Any) -> int:
    """The most iterations that the solver is given at its coarsest scale."""
    seen: list[int] = []

    def predict(pair: MethodInput) -> Prediction:
        return replace(classical_features(pair), start=start)

    def watched(*arguments: Any) -> Any:
        settings = settings_for(*arguments)
        seen.append(settings.scales[0].iterations)
        return settings

    monkeypatch.setattr(METHODS["sitreg"], "predict", predict, raising=False)
    monkeypatch.setattr("DeepRegistrationLib.session.settings_for", watched)
    register(ring(0.0), ring(2.0), method="sitreg", preset="fast", linear="none", **more)
    return seen[0]


def test_a_start_takes_work_off_the_coarsest_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PRESETS["fast"].iterations
    assert coarsest(monkeypatch, None) == whole[0]
    assert coarsest(monkeypatch, shift_map(2.0)) == whole[0] // 4
    plain, started = (settings_for(PRESETS["fast"], "diffeomorphic", "lncc", s) for s in (False, True))
    assert [s.iterations for s in plain.scales[1:]] == [s.iterations for s in started.scales[1:]]


@pytest.mark.parametrize("prompt", ["landmarks", "labels", "initial", "linear", "contrasts"])
def test_what_the_start_does_not_know_of_gets_all_iterations(
    prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [Volume((v.data > 0.3).float(), FRAME) for v in (ring(0.0), ring(2.0))]
    more: dict[str, Any] = {
        "landmarks": {"fixed_landmarks": POINTS, "moving_landmarks": POINTS + 2},
        "labels": {"fixed_labels": labels[0], "moving_labels": labels[1]},
        "initial": {"initial": shift_map(1.0)},  # it takes the start's place
        "linear": {"representation": "affine"},
        "contrasts": {"similarity": "mind"},  # which tell less of how good it is
    }[prompt]
    assert coarsest(monkeypatch, shift_map(2.0), **more) == PRESETS["fast"].iterations[0]


@pytest.mark.parametrize("size", [(160, 192, 224), (217, 18, 182), (20, 20, 20)])
def test_a_start_is_read_where_the_solver_begins(size: tuple[int, ...]) -> None:
    frame = Frame.regular(size, 1.0)
    alone, refined = (start_frame(PRESETS[name], frame) for name in ("prediction", "fast"))
    assert alone == finest_frame(PRESETS["prediction"], frame)
    assert refined.extent == pytest.approx(frame.extent)
    expected = [max(min(n, 16), round(n / 4)) for n in finest_frame(PRESETS["fast"], frame).size]
    assert list(refined.size) == expected
