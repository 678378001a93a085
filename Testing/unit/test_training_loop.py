"""The training loop: the same bits after a stop, sentences for mistakes, a log, no growth."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from DeepRegistrationLib import cli
from DeepRegistrationLib.errors import InputError, OutputError, RegistrationError
from DeepRegistrationLib.folder_lock import locked
from DeepRegistrationLib.progress import CancelToken
from DeepRegistrationLib.training import TASKS, Batch, Stage, TrainingTask, learner, loop
from DeepRegistrationLib.training.checkpoint import CHECKPOINT, load_checkpoint
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.loop import train
from DeepRegistrationLib.training.options import TrainingOptions
from DeepRegistrationLib.training.validate import overlap, validate
from DeepRegistrationLib.weights import load_weights
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    steps: int = 20
    rate: float = 1e-3


class Task(TrainingTask):
    """Two convolutions with everything that could break exactness: dropout, batch statistics, jitter from
    the generator, momentum, a rate that falls, and a network that grows in its second stage."""

    method: ClassVar[str] = "toy"
    configurations: ClassVar[dict[str, Any]] = {"small": Config(), "fast": Config(8, 1e-2)}

    def network(self, configuration: str, dimension: int) -> nn.Module:
        first = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
        return nn.Sequential(first, nn.Conv2d(8, 2, 3, padding=1))

    def convention(self, configuration: str, dimension: int) -> dict[str, Any]:
        return {"shape": [16] * dimension, "channels": 1}

    def stages(self, configuration: str) -> tuple[Stage, ...]:
        rate = self.configurations[configuration].rate
        return Stage("first", 0.4, rate, 3), Stage("second", 0.6, rate / 2, 2)

    def enter_stage(self, network: nn.Module, stage_index: int) -> nn.Module:
        if stage_index == 1:
            network.append(nn.Conv2d(2, 2, 3, padding=1))
        return network

    def optimiser(self, network: nn.Module, stage: Stage) -> torch.optim.Optimizer:
        return torch.optim.AdamW(network.parameters(), lr=stage.rate)

    def rate_at(self, stage: Stage, done: float) -> float:
        return 1 - 0.9 * done

    def loss(
        self, network: nn.Module, batch: Batch, done: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        u = self.displacement(network, batch) + 0.01 * torch.randn(2, generator=generator)
        similarity = (warped(batch.moving, u) - batch.fixed).square().mean()
        return {"loss": similarity + 0.1 * u.square().mean(), "similarity": similarity}

    def displacement(self, network: nn.Module, batch: Batch) -> Tensor:
        return 0.1 * network(torch.cat([batch.fixed, batch.moving], 1)).movedim(1, -1)


def warped(image: Tensor, u: Tensor) -> Tensor:
    grid = F.affine_grid(torch.eye(2, 3).expand(len(u), 2, 3), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid + u, align_corners=False)


class StopAt:
    """A progress callback that asks for an end after so many steps."""

    def __init__(self, step: int) -> None:
        self.left, self.token = step, CancelToken()

    def __call__(self, progress: object) -> None:
        self.left -= 1
        if self.left == 0:
            self.token.cancel()


def options(out: Path, **more: Any) -> TrainingOptions:
    given = {"method": "toy", "configuration": "small", "data": "generated:shapes", "device": "cpu", **more}
    return TrainingOptions(out, **given)


def resumed(out: Path, **more: Any) -> TrainingOptions:
    return TrainingOptions(out, resume=True, device="cpu", **more)


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, tensors within dictionaries and lists included."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


# --- exactness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [(10,), (3, 5, 8), (8,)])  # in a stage, several times, between stages
def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path, stops: tuple[int, ...]) -> None:
    straight = train(options(tmp_path / "a"), Task())
    assert straight.reason == "finished" and straight.step == 20
    done = 0
    for stop in stops:
        until = StopAt(stop - done)
        first = options(tmp_path / "b") if done == 0 else resumed(tmp_path / "b")
        result = train(first, Task(), until, until.token)
        done = stop
        assert (result.reason, result.step) == ("interrupted", stop)
        torch.manual_seed(stop)  # what the program around does with its random numbers does not matter
    result = train(resumed(tmp_path / "b"), Task())
    assert result.reason == "finished" and result.losses == straight.losses
    assert result.validation == straight.validation
    a, b = (load_checkpoint(tmp_path / name) for name in "ab")
    assert same(a.network, b.network) and same(a.optimiser, b.optimiser)
    weights = [load_weights(tmp_path / name / "weights.pt", "toy", 2) for name in "ab"]
    assert same(weights[0].state, weights[1].state)
    assert [row["terms"] for row in lines(tmp_path / "a") if "terms" in row] == [
        row["terms"] for row in lines(tmp_path / "b") if "terms" in row
    ]


def test_the_seed_decides(tmp_path: Path) -> None:
    states = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(options(tmp_path / name, seed=seed, steps=4), Task())
        states.append(load_checkpoint(tmp_path / name).network)
    assert same(states[0], states[1]) and not same(states[0], states[2])


def test_nothing_of_the_program_around_changes(tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    threads = torch.get_num_threads()
    with torch.no_grad():
        train(options(tmp_path / "a", steps=3, threads=2), Task())
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


def test_the_loop_does_what_a_few_lines_by_hand_do(tmp_path: Path) -> None:
    class Plain(Task):
        clip: ClassVar[float] = 0.05

        def network(self, configuration: str, dimension: int) -> nn.Module:
            return nn.Conv2d(2, 2, 3, padding=1)

        def stages(self, configuration: str) -> tuple[Stage, ...]:
            return (Stage("only", 1.0, 0.5, 4),)

        def optimiser(self, network: nn.Module, stage: Stage) -> torch.optim.Optimizer:
            return torch.optim.SGD(network.parameters(), lr=stage.rate)

        def loss(self, network: nn.Module, batch: Batch, done: float, generator: Any) -> dict[str, Tensor]:
            return {"loss": (network(torch.cat([batch.fixed, batch.moving], 1)) - 1).square().mean()}

    train(options(tmp_path / "short", steps=1, seed=4), Plain())
    train(options(tmp_path / "long", steps=5, seed=4), Plain())
    source, net = open_data("generated:shapes", shape=(16, 16)), nn.Conv2d(2, 2, 3, padding=1)
    rows = [row for row in lines(tmp_path / "long") if "terms" in row]
    first = load_checkpoint(tmp_path / "short").network  # after one step at the full rate
    net.load_state_dict(first)
    for step in range(1, 5):
        batch = source.batch(4, 4, step)
        value = (net(torch.cat([batch.fixed, batch.moving], 1)) - 1).square().mean()
        gradients = torch.autograd.grad(value, list(net.parameters()))
        length = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        assert rows[step]["terms"]["loss"] == pytest.approx(value.item(), rel=1e-5)
        assert rows[step]["terms"]["gradient"] == pytest.approx(length, rel=1e-4)
        rate = 0.5 * (1 - 0.9 * step / 5)
        assert rows[step]["rate"] == pytest.approx(rate)
        with torch.no_grad():
            for p, g in zip(net.parameters(), gradients, strict=True):
                p -= rate * g * min(1.0, 0.05 / length)
    trained = load_checkpoint(tmp_path / "long").network
    for name, tensor in net.state_dict().items():
        assert torch.allclose(tensor, trained[name], atol=1e-5)


# --- what is written ------------------------------------------------------------------------------


def test_what_a_training_leaves(tmp_path: Path) -> None:
    result = train(options(tmp_path / "deep" / "out", configuration="fast", seed=3, half=True), Task())
    out = tmp_path / "deep" / "out"
    assert {p.name for p in out.iterdir()} == {
        "checkpoint.pt",
        "weights.pt",
        "log.txt",
        "log.jsonl",
        "curve.png",
        ".lock",
    }
    weights = load_weights(out / "weights.pt", "toy", 2)
    assert weights.sha256 == result.sha256 and weights.configuration == "fast"
    assert weights.convention == {"shape": [16, 16], "channels": 1, "stage": 1}
    record = weights.record
    assert record["steps"] == record["steps_planned"] == 8 and record["seed"] == 3
    assert record["data"] == "generated:shapes" and record["losses"] == result.losses
    assert record["validation"]["pairs"] == 16 and record["versions"]["torch"] == torch.__version__
    network = Task().enter_stage(Task().network("fast", 2), 1)
    network.load_state_dict(weights.state)
    rows = [row for row in lines(out) if "terms" in row]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["stage"] for row in rows] == ["first"] * 3 + ["second"] * 5
    assert all(math.isfinite(row["terms"]["loss"]) and row["seconds_per_step"] > 0 for row in rows)
    text = (out / "log.txt").read_text()
    for word in ("toy", "fast", "generated:shapes", "16 x 16", "seed 3", "similarity", "Dice", "finished"):
        assert word in text
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "curve.png")))
    assert picture.shape[1:] == (900, 3) and len(picture) > 1000  # three panels
    assert len({tuple(p) for p in picture[::3, ::3].reshape(-1, 3)}) > 10


def test_a_long_training_has_a_short_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from DeepRegistrationLib.training import log

    monkeypatch.setattr(log, "_MOST_ROWS", 5)
    train(options(tmp_path / "mean"), Task())
    monkeypatch.undo()
    train(options(tmp_path / "each"), Task())
    means = [row for row in lines(tmp_path / "mean") if "terms" in row]
    each = [row["terms"]["loss"] for row in lines(tmp_path / "each") if "terms" in row]
    assert [row["step"] for row in means] == [4, 8, 12, 16, 20]
    assert means[1]["terms"]["loss"] == pytest.approx(sum(each[4:8]) / 4)


def test_rows_after_the_checkpoint_are_dropped_when_resuming(tmp_path: Path) -> None:
    until = StopAt(6)
    train(options(tmp_path / "a"), Task(), until, until.token)
    with (tmp_path / "a" / "log.jsonl").open("a") as file:  # as a killed process leaves it
        file.write('{"step": 7, "terms": {"loss": 1.0}, "stage": "first"}\n{"step": 8, "te')
    train(resumed(tmp_path / "a"), Task())
    assert [row["step"] for row in lines(tmp_path / "a") if "terms" in row] == list(range(1, 21))
    assert "resumed at step 6 of 20" in (tmp_path / "a" / "log.txt").read_text()


def test_checkpoints_come_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    original = loop.save_checkpoint
    monkeypatch.setattr(loop, "save_checkpoint", lambda f, c: (saved.append(c.step), original(f, c)))
    train(options(tmp_path / "a", steps=6, checkpoint_minutes=1e-9), Task())
    assert set(saved) == {0, 1, 2, 3, 4, 5, 6}
    saved.clear()
    train(options(tmp_path / "b", steps=6), Task())
    assert set(saved) == {6}


def test_time_is_over(tmp_path: Path) -> None:
    result = train(options(tmp_path / "a", max_minutes=1e-9), Task())
    assert (result.reason, result.step) == ("time", 0)
    result = train(resumed(tmp_path / "a"), Task())
    assert (result.reason, result.step) == ("finished", 20)
    assert train(resumed(tmp_path / "a"), Task()).step == 20  # nothing left to do


def test_tensors_do_not_pile_up(tmp_path: Path) -> None:
    counts: list[int] = []
    steps: list[int] = []

    def count(progress: object) -> None:
        steps.append(0)
        if len(steps) % 20 == 0:
            gc.collect()
            counts.append(sum(issubclass(type(o), Tensor) for o in gc.get_objects()))

    class OneStage(Task):
        def stages(self, configuration: str) -> tuple[Stage, ...]:
            return (Stage("only", 1.0, 1e-3, 2),)

    train(options(tmp_path / "a", steps=120), OneStage(), count)
    # batches drawn ahead come and go: a handful either way
    assert len(counts) == 6 and max(counts[1:]) - min(counts[1:]) <= 16


# --- numbers that are not finite ------------------------------------------------------------------


class Sick(Task):
    """Gives NaN at some steps."""

    def __init__(self, bad: Callable[[int], bool]) -> None:
        self.bad, self.calls = bad, 0

    def loss(self, network: nn.Module, batch: Batch, done: float, generator: Any) -> dict[str, Tensor]:
        self.calls += 1
        if self.bad(self.calls):
            batch = replace(batch, fixed=batch.fixed * math.nan)
        return super().loss(network, batch, done, generator)


def test_a_step_without_a_finite_gradient_is_skipped(tmp_path: Path) -> None:
    result = train(options(tmp_path / "a"), Sick(lambda call: call in (2, 5, 6)))
    assert (result.step, result.skipped) == (20, 3)
    network = load_checkpoint(tmp_path / "a").network
    assert all(bool(torch.isfinite(t).all()) for t in network.values())  # running statistics too
    assert load_weights(tmp_path / "a" / "weights.pt").record["skipped"] == 3
    assert "step 5 skipped" in (tmp_path / "a" / "log.txt").read_text()
    assert [row["step"] for row in lines(tmp_path / "a") if "terms" in row][:3] == [1, 3, 4]


def test_weights_are_not_overwritten_where_their_checkpoint_is_gone(tmp_path: Path) -> None:
    train(options(tmp_path, steps=2), Task())
    (tmp_path / CHECKPOINT).unlink()
    before = (tmp_path / "weights.pt").read_bytes()
    with pytest.raises(InputError, match="holds the weights of a training"):
        train(options(tmp_path, steps=2, seed=5), Task())
    assert (tmp_path / "weights.pt").read_bytes() == before


@pytest.mark.parametrize(
    "forged",
    [{"step": "a"}, {"step": -1}, {"stage": None}, {"network": []}, {"settings": "{}"}, {"settings": "[]"}],
)
def test_a_checkpoint_that_cannot_be_is_refused_in_a_sentence(tmp_path: Path, forged: dict[str, Any]) -> None:
    train(options(tmp_path, steps=2), Task())
    file = tmp_path / CHECKPOINT
    torch.save(torch.load(file, weights_only=True) | forged, file)
    with pytest.raises(InputError, match=r"is damaged\.|does not say what is trained"):
        train(resumed(tmp_path), Task())


def test_many_in_a_row_end_the_training_with_the_last_good_state(tmp_path: Path) -> None:
    with pytest.raises(RegistrationError, match="not a finite number for 30 steps in a row"):
        train(options(tmp_path / "a", steps=200), Sick(lambda call: call > 4))
    found = load_checkpoint(tmp_path / "a")
    assert found.step == 34 and all(bool(torch.isfinite(t).all()) for t in found.network.values())
    until = StopAt(4)
    train(options(tmp_path / "b", steps=200), Task(), until, until.token)
    good = load_checkpoint(tmp_path / "b").network
    assert all(same(good[k], found.network[k]) for k in good if not k.endswith("num_batches_tracked"))


def test_running_out_of_memory_keeps_the_state(tmp_path: Path) -> None:
    class Greedy(Task):
        calls = 0

        def loss(self, *arguments: Any) -> dict[str, Tensor]:
            self.calls += 1
            if self.calls == 3:
                torch.empty(1 << 60)
            return super().loss(*arguments)

    with pytest.raises(RegistrationError, match="not enough memory"):
        train(options(tmp_path / "a"), Greedy())
    assert load_checkpoint(tmp_path / "a").step == 2
    train(options(tmp_path / "b"), Task())
    train(resumed(tmp_path / "a"), Task())
    assert same(*(load_checkpoint(tmp_path / name).network for name in "ab"))


def test_a_first_step_that_fails_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    """So that the same command works once the reason is gone."""

    class Choosy(Task):
        def loss(self, *arguments: Any) -> dict[str, Tensor]:
            raise InputError("Other data are needed.")

    with pytest.raises(InputError, match="Other data"):
        train(options(tmp_path / "a"), Choosy())
    assert not (tmp_path / "a" / CHECKPOINT).exists()
    assert "Other data" in (tmp_path / "a" / "log.txt").read_text()
    assert train(options(tmp_path / "a"), Task()).step == 20


# --- mixed precision ------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_scaled_resumed_and_stored_as_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """What a GPU would do, on the processor: torch has autocast and the scaler there too."""
    seen: list[torch.dtype] = []

    class Watched(Task):
        def loss(self, network: nn.Module, batch: Batch, done: float, generator: Any) -> dict[str, Tensor]:
            seen.append(network[0][0](torch.cat([batch.fixed, batch.moving], 1)).dtype)
            return super().loss(network, batch, done, generator)

    exact = train(options(tmp_path / "exact"), Task())
    if precision == "float16":  # which is only for GPUs
        monkeypatch.setattr(learner, "_precision", lambda *_: precision)
        precise = None
    else:
        precise = precision
    straight = train(options(tmp_path / "a", precision=precise), Watched())
    assert set(seen) == {getattr(torch, precision)}
    assert straight.losses["loss"] == pytest.approx(exact.losses["loss"], rel=0.1)
    until = StopAt(11)
    train(options(tmp_path / "b", precision=precise), Task(), until, until.token)
    assert bool(load_checkpoint(tmp_path / "b").scaler) == (precision == "float16")
    train(resumed(tmp_path / "b"), Task())
    a, b = (load_checkpoint(tmp_path / name) for name in "ab")
    assert same(a.network, b.network) and same(a.scaler, b.scaler)
    weights = load_weights(tmp_path / "a" / "weights.pt")
    assert weights.record["precision"] == precision
    assert all(t.dtype == torch.float32 for t in weights.state.values() if t.is_floating_point())


def test_a_scale_that_is_too_large_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Large(Task):
        def loss(self, network: nn.Module, batch: Batch, done: float, generator: Any) -> dict[str, Tensor]:
            terms = super().loss(network, batch, done, generator)
            return {"loss": 1e6 * terms["loss"]}  # overflows under the first scale of 65536

    monkeypatch.setattr(learner, "_precision", lambda *_: "float16")
    result = train(options(tmp_path / "a", steps=40), Large())
    assert 0 < result.skipped < 20 and math.isfinite(result.losses["gradient"])
    assert load_checkpoint(tmp_path / "a").scaler["scale"] < 65536


# --- beginning with weights, the batch, the rate -------------------------------------------------


def test_beginning_with_weights(tmp_path: Path) -> None:
    """At a rate of nothing they stay what they were, grown; resumed, the training ends with the same bits."""
    train(options(tmp_path / "first"), Task())
    file = tmp_path / "first" / "weights.pt"
    grown = load_weights(file)
    assert grown.convention["stage"] == 1 and any(name.startswith("2.") for name in grown.state)

    class Still(Task):
        def rate_at(self, stage: Stage, done: float) -> float:
            return 0.0

    more = {"start": file, "data": "generated:shapes?size=24", "steps": 3}
    train(options(tmp_path / "still", **more), Still())
    kept = load_weights(tmp_path / "still" / "weights.pt")
    learnt = [name for name in grown.state if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(grown.state[name], kept.state[name]) for name in learnt)
    assert kept.convention["stage"] == 1  # also where the training ended in its own first stage
    assert kept.record["start"]["sha256"] == grown.sha256 and kept.record["start"]["steps"] == 20

    train(options(tmp_path / "a", start=file), Task())
    until = StopAt(11)
    train(options(tmp_path / "b", start=file), Task(), until, until.token)
    file.unlink()  # what is resumed does not need it any more
    train(resumed(tmp_path / "b"), Task())
    assert same(*(load_checkpoint(tmp_path / name).network for name in "ab"))


def test_weights_that_cannot_be_begun_with(tmp_path: Path) -> None:
    train(options(tmp_path / "a", steps=1), Task())
    file = tmp_path / "a" / "weights.pt"
    with pytest.raises(InputError, match="configuration 'small', not of 'fast'"):
        train(options(tmp_path / "b", configuration="fast", start=file), Task())
    with pytest.raises(InputError, match="has begun already"):
        train(resumed(tmp_path / "a", start=file), Task())
    with pytest.raises(InputError, match="2-D images, not for 3-D"):
        train(options(tmp_path / "b", dimension=3, start=file), Task())
    assert not (tmp_path / "b").exists()


def test_pairs_in_a_step_and_a_rate_that_rises_and_falls(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watched(Task):
        def loss(self, network: nn.Module, batch: Batch, done: float, generator: Any) -> dict[str, Tensor]:
            seen.append(len(batch.fixed))
            return super().loss(network, batch, done, generator)

        def rate_at(self, stage: Stage, done: float) -> float:
            return 1.0

    steps = 150  # three of which the rate rises
    train(options(tmp_path / "a", batch=5, anneal=True, steps=steps), Watched())
    assert set(seen) == {5}
    rates = {row["step"]: row["rate"] for row in lines(tmp_path / "a") if "rate" in row}
    for step, rate in rates.items():
        full = (1e-3 if step <= 0.4 * steps else 5e-4) * min(1, step / 3)
        assert rate == pytest.approx(full * (1 + math.cos(math.pi * (step - 1) / steps)) / 2, rel=1e-6)
    assert rates[1] < 0.4e-3 < rates[3] and len(rates) > 3


# --- validation -----------------------------------------------------------------------------------


def test_validation_of_known_maps(tmp_path: Path) -> None:
    class Known(Task):
        def displacement(self, network: nn.Module, batch: Batch) -> Tensor:
            assert not network.training and not torch.is_grad_enabled()
            corner = [torch.nonzero(x[0, 0])[0].flip(0) for x in (batch.fixed, batch.moving)]
            shift = (corner[1] - corner[0]) * 2 / 32
            return shift.float().expand(1, 32, 32, 2).clone()

    source, network = open_data("generated:squares?size=32&side=6"), nn.Conv2d(1, 1, 1)
    numbers = validate(Known(), network, source)
    assert network.training
    assert numbers["pairs"] == 16 and numbers["dice_after"] == 1 and numbers["mse_after"] < 1e-9
    pairs = [source.held_out(k) for k in range(16)]
    before = sum(float((p.fixed * p.moving).sum()) / 36 for p in pairs) / 16
    assert numbers["dice_before"] == pytest.approx(before) and numbers["folds_percent"] == 0
    assert numbers["determinant_min"] == pytest.approx(1)
    assert validate(Known(), network, source, pairs=3)["pairs"] == 3


def test_overlap_counts_labels_that_are_there() -> None:
    a, b = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    a[0, 0, :2], b[0, 0, 1:3] = 1, 1  # half
    a[0, 1, :1] = 1  # only one has it
    assert overlap(a, b) == pytest.approx(0.25)
    assert overlap(a[:, 2:], b[:, 2:]) == 1


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"method": None}, "needs --method"),
        ({"configuration": None}, "needs --config"),
        ({"data": None}, "needs --data"),
        ({"configuration": "huge"}, "no configuration 'huge'; choose small, fast"),
        ({"data": "generated:heads"}, "no generated data"),
        ({"data": "nowhere"}, "does not exist"),
        ({"steps": 0}, "--steps"),
        ({"seed": -1}, "--seed"),
        ({"max_minutes": 0}, "--max-minutes"),
        ({"max_minutes": math.nan}, "--max-minutes"),
        ({"checkpoint_minutes": -2}, "--checkpoint-minutes"),
        ({"threads": 0}, "threads"),
        ({"device": "tpu"}, "tpu"),
        ({"shape": (4, 4)}, "at least 8"),
    ],
)
def test_mistakes_leave_nothing(tmp_path: Path, more: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        train(options(tmp_path / "a", **more), Task())
    assert not (tmp_path / "a").exists()


def test_unknown_method(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no method 'toy' that can be trained; choose dio, gradicon"):
        train(options(tmp_path / "a"))


def test_a_training_is_not_overwritten(tmp_path: Path) -> None:
    train(options(tmp_path / "a", steps=2), Task())
    content = (tmp_path / "a" / CHECKPOINT).read_bytes()
    with pytest.raises(InputError, match="--resume"):
        train(options(tmp_path / "a"), Task())
    assert (tmp_path / "a" / CHECKPOINT).read_bytes() == content


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"configuration": "fast"}, "configuration small, not fast"),
        ({"steps": 40}, "steps 20, not 40"),
        ({"seed": 3}, "seed 0, not 3"),
        ({"data": "generated:squares"}, "data generated:shapes, not generated:squares"),
        ({"shape": (32, 32)}, "shape"),
        ({"dimension": 3}, "dimension 2, not 3"),
    ],
)
def test_resuming_something_else(tmp_path: Path, more: dict[str, Any], what: str) -> None:
    until = StopAt(2)
    train(options(tmp_path / "a"), Task(), until, until.token)
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    with pytest.raises(InputError, match=what):
        train(resumed(tmp_path / "a", **more), Task())
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before


def test_resuming_what_is_not_there_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training to resume"):
        train(resumed(tmp_path), Task())
    until = StopAt(2)
    train(options(tmp_path / "a"), Task(), until, until.token)
    path = tmp_path / "a" / CHECKPOINT
    content = path.read_bytes()
    for damaged, what in (
        (content[: len(content) // 2], "incomplete"),
        (b"hello", "not a checkpoint"),
        (content.replace(b'"seed": 0', b'"seed"; 0'), "damaged"),
        ((tmp_path / "a" / "weights.pt").read_bytes(), "not a checkpoint"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=what):
            train(resumed(tmp_path / "a"), Task())

    class Other(Task):
        def network(self, configuration: str, dimension: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(2, 2, 1))

    path.write_bytes(content)
    with pytest.raises(InputError, match="does not fit"):
        train(resumed(tmp_path / "a"), Other())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        train(options(tmp_path / "file" / "a"), Task())


def test_one_training_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "a"), pytest.raises(InputError, match="Another run is working"):
        train(options(tmp_path / "a"), Task())
    assert [p.name for p in (tmp_path / "a").iterdir()] == [".lock"]
    train(options(tmp_path / "a", steps=1), Task())


# --- command line ---------------------------------------------------------------------------------


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command finds the small task under a method's name."""
    tasks = {**dict.fromkeys(TASKS), "dio": Task()}
    monkeypatch.setattr(loop, "TASKS", tasks)


