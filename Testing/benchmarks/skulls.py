"""Skulls in any pose, each onto its neighbour: does the linear stage find them, or say that it did not?

    python Testing/benchmarks/skulls.py FOLDER [--linear affine] [--preset fast] [--limit 0.5]
        [--out results.csv]

FOLDER holds an image NAME.nii.gz and landmarks NAME.mrk.json for each subject, the same landmarks for all.
Sorted by name, every subject is fixed once with the next one moving (the last with the first), and the other
way round. Without ``--preset`` the linear stage alone is run, with it the whole registration.

*Error* is the mean distance of the mapped fixed landmarks to their moving partners, mm; *best linear* is what
the least squares affine fit of the landmarks themselves leaves; *swap* is the mean difference between a map
and the inverse of the one of the swapped images over the fixed box, voxels. A row fails if its error is above
the limit and no warning was given.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from DeepRegistrationLib import register
from DeepRegistrationLib.frame import Volume
from DeepRegistrationLib.io import read_volume
from DeepRegistrationLib.landmarks import pair_landmarks
from DeepRegistrationLib.linear_stage import LinearPair, linear_stage
from DeepRegistrationLib.objective import Prompts
from DeepRegistrationLib.prepare import normalised
from DeepRegistrationLib.progress import Reporter
from DeepRegistrationLib.transforms import Transform
from DeepRegistrationLib.transforms.linear_fit import best_affine

KEYS = ("fixed", "moving", "error", "best linear", "swap", "seconds", "warnings")


def mapped(fixed: Path, moving: Path, linear: str, preset: str | None) -> tuple[Transform, list[str]]:
    """The map from fixed to moving points and the warnings it came with."""
    if preset is not None:
        result = register(fixed, moving, linear=linear, preset=preset, device="cpu")
        return result.forward, result.quality["warnings"]
    images: list[Volume] = [normalised(read_volume(path)) for path in (fixed, moving)]
    found = linear_stage(LinearPair(*images, Prompts()), linear, None, Reporter())
    return found.transform, list(found.warnings)


def measure(fixed: Path, moving: Path, linear: str, preset: str | None) -> list[dict[str, Any]]:
    """Both directions of a pair."""
    marks = [path.parent / path.name.replace(".nii.gz", ".mrk.json") for path in (fixed, moving)]
    points = pair_landmarks(*marks)[:2]
    found, rows = [], []
    for one, other, (here, there) in ((fixed, moving, points), (moving, fixed, points[::-1])):
        begin = time.perf_counter()
        transform, warnings = mapped(one, other, linear, preset)
        rows.append({"seconds": time.perf_counter() - begin, "warnings": " ".join(warnings)})
        names = [path.name.removesuffix(".nii.gz") for path in (one, other)]
        rows[-1] |= {"fixed": names[0], "moving": names[1], "error": distance(transform.map(here), there)}
        rows[-1]["best linear"] = distance(best_affine(here, there).map(here), there)
        found.append((transform, read_volume(one).frame))
    for row, (transform, frame), (other, _) in zip(rows, found, found[::-1], strict=True):
        places = frame.resized((8, 8, 8)).points().reshape(-1, 3)
        row["swap"] = distance(transform.map(places), other.inverse().map(places)) / min(frame.spacing)
    return rows


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other).norm(dim=-1).mean())


def main() -> int:
    """The table, a row a direction, and how many fail."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--linear", choices=("rigid", "affine"), default="affine")
    parser.add_argument("--preset", help="of a whole registration (default: the linear stage alone)")
    parser.add_argument("--limit", type=float, default=0.5, help="mm")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the table as CSV")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    files = sorted(arguments.folder.glob("*.nii.gz"))
    if len(files) < 2:
        print(f"skulls.py: {arguments.folder} holds no two images.", file=sys.stderr)
        return 2
    rows = []
    for k, fixed in enumerate(files):
        for row in measure(fixed, files[(k + 1) % len(files)], arguments.linear, arguments.preset):
            rows.append(row)
            cells = (f"{row[key]:.3f}" if isinstance(row[key], float) else row[key] for key in KEYS)
            print("| " + " | ".join(cells) + " |", flush=True)
    silent = [row for row in rows if row["error"] > arguments.limit and not row["warnings"]]
    alarms = sum(bool(row["warnings"]) for row in rows)
    errors = [row["error"] for row in rows]
    print(
        f"mean {fmean(errors):.3f} mm, worst {max(errors):.3f}; {alarms} alarms, "
        f"{len(silent)} silent failures"
    )
    if arguments.out:
        with arguments.out.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, KEYS)
            writer.writeheader()
            writer.writerows({key: row[key] for key in KEYS} for row in rows)
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())
