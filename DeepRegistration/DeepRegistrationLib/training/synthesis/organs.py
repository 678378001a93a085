"""Parts that body plans are made of."""

from __future__ import annotations

import numpy as np
import torch

from .branching import tree
from .canvas import AIR, BLOOD, BONE, FAT, FLUID, GREY, LUNG, MARROW, MUSCLE, WHITE, Canvas, Region


def organ(canvas: Canvas, region: Region, with_wall: bool | None = None) -> None:
    """Something in a region: solid, hollow, of two layers, or of lobes; perhaps with vessels and lesions."""
    draw = canvas.draw
    if region.distance.numel() == 0 or not bool((region.distance < 0).any()):
        return
    if canvas.chance(0.3) if with_wall is None else with_wall:
        hollow(canvas, region, canvas.uniform(0.02, 0.08), FLUID if canvas.chance(0.4) else BLOOD)
        return
    canvas.paint(region, canvas.new_tissue())
    kind = draw.random()
    if kind < 0.3:
        inner = region.deeper((canvas.uniform(0.03, 0.1) + 0.05 * canvas.rough[1][region.box]).clamp_min(0.0))
        canvas.paint(inner, canvas.new_tissue())
        canvas.paint(inner.deeper(canvas.uniform(0.03, 0.1)), FAT if canvas.chance(0.5) else FLUID)
    elif kind < 0.5:
        canvas.paint_cells(region, [canvas.new_tissue() for _ in range(draw.integers(2, 6))], 0.01)
    if canvas.chance(0.6):
        root = _inside(canvas, region)
        lines = tree(draw, root, canvas.direction(), 0.22, canvas.uniform(0.02, 0.05), 4)
        canvas.paint(canvas.tubes(lines, region, gap=0.01), BLOOD)
    for _ in range(int(draw.integers(0, 3))):
        size = draw.uniform(0.03, 0.1, canvas.dimension)
        lesion = canvas.blob(_inside(canvas, region), size, within=region)
        canvas.paint(lesion, canvas.new_tissue())


def hollow(canvas: Canvas, region: Region, wall: float, content: int | None = None) -> None:
    """A wall around a content, which may have a level as air over fluid has."""
    canvas.paint(region, MUSCLE if canvas.chance(0.6) else canvas.new_tissue())
    inner = region.deeper(wall)
    canvas.paint(inner, content if content is not None else canvas.new_tissue())
    if content is None and canvas.chance(0.4):
        level = canvas.points[(1, *inner.box)] - float(canvas.uniform(-0.4, 0.2))
        canvas.paint(Region(inner.box, torch.maximum(inner.distance, level)), AIR)


def cortex(canvas: Canvas, region: Region, wavelength: float, thickness: float, halves: bool = False) -> None:
    """A folded sheet of grey around white; `halves` as in `Canvas.folded`."""
    depth, width = canvas.uniform(0.08, 0.22), canvas.uniform(0.004, 0.02)
    folded = canvas.folded(region.trimmed(), wavelength, depth, width, halves)
    canvas.paint(folded, GREY)
    canvas.paint(folded.deeper(thickness), WHITE)


def ventricles(canvas: Canvas, middle: np.ndarray, radii: np.ndarray, brain: Region) -> None:
    """Two bent horns beside the midline."""
    width = canvas.uniform(0.03, 0.09)
    path = ((0.06, -0.32, 0.02), (0.09, -0.05, 0.12), (0.2, 0.22, 0.05), (0.28, 0.1, -0.2))
    path = path[: 4 if canvas.dimension == 3 else 3]
    lines = [
        [
            (*(middle + radii * np.array(p)[: canvas.dimension] * _mirror(canvas, side)), width * f)
            for p, f in zip(path, (1.0, 0.8, 1.2, 0.5), strict=False)
        ]
        for side in (-1, 1)
    ]
    canvas.paint(canvas.tubes(lines, brain), FLUID)


def both_sides(
    canvas: Canvas, middle: np.ndarray, place: np.ndarray, size: np.ndarray, within: Region
) -> None:
    """The same on the left and on the right, `place` being relative to the middle."""
    tissue = canvas.new_tissue() if canvas.chance(0.5) else GREY
    for side in (-1, 1):
        canvas.paint(canvas.blob(middle + place * _mirror(canvas, side), size, within=within), tissue)