def command(out: Path, *more: str, data: str = "generated:shapes") -> list[str]:
    start = ["train", "--method", "dio", "--config", "small", "--data", data]
    return [*start, "--out", str(out), "--device", "cpu", *more]


@pytest.mark.usefixtures("toy")
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(tmp_path / "a", "--steps", "12", "--max-minutes", "1e-9")) == 0
    out = capsys.readouterr().out
    assert "Time is over: 0 of 12 steps" in out and "--resume" in out
    assert cli.main(["train", "--out", str(tmp_path / "a"), "--resume", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "Trained: 12 of 12 steps" in out and "Dice, mean" in out and "Go on" not in out
    assert load_weights(tmp_path / "a" / "weights.pt").convention["shape"] == [16, 16]
    assert cli.main(command(tmp_path / "b", "--steps", "2", "--shape", "24", "20", "--quiet")) == 0
    assert capsys.readouterr().out == ""
    assert load_weights(tmp_path / "b" / "weights.pt").convention["shape"] == [24, 20]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["--method", "demons"], 2, "no method 'demons'"),
        (["--config", "huge"], 2, "no configuration"),
        (["--data", "generated:heads"], 2, "no generated data"),
        (["--data", "nowhere"], 2, "does not exist"),
        (["--resume"], 2, "no training to resume"),
        (["--steps", "many"], 2, "many"),
        (["--dimension", "4"], 2, "4"),
        (["--device", "tpu"], 2, "tpu"),
        (["--threads", "0"], 2, "threads"),
    ],
)
def test_mistakes_on_the_command_line(
    tmp_path: Path, arguments: list[str], code: int, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command(tmp_path / "a", *arguments)) == code
    captured = capsys.readouterr()
    assert what in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("toy")
def test_data_folders_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("empty", b""), ("broken", b"these are no voxels")):
        images = tmp_path / name / "images"
        images.mkdir(parents=True)
        if content:
            for k in range(2):
                (images / f"{k}.nii.gz").write_bytes(content)
        assert cli.main(command(tmp_path / "a", data=str(tmp_path / name))) == 2
        errors = capsys.readouterr().err
        assert name in errors and errors.count("\n") == 1 and not (tmp_path / "a").exists()


@pytest.mark.usefixtures("toy")
def test_a_result_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("kept")
    assert cli.main(command(tmp_path / "file")) == 2
    assert "is a file" in capsys.readouterr().err and (tmp_path / "file").read_text() == "kept"
