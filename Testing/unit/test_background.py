"""What is around the subject: fillings beyond the box, padding outside a CT scanner's field of view."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from DeepRegistrationLib import cli, register
from DeepRegistrationLib.background import AIR, filling_value, padding_limit
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.io import write_volume
from DeepRegistrationLib.prepare import measurements, normalised
from torch import Tensor

FRAME = Frame.regular((48, 44, 32), 5.0)
SHIFT = torch.tensor([12.0, -9.0, 4.5], dtype=torch.float64)
PLACES = torch.tensor([[0, 0, 0], [-40, 0, 10], [40, 0, 0], [0, 45, 0], [5, -15, -20]], dtype=torch.float64)
FIELD_OF_VIEW = 112.0


def thorax(shift: Tensor, padding: float | None = None, away: float = 0.0) -> Volume:
    """A body with lungs and a spine in Hounsfield units, and noise; `padding` outside a cylinder."""
    frame = Frame(FRAME.size, FRAME.spacing, (FRAME.origin[0] + away, *FRAME.origin[1:]), FRAME.direction)
    places = frame.points()
    x, y, z = (places - shift).unbind(-1)
    values = torch.full(frame.shape, -1000.0, dtype=torch.float64)
    for centre, half, hounsfield in (
        ((0, 0, 0), (90, 70, 500), 40),
        ((-40, -5, 10), (30, 42, 60), -850),
        ((40, -5, 5), (30, 42, 65), -840),
        ((0, 48, 0), (12, 12, 500), 700),
        ((5, -15, -20), (28, 25, 35), 60),
        ((-25, 20, -60), (35, 25, 30), 110),
    ):
        squares = [((p - c) / h) ** 2 for p, c, h in zip((x, y, z), centre, half, strict=True)]
        inside = torch.sigmoid(15 * (1 - sum(squares).sqrt()))
        values = values * (1 - inside) + hounsfield * inside
    values += 12 * torch.randn(
        frame.shape, generator=torch.Generator().manual_seed(1 + int(shift.abs().sum()))
    )
    if padding is not None:
        values[places[..., :2].norm(dim=-1) > FIELD_OF_VIEW] = padding
    return Volume(values[None].float(), frame)


def _array(volume: Volume) -> np.ndarray:
    return volume.data[0].numpy()


NOWHERE = torch.zeros(3, dtype=torch.float64)


@pytest.mark.parametrize("padding", [-3024.0, -2000.0, -32768.0])
def test_padding_is_told_from_tissue(padding: float) -> None:
    plain, padded = thorax(NOWHERE), thorax(NOWHERE, padding)
    assert padding_limit(_array(plain)) is None and padding_limit(_array(padded)) == AIR
    tissue = plain.data > -300
    difference = (normalised(plain).data - normalised(padded).data).abs()
    assert float(difference[tissue].max()) < 0.02
    assert measurements(plain) is plain
    assert float(measurements(padded).data.min()) == AIR


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 8, 7)),
        np.random.default_rng(0).normal(0, 1000, (20, 20, 20)),  # a phase map
        -2000 * (np.indices((20, 20, 20))[0] < 10) + np.random.default_rng(0).random((20, 20, 20)) * 1e5,
    ],
    ids=["constant", "signed map", "large values"],
)
def test_other_images_have_no_padding(image: np.ndarray) -> None:
    assert padding_limit(image) is None


@pytest.mark.parametrize(
    ("around", "subject", "filling"),
    [
        (255.0, (0, 200), 255.0),
        (1000.0, (100, 900), 1000.0),
        (0.0, (-4, 4), 0.0),  # a z-score, or a susceptibility
        (0.0, (100, 900), 0.0),
        (-1000.0, (-100, 900), -1000.0),
    ],
)
def test_the_filling_is_what_is_on_the_border(around: float, subject: tuple, filling: float) -> None:
    image = np.full((20, 21, 22), around)
    image[4:15, 5:16, 6:22] = np.random.default_rng(0).uniform(*subject, (11, 11, 16))
    assert filling_value(image) == filling
    assert filling_value(image[4]) == pytest.approx(filling)


def test_the_filling_where_the_subject_fills_the_image() -> None:
    image = np.random.default_rng(0).uniform(100, 900, (20, 20, 20))
    assert filling_value(image) == 0
    assert filling_value(image - 1000) == pytest.approx(image.min() - 1000)
    assert filling_value(np.full((3, 4), 7.0)) == 7


def _missed(fixed: float | None, moving: float | None) -> float:
    """How far a known shift is missed on average, mm."""
    result = register(
        thorax(NOWHERE, fixed), thorax(SHIFT, moving), method="classical", preset="fast", linear="rigid"
    )
    return float((result.forward.map(PLACES) - PLACES - SHIFT).norm(dim=1).mean())


def test_padding_does_not_hold_the_images_in_place() -> None:
    plain = _missed(None, None)
    for paddings in ((-3024.0, -3024.0), (-32768.0, -2000.0), (-3024.0, None), (None, -2000.0)):
        assert _missed(*paddings) < plain + 0.5, paddings


def test_register_and_evaluate_measure_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With padding in one image, and a moving image that ends within the fixed one."""
    images = tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz"
    write_volume(thorax(NOWHERE), images[0])
    write_volume(thorax(SHIFT, -3024.0, away=30.0), images[1])
    pair = ["--fixed", str(images[0]), "--moving", str(images[1])]
    out = tmp_path / "out"
    assert cli.main(["register", *pair, "--out", str(out), "--linear", "rigid", "--preset", "fast",
                     "--method", "classical", "--quiet"]) == 0  # fmt: skip
    written = json.loads((out / "quality.json").read_text())
    capsys.readouterr()
    assert cli.main(["evaluate", *pair, "--transform", str(out / "forward.h5"), "--json"]) == 0
    measurements = json.loads(capsys.readouterr().out)
    for when in ("before", "after"):
        for name in ("ncc", "nmi"):
            found = measurements["similarity"][when][name]
            assert found == pytest.approx(written["similarity"][when][name], abs=2e-3)
    # tissue decides, not the padding, which is all that moves with the scanner
    assert written["similarity"]["after"]["ncc"] > 0.9