def eyes(canvas: Canvas, centre: np.ndarray, radii: np.ndarray, skin: Region) -> None:
    """Eyes in their fat, and perhaps the air in the nose."""
    size = canvas.uniform(0.09, 0.15) * np.ones(canvas.dimension)
    for side in (-1, 1):
        place = centre + radii * np.array([0.38 * side, -0.82, -0.35])[: canvas.dimension]
        globe = canvas.blob(place, size, (0.0, 0.0, 0.0), within=skin)
        canvas.paint(globe.deeper(-0.03), FAT)
        canvas.paint(globe, MUSCLE)
        canvas.paint(globe.deeper(0.02), FLUID)
    if canvas.chance(0.7):
        nose = centre + radii * np.array([0.0, -0.75, -0.55])[: canvas.dimension]
        sinus = canvas.blob(nose, canvas.draw.uniform(0.08, 0.2, canvas.dimension), within=skin, gap=0.05)
        canvas.paint(sinus, AIR)


def ribs(canvas: Canvas, cavity: Region) -> None:
    """Bones in a row within the wall around a cavity."""
    here = canvas.points[(slice(None), *cavity.box)]
    along = here[2] - 0.5 * here[1] if canvas.dimension == 3 else torch.atan2(here[1], here[0]) * 0.7
    spacing = canvas.uniform(0.25, 0.4)
    between = (torch.remainder(along, spacing) - spacing / 2).abs() - spacing * 0.22
    ring = (cavity.distance - 0.045).abs() - 0.035
    rib = Region(cavity.box, torch.maximum(ring, between))
    canvas.paint(rib, BONE)
    canvas.paint(rib.deeper(0.022), MARROW)


def spine(canvas: Canvas, place: np.ndarray) -> None:
    """Vertebrae with discs between them, and the canal with its cord behind."""
    d, size = canvas.dimension, canvas.uniform(0.16, 0.26)
    body = canvas.blob(place, np.array([size * 1.15, size, 5.0])[:d], (0.01, 0.01, 0.0), turned=False)
    arch = place + np.array([0.0, size * 1.35, 0.0])[:d]
    behind = canvas.blob(arch, np.array([size, size * 0.8, 5.0])[:d], (0.03, 0.02, 0.0), turned=False)
    bone = canvas.paint(behind, BONE)
    canvas.paint(body, BONE, bone)
    canvas.paint(body.deeper(0.03), MARROW)
    if d == 3:
        period = size * 1.7
        height = (torch.remainder(canvas.points[(2, *body.box)], period) - period / 2).abs()
        discs = Region(body.box, torch.maximum(body.distance, height - size * 0.22))
        canvas.paint(discs, canvas.new_tissue())
    middle, width = arch - np.array([0.0, size * 0.2, 0.0])[:d], np.array([0.1, 0.085, 5.0])[:d]
    canal = canvas.blob(middle, width, (0.0,) * 3, turned=False)
    canvas.paint(canal, FLUID)
    canvas.paint(canal.deeper(0.035), WHITE)


def lungs(canvas: Canvas, centre: np.ndarray, radii: np.ndarray, cavity: Region) -> None:
    """A lung on each side with its airways and vessels."""
    draw, d = canvas.draw, canvas.dimension
    for side in (-1, 1):
        place = centre + np.array([0.48 * side, -0.02, 0.0])[:d] * radii
        size = radii * np.array([0.4, 0.75, 0.75])[:d] * draw.uniform(0.8, 1.05, d)
        lung = canvas.blob(place, size, within=cavity, gap=0.01, turned=False)
        canvas.paint(lung, LUNG)
        root = centre + np.array([0.14 * side, 0.05, 0.0])[:d] * radii
        out = np.array([side * 1.0, 0.0, 0.0])[:d]
        for turn in range(2 if d == 3 else 1):
            heading = out + 0.4 * draw.standard_normal(d) + (0.6 - 1.2 * turn) * np.eye(d)[d - 1]
            vessels = tree(draw, root, heading, 0.3, canvas.uniform(0.035, 0.06), 5)
            canvas.paint(canvas.tubes(vessels, lung), BLOOD)
        airways = canvas.tubes(tree(draw, root, out, 0.3, canvas.uniform(0.05, 0.08), 3), lung)
        canvas.paint(airways.deeper(-0.015), MUSCLE)
        canvas.paint(airways, AIR)


def _inside(canvas: Canvas, region: Region) -> np.ndarray:
    """The coordinates of a random voxel of a region, its middle-most part preferred."""
    depth = region.distance.flatten()
    some = torch.from_numpy(canvas.draw.integers(0, depth.numel(), 64)).to(depth.device)
    place = some[depth[some].argmin()]
    return canvas.points[(slice(None), *region.box)].flatten(1)[:, place].cpu().double().numpy()


def _mirror(canvas: Canvas, side: int) -> np.ndarray:
    return np.array([side, 1, 1])[: canvas.dimension]
