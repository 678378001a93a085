"""Dice of labels carried in both directions by the written files, by SimpleITK; folder as in `pairs.py`.

    python both_ways.py FOLDER [--pairs 21-22,31-32] [--options "--preset fast"] [--labels]

For each pair: labels onto the fixed image by forward.h5 and onto the moving one by inverse.h5, and the mean
distance of forward from the inverse of the exchanged pair over the foreground of the fixed image (mm).
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from contenders import register
from pairs import Pair, find_pairs


def overlap(transform: sitk.Transform, target: sitk.Image, source: sitk.Image) -> float:
    """Mean Dice over the target's labels of source labels carried onto it, nearest neighbour."""
    carried = sitk.Resample(source, target, transform, sitk.sitkNearestNeighbor, 0)
    a, b = (sitk.GetArrayViewFromImage(image) for image in (carried, target))
    values = [v for v in np.unique(b) if v]
    return float(
        np.mean([2 * np.sum((a == v) & (b == v)) / (np.sum(a == v) + np.sum(b == v)) for v in values])
    )


def displacement(transform: sitk.Transform, image: sitk.Image) -> np.ndarray:
    frame = image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()
    field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, *frame)
    return sitk.GetArrayFromImage(field)


def run(pair: Pair, out: Path, options: list[str], labels: bool, exchanged: bool) -> list[sitk.Transform]:
    sides = [(pair.fixed, pair.fixed_labels), (pair.moving, pair.moving_labels)]
    (fixed, own), (moving, other) = sides[::-1] if exchanged else sides
    command = [*register(fixed, moving, out, 2), *options]
    if labels:
        command += ["--fixed-labels", str(own), "--moving-labels", str(other)]
    subprocess.run(command, check=True)
    return [sitk.ReadTransform(str(out / f"{name}.h5")) for name in ("forward", "inverse")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs")
    parser.add_argument("--options", default="--method classical --preset fast")
    parser.add_argument("--labels", action="store_true", help="the labels are prompts, too")
    chosen = parser.parse_args()
    options = shlex.split(chosen.options)
    print("| pair | onto fixed | onto moving | mean | swap mm |\n|---|---|---|---|---|")
    for pair in find_pairs(chosen.folder, chosen.pairs):
        assert pair.fixed_labels and pair.moving_labels
        fixed, moving = (sitk.ReadImage(str(p)) for p in (pair.fixed_labels, pair.moving_labels))
        with tempfile.TemporaryDirectory() as folder:
            forward, inverse = run(pair, Path(folder) / "a", options, chosen.labels, False)
            _, back = run(pair, Path(folder) / "b", options, chosen.labels, True)
            there, again = overlap(forward, fixed, moving), overlap(inverse, moving, fixed)
            apart = np.linalg.norm(displacement(forward, fixed) - displacement(back, fixed), axis=-1)
            image = sitk.GetArrayFromImage(sitk.ReadImage(str(pair.fixed)))
            swap = float(apart[image > 0.05 * image.max()].mean())
        mean = (there + again) / 2
        print(f"| {pair.name} | {there:.4f} | {again:.4f} | {mean:.4f} | {swap:.4f} |", flush=True)


if __name__ == "__main__":
    main()
