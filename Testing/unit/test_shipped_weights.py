"""The weights that come with the program: whole, small, described, and of use on pairs they never saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.catalogue import METHODS
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.training import TASKS
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.validate import validate
from DeepRegistrationLib.weights import ELSEWHERE, load_weights

FOLDER = Path(__file__).parents[2] / "DeepRegistration" / "Resources" / "Weights"
FILES = sorted(FOLDER.glob("*.pt"))
NAMES = [path.stem for path in FILES]


def test_there_are_some_and_they_are_small() -> None:
    assert FILES and all(path.stat().st_size <= 8_000_000 for path in FILES)
    assert sum(path.stat().st_size for path in FILES) <= 40_000_000
    assert {path.stem for path in FOLDER.glob("*.json")} == set(NAMES)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_record_is_that_of_the_file(path: Path) -> None:
    weights, told = load_weights(path), json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert path.stem == f"{weights.method}-{weights.dimension}d" and METHODS[weights.method].learns
    assert told["sha256"] == weights.sha256 and told["bytes"] == path.stat().st_size
    assert told["training"] == weights.record and told["convention"] == weights.convention
    assert len(told["commit"]) == 40 and all(len(curve) > 5 for curve in told["curves"])
    record = weights.record
    assert record["data"].startswith("generated:") and record["steps"] > 100 and record["seconds"] > 60
    assert sum(tensor.numel() for tensor in weights.state.values()) < 4_000_000


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_known_deformations_are_found_better_than_by_staying(path: Path) -> None:
    """On the pairs kept for validation, as the training itself looks at them."""
    weights = load_weights(path)
    task = TASKS[weights.method]
    network = task.network(weights.configuration, weights.dimension)
    for stage in range(1, weights.convention["stage"] + 1):
        network = task.enter_stage(network, stage)
    network = weights.into(network)
    data = open_data(weights.record["data"], weights.dimension, None)
    told = validate(task, network, data, torch.device("cpu"))
    assert told["dice_after"] > told["dice_before"] + 0.02
    assert told["folds_percent"] < 1


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_it_is_used_unless_told_otherwise(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ELSEWHERE)
    weights = load_weights(path)
    batch = open_data("generated:anatomy?size=40&contrast=same", weights.dimension).held_out(1)
    frame = Frame.regular(tuple(reversed(batch.fixed.shape[2:])), 3.0)
    pair = Volume(batch.fixed[0], frame), Volume(batch.moving[0], frame)
    found = register(*pair, method=weights.method, preset="prediction", linear="none")
    assert found.quality["parameters"]["weights_used"] == weights.sha256
    assert not any("no trained weights" in sentence for sentence in found.quality["warnings"])
    before, after = (found.quality["similarity"][when]["ncc"] for when in ("before", "after"))
    assert after >= before - 0.01
