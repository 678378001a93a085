"""From labels to images: what a scanner might have made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...filters import downsample, gaussian_smooth, gaussian_smooth_, spatial_gradient
from ...frame import Frame, Volume
from ...interpolation import sample, voxel_centres
from ...prepare import normalised
from .canvas import AIR, BLOOD, BONE, FAT, FINENESS, FLUID, LUNG, MARGIN, MARROW, OTHER, Canvas
from .noise import enlarged, smooth_noise

_CT = {AIR: 0.0, LUNG: 0.12, FAT: 0.38, FLUID: 0.46, BONE: 0.95, MARROW: 0.68}


@dataclass(frozen=True)
class Contrast:
    """How bright tissues are.

    Attributes:
        values: intensity of each label.
        texture: how much each label's intensity varies from place to place.
        gamma: exponent on the intensities.
        sound: whether it is an ultrasound image: echoes of borders and speckle.
    """

    values: np.ndarray
    texture: np.ndarray
    gamma: float
    sound: bool = False

    def varied(self, draw: np.random.Generator) -> Contrast:
        """Nearly the same, as from another scanner of the kind."""
        change = 0.02 * draw.standard_normal(len(self.values))
        values = np.clip(self.values + change * (self.values > 0.01), 0, 1)
        return replace(self, values=values, gamma=self.gamma * float(np.exp(0.08 * draw.standard_normal())))


def random_contrast(tissues: list[int], draw: np.random.Generator, sound: float = 0.0) -> Contrast:
    """Draw one: computed tomography, or tissues of any brightness, far apart or close together.

    Args:
        tissues: of each label.
        draw: where the numbers come from.
        sound: the chance of an ultrasound image.
    """
    count = max(OTHER, *tissues) + 1
    kind = draw.random()
    if kind < 0.2:
        of_tissue = np.clip(0.5 + 0.05 * draw.standard_normal(count), 0, 1)
        of_tissue[list(_CT)] = list(_CT.values())
        of_tissue[BLOOD] = draw.uniform(0.5, 0.85)
    elif kind < 0.45:
        of_tissue = np.clip(draw.uniform(0.3, 0.7) + 0.15 * draw.standard_normal(count), 0.05, 1)
        of_tissue[[FLUID, FAT, BLOOD]] = draw.uniform(0, 1, 3)
    else:
        of_tissue = draw.uniform(0.05, 1, count)
    if kind >= 0.2:
        of_tissue[BONE] = draw.uniform(0, 0.2) if draw.random() < 0.6 else draw.uniform(0, 1)
        of_tissue[AIR] = draw.uniform(0, 0.04) if draw.random() < 0.93 else draw.uniform(0, 1)
        of_tissue[LUNG] = of_tissue[AIR] + draw.uniform(0, 0.15)
    values = of_tissue[tissues] + 0.04 * draw.standard_normal(len(tissues))
    values[0] = of_tissue[AIR]
    values[np.asarray(tissues) == AIR] = of_tissue[AIR]
    texture = draw.uniform(0, 0.12) * draw.uniform(0, 1, len(tissues)) * (np.asarray(tissues) != AIR)
    return Contrast(
        np.clip(values, 0, 1), texture, float(np.exp(0.25 * draw.standard_normal())), draw.random() < sound
    )


def texture(canvas: Canvas) -> Tensor:
    """A fine pattern (*S) that belongs to the anatomy, as fibres and lobules do; variance about one."""
    shape, draw = tuple(canvas.labels.shape), canvas.draw
    half = tuple(-(-n // 2) for n in shape)
    fine, coarse = (
        smooth_noise(half, draw.uniform(*sigma), 1, draw, canvas.device) for sigma in ((1.0, 2.0), (3.0, 8.0))
    )
    return enlarged((fine + coarse) * 0.7, shape)[0]


def render(
    canvas: Canvas, pattern: Tensor, contrast: Contrast, points: Tensor, draw: np.random.Generator
) -> Tensor:
    """An image (1, *S) in [0, 1] of the canvas, read at points (*S, d) in the image's normalised units."""
    index = canvas.labels.int()
    values, rough = (
        torch.from_numpy(v).float().to(canvas.device) for v in (contrast.values, contrast.texture)
    )
    fine = values[index].addcmul_(rough[index], pattern)
    d = points.shape[-1]
    gaussian_smooth_(fine[None], (0.45 * FINENESS,) * d, border="replicate")
    image = sample(fine[None, None], points / MARGIN)[0].clamp_(0, 1)
    return acquired(image, contrast, draw)


