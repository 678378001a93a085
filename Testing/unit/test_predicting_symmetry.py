"""What a network predicts, with nothing after it: exchanged with the images, and read on its own lattice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.methods import METHODS, MethodInput
from DeepRegistrationLib.methods.gradicon.predictor import Predictor
from DeepRegistrationLib.methods.maps import FieldMap
from DeepRegistrationLib.methods.r2net.network import R2Net
from DeepRegistrationLib.methods.sitreg.network import SitRegNetwork
from DeepRegistrationLib.objectives import LocalNCC
from DeepRegistrationLib.presets import PRESETS, start_frame
from DeepRegistrationLib.transforms import LinearTransform
from DeepRegistrationLib.weights import Weights, save_weights
from torch import Tensor, nn

FRAMES = (
    Frame.regular((40, 36), 1.3),
    Frame((34, 42), (1.5, 1.2), (-19.0, -28.0), ((0.96, -0.28), (0.28, 0.96))),
)
NETWORKS = {
    "sitreg": lambda: SitRegNetwork.named("small", 2),
    "gradicon": lambda: Predictor("small", 2, 1),
    "svf-r2net": lambda: R2Net.named("small", 2, True),
}


@pytest.fixture(autouse=True)
def untouched_generator() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def subject(frame: Frame, shift: float) -> Volume:
    points = frame.points() - torch.tensor([shift, -0.6 * shift], dtype=torch.float64)
    ball = torch.sigmoid(1.5 * (15 - points.norm(dim=-1)))
    texture = torch.sin(points[..., 0] / 2.5) * torch.cos(points[..., 1] / 3)
    return Volume((100 * ball * (1 + 0.3 * texture))[None].float(), frame)


def random_weights(method: str, folder: Path) -> Path:
    """A network that says something, and that something else when the images are exchanged."""
    network = NETWORKS[method]()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            last = ("last" in name or "velocity" in name) and parameter.abs().max() < 1e-3
            if last:  # these begin with zeros or nearly so
                parameter.copy_(0.05 * torch.randn(parameter.shape))
    path = folder / "weights.pt"
    save_weights(path, method, "small", 2, network.state_dict(), {"shape": [24, 24]}, {})
    return path


@pytest.mark.parametrize("representation", ["diffeomorphic", "stationary-velocity", "b-spline", "affine"])
@pytest.mark.parametrize("method", NETWORKS)
def test_exchanging_the_images_exchanges_what_is_predicted(
    method: str, representation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept whether it helps or not, over all looks."""
    monkeypatch.setattr("DeepRegistrationLib.methods.predicting.improves", lambda *_: True)
    options = {"method": method, "representation": representation, "preset": "prediction", "linear": "none"}
    options |= {"similarity": "lncc", "device": "cpu", "threads": 1}
    options |= {"weights": random_weights(method, tmp_path)}
    images = subject(FRAMES[0], 0.0), subject(FRAMES[1], 2.0)
    one, other = register(*images, **options), register(*images[::-1], **options)
    moved = []
    for a, b in ((one.forward_field, other.inverse_field), (one.inverse_field, other.forward_field)):
        assert a.frame == b.frame
        voxels = torch.tensor(a.frame.size) / 2
        moved.append(float((a.displacement * voxels).norm(dim=-1).max()))
        assert float(((a.displacement - b.displacement) * voxels).abs().max()) < 1e-3
    assert min(moved) > 0.02


@pytest.mark.parametrize("symmetric", [True, False])
def test_with_prediction_the_map_is_read_on_the_working_lattice(
    symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of waves of a few voxels that a network finds nothing is lost, as it would be on a coarser lattice."""
    frame = FRAMES[0]
    method = METHODS["gradicon"]

    def waves(at: Frame, sign: float) -> Tensor:
        x = at.grid()[..., 0] * frame.size[0] / 2  # in voxels of the frame
        u = torch.zeros(*at.shape, 2)
        u[..., 1] = sign * 0.8 * torch.sin(x * 2 * torch.pi / 6) * 2 / frame.size[1]
        return u[None]

    calls: list[Frame] = []

    def proposal(network: object, moving: Tensor, fixed: Tensor, at: Frame, pair: MethodInput) -> FieldMap:
        calls.append(at)
        return FieldMap(waves(at, 1.0 if len(calls) % 2 else -1.0) if symmetric else waves(at, 1.0))

    monkeypatch.setattr("DeepRegistrationLib.methods.predicting.improves", lambda *_: True)
    monkeypatch.setattr(method, "network", lambda weights: nn.Identity(), raising=False)
    monkeypatch.setattr(method, "proposal", proposal, raising=False)
    # the network's own lattice is the image's
    weights = Weights("gradicon", "small", 2, {}, {"shape": [64, 64]}, {}, "")
    images = subject(frame, 0.0), subject(frame, 1.0)
    identity = LinearTransform.identity(2)
    given = MethodInput(*images, identity, LocalNCC(2), PRESETS["prediction"], weights, symmetric=symmetric)
    found = method.predict(given).start
    assert found is not None and found.stored.frame == start_frame(PRESETS["prediction"], frame) == frame
    size = torch.tensor(frame.size) / 2
    heights = (found.stored.displacement * size)[..., 1]
    expected = (waves(frame, 0.5 if symmetric else 1.0)[0] * size)[..., 1]
    # half of the map half-way, to second order
    assert float((heights - expected).abs().max()) < 0.1
    calls.clear()
    coarse = method.predict(replace(given, preset=PRESETS["fast"])).start
    assert coarse is not None and coarse.stored.frame.voxels < frame.voxels / 4
