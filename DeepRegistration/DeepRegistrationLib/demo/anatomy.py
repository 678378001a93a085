"""A head made by rules: scalp, skull, folded cortex, ventricles, deep nuclei, cerebellum, eyes, vessels.

The head is a function of space, not a stored picture: it can be asked at any points, so an image of it
on any lattice, or through any deformation, is as sharp as the first one. Coordinates are LPS mm: x to
the patient's left, y to the back, z up; the origin is the middle of the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .shapes import Coordinates, Waves, ellipsoid, intersection, tube, union

CONTRASTS: dict[str, dict[str, float]] = {
    "t1": {
        "air": 0.0,
        "muscle": 0.36,
        "fat": 0.95,
        "bone": 0.07,
        "marrow": 0.4,
        "fluid": 0.14,
        "grey": 0.56,
        "nucleus": 0.63,
        "white": 0.84,
        "vitreous": 0.2,
        "lens": 0.5,
        "blood": 1.0,
    },
    "t2": {
        "air": 0.0,
        "muscle": 0.22,
        "fat": 0.55,
        "bone": 0.04,
        "marrow": 0.3,
        "fluid": 1.0,
        "grey": 0.58,
        "nucleus": 0.46,
        "white": 0.36,
        "vitreous": 0.95,
        "lens": 0.2,
        "blood": 0.06,
    },
}
"""Brightness of each tissue; bone and fluid, white and grey change places between the two."""

_BRAIN = (0.0, 0.0, 12.0)
_CEREBRUM = (65.0, 84.0, 60.0)
_TEMPORAL = ((42.0, -6.0, -22.0), (19.0, 40.0, 20.0))
_FOLDS_MM, _CORTEX_MM = 27.0, 2.9
_CHUNK = 1 << 16

_VENTRICLE = [
    (7, -33, 4, 4),
    (9, -6, 15, 6),
    (14, 22, 13, 6.5),
    (25, 37, 3, 8.5),
    (35, 20, -13, 4),
    (36, 2, -19, 3),
]
_OCCIPITAL_HORN = [(25, 37, 3, 8), (25, 58, 2, 3.5)]
_CAUDATE = [(15, -24, 6, 7.5), (20, 0, 18, 5), (24, 20, 16, 3.5)]
_HIPPOCAMPUS = [(29, -4, -25, 6.5), (29, 18, -17, 5), (25, 29, -8, 3.5)]
_STEM = [(0, 9, -12, 13), (0, 2, -33, 15.5), (0, 12, -54, 10), (0, 22, -78, 7), (0, 26, -125, 6.5)]
_CANAL = [(0, 12, -54, 13), (0, 22, -78, 10), (0, 26, -125, 9.5)]
_SPINE = [(0, 20, -68, 16), (0, 20, -125, 19)]
_JAW = [(46, -14, -58, 5), (42, -22, -96, 8), (22, -66, -108, 8), (0, -78, -110, 8)]
_SAGITTAL_SINUS = [
    (0, -68, 36, 2),
    (0, -40, 55, 2.6),
    (0, 0, 64, 3),
    (0, 40, 56, 3.3),
    (0, 70, 34, 3.8),
    (0, 84, 4, 4.2),
]
_BASILAR = [(0, -4, -58, 2), (0, -16, -40, 2.2), (0, -15, -21, 2.2)]
_VESSELS = [
    [(0, -15, -21, 2), (15, 2, -19, 1.8), (24, 28, -13, 1.5), (22, 58, -8, 1.2)],
    [(16, -24, -58, 2.6), (13, -22, -36, 2.6), (13, -22, -21, 2.4)],
    [(13, -22, -21, 2.2), (40, -18, -14, 2), (51, -2, -2, 1.7), (59, 22, 14, 1.4)],
    [(40, -18, -14, 1.8), (54, -28, 6, 1.4), (56, -34, 22, 1.2)],
    [(13, -22, -21, 2), (2.5, -34, -15, 1.8), (2.5, -54, 6, 1.7), (2.5, -46, 28, 1.6), (2.5, -8, 36, 1.3)],
]
_EYE = (31.0, -76.0, -46.0)

_LANDMARKS: dict[str, tuple[float, float, float]] = {
    "left eye": _EYE,
    "right eye": (-_EYE[0], _EYE[1], _EYE[2]),
    "basilar tip": (0, -15, -21),
    "left carotid branching": (13, -22, -21),
    "right carotid branching": (-13, -22, -21),
    "left middle artery branching": (40, -18, -14),
    "right middle artery branching": (-40, -18, -14),
    "left frontal horn": (7, -36, 4),
    "right frontal horn": (-7, -36, 4),
    "left occipital horn": (25, 61, 2),
    "right occipital horn": (-25, 61, 2),
    "fourth ventricle": (0, 22, -33),
    "left caudate head": (15, -24, 6),
    "right caudate head": (-15, -24, 6),
}


@dataclass(frozen=True)
class Rendering:
    """What `Anatomy.render` finds at N points: `intensity` (N,) from 0 to about 1, `labels` (N,) int32."""

    intensity: Tensor
    labels: Tensor


class Anatomy:
    """One head, drawn at random: its size, folds and tissue texture come from the generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self._scale = 1 + 0.03 * (2 * torch.rand(3, generator=generator) - 1)
        self._folds = Waves(_FOLDS_MM, 28, generator)
        self._sides = Waves(45.0, 10, generator)
        self._fold_depth = Waves(60.0, 8, generator)
        self._muscles = Waves(48.0, 12, generator)
        self._texture = Waves(11.0, 20, generator, spread=0.5)
        self._unevenness = Waves(70.0, 8, generator)

    @property
    def landmark_names(self) -> tuple[str, ...]:
        return tuple(_LANDMARKS)

    def landmarks(self) -> Tensor:
        """Points a person could place: eyes, vessel branchings, tips of the ventricles; (N, 3) LPS mm."""
        points = torch.tensor(list(_LANDMARKS.values()), dtype=torch.float64)
        return (points + torch.tensor(_BRAIN, dtype=torch.float64)) * self._scale.double()

    def render(self, points: Tensor, contrast: str = "t1") -> Rendering:
        """The head at world points (..., 3), LPS mm.

        Args:
            points: where to look.
            contrast: ``t1`` (with bright vessels) or ``t2``.

        Returns:
            Intensity and labels, both flattened to (N,).

        Raises:
            InputError: for a contrast that does not exist.
        """
        if contrast not in CONTRASTS:
            raise InputError(f"There is no contrast named {contrast}.")
        flat = points.reshape(-1, 3).float() / self._scale
        parts = [self._paint(chunk, CONTRASTS[contrast]) for chunk in flat.split(_CHUNK)]
        return Rendering(torch.cat([p.image for p in parts]), torch.cat([p.labels for p in parts]))

    def _paint(self, points: Tensor, brightness: dict[str, float]) -> _Canvas:
        head = tuple(points.unbind(-1))
        brain = tuple(c - m for c, m in zip(head, _BRAIN, strict=True))
        mirrored = (brain[0].abs(), brain[1], brain[2])
        canvas = _Canvas(points.shape[0], brightness)
        self._paint_head(canvas, head, brain, mirrored)
        self._paint_cerebrum(canvas, brain, mirrored)
        self._paint_inside(canvas, brain, mirrored)
        canvas.image *= 1 + 0.025 * self._texture(head) + 0.02 * self._unevenness(head)
        return canvas

    def _paint_head(
        self, canvas: _Canvas, head: Coordinates, brain: Coordinates, mirrored: Coordinates
    ) -> None:
        """Skin, fat, muscle, skull, airways, eyes and the fluid around the brain."""
        skin = ellipsoid(brain, (0, 0, 0), (80, 99, 76))
        face = ellipsoid(head, (0, -50, -50), (56, 50, 60))
        neck = tube(head, [(0, 24, -50, 54), (0, 32, -140, 58)])
        skin = union(union(skin, face, 14), neck, 24)
        skin = union(skin, ellipsoid(head, (0, -98, -52), (9, 11, 15)), 10)
        cavity = union(_cerebrum(brain, mirrored), _cerebellum(brain), 8)
        cavity = union(cavity, tube(brain, _STEM[:3]), 8) - 3
        skull = cavity - 6.5 - 1.2 * self._unevenness(head)
        canvas.paint(skin, "fat")
        canvas.paint(torch.maximum(skin + 5, -skull + 3), "muscle")
        canvas.paint(torch.maximum(skin + 7, self._muscles.sheets(head) - 0.9), "fat", width=1.5, scale=0.8)
        jaw = torch.maximum(skin + 4, tube(mirrored, _JAW))
        canvas.paint(jaw, "bone")
        canvas.paint(jaw + 3, "marrow")
        canvas.paint(torch.maximum(skin + 4, tube(brain, _SPINE)), "bone")
        canvas.paint(torch.maximum(skin + 4, tube(brain, _SPINE) + 3), "marrow")
        orbit = tube(mirrored, [(*_EYE, 16), (17, -38, -42, 5)])
        canvas.paint(torch.maximum(orbit, skin + 2), "fat")
        canvas.paint(tube(mirrored, [(31, -64, -46, 2.6), (16, -36, -42, 2.2)]), "white")
        canvas.paint(torch.maximum(skull, skin + 3), "bone", 1)
        canvas.paint(torch.maximum(skull + 2.6, -cavity + 2.2), "marrow", width=1.2)
        for air in (
            ellipsoid(mirrored, (27, -62, -72), (13, 16, 15)),
            ellipsoid(mirrored, (5.5, -74, -68), (4, 24, 18)),
            ellipsoid(mirrored, (11, -84, -16), (9, 4.5, 9)),
            ellipsoid(brain, (0, -38, -46), (13, 11, 9)),
            tube(brain, [(0, -40, -80, 8), (0, -22, -96, 9), (0, -20, -130, 9)]),
        ):
            canvas.paint(torch.maximum(air, skin + 4), "air")
        eye = ellipsoid(mirrored, _EYE, (12, 12, 12))
        canvas.paint(eye - 1.2, "muscle")
        canvas.paint(eye, "vitreous", 11)
        canvas.paint(ellipsoid(mirrored, (_EYE[0], _EYE[1] - 8, _EYE[2]), (4.5, 2.5, 4.5)), "lens")
        canvas.paint(torch.minimum(cavity, tube(brain, _CANAL)), "fluid", 0)

    def _paint_cerebrum(self, canvas: _Canvas, brain: Coordinates, mirrored: Coordinates) -> None:
        """The folded sheet of cortex over white matter."""
        x, y, z = mirrored
        hull = _cerebrum(brain, mirrored)
        # The folds are read where the ray through the point meets the surface: furrows then run
        # straight inwards, as they do in a brain, and end at a depth of their own.
        a, b, c = _CEREBRUM
        norm = ((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2).sqrt().clamp_min(0.15)
        surface = (x / norm, y / norm, z / norm)
        shift = 5 * self._sides((brain[0] / norm, *surface[1:]))  # the two halves fold alike, not the same
        depth = -union(ellipsoid(brain, (0, 0, 0), _CEREBRUM), ellipsoid(mirrored, *_TEMPORAL), 6)
        half_width = 0.5 + 0.9 * torch.exp(-depth.clamp_min(0) / 3)
        across = self._folds.sheets((surface[0] + shift, *surface[1:])) * norm.clamp(0.5, 1) - half_width
        below = depth - 15 - 4 * self._fold_depth(surface)
        sheet = -_away(across, below)
        between = ellipsoid((y * 0, y, z), (0, 5, -1), (1, 49, 30))
        fissure = -_away(x - 1.2, -between)
        lateral = (z + 7 - 0.3 * (y + 8)).abs() - 1.2
        fissure = torch.maximum(fissure, -_away(lateral, torch.maximum(40 - x, (y + 2).abs() - 32)))
        pial = torch.maximum(torch.maximum(sheet, fissure), hull)
        canvas.paint(pial, "grey", 2)
        canvas.paint(pial + _CORTEX_MM, "white", 3)

    def _paint_inside(self, canvas: _Canvas, brain: Coordinates, mirrored: Coordinates) -> None:
        """Cerebellum, brain stem, nuclei, ventricles and vessels."""
        _, y, z = brain
        cerebellum = _cerebellum(brain)
        angle = torch.atan2(z + 36, y - 24)
        leaves = torch.cos(19 * angle + 0.12 * mirrored[0])
        canvas.paint(cerebellum, "grey", 9)
        core = ellipsoid(mirrored, (14, 40, -38), (20, 10, 7))
        canvas.paint(torch.minimum(torch.maximum(cerebellum + 4, 1.6 - 3 * leaves), core), "white")
        canvas.paint(tube(brain, _STEM), "white", 10, scale=0.93)
        canvas.paint(tube(mirrored, _HIPPOCAMPUS), "grey", 8)
        canvas.paint(ellipsoid(mirrored, (12.5, 10, 3), (9.5, 15, 9.5), 0.35), "nucleus", 7)
        canvas.paint(ellipsoid(mirrored, (27.5, -3, 2), (6.5, 19, 12), 0.25), "nucleus", 6)
        canvas.paint(ellipsoid(mirrored, (20.5, -1, 0), (3.2, 10, 7), 0.3), "nucleus", 0, scale=1.12)
        canvas.paint(tube(mirrored, _CAUDATE), "nucleus", 5)
        ventricles = torch.minimum(tube(mirrored, _VENTRICLE), tube(mirrored, _OCCIPITAL_HORN))
        ventricles = torch.minimum(ventricles, ellipsoid(brain, (0, 6, 2), (2.6, 15, 10)))
        aqueduct = tube(brain, [(0, 16, -8, 1.4), (0, 21, -26, 1.6)])
        fourth = union(ellipsoid(brain, (0, 22, -33), (8, 6, 10)), aqueduct, 2)
        canvas.paint(torch.minimum(ventricles, fourth), "fluid", 4)
        vessels = torch.minimum(tube(brain, _SAGITTAL_SINUS), tube(brain, _BASILAR))
        for nodes in _VESSELS:
            vessels = torch.minimum(vessels, tube(mirrored, nodes))
        canvas.paint(vessels, "blood", 0)


class _Canvas:
    """An image and its labels, painted shape over shape."""

    def __init__(self, count: int, brightness: dict[str, float]) -> None:
        self.image = torch.full((count,), brightness["air"])
        self.labels = torch.zeros(count, dtype=torch.int32)
        self._brightness = brightness

    def paint(
        self, distance: Tensor, tissue: str, label: int | None = None, width: float = 0.8, scale: float = 1.0
    ) -> None:
        """Cover a shape's inside, its edge spread over about `width` mm; None leaves labels as they are."""
        cover = torch.sigmoid(distance * (-2.5 / width))
        self.image.lerp_(torch.full_like(self.image, self._brightness[tissue] * scale), cover)
        if label is not None:
            self.labels.masked_fill_(distance < 0, label)


def _cerebrum(brain: Coordinates, mirrored: Coordinates) -> Tensor:
    """The cerebrum's hull: an egg with a floor that rises over the eyes and the cerebellum, and the
    temporal lobes."""
    _, y, z = brain
    egg = ellipsoid(brain, (0, 0, 0), _CEREBRUM)
    orbits = torch.exp(-((mirrored[0] - 28) ** 2) / 250) * torch.sigmoid((-24 - y) / 7)
    floor = -20 + 8 * torch.sigmoid((y - 18) / 6) + 6 * orbits - z
    return union(intersection(egg, floor, 10), ellipsoid(mirrored, *_TEMPORAL), 6)


def _cerebellum(brain: Coordinates) -> Tensor:
    return ellipsoid(brain, (0, 44, -39), (49, 32, 24))


def _away(a: Tensor, b: Tensor) -> Tensor:
    """Distance to where both `a` and `b` are negative, given the distances to each on its own."""
    outside = (a.clamp_min(0) ** 2 + b.clamp_min(0) ** 2).sqrt()
    return outside + torch.maximum(a, b).clamp_max(0)
