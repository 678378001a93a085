"""Half precision on processors: layers of few planes, whose gradients torch gets wrong, are in float32."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from DeepRegistrationLib.training.learner import _Loss
from DeepRegistrationLib.training.thin_layers import ThinInFloat32
from torch import nn


@pytest.mark.parametrize(
    ("shape", "width", "stride"),
    [((2, 9, 11), 3, 1), ((3, 9, 11), 5, 1), ((4, 9, 11), 5, 1), ((6, 1, 11), 3, 2)],
)
def test_the_gradient_of_a_thin_layer_is_that_of_full_precision(
    shape: tuple[int, ...], width: int, stride: int
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv3d(2, 8, width, stride, padding=width // 2)
    image = torch.randn(2, 2, *shape)
    plain = layer(image)
    away = torch.randn(plain.shape)
    (exact,) = torch.autograd.grad((plain * away).sum(), layer.weight)

    def loss(network: nn.Module, *_: object) -> dict[str, torch.Tensor]:
        return {"loss": (network(image) * away).sum()}

    task = SimpleNamespace(loss=loss)
    batch = SimpleNamespace(fixed=image)
    for _ in range(3):  # wrong ones differ from time to time
        terms = _Loss(task, layer, "bfloat16")(batch, 0.0, torch.Generator())
        (found,) = torch.autograd.grad(terms["loss"], layer.weight)
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "width", "full"),
    [
        *(((2, 8, 8), 3, True), ((3, 8, 8), 3, False), ((8, 1, 8), 3, True), ((8, 8, 2), 3, True)),
        *(((1, 1, 1), 1, False), ((4, 8, 8), 5, True), ((5, 5, 5), 5, False)),
    ],
)
def test_only_thin_layers_are(shape: tuple[int, ...], width: int, full: bool) -> None:
    layer, image = nn.Conv3d(1, 2, width, padding=width // 2), torch.randn(1, 1, *shape)
    back = nn.ConvTranspose3d(1, 2, width)
    with torch.autocast("cpu", dtype=torch.bfloat16), ThinInFloat32():
        for found in (layer(image), layer(image.bfloat16()), back(image)):
            assert found.dtype == (torch.float32 if full else torch.bfloat16)
        flat = nn.Conv2d(1, 2, 3, padding=1)(torch.randn(1, 1, 2, 8))
    assert flat.dtype == torch.bfloat16
