"""GradICON's loss, its two training stages, and the adaptation to one pair."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from DeepRegistrationLib.errors import Cancelled, InputError
from DeepRegistrationLib.methods.gradicon.instance import optimised
from DeepRegistrationLib.methods.gradicon.loss import PairLoss, both_directions
from DeepRegistrationLib.methods.gradicon.predictor import Predictor
from DeepRegistrationLib.methods.gradicon.training import TASK
from DeepRegistrationLib.methods.maps import read_at
from DeepRegistrationLib.objectives import AdaptiveNCC, GaussianNCC, MeanSquaredError, MindSSC
from DeepRegistrationLib.progress import CancelToken, Progress, Reporter
from DeepRegistrationLib.training import TASKS
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.loop import TrainingOptions, train
from DeepRegistrationLib.weights import Weights, load_weights, save_weights
from torch import Tensor, nn

SOURCE = open_data("generated:shapes?size=24", 2)


def stirred(count: int = 3, seed: int = 0, size: float = 0.05) -> Predictor:
    """A predictor whose last layers are not zero."""
    torch.manual_seed(seed)
    network = Predictor("small", 2, count)
    for name, parameter in network.named_parameters():
        if "last" in name:
            nn.init.normal_(parameter, std=size)
    return network


def images(count: int = 2) -> tuple[Tensor, Tensor]:
    batch = SOURCE.batch(count, 0, 0)
    return batch.moving, batch.fixed


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_two_directions_are_the_network_with_the_images_swapped() -> None:
    network, (moving, fixed) = stirred().eval(), images()
    with torch.no_grad():
        forward, backward = both_directions(network, moving, fixed)
        for found, alone in ((forward, network(moving, fixed)), (backward, network(fixed, moving))):
            torch.testing.assert_close(found.displacement((24, 24)), alone.displacement((24, 24)))


def test_the_loss_is_the_sum_of_its_terms() -> None:
    network, (moving, fixed) = stirred().eval(), images(3)
    terms = PairLoss(MeanSquaredError(), weight=2.5)(network, moving, fixed, torch.manual_seed(0))
    forward, backward = both_directions(network, moving, fixed)
    expected = sum(
        (read_at(a, m.on_grid((24, 24))) - b).square().mean()
        for m, a, b in ((forward, moving, fixed), (backward, fixed, moving))
    )
    torch.testing.assert_close(terms["similarity"], expected)
    torch.testing.assert_close(terms["loss"], terms["similarity"] + 2.5 * terms["inverse_consistency"])
    assert float(terms["inverse_consistency"].detach()) > 0


@pytest.mark.parametrize(
    "similarity",
    [GaussianNCC(2.0), AdaptiveNCC("parameter-free", levels=2), AdaptiveNCC(levels=2), MindSSC()],
)
def test_any_measure_trains_every_network(similarity: object) -> None:
    network, (moving, fixed) = stirred(4), images()
    PairLoss(similarity)(network, moving, fixed, torch.manual_seed(0))["loss"].backward()
    slopes = [p.grad.abs().max() for n, p in network.named_parameters() if n.endswith("last.weight")]
    assert len(slopes) == 4 and min(slopes) > 0


def test_a_batch_is_the_mean_of_its_pairs() -> None:
    network, (moving, fixed) = stirred().eval(), images(3)
    loss = PairLoss(GaussianNCC(2.0))
    with torch.no_grad():
        whole = loss(network, moving, fixed, torch.manual_seed(0))["loss"]
        single = [
            loss(network, moving[k : k + 1], fixed[k : k + 1], torch.manual_seed(0))["loss"] for k in range(3)
        ]
    assert float(whole) == pytest.approx(float(torch.stack(single).mean()), rel=1e-4)


def test_the_second_stage_adds_a_network_and_changes_no_map() -> None:
    network, batch = stirred(), SOURCE.batch(2, 0, 0)
    assert TASKS["gradicon"] is TASK
    stages = TASK.stages("paper")
    assert [s.share for s in stages] == [0.5, 0.5] and {s.rate for s in stages} == {5e-5}
    assert TASK.steps("paper") == 100_000 and TASK.convention("paper", 3)["shape"] == [175] * 3
    before = TASK.displacement(network.eval(), batch)
    assert TASK.enter_stage(network, 0) is network and network.count == 3
    after = TASK.displacement(TASK.enter_stage(network, 1).eval(), batch)
    assert network.count == 4
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    optimiser = TASK.optimiser(network, stages[1])
    assert sum(p.numel() for group in optimiser.param_groups for p in group["params"]) == 4 * 249_542


def test_some_steps_of_training_help() -> None:
    torch.manual_seed(0)
    network = TASK.network("small", 2)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    batch, losses = SOURCE.batch(6, 0, 0), []
    for step in range(12):
        terms = TASK.loss(network, batch, step / 12, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        losses.append(float(terms["similarity"].detach()))
    assert losses[-1] < 0.97 * losses[0]


def test_adapting_to_a_pair_leaves_the_network_as_it_was() -> None:
    network, (moving, fixed) = stirred().train().requires_grad_(False), images(1)
    before = state(network)
    loss = PairLoss(MeanSquaredError())
    found = optimised(network, moving, fixed, loss, steps=6, rate=1e-3)
    assert same(state(network), before) and network.training
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())
    assert not same(state(found), before) and not found.training
    with torch.no_grad():
        values = [
            float(loss(n.eval(), moving, fixed, torch.manual_seed(0))["loss"]) for n in (network, found)
        ]
    assert values[1] < values[0]
    # the statistics of a batch of one are not taken over
    for name, tensor in found.state_dict().items():
        if "running" in name:
            assert torch.equal(tensor, before[name])
    again = optimised(network, moving, fixed, loss, steps=6, rate=1e-3)
    assert same(state(again), state(found))


def test_adapting_can_be_cancelled_at_every_step() -> None:
    network, (moving, fixed) = stirred(), images(1)
    before, token, seen = state(network), CancelToken(), []

    def watch(progress: Progress) -> None:
        seen.append(progress.fraction)
        if len(seen) == 3:
            token.cancel()

    with pytest.raises(Cancelled):
        optimised(network, moving, fixed, PairLoss(MeanSquaredError()), report=Reporter(watch, token))
    assert len(seen) == 3 and seen == sorted(seen)
    assert same(state(network), before)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_weights_bring_the_predictor_back(count: int, tmp_path: Path) -> None:
    network, (moving, fixed) = stirred(count), images()
    network(moving, fixed)  # running statistics
    path = tmp_path / "weights.pt"
    save_weights(path, "gradicon", "small", 2, network.state_dict(), TASK.convention("small", 2), {})
    back = Predictor.from_weights(load_weights(path, "gradicon", 2))
    assert back.count == count and not back.training
    with torch.no_grad():
        expected = network.eval()(moving, fixed).displacement((24, 24))
        assert torch.equal(back(moving, fixed).displacement((24, 24)), expected)


def test_weights_that_do_not_fit() -> None:
    good = stirred().state_dict()
    cases = {
        "nothing": ("small", {}),
        "one missing": ("small", dict(list(good.items())[1:])),
        "another size": ("paper", good),
        "unknown": ("medium", good),
    }
    for configuration, tensors in cases.values():
        weights = Weights("gradicon", configuration, 2, dict(tensors), {}, {}, "")
        with pytest.raises(InputError):
            Predictor.from_weights(weights)


def test_the_loop_goes_through_both_stages_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    def options(out: str, resume: bool = False) -> TrainingOptions:
        given = {"method": "gradicon", "configuration": "small", "data": "generated:shapes?size=16"}
        return TrainingOptions(tmp_path / out, **given, steps=6, resume=resume, device="cpu", threads=1)

    whole = train(options("whole"))
    for stop_after in (2, 4):  # within the first stage, and within the second
        token = CancelToken()

        def watch(progress: Progress, stop: float = stop_after / 6, token: CancelToken = token) -> None:
            if progress.fraction >= stop - 1e-9:
                token.cancel()

        name = f"stopped_{stop_after}"
        assert train(options(name), progress=watch, cancel=token).step == stop_after
        stopped = load_weights(tmp_path / name / "weights.pt", "gradicon", 2)
        assert Predictor.from_weights(stopped).count == (3 if stop_after == 2 else 4)
        assert train(options(name, resume=True)).step == 6
        one, other = (load_weights(tmp_path / out / "weights.pt") for out in ("whole", name))
        assert one.convention["shape"] == [16, 16] and one.convention["stage"] == 1
        assert same(one.state, other.state)
    assert whole.reason == "finished" and whole.validation["folds_percent"] == 0
