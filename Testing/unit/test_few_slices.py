"""Images of few slices: every slice is aligned as well as the others, a single one too."""

from __future__ import annotations

import math

import pytest
import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.filters import gaussian_smooth
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.interpolation import sample


def waved_pair(slices: int) -> tuple[Volume, Volume, torch.Tensor]:
    """Textures on 64 x 64 voxels of 1 mm in slices of 6 mm; the map between them is an in-plane wave of 3
    voxels, (*S, 3) in voxels."""
    frame = Frame.regular((64, 64, slices), (1.0, 1.0, 6.0))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 1, *frame.shape, generator=generator)
    texture = gaussian_smooth(noise[0], (2.5, 2.5, 0.7), border="replicate")
    texture += 2 * gaussian_smooth(noise[1], (6.0, 6.0, 1.5), border="replicate")
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    grid = frame.grid()
    wave = torch.zeros(*frame.shape, 3)
    wave[..., 0] = 3 * torch.sin(math.pi * grid[..., 1])
    fixed = sample(texture[None], grid + 2 * wave / torch.tensor(frame.size))[0]
    return Volume(fixed, frame), Volume(texture, frame), wave


@pytest.mark.parametrize("slices", [1, 3, 10])
@pytest.mark.parametrize("representation", ["diffeomorphic", "stationary-velocity", "free-form"])
def test_outer_slices_are_aligned_as_the_others_are(representation: str, slices: int) -> None:
    fixed, moving, wave = waved_pair(slices)
    found = register(
        fixed,
        moving,
        method="classical",
        representation=representation,
        preset="balanced",
        linear="none",
        device="cpu",
    )
    displacement = found.forward_field.displacement * torch.tensor(fixed.frame.size) / 2
    left = (displacement - wave)[:, 8:-8, 8:-8].norm(dim=-1).mean((1, 2))  # voxels, a slice
    assert float(wave[:, 8:-8, 8:-8].norm(dim=-1).mean()) > 1.5 > 0.2 > float(left.max()), left
    assert found.quality["regularity"]["folds_percent"] == 0
