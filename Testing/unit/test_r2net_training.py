"""How R2Net is trained: tasks, steps that help, weights there and back, stopping and resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods.r2net.network import R2Net
from DeepRegistrationLib.progress import CancelToken, Progress
from DeepRegistrationLib.training import TASKS
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.loop import TrainingOptions, train
from DeepRegistrationLib.weights import Weights, load_weights, save_weights

FORMS = {"svf-r2net": True, "nsvf-r2net": False}
SOURCE = open_data("generated:shapes?size=24", 2)


@pytest.mark.parametrize("name", FORMS)
def test_the_tasks(name: str) -> None:
    task = TASKS[name]
    assert task is TASKS[name] and task.method == name
    assert task.network("small", 2).shared is FORMS[name]
    (stage,) = task.stages("paper")
    assert (stage.share, stage.rate, stage.batch) == (1.0, 1e-4, 1)
    assert task.steps("paper") == 1500 * 239
    assert task.convention("paper", 3)["shape"] == [160, 192, 224]
    assert task.convention("small", 2)["shape"] == [64, 64]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("configuration", ["small", "strict"])
def test_some_steps_of_training_help(name: str, configuration: str) -> None:
    task = TASKS[name]
    torch.manual_seed(0)
    network = task.network(configuration, 2)
    batch, losses = SOURCE.batch(6, 0, 0), []
    (stage,) = task.stages("small")
    optimiser = task.optimiser(network, stage)
    for step in range(30):
        terms = task.loss(network, batch, step / 30, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), task.clip)
        optimiser.step()
        losses.append(float(terms["loss"].detach()))
    assert min(losses[-5:]) < 0.9 * losses[0]


def test_a_fresh_small_network_is_nearly_the_identity() -> None:
    batch = SOURCE.batch(2, 0, 0)
    torch.manual_seed(0)
    network = TASKS["nsvf-r2net"].network("small", 2).eval()
    with torch.no_grad():
        assert float(TASKS["nsvf-r2net"].displacement(network, batch).abs().max()) < 1e-4


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("configuration", ["small", "paper"])
def test_weights_come_back_as_they_were(name: str, configuration: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    task, batch, path = TASKS[name], SOURCE.batch(2, 0, 0), tmp_path / "weights.pt"
    network = task.network(configuration, 2)
    network(batch.moving, batch.fixed)  # moves the stored vectors, where there are some
    save_weights(path, name, configuration, 2, network.state_dict(), task.convention(configuration, 2), {})
    back = R2Net.from_weights(load_weights(path, name, 2), FORMS[name])
    with torch.no_grad():
        expected = task.displacement(network.eval(), batch)
        assert torch.equal(task.displacement(back, batch), expected)


def test_weights_that_do_not_fit() -> None:
    good = R2Net.named("small", 2, True).state_dict()
    for configuration, tensors in (("small", {}), ("paper", good), ("medium", good)):
        with pytest.raises(InputError):
            R2Net.from_weights(Weights("svf-r2net", configuration, 2, dict(tensors), {}, {}, ""), True)


@pytest.mark.parametrize(("name", "configuration"), [("svf-r2net", "paper"), ("nsvf-r2net", "small")])
def test_a_stopped_training_resumes_bit_for_bit(name: str, configuration: str, tmp_path: Path) -> None:
    """Drawn velocities and the vectors of the power iteration included."""

    def options(out: str, resume: bool = False) -> TrainingOptions:
        given = {"method": name, "configuration": configuration, "data": "generated:shapes?size=16"}
        return TrainingOptions(tmp_path / out, **given, steps=4, resume=resume, device="cpu", threads=1)

    token = CancelToken()

    def watch(progress: Progress) -> None:
        if progress.fraction >= 0.5 - 1e-9:
            token.cancel()

    whole = train(options("whole"))
    assert train(options("stopped"), progress=watch, cancel=token).step == 2
    assert train(options("stopped", resume=True)).step == 4
    one, other = (load_weights(tmp_path / out / "weights.pt", name, 2).state for out in ("whole", "stopped"))
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
    assert whole.reason == "finished" and whole.skipped == 0
    assert set(whole.losses) >= {"loss", "similarity", "prior", "folds"}


@pytest.mark.parametrize(
    ("name", "size", "steps"), [("svf-r2net", (21, 27), 12), ("nsvf-r2net", (17, 21, 15), 6)]
)
def test_from_a_training_to_a_registration(
    name: str, size: tuple[int, ...], steps: int, tmp_path: Path
) -> None:
    """Some steps on small lattices; then odd, anisotropic images on frames of their own."""
    d = len(size)
    frame = Frame.regular(size, (1.0, 1.3, 0.8)[:d])

    def ball(along: float) -> Volume:
        centre = torch.tensor((along, 0.0, 0.0)[:d], dtype=torch.float64)
        away = (frame.points() - centre).norm(dim=-1)
        return Volume(torch.sigmoid(3 * (4.5 - away))[None].float(), frame)

    options = {"configuration": "small", "data": "generated:shapes?size=16", "dimension": d}
    found = train(TrainingOptions(tmp_path, name, steps=steps, device="cpu", threads=1, **options))
    assert found.step == steps
    options = {"method": name, "preset": "fast", "linear": "none", "device": "cpu", "threads": 1}
    options |= {"similarity": "mse", "representation": "diffeomorphic"}
    result = register(ball(0.0), ball(3.0), weights=tmp_path / "weights.pt", **options)
    # so few steps may have taught it nothing yet, which is then said; that there are weights is known
    assert all("more alike" in w for w in result.quality["warnings"])
    field = result.forward.field(frame)
    assert field.frame == frame and float(field.jacobian_determinant(strict=True).min()) > 0
    centre = torch.zeros(1, d, dtype=torch.float64)
    assert float((result.forward.map(centre)[0] - centre[0]).norm()) == pytest.approx(3, abs=1)
