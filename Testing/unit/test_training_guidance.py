"""Known maps as guides: the term itself, and that every method which predicts maps follows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.training import TASKS
from DeepRegistrationLib.training.base import Batch
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.guidance import guided
from DeepRegistrationLib.training.loop import train
from DeepRegistrationLib.training.options import TrainingOptions
from torch import Tensor


def batch(shape: tuple[int, ...], displacement: Tensor | None) -> Batch:
    image = torch.rand(1, 1, *shape)
    return Batch(image, image, None, None, None, None, (1.0,) * len(shape), displacement, 2.0)


def test_the_distance_is_in_voxels_along_every_axis() -> None:
    shape = (4, 8, 16)
    known = torch.zeros(1, *shape, 3)
    found = torch.tensor([3 * 2 / 16, 0.0, 4 * 2 / 4]).expand_as(known)  # 3 voxels along x, 4 along z
    given = {"loss": torch.tensor(1.0), "similarity": torch.tensor(0.5)}
    terms = guided(given, found, known, batch(shape, known))
    assert float(terms["error"]) == pytest.approx(5, abs=0.11)
    assert float(terms["loss"]) == pytest.approx(1 + 2 * float(terms["error"]), rel=1e-6)
    assert float(terms["similarity"]) == 0.5 and set(given) == {"loss", "similarity"}
    assert float(guided(given, known, known, batch(shape, known))["error"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("method", "configuration"),
    [("gradicon", "small"), ("sitreg", "small"), ("nephi", "small"), ("svf-r2net", "small-lncc")],
)
def test_methods_that_predict_maps_are_guided(method: str, configuration: str) -> None:
    """The term is the distance of what `displacement` gives, and reaches the weights."""
    task = TASKS[method]
    torch.manual_seed(0)
    network = task.network(configuration, 2)
    pairs = open_data("generated:anatomy?size=32&contrast=same", 2).batch(2, 0, 0)
    plain = task.loss(network.train(), pairs, 0.0, torch.Generator().manual_seed(0))
    assert "error" not in plain
    terms = task.loss(network, replace(pairs, guidance=1.5), 0.0, torch.Generator().manual_seed(0))
    network.zero_grad()
    terms["error"].backward()
    assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in network.parameters())
    with torch.no_grad():
        found = task.displacement(network, pairs)
    away = ((found - pairs.displacement) * 16).norm(dim=-1).mean()
    # points drawn at random (NePhi), a velocity drawn at random (R2Net), or batch statistics come between
    assert float(terms["error"].detach()) == pytest.approx(float(away), rel=0.1)


def test_guidance_shortens_the_way_to_known_maps(tmp_path: Path) -> None:
    data = "generated:anatomy?size=32&contrast=same&landmarks=0"
    errors = []
    for weight in (0.0, 5.0):
        options = TrainingOptions(
            tmp_path / str(weight),
            "sitreg",
            "small",
            data,
            40,
            dimension=2,
            batch=4,
            guidance=weight,
            threads=1,
        )
        errors.append(train(options).validation["error_after"])
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    ("method", "data", "what"),
    [
        ("sitreg", "generated:shapes?size=16", "true map is known"),
        ("dio", "generated:anatomy?size=16", "dio"),
    ],
)
def test_where_guidance_has_no_use(tmp_path: Path, method: str, data: str, what: str) -> None:
    options = TrainingOptions(tmp_path / "t", method, "small", data, 2, dimension=2, guidance=1.0)
    with pytest.raises(InputError, match=what):
        train(options)
