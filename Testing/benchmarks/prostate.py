"""Prostate MRI onto transrectal ultrasound: what intensity, landmarks and gland labels each bring.

    python Testing/benchmarks/prostate.py FOLDER [--cases 0,1] [--presets balanced] [--out results.csv]
        [--objectives mind,nmi,lncc,dio]

FOLDER holds ``mr_images_caseNNNNNN.nii.gz``, ``us_images_case...``, ``mr_labels_case...`` and
``us_labels_case...``. A label file is 4-D or 3-D; its first component is the gland, the others are small
structures inside (cysts, zones). The frames need not overlap, so their centres are laid on one another first;
every row of the table starts from there. Ultrasound is fixed, MRI moves.

* *start*: nothing but that.
* *intensity*: the two images alone.
* *landmarks*: with the five poles of the gland that an operator would click (left, right, anterior, base
  and apex: the mean of the outermost twentieth of the gland's voxels along an image axis).
* *labels*: with the gland's outline in both images.

Each with each of the objectives: ``auto``, an intensity measure (of the method ``classical``), or the
features of a method that has learned some (``dio``). The gland's Dice says how well each worked. Landmarks
and labels are fitted to the gland themselves, so beside it stands what neither has seen: the distance
between the centres of the inner structures, where a case has any.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from DeepRegistrationLib import Registration, register
from DeepRegistrationLib.methods import METHODS
from scoring import dice, folds_percent

POLES = ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1))
"""Image axis (x first) and side (0: the low indices) of each landmark; both images are oriented alike."""
OUTERMOST = 0.05
VARIANTS = ("start", "intensity", "landmarks", "labels")


@dataclass(frozen=True)
class Scan:
    """An image, its gland (0 and 1, on the same grid) and its inner structures' centres, (n, 3) LPS mm."""

    image: sitk.Image
    gland: sitk.Image
    inner: np.ndarray

    def poles(self) -> np.ndarray:
        """Landmarks on the gland's surface, (5, 3) LPS mm."""
        indices = np.argwhere(sitk.GetArrayFromImage(self.gland) > 0)[:, ::-1]
        outer = []
        for axis, side in POLES:
            order = np.argsort(indices[:, axis], kind="stable")
            count = max(1, round(OUTERMOST * len(order)))
            outer.append(indices[order[-count:] if side else order[:count]].mean(0))
        return to_world(self.gland, np.array(outer))


def read_scan(folder: Path, modality: str, case: str) -> Scan:
    """One scan of one case, its box centred on the world's origin."""
    image = centred(sitk.ReadImage(str(folder / f"{modality}_images_case{case}.nii.gz"), sitk.sitkFloat32))
    components = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{modality}_labels_case{case}.nii.gz")))
    components = components.reshape(-1, *components.shape[-3:]) > 0.5
    gland = sitk.GetImageFromArray(components[0].astype(np.uint8))
    gland.CopyInformation(image)
    centres = [np.argwhere(part)[:, ::-1].mean(0) for part in components[1:]]
    return Scan(image, gland, to_world(image, np.array(centres).reshape(-1, 3)))


def centred(image: sitk.Image) -> sitk.Image:
    """`image` moved, so that the middle of its box is at 0."""
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    image.SetOrigin([o - m for o, m in zip(image.GetOrigin(), middle, strict=True)])
    return image


def to_world(image: sitk.Image, indices: np.ndarray) -> np.ndarray:
    """Continuous indices (n, 3), x first, to LPS mm."""
    axes = np.asarray(image.GetDirection()).reshape(3, 3) * np.asarray(image.GetSpacing())
    return indices @ axes.T + np.asarray(image.GetOrigin())


def options(variant: str, fixed: Scan, moving: Scan) -> dict[str, Any]:
    """What `register` gets beside the images."""
    if variant == "landmarks":
        return {"fixed_landmarks": fixed.poles(), "moving_landmarks": moving.poles()}
    if variant == "labels":
        return {"fixed_labels": fixed.gland, "moving_labels": moving.gland}
    return {}


def sampled(result: Registration, fixed: sitk.Image) -> sitk.Transform:
    """The forward transform as a SimpleITK displacement field on the fixed grid."""
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in reversed(fixed.GetSize())), indexing="ij"), -1)
    points = to_world(fixed, indices[..., ::-1].reshape(-1, 3).astype(np.float64))
    displacement = (mapping(result)(points) - points).reshape(indices.shape)
    image = sitk.GetImageFromArray(displacement, isVector=True)
    image.CopyInformation(fixed)
    return sitk.DisplacementFieldTransform(image)


