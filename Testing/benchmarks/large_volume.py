"""A pair of large CT-like volumes on little memory: peak, time, similarity before and after.

    python large_volume.py [--out large_volume] [--size 512,512,400] [--limit-gb 8] [--preset fast]
        [--threads 1] [--output-spacing MM] [--keep]

The pair is made up: a body of soft tissue with bones, air and vessels of random places and sizes, int16
Hounsfield units with noise, 0.7 x 0.7 x 1.0 mm; in the moving image everything has moved by a smooth
displacement of up to 9 mm. ``deepregistration register`` then runs on it as a fresh process whose data (heap,
private memory: RLIMIT_DATA) may not exceed ``--limit-gb``, and whose largest resident set is measured from
outside. Writes the pair, the results and ``large_volume.json``. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SPACING = (0.7, 0.7, 1.0)
BLOBS = 400


def displacement(points: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Where things of the fixed image are in the moving one, less where they were, (N, 3) mm."""
    phase = 2 * np.pi * points / extent
    waves = (np.sin(phase[:, 1]), np.sin(phase[:, 2] + 1), np.sin(phase[:, 0] + 2))
    return np.stack([4.0 + 4.0 * waves[0], -3.0 + 3.0 * waves[1], 2.0 + 4.0 * waves[2]], -1)


def image(size: tuple[int, int, int], moved: bool) -> np.ndarray:
    """int16 (z, y, x): the fixed image, or the moving one."""
    rng = np.random.default_rng(7)
    extent = np.array(size) * SPACING
    shape = size[::-1]
    values = np.full(shape, -1000, np.int16)
    centres = extent * (0.5 + 0.34 * rng.uniform(-1, 1, (BLOBS, 3)))
    radii = rng.uniform(0.015, 0.06, (BLOBS, 3)) * extent.min()
    units = rng.choice([-800, -90, 40, 60, 150, 300, 700], BLOBS)
    body_centre, body_radii = extent[None] / 2, 0.46 * extent
    if moved:
        centres = centres + displacement(centres, extent)
        body_centre = body_centre + displacement(body_centre, extent)
    draw(values, body_centre[0], body_radii, 30)
    for centre, radius, unit in zip(centres, radii, units, strict=True):
        draw(values, centre, radius, int(unit))
    noise = np.random.default_rng(11 + moved)
    for plane in values:  # plane by plane: this process is to stay small
        plane += noise.normal(0, 12, plane.shape).astype(np.int16)
    return values


def draw(values: np.ndarray, centre: np.ndarray, radii: np.ndarray, unit: int) -> None:
    """An ellipsoid; `centre` and `radii` in mm, (x, y, z)."""
    low = np.maximum(0, np.floor((centre - radii) / SPACING)).astype(int)
    high = np.minimum(values.shape[::-1], np.ceil((centre + radii) / SPACING) + 1).astype(int)
    axes = [
        ((np.arange(a, b) * s - c) / r) ** 2
        for a, b, s, c, r in zip(low, high, SPACING, centre, radii, strict=True)
    ]
    flat = axes[1][:, None] + axes[0][None, :]
    for k, z in enumerate(axes[2]):
        window = values[low[2] + k, low[1] : high[1], low[0] : high[0]]
        window[flat + z <= 1] = unit


def make(role: str, size: tuple[int, int, int], path: Path) -> None:
    import SimpleITK as sitk

    written = sitk.GetImageFromArray(image(size, role == "moving"))
    written.SetSpacing(SPACING)
    sitk.WriteImage(written, str(path))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("large_volume"))
    parser.add_argument("--size", default="512,512,400")
    parser.add_argument("--limit-gb", type=float, default=8.0)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output-spacing", type=float)
    parser.add_argument("--keep", action="store_true", help="keep the result files")
    parser.add_argument("--make", nargs=2, metavar=("ROLE", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = tuple(int(n) for n in options.size.split(","))
    if options.make:
        make(options.make[0], size, Path(options.make[1]))
        return
    folder = options.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    files = {role: folder / f"{role}-{'x'.join(map(str, size))}.nii" for role in ("fixed", "moving")}
    for role, path in files.items():
        if not path.exists():
            command = [sys.executable, __file__, "--size", options.size, "--make", role, str(path)]
            subprocess.run(command, check=True)
    result = folder / "result"
    shutil.rmtree(result, ignore_errors=True)
    command = [sys.executable, "-m", "DeepRegistrationLib", "register", "--quiet", "--device", "cpu"]
    command += ["--preset", options.preset, "--threads", str(options.threads), "--out", str(result)]
    for role, path in files.items():
        command += [f"--{role}", str(path)]
    if options.output_spacing is not None:
        command += ["--output-spacing", str(options.output_spacing)]
    limit = int(options.limit_gb * 1e9)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    begin = time.perf_counter()
    process = subprocess.Popen(command, preexec_fn=limited, env={**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    row: dict[str, object] = {
        "size": size,
        "limit_gb": options.limit_gb,
        "preset": options.preset,
        "code": os.waitstatus_to_exitcode(status),
        "seconds": round(time.perf_counter() - begin, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
    }
    if row["code"] == 0:
        quality = json.loads((result / "quality.json").read_text(encoding="utf-8"))
        row |= {
            "similarity": quality["similarity"],
            "folds_percent": quality["regularity"]["folds_percent"],
            "memory": quality.get("memory"),
            "warnings": quality["warnings"],
            "seconds_of": quality["seconds"],
            "working_size": quality["scales"][-1]["size"],
            "files_gb": {p.name: round(p.stat().st_size / 1e9, 2) for p in sorted(result.iterdir())},
        }
        if not options.keep:
            shutil.rmtree(result)
    (folder / "large_volume.json").write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
