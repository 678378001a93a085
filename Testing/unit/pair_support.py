"""A textured ball and the same ball deformed by a known map: errors, mm, of whole registrations."""

from __future__ import annotations

import math
from typing import Any

import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.filters import gaussian_smooth
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.interpolation import sample
from DeepRegistrationLib.registration import Registration
from torch import Tensor

FRAME = Frame.regular((40, 40, 40), 2.5)
POINTS = FRAME.points()
RADIUS = 40.0
INNER = POINTS.norm(dim=-1) < RADIUS - 4


def displacement(points: Tensor) -> Tensor:
    """The map's, mm: 5 mm in waves of 80 mm."""
    x, y, z = (2 * math.pi / 80 * points).unbind(-1)
    return 5 * torch.stack([torch.sin(y + 0.3), torch.sin(z + 1.0), torch.cos(x + 0.2)], -1)


MAPPED = POINTS + displacement(POINTS)


def ball(points: Tensor) -> Tensor:
    """(1, *S) the moving image at world points (*S, 3): texture of about 100 within a brighter shell."""
    noise = torch.randn(1, 1, 80, 80, 80, generator=torch.Generator().manual_seed(3))
    texture = gaussian_smooth(noise, (2.2,) * 3)
    texture = sample(texture / texture.std(), (points / 70).float(), padding="border")[0, 0]
    away = points.norm(dim=-1)
    shell = 60 * torch.exp(-(((away - RADIUS + 6) / 4) ** 2))
    return (torch.sigmoid((RADIUS - away) / 1.5) * (100 + 25 * texture + shell))[None].float()


def within(points: Tensor, centre: tuple[float, float, float], radius: float) -> Tensor:
    """(1, *S) bool: nearer to the centre than that, mm."""
    return ((points - torch.tensor(centre, dtype=points.dtype)).norm(dim=-1) < radius)[None]


def registered(
    fixed: Tensor,
    moving: Tensor,
    fixed_mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
    **options: Any,
) -> Registration:
    masks = [None if m is None else Volume(m.float(), FRAME) for m in (fixed_mask, moving_mask)]
    usual: dict[str, Any] = {"method": "classical", "preset": "fast", "linear": "none", "device": "cpu"}
    return register(
        Volume(fixed, FRAME),
        Volume(moving, FRAME),
        fixed_mask=masks[0],
        moving_mask=masks[1],
        **(usual | options),
    )


def error(result: Registration, where: Tensor = INNER) -> float:
    """Mean distance from the true map, mm, over the voxels `where` (*S)."""
    return float((result.forward.map(POINTS[where]) - MAPPED[where]).norm(dim=-1).mean())
