"""Half precision on processors: layers of few planes, whose gradients torch gets wrong, are in float32."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from DeepRegistrationLib.training.learner import _Loss
from DeepRegistrationLib.training.thin_layers import ThinInFloat32
from torch import nn


@pytest.mark.parametrize(("planes", "width"), [(2, 3), (3, 5), (4, 5)])
def test_the_gradient_of_a_thin_layer_is_that_of_full_precision(planes: int, width: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv3d(2, 8, width, padding=width // 2)
    image = torch.randn(2, 2, planes, 9, 11)
    away = torch.randn(2, 8, planes, 9, 11)
    (exact,) = torch.autograd.grad((layer(image) * away).sum(), layer.weight)

    def loss(network: nn.Module, *_: object) -> dict[str, torch.Tensor]:
        return {"loss": (network(image) * away).sum()}

    task = SimpleNamespace(loss=loss)
    batch = SimpleNamespace(fixed=image)
    for _ in range(3):  # wrong ones differ from time to time
        terms = _Loss(task, layer, "bfloat16")(batch, 0.0, torch.Generator())
        (found,) = torch.autograd.grad(terms["loss"], layer.weight)
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("planes", "width", "full"), [(1, 3, False), (2, 3, True), (3, 3, False), (2, 1, False), (4, 5, True)]
)
def test_only_thin_layers_are(planes: int, width: int, full: bool) -> None:
    layer, image = nn.Conv3d(1, 2, width, padding=width // 2), torch.randn(1, 1, planes, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16), ThinInFloat32():
        assert layer(image).dtype == (torch.float32 if full else torch.bfloat16)
        assert layer(image.bfloat16()).dtype == (torch.float32 if full else torch.bfloat16)
        flat = nn.Conv2d(1, 2, 3, padding=1)(torch.randn(1, 1, 2, 8))
    assert flat.dtype == torch.bfloat16
