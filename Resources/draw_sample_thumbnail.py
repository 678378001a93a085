"""Draws the thumbnail of the sample data: the made-up heads, fixed in orange and moving in blue.

    PYTHONPATH=DeepRegistration python Resources/draw_sample_thumbnail.py

writes DeepRegistration/Resources/Icons/DeepRegistrationHeads.png. Needs torch, for the heads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from DeepRegistrationLib.demo.pair import demo_pair
from DeepRegistrationLib.frame import Volume, apply_matrix
from DeepRegistrationLib.interpolation import sample

TARGET = Path(__file__).resolve().parents[1] / "DeepRegistration/Resources/Icons/DeepRegistrationHeads.png"
HEIGHT, WIDTH = 192, 288
COLOURS = np.array([[1.0, 0.62, 0.30], [0.36, 0.68, 1.0]])


def plane() -> torch.Tensor:
    """World points (height, width, 3) of two slices side by side, axial and coronal, LPS mm."""
    half = WIDTH // 2
    down, across = np.meshgrid(np.arange(HEIGHT) - HEIGHT / 2, np.arange(half) - half / 2, indexing="ij")
    step = 230 / HEIGHT
    axial = np.stack([across * step, down * step, np.zeros_like(down)], -1)
    coronal = np.stack([across * step, np.zeros_like(down), -down * step], -1)
    return torch.from_numpy(np.concatenate([axial, coronal], 1))


def grey(volume: Volume, points: torch.Tensor) -> np.ndarray:
    """Values at the points scaled to 0..1, 0 outside."""
    where = apply_matrix(volume.frame.world_to_normalised, points).float()
    values = sample(volume.data[None].float(), where, padding="zeros")[0, 0].numpy()
    return np.clip(values / np.percentile(values, 99), 0, 1)


def main() -> None:
    pair, points = demo_pair(), plane()
    layers = [grey(volume, points) for volume in (pair.fixed, pair.moving)]
    rgb = sum(layer[..., None] * colour for layer, colour in zip(layers, COLOURS, strict=True))
    picture = (255 * np.clip(0.75 * rgb, 0, 1)).astype(np.uint8)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(TARGET))


if __name__ == "__main__":
    main()
