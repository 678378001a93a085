"""Draws the icons: two overlapping contours under a deformed grid.

    python Resources/draw_icons.py

writes Resources/DeepRegistration.png (128 x 128) and the module's icon. numpy and SimpleITK only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {
    ROOT / "Resources" / "DeepRegistration.png": 128,
    ROOT / "DeepRegistration" / "Resources" / "Icons" / "DeepRegistration.png": 128,
}
BLUE, ORANGE, INK = (np.array(c) / 255.0 for c in ((38, 96, 168), (240, 138, 36), (30, 42, 58)))
OVERSAMPLING = 8


def draw(size: int) -> np.ndarray:
    """The icon as (size, size, 4) bytes; drawn large and averaged down, so that edges are smooth."""
    n = size * OVERSAMPLING
    y, x = np.meshgrid(*(2 * [(np.arange(n) + 0.5) / n * 2 - 1]), indexing="ij")
    canvas = np.zeros((n, n, 4))
    card = _rounded_square(x, y, 0.97, 0.28)
    _paint(canvas, card, np.array([0.965, 0.975, 0.99]), 1.0)

    bent_x, bent_y = _bend(x, y)
    lines = np.minimum(_to_line(bent_x), _to_line(bent_y))
    _paint(canvas, card & (lines < 0.016), INK, 0.28)

    fixed = _outline(x, y, (-0.13, 0.06), 0.0)
    moving = _outline(bent_x, bent_y, (0.2, -0.1), 0.5)
    for shape, colour in ((fixed, ORANGE), (moving, BLUE)):
        _paint(canvas, shape < 0, colour, 0.20)
    for shape, colour in ((fixed, ORANGE), (moving, BLUE)):
        _paint(canvas, np.abs(shape) < 0.042, colour, 1.0)

    small = canvas.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 4).mean((1, 3))
    rgb = np.divide(
        small[..., :3], small[..., 3:], out=np.zeros_like(small[..., :3]), where=small[..., 3:] > 0
    )
    return np.rint(255 * np.concatenate([rgb, small[..., 3:]], -1)).astype(np.uint8)


def _paint(canvas: np.ndarray, where: np.ndarray, colour: np.ndarray, opacity: float) -> None:
    """Lay a colour over the canvas (premultiplied RGBA)."""
    layer = np.concatenate([colour * opacity, [opacity]])
    canvas[where] = layer + canvas[where] * (1 - opacity)


def _rounded_square(x: np.ndarray, y: np.ndarray, half: float, corner: float) -> np.ndarray:
    dx, dy = (np.maximum(np.abs(a) - (half - corner), 0) for a in (x, y))
    return dx**2 + dy**2 < corner**2


def _bend(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A swirl that fades to nothing at the border."""
    r = np.hypot(x, y)
    turn = 0.55 * np.cos(np.clip(r, 0, 1) * np.pi / 2) ** 2
    c, s = np.cos(turn), np.sin(turn)
    return c * x - s * y + 0.07 * (1 - np.clip(r, 0, 1) ** 2), s * x + c * y


def _to_line(a: np.ndarray, gap: float = 0.32) -> np.ndarray:
    """Distance to the nearest line of a grid."""
    return np.abs((a / gap + 0.5) % 1 - 0.5) * gap


def _outline(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], phase: float) -> np.ndarray:
    """Signed distance, nearly, to an organ-like contour: negative inside."""
    dx, dy = x - centre[0], y - centre[1]
    angle = np.arctan2(dy, dx)
    radius = 0.50 + 0.055 * np.cos(2 * angle + phase) + 0.04 * np.sin(3 * angle - phase)
    return np.hypot(dx, dy) - radius


def main() -> None:
    """Write every icon."""
    for path, size in TARGETS.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(draw(size), isVector=True), str(path))


if __name__ == "__main__":
    main()
