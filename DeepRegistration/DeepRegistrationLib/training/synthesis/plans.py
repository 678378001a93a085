"""Body plans: what lies within what. Each draws another body every time; none copies a real one.

The axes are those of a patient who lies on the back: x to a side, y to the back, z (3-D) to the head.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .branching import tree, winding
from .canvas import AIR, BLOOD, BONE, FAT, FLUID, MARROW, MUSCLE, Canvas, Region
from .noise import smooth_noise
from .organs import both_sides, cortex, eyes, hollow, lungs, organ, ribs, spine, ventricles


def head(canvas: Canvas) -> None:
    """Skin, fat, skull, a brain with folded cortex, ventricles, nuclei, cerebellum and vessels."""
    draw, d = canvas.draw, canvas.dimension
    radii = canvas.extent * draw.uniform(0.75, 1.2) * draw.uniform(0.88, 1.08, d)
    centre = 0.12 * draw.standard_normal(d)
    skin = canvas.blob(centre, radii, (0.02, 0.01, 0.003), turned=False)
    canvas.paint(skin, FAT)
    skull = skin.deeper(canvas.uniform(0.03, 0.07))
    if canvas.chance(0.6):
        canvas.paint(skull, MUSCLE)
        skull = skull.deeper((0.035 + 0.03 * canvas.rough[0]).clamp_min(0.004)[skull.box])
    thickness = canvas.uniform(0.03, 0.09)
    cavity = skull.deeper(thickness).trimmed()
    bone = canvas.paint(skull, BONE)
    if canvas.chance(0.5):
        canvas.paint(skull.deeper(thickness / 3), MARROW)
        canvas.paint(skull.deeper(thickness * 0.7), BONE, bone)
    canvas.paint(cavity, FLUID)
    brain = cavity.deeper((canvas.uniform(0.015, 0.05) + 0.015 * canvas.rough[0][cavity.box]).clamp_min(0))
    gap = canvas.points[(0, *brain.box)] - float(centre[0])
    brain = brain.without(torch.maximum(gap.abs() - 0.02, canvas.points[(d - 1, *brain.box)].neg() - 0.05))
    if d == 3 and canvas.chance(0.8):
        lower = centre + radii * np.array([0.0, 0.35, -0.5])
        cerebellum = canvas.blob(lower, radii * np.array([0.5, 0.33, 0.25]), within=brain, turned=False)
        brain = brain.without(_spread(cerebellum.deeper(-0.03), brain))
        cortex(canvas, cerebellum, 0.08, 0.025)
    cortex(canvas, brain, canvas.uniform(0.15, 0.32), canvas.uniform(0.03, 0.06), True)
    middle = centre + radii * np.array([0.0, 0.0, 0.1])[:d]
    ventricles(canvas, middle, radii, brain)
    for place in ((0.2, -0.05, 0.0), (0.3, 0.1, -0.02), (0.15, -0.25, 0.05)):
        size = radii * np.array([0.1, 0.16, 0.12])[:d] * draw.uniform(0.6, 1.2)
        both_sides(canvas, middle, radii * np.array(place)[:d], size, brain)
    roots = [(centre + radii * np.array([s * 0.15, -0.1, -0.6])[:d], s) for s in (-1, 1)]
    lines = [
        line
        for root, s in roots
        for line in tree(draw, root, np.array([s * 0.5, -0.3, 1.0])[:d], 0.3, canvas.uniform(0.025, 0.04))
    ]
    canvas.paint(canvas.tubes(lines, cavity), BLOOD)
    if canvas.chance(0.7):
        eyes(canvas, centre, radii, skin)


def trunk(canvas: Canvas) -> None:
    """Fat, muscle, ribs and spine around lungs or bowels, organs with vessels, and an aorta."""
    draw, d = canvas.draw, canvas.dimension
    long = np.array([1.0, 1.0, canvas.uniform(1.3, 3.0)])[:d]
    radii = canvas.extent * draw.uniform(0.8, 1.3) * draw.uniform(0.75, 1.05, d) * long
    centre = 0.1 * draw.standard_normal(d)
    body = canvas.blob(centre, radii, (0.04, 0.01, 0.0), turned=False)
    canvas.paint(body, FAT)
    wall = body.deeper((canvas.uniform(0.03, 0.18) + 0.04 * canvas.rough[0][body.box]).clamp_min(0.01))
    canvas.paint(wall, MUSCLE)
    cavity = wall.deeper((canvas.uniform(0.05, 0.14) + 0.02 * canvas.rough[1][body.box]).clamp_min(0.01))
    chest = canvas.chance(0.5)
    if chest or canvas.chance(0.4):
        ribs(canvas, cavity)
    canvas.paint(cavity, FAT if canvas.chance(0.7) else FLUID)
    back = centre + radii * np.array([0.0, 0.62, 0.0])[:d]
    if chest:
        lungs(canvas, centre, radii, cavity)
        place = centre + radii * np.array([0.08, -0.25, -0.1])[:d] / long
        heart = canvas.blob(place, 0.28 * np.ones(d), within=cavity)
        organ(canvas, heart, with_wall=True)
    else:
        for _ in range(int(draw.integers(0, 3))):
            reach = radii * draw.uniform(0.25, 0.5, d) / long
            place = centre + radii * np.append(draw.uniform(-0.4, 0.4, d - 1), 0.0) / long
            lines = winding(draw, place, reach, canvas.uniform(0.05, 0.11), int(draw.integers(10, 30)))
            hollow(canvas, canvas.tubes(lines, cavity), canvas.uniform(0.012, 0.03))
    for _ in range(int(draw.integers(2, 4) if chest else draw.integers(3, 8))):
        place = centre + radii * canvas.direction() * draw.uniform(0.25, 0.75) / long
        size = draw.uniform(0.12, 0.45) * draw.uniform(0.6, 1.2, d)
        organ(canvas, canvas.blob(place, size, within=cavity, gap=0.015))
    spine(canvas, back)
    beside = back + np.array([0.12, -0.28, 0.0])[:d] * radii.min()
    if d == 3:
        line = [(beside[0] + 0.03 * k, beside[1], z, 0.07) for k, z in enumerate(np.linspace(-1.6, 1.6, 5))]
        branches = [
            branch
            for z in draw.uniform(-0.8, 0.8, 3)
            for branch in tree(draw, np.array([*beside[:2], z]), canvas.direction(), 0.3, 0.04, 3)
        ]
        canvas.paint(canvas.tubes([line, *branches], wall), BLOOD)
    else:
        hollow(canvas, canvas.blob(beside, 0.08 * np.ones(d), within=wall), 0.015, BLOOD)


def limb(canvas: Canvas) -> None:
    """One to three long bones with marrow among muscles in their sheaths, vessels, fat and skin."""
    draw, d = canvas.draw, canvas.dimension
    long = np.array([1.0, 1.0, 4.0])[:d]
    radii = canvas.extent * draw.uniform(0.6, 1.0) * draw.uniform(0.8, 1.15, d) * long
    centre = 0.12 * draw.standard_normal(d)
    skin = canvas.blob(centre, radii, (0.04, 0.01, 0.0), turned=False)
    canvas.paint(skin, MUSCLE)
    fat = skin.deeper(canvas.uniform(0.015, 0.03))
    canvas.paint(fat, FAT)
    flesh = fat.deeper((canvas.uniform(0.05, 0.2) + 0.05 * canvas.rough[0][fat.box]).clamp_min(0.01))
    canvas.paint(flesh, FAT)
    muscles = [MUSCLE if canvas.chance(0.7) else canvas.new_tissue() for _ in range(draw.integers(4, 12))]
    canvas.paint_cells(flesh, muscles, canvas.uniform(0.008, 0.02), 4.0)
    bones = int(draw.integers(1, 4))
    for k in range(bones):
        angle = 2 * np.pi * k / bones + 0.5
        around = np.array([np.cos(angle), np.sin(angle), 0.0])[:d]
        place = centre + (0.33 if bones > 1 else 0.1) * radii[:2].min() * around
        size = canvas.uniform(0.12, 0.26) / bones**0.4 * draw.uniform(0.8, 1.2, d) * long * 1.5 ** (long > 1)
        shaft = canvas.blob(place, size, (0.03, 0.012, 0.0), within=flesh, turned=False)
        canvas.paint(shaft, BONE)
        canvas.paint(shaft.deeper(canvas.uniform(0.03, 0.07)), MARROW)
    for _ in range(int(draw.integers(2, 5))):
        place = centre + 0.5 * radii.min() * canvas.direction()
        if d == 3:
            up = np.array([0.0, 0.0, 1.0])
            vessels = tree(draw, place - 1.3 * up, up, 0.8, canvas.uniform(0.025, 0.05), 3)
            canvas.paint(canvas.tubes(vessels, flesh), BLOOD)
        else:
            canvas.paint(canvas.blob(place, canvas.uniform(0.02, 0.05) * np.ones(d), within=flesh), BLOOD)


def gland(canvas: Canvas) -> None:
    """A close look at a gland with its zones, beside a bladder and a bowel, among muscles, fat and bones."""
    draw, d = canvas.draw, canvas.dimension
    centre = 0.08 * draw.standard_normal(d)
    ground = canvas.everywhere()
    canvas.paint(ground, FAT)
    muscles = [MUSCLE if canvas.chance(0.6) else None for _ in range(draw.integers(4, 9))]
    canvas.paint_cells(ground, muscles, canvas.uniform(0.01, 0.05))
    for side in (-1, 1):
        if canvas.chance(0.7):
            place = centre + np.array([side * 1.0, -0.1, 0.1])[:d] * canvas.extent
            bone = canvas.blob(place, draw.uniform(0.25, 0.6, d))
            canvas.paint(bone, BONE)
            canvas.paint(bone.deeper(canvas.uniform(0.04, 0.08)), MARROW)
    radii = canvas.uniform(0.35, 0.7) * draw.uniform(0.75, 1.15, d)
    outside = canvas.blob(centre, radii)
    up, back = np.array([0.0, -0.3, 1.0])[:d], np.array([0.0, 1.0, 0.0])[:d]
    if canvas.chance(0.7):
        size = draw.uniform(0.3, 0.7) * draw.uniform(0.8, 1.2, d)
        bladder = canvas.blob(centre + up * (radii + 0.7 * size), size)
        hollow(canvas, bladder, canvas.uniform(0.02, 0.07), FLUID)
    if canvas.chance(0.7):
        place = centre + back * (radii + 0.2)
        rectum = canvas.blob(place, np.array([0.2, 0.17, 2.0])[:d] * draw.uniform(0.7, 1.3), turned=False)
        hollow(canvas, rectum, canvas.uniform(0.02, 0.06), AIR if canvas.chance(0.5) else canvas.new_tissue())
    canvas.paint(outside.deeper(-canvas.uniform(0.01, 0.04)), MUSCLE if canvas.chance(0.5) else BLOOD)
    canvas.paint(outside, canvas.new_tissue())
    size = radii * draw.uniform(0.5, 0.8, d)
    inner = canvas.blob(centre - 0.2 * back * radii, size, within=outside, gap=0.02)
    canvas.paint(inner, canvas.new_tissue())
    for _ in range(int(draw.integers(0, 6))):
        place = centre + radii * canvas.direction() * draw.uniform(0.1, 0.7)
        nodule = canvas.blob(place, draw.uniform(0.04, 0.14, d), within=outside, gap=0.02)
        canvas.paint(nodule, canvas.new_tissue())
    if d == 3:
        line = [(*(centre + z * up * radii * 1.2), 0.03) for z in (-1.0, 0.0, 1.0)]
        canvas.paint(canvas.tubes([line], outside), FLUID)


def abstract(canvas: Canvas) -> None:
    """Regions where one of several smooth random functions is largest, shells and a tree: no body at all."""
    draw = canvas.draw
    ground = canvas.everywhere()
    if canvas.chance(0.6):
        centre, radii = 0.1 * draw.standard_normal(canvas.dimension), canvas.extent * draw.uniform(0.8, 1.2)
        ground = canvas.blob(centre, radii, (0.1, 0.05, 0.01))
        canvas.paint(ground, canvas.new_tissue())
        ground = ground.deeper(canvas.uniform(0.02, 0.12))
    sigma = canvas.uniform(0.12, 0.35) * canvas.unit
    best = torch.full_like(ground.distance, -1e3)
    which = torch.zeros_like(best, dtype=torch.uint8)
    tissues = [canvas.new_tissue() for _ in range(draw.integers(4, 12))]
    for k in range(len(tissues)):
        noise = smooth_noise(best.shape, sigma, 1, draw, canvas.device)[0]
        which.masked_fill_(noise > best, k)
        torch.maximum(best, noise, out=best)
    canvas.paint_many(ground, which, tissues)
    for _ in range(int(draw.integers(0, 4))):
        size = draw.uniform(0.15, 0.5, canvas.dimension)
        organ(canvas, canvas.blob(0.5 * canvas.direction(), size, (0.08, 0.04, 0.01), within=ground))
    if canvas.chance(0.6):
        lines = tree(draw, 0.7 * canvas.direction(), canvas.direction(), 0.4, canvas.uniform(0.03, 0.08))
        canvas.paint(canvas.tubes(lines, ground), BLOOD)


PLANS: dict[str, Callable[[Canvas], None]] = {
    "head": head,
    "trunk": trunk,
    "limb": limb,
    "gland": gland,
    "abstract": abstract,
}


def _spread(region: Region, onto: Region) -> Tensor:
    """A region's distance over the larger box of another, positive where it does not reach."""
    whole = torch.ones_like(onto.distance)
    Region(onto.box, whole).at(region.box).copy_(region.distance)
    return whole
