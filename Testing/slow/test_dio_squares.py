"""DIO's toy problem, made smaller: squares that do not overlap, which only learned features can align."""

from __future__ import annotations

import importlib.util
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from DeepRegistrationLib.methods.dio.training import CONFIGURATIONS, DioTask
from DeepRegistrationLib.training.data import open_data

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "dio_squares.py"
STEPS, PAIRS = 80, 32

# a quarter of the paper's size, in all proportions the same
CONFIGURATION = replace(
    CONFIGURATIONS["squares"],
    features=replace(CONFIGURATIONS["squares"].features, widths=(8, 16, 16, 32, 32), margin=16),
    scales=((8, 20), (4, 8), (2, 8)),
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dio_squares", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


class Task(DioTask):
    configurations = {"squares": CONFIGURATION}  # noqa: RUF012


@pytest.fixture(scope="module")
def outcomes(script: ModuleType) -> list:
    """Train for a minute, then align held-out pairs."""
    task, source = Task(), open_data("generated:squares", 2, (64, 64))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = task.network("squares", 2)
    (stage,) = task.stages("squares")
    optimiser = task.optimiser(network, stage)
    for step in range(STEPS):
        done = step / STEPS
        optimiser.param_groups[0]["lr"] = stage.rate * task.rate_at(stage, done)
        batch = source.batch(stage.batch, 0, step)
        optimiser.zero_grad()
        task.loss(network, batch, done, torch.Generator().manual_seed(step))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), task.clip)
        optimiser.step()
    network.eval().requires_grad_(False)
    return [script.align(network, CONFIGURATION, source.held_out(k)) for k in range(PAIRS)]


def mean(outcomes: list, half: str, name: str) -> float:
    return statistics.fmean(o.dice(name) for o in outcomes if o.half == half)


def test_intensities_alone_fail_where_squares_do_not_overlap(outcomes: list) -> None:
    assert mean(outcomes, "apart", "start") == 0
    # not 0, since the coarse scales' blur lets the nearest ones touch
    assert mean(outcomes, "apart", "intensities") < 0.35


def test_intensities_alone_align_squares_that_overlap(outcomes: list) -> None:
    assert mean(outcomes, "overlapping", "intensities") > 0.75


def test_learned_features_align_both(outcomes: list) -> None:
    assert mean(outcomes, "overlapping", "features") > 0.85
    assert mean(outcomes, "apart", "features") > 0.45
    assert mean(outcomes, "apart", "features") > 2 * mean(outcomes, "apart", "intensities")


def test_the_script_draws_and_tabulates(script: ModuleType, outcomes: list, tmp_path: Path) -> None:
    script.picture(tmp_path / "squares.png", outcomes[:4])
    assert (tmp_path / "squares.png").stat().st_size > 1000
    rows = script.table(outcomes)
    assert [row[:2] for row in rows[:3]] == [["overlapping", n] for n in ("start", "intensities", "features")]