def mapping(result: Registration | None) -> Callable[[np.ndarray], np.ndarray]:
    """Fixed points (n, 3) to moving points, LPS mm; without a result, where they are."""
    if result is None:
        return lambda points: points
    return lambda points: result.forward.map(torch.from_numpy(points)).detach().numpy().astype(np.float64)


def compared_by(objective: str) -> dict[str, str]:
    """The options of `register` for an objective: a method's name, or a similarity of the classical one."""
    return {"method": objective} if objective in METHODS else {"method": "classical", "similarity": objective}


def measure(
    variant: str, preset: str, objective: str, fixed: Scan, moving: Scan, linear: str, threads: int
) -> dict[str, Any]:
    """Register one case one way and judge it."""
    begin = time.perf_counter()
    result = None
    if variant != "start":
        extra = {**options(variant, fixed, moving), **compared_by(objective)}
        result = register(
            fixed.image, moving.image, preset=preset, linear=linear, device="cpu", threads=threads, **extra
        )
    seconds = time.perf_counter() - begin
    transform = sitk.Transform(3, sitk.sitkIdentity) if result is None else sampled(result, fixed.image)
    moved = sitk.Resample(moving.gland, fixed.gland, transform, sitk.sitkNearestNeighbor, 0)
    glands = (sitk.GetArrayFromImage(image) > 0 for image in (fixed.gland, moved))
    record = {"variant": variant, "preset": preset, "objective": objective}
    record |= {"gland_dice": dice(*glands), "seconds": seconds}
    record["folds_percent"] = folds_percent(transform, fixed.image)
    there = mapping(result)
    record["pole_mm"] = distance(there(fixed.poles()), moving.poles())
    record["inner_mm"] = distance(there(fixed.inner), moving.inner) if len(fixed.inner) else None
    return record


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other, axis=-1).mean())


def report(records: list[dict[str, Any]]) -> str:
    """Means over the cases, a variant a row."""
    lines = [
        "| preset | variant | objective | gland Dice | poles mm | inner structures mm | folds % | s |",
        "|" + "---|" * 8,
    ]
    keys = ("preset", "variant", "objective")
    for key in dict.fromkeys(tuple(r[k] for k in keys) for r in records):
        mine = [r for r in records if tuple(r[k] for k in keys) == key]
        inner = [r["inner_mm"] for r in mine if r["inner_mm"] is not None]
        cells = [*key, f"{fmean(r['gland_dice'] for r in mine):.3f}"]
        cells += [f"{fmean(r['pole_mm'] for r in mine):.2f}", f"{fmean(inner):.2f}" if inner else ""]
        cells += [
            f"{fmean(r['folds_percent'] for r in mine):.3f}",
            f"{fmean(r['seconds'] for r in mine):.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Every case, every variant; the table at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", help="comma-separated numbers (default: all)")
    parser.add_argument("--presets", default="balanced")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--objectives", default="auto")
    parser.add_argument("--linear", choices=("none", "rigid", "affine"), default="affine")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a table of every case, as CSV")
    arguments = parser.parse_args()
    names = (re.fullmatch(r"us_images_case(\d+)\.nii\.gz", path.name) for path in arguments.folder.iterdir())
    cases = sorted(match[1] for match in names if match)
    if arguments.cases:
        cases = [case for case in cases if int(case) in {int(c) for c in arguments.cases.split(",")}]
    if not cases:
        print(f"prostate.py: {arguments.folder} holds no us_images_case*.nii.gz.", file=sys.stderr)
        return 2
    records = []
    for case in cases:
        fixed, moving = (read_scan(arguments.folder, modality, case) for modality in ("us", "mr"))
        for preset in arguments.presets.split(","):
            for variant in arguments.variants.split(","):
                objectives = ["none"] if variant == "start" else arguments.objectives.split(",")
                for objective in objectives:
                    way = (variant, preset, objective)
                    record = measure(*way, fixed, moving, arguments.linear, arguments.threads)
                    records.append({"case": case, **record})
                    print(f"{case} {' '.join(way)}: gland Dice {record['gland_dice']:.3f}", flush=True)
    print(report(records))
    if arguments.out:
        with arguments.out.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