def acquired(image: Tensor, contrast: Contrast, draw: np.random.Generator) -> Tensor:
    """What the way an image is taken adds: resolution, unevenness, noise and the field of view."""
    shape, device = tuple(image.shape[1:]), image.device
    chance = torch.Generator(device).manual_seed(int(draw.integers(2**62)))
    image = image**contrast.gamma
    if contrast.sound:
        image = _echoes(image, draw, chance)
    if draw.random() < 0.6:
        image = image * _unevenness(shape, draw, device)
    noise = image.std().clamp_min(1e-3) * draw.uniform(0.02, 0.25 if draw.random() < 0.8 else 0.5)
    if draw.random() < 0.5:  # the magnitude of a complex signal (Rician)
        image = torch.hypot(image + noise * _randn(image, chance), noise * _randn(image, chance))
    else:
        image = image + noise * _randn(image, chance)
    image = _resolution(image, draw)
    if draw.random() < 0.2:
        image = image * _field_of_view(shape, draw, device)
    frame = Frame.regular(tuple(reversed(shape)))
    return normalised(Volume(image, frame)).data


def _randn(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)


def _resolution(image: Tensor, draw: np.random.Generator) -> Tensor:
    """Thick slices, coarse voxels, or a blur."""
    kind, shape = draw.random(), image.shape[1:]
    d = len(shape)
    if kind < 0.45:
        return gaussian_smooth(image, (float(draw.uniform(0.0, 0.8)),) * d, border="replicate")
    if kind < 0.6:
        return image
    factor = np.ones(d)
    if kind < 0.85:
        factor[draw.integers(d)] = draw.uniform(1.5, 4.0)
    else:
        factor[:] = draw.uniform(1.2, 2.0)
    size = tuple(max(4, round(n / f)) for n, f in zip(reversed(shape), factor, strict=True))
    return enlarged(downsample(image[None], size)[0], shape)


def _unevenness(shape: tuple[int, ...], draw: np.random.Generator, device: torch.device) -> Tensor:
    """The smooth factor that receiving coils leave in an image."""
    amount, sigma = draw.uniform(0.05, 0.35), draw.uniform(0.25, 0.6) * float(np.mean(shape))
    return (amount * smooth_noise(shape, sigma, 1, draw, device)).exp_()


def _field_of_view(shape: tuple[int, ...], draw: np.random.Generator, device: torch.device) -> Tensor:
    """Zero in some slices at one or two sides that were not taken."""
    seen = torch.ones(shape, device=device)
    for dim in draw.permutation(len(shape))[: draw.integers(1, 3)]:
        n = shape[dim]
        width = int(draw.uniform(0.04, 0.25) * n)
        seen.narrow(int(dim), 0 if draw.random() < 0.5 else n - width, width).zero_()
    return seen


def _echoes(image: Tensor, draw: np.random.Generator, chance: torch.Generator) -> Tensor:
    """Borders and speckle, fainter with depth, within the fan that the probe sees."""
    d = image.ndim - 1
    slope = spatial_gradient(image[None])[0, 0].square().sum(0, keepdim=True).sqrt_()
    sigma = tuple(float(s) for s in draw.uniform(0.4, 1.0, d))
    parts = [gaussian_smooth(_randn(image, chance), sigma) for _ in range(2)]
    speckle = torch.hypot(*parts)
    speckle = speckle / speckle.mean()
    strength = float(draw.uniform(0.3, 0.8))
    echo = (0.15 + image + float(draw.uniform(0.5, 2.0)) * slope) * (1 - strength + strength * speckle)
    echo = (echo * float(draw.uniform(1.0, 4.0))).log1p_()
    points = voxel_centres(image.shape[1:], image)
    depth = (points[..., 1] + 1) / 2
    if draw.random() < 0.5:
        depth = 1 - depth
    echo = echo * torch.exp(-float(draw.uniform(0, 1.0)) * depth)
    if draw.random() < 0.6:
        across = points[..., 0].abs() / (
            depth * float(draw.uniform(0.8, 1.4)) + float(draw.uniform(0.15, 0.6))
        )
        echo = echo * (across < 1)
    return echo
