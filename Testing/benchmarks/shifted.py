"""One pair of images as other scanners would have given it, to see how much each method loses.

    python Testing/benchmarks/shifted.py FOLDER OUT [--pair 21-22]
    python Testing/benchmarks/report.py OUT --out results

FOLDER holds pairs (`pairs.py`), the first of which is taken. OUT gets the variants' images and a
``pairs.csv`` that names them beside the original images, labels and landmarks, by which all are judged:
the domain shifts of Jena et al. (arXiv 2406.07361, table 4), and some more.

* *as-is*: the images.
* *thick*: each third slice, a mean of three, along the axis with the most voxels.
* *thin-plane*: half the voxels along the other axes.
* *cropped*: a tenth of the fixed image's box cut off on every side.
* *padded*: a fifth of each box of emptiness added on every side.
* *moving-inverted*, *both-inverted*: dark where it was bright, inside the subject.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pairs import find_pairs

Change = Callable[[sitk.Image], sitk.Image]


def same(image: sitk.Image) -> sitk.Image:
    return image


def thick(image: sitk.Image) -> sitk.Image:
    size = image.GetSize()
    longest = size.index(max(size))
    return sitk.BinShrink(image, [3 if axis == longest else 1 for axis in range(len(size))])


def thin_plane(image: sitk.Image) -> sitk.Image:
    size = image.GetSize()
    longest = size.index(max(size))
    return sitk.BinShrink(image, [1 if axis == longest or n < 32 else 2 for axis, n in enumerate(size)])


def cropped(image: sitk.Image) -> sitk.Image:
    sides = [n // 10 for n in image.GetSize()]
    return sitk.Crop(image, sides, sides)


def padded(image: sitk.Image) -> sitk.Image:
    sides = [max(1, n // 5) for n in image.GetSize()]
    return sitk.ConstantPad(image, sides, sides, float(sitk.GetArrayViewFromImage(image).min()))


def inverted(image: sitk.Image) -> sitk.Image:
    """What is above a tenth of the bright end is mirrored within that range."""
    values = sitk.GetArrayFromImage(image)
    low, high = values.min(), np.percentile(values, 99.5)
    floor = low + 0.1 * (high - low)
    mirrored = np.where(values > floor, np.clip(high + floor - values, floor, high), values)
    result = sitk.GetImageFromArray(mirrored.astype(np.float32))
    result.CopyInformation(image)
    return result


VARIANTS: dict[str, tuple[Change, Change]] = {
    "as-is": (same, same),
    "thick": (thick, thick),
    "thin-plane": (thin_plane, thin_plane),
    "cropped": (cropped, same),
    "padded": (padded, padded),
    "moving-inverted": (same, inverted),
    "both-inverted": (inverted, inverted),
}
"""What is done to the fixed and to the moving image."""


def main() -> int:
    """Write the variants."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pair", help="fixed first: 21-22 (default: the first)")
    arguments = parser.parse_args()
    try:
        pair = find_pairs(arguments.folder, arguments.pair)[0]
    except (OSError, ValueError) as error:
        print(f"shifted.py: {error}", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept = ("fixed_labels", "moving_labels", "fixed_landmarks", "moving_landmarks")
    judged = {key: str(path.resolve()) for key in kept if (path := getattr(pair, key))}
    judged |= {f"{side}_judged": str(getattr(pair, side).resolve()) for side in ("fixed", "moving")}
    rows = []
    for name, changes in VARIANTS.items():
        row = {"name": name, **judged}
        for side, change in zip(("fixed", "moving"), changes, strict=True):
            image = sitk.ReadImage(str(getattr(pair, side)), sitk.sitkFloat32)
            row[side] = f"{name}-{side}.nii.gz"
            sitk.WriteImage(change(image), str(arguments.out / row[side]))
        rows.append(row)
    with (arguments.out / "pairs.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} pairs are in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
