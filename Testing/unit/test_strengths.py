"""Symmetry and strengths as options: from the command line to what the solver minimises."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from DeepRegistrationLib import cli, session
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.half_way import HalfWay
from DeepRegistrationLib.io import write_volume
from DeepRegistrationLib.landmarks import Landmarks, write_landmarks
from DeepRegistrationLib.objective import PairObjective
from DeepRegistrationLib.options import Options
from DeepRegistrationLib.solver import Settings

FRAME = Frame.regular((24, 22), 2.0)


@dataclass
class Given:
    """What the solver was handed, and the energy's gradient at a displacement that is no optimum."""

    objective: PairObjective
    model: Any
    settings: Settings

    def gradient_vectors(self) -> torch.Tensor:
        frame = self.model.frame
        u = (0.02 * frame.grid().flip(-1)).requires_grad_()
        moved = (u, -u) if isinstance(self.model, HalfWay) else u
        (gradient,) = torch.autograd.grad(self.objective.at(frame)(moved), u)
        return gradient

    def gradient(self) -> float:
        return float(self.gradient_vectors().norm(dim=-1).mean())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    for name, shift in (("fixed", 0.0), ("moving", 3.0)):
        points = FRAME.points() - torch.tensor([shift, 0.0], dtype=torch.float64)
        distance = points.norm(dim=-1)
        write_volume(Volume(100 * torch.sigmoid(14 - distance)[None].float(), FRAME), folder / f"{name}.nrrd")
        write_volume(Volume((distance < 9)[None].float(), FRAME), folder / f"{name}_labels.nrrd")
        spots = torch.tensor([[0.0, 0.0], [5.0, -4.0]], dtype=torch.float64)
        write_landmarks(Landmarks(spots + torch.tensor([shift, 0.0]), ("a", "b")), folder / f"{name}.csv")
    return folder


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    sides = [
        part
        for side in ("fixed", "moving")
        for part in (
            *(f"--{side}", f"{folder}/{side}.nrrd"),
            *(f"--{side}-labels", f"{folder}/{side}_labels.nrrd"),
            *(f"--{side}-landmarks", f"{folder}/{side}.csv"),
        )
    ]
    fixed = ["--preset", "fast", "--linear", "none", "--method", "classical", "--similarity", "mse"]
    return ["register", *sides, *fixed, "--device", "cpu", "--quiet", "--out", str(out), *more]


def handed(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Given:
    seen: list[Given] = []

    def solve(objective: Any, model: Any, settings: Any, *_: Any) -> tuple[Any, list]:
        seen.append(Given(objective, model, settings))
        return model, []

    monkeypatch.setattr(session, "solve", solve)
    assert cli.main(arguments(folder, out, *more)) == 0
    return seen[0]


def test_symmetric_is_the_default_and_off_leaves_the_fixed_image_where_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for more in ((), ("--symmetric", "on")):
        assert isinstance(handed(folder, tmp_path / "on", monkeypatch, *more).model, HalfWay)
    off = handed(folder, tmp_path / "off", monkeypatch, "--symmetric", "off")
    assert not isinstance(off.model, HalfWay)
    assert torch.equal(off.objective.to_fixed_frame.matrix, torch.eye(3, dtype=torch.float64))
    assert FRAME.contains(torch.from_numpy(off.model.frame.centre)[None]).all()


@pytest.mark.parametrize("symmetric", ["on", "off"])
@pytest.mark.parametrize("option", ["landmark-weight", "label-weight", "regularity"])
def test_what_pulls_more_has_a_longer_gradient(
    option: str, symmetric: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = ("--symmetric", symmetric)
    usual, strong, stronger = (
        handed(folder, tmp_path / value, monkeypatch, *side, f"--{option}", value)
        for value in ("1", "500", "1000")
    )
    assert strong.gradient() > 1.2 * usual.gradient()
    # what is left beside it is the same in all three
    more = stronger.gradient_vectors() - strong.gradient_vectors()
    expected = (strong.gradient_vectors() - usual.gradient_vectors()) * 500 / 499
    torch.testing.assert_close(more, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))
    assert stronger.settings == usual.settings


def test_a_weight_of_zero_takes_a_prompt_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = handed(folder, tmp_path / "a", monkeypatch)
    none = handed(folder, tmp_path / "b", monkeypatch, "--landmark-weight", "0", "--label-weight", "0")
    assert usual.objective.landmark_pull > 0 and usual.objective.label_pull > 0
    assert none.objective.landmark_pull == 0 and none.objective.label_pull == 0
    assert none.gradient() < usual.gradient()


def test_stiffness_scales_all_smoothing_and_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = handed(folder, tmp_path / "a", monkeypatch)
    assert usual.settings.warp_sigma > 0 and usual.settings.gradient_sigma > 0
    stiff = handed(folder, tmp_path / "b", monkeypatch, "--stiffness", "2.5")
    assert stiff.settings.warp_sigma == pytest.approx(2.5 * usual.settings.warp_sigma)
    assert stiff.settings.gradient_sigma == pytest.approx(2.5 * usual.settings.gradient_sigma)
    assert (stiff.settings.scales, stiff.settings.rate) == (usual.settings.scales, usual.settings.rate)
    assert stiff.gradient() == pytest.approx(usual.gradient())


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--symmetric", "perhaps", "--symmetric"),
        ("--landmark-weight", "-1", "landmark weight"),
        ("--label-weight", "nan", "label weight"),
        ("--label-weight", "much", "--label-weight"),
        ("--stiffness", "0", "stiffness"),
        ("--stiffness", "inf", "stiffness"),
        ("--regularity", "1e9", "regularity"),
    ],
)
def test_bad_values_are_answered_with_one_sentence(
    option: str, value: str, word: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(folder, tmp_path / "out", f"{option}={value}")) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("deepregistration: error: ") and err.count("\n") == 1
    assert word in err and not (tmp_path / "out").exists()


def test_python_is_told_the_same() -> None:
    with pytest.raises(InputError, match="'on' or 'off'"):
        Options(symmetric="no").check()
    with pytest.raises(InputError, match=r"The landmark weight must be a number from 0 to 1000\."):
        Options(landmark_weight=-0.1).check()
    Options(symmetric="off", landmark_weight=0, label_weight=0, stiffness=0.001, regularity=1000).check()
