"""The estimate of peak memory against what registrations take.

    python memory.py [--out memory.json] [--sizes 64,96,128] [--only diffeomorphic,lncc] [--wide] [--gb 6]

Each row is a fresh child process that registers two images of n^3 voxels that it makes itself, takes few
iterations (the first is as large as all others) and writes the results. Measured is the largest resident set
less what was resident after a registration of tiny images, when libraries are loaded; estimated is what
`memory.Request` says. By default the preset fast with each representation and each similarity; ``--wide``
adds the other presets and methods. A child may take ``--gb`` gigabytes. Prints a Markdown table. Linux.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

REPRESENTATIONS = (
    "diffeomorphic",
    "free-form",
    "b-spline",
    "stationary-velocity",
    "geodesic",
    "neural-field",
    "affine",
)
SIMILARITIES = ("lncc", "mse", "mind", "nmi", "mind-nmi", "ncc", "adaptive-ncc")
DEFAULT = {"representation": "diffeomorphic", "similarity": "lncc", "preset": "fast", "method": "dio"}


def child(n: int, options: dict[str, str], gb: float) -> dict[str, float]:
    """Bytes measured and estimated."""
    import resource

    from DeepRegistrationLib.allocator import use_large_heap

    use_large_heap()
    resource.setrlimit(resource.RLIMIT_DATA, (int(gb * 1e9),) * 2)
    from dataclasses import replace

    import torch
    import torch.nn.functional as F
    from DeepRegistrationLib import presets, register
    from DeepRegistrationLib.frame import Frame, Volume
    from DeepRegistrationLib.memory import Request

    name = options["preset"]
    found = presets.PRESETS[name]
    presets.PRESETS[name] = replace(
        found, iterations=(1, 1, 2), scratch_steps=min(2, found.scratch_steps), instance_steps=0
    )

    def run(side: int, folder: Path) -> None:
        noise = torch.rand(1, 1, 9, 9, 9, generator=torch.Generator().manual_seed(0))
        fixed = F.interpolate(noise, size=(side,) * 3, mode="trilinear")[0]
        frame = Frame.regular((side,) * 3)
        images = Volume(fixed, frame), Volume(fixed.roll(max(1, side // 32), -1), frame)
        result = register(*images, linear="rigid", threads=1, device="cpu", **options)
        del images, fixed
        result.save(folder)

    with tempfile.TemporaryDirectory() as folder:
        run(24, Path(folder) / "small")
        with open("/proc/self/statm", encoding="ascii") as file:
            before = int(file.read().split()[1]) * resource.getpagesize()
        run(n, Path(folder) / "large")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size, spacing = (n,) * 3, (1.0,) * 3
    estimate = Request(size, spacing, size, spacing, **options).estimate()
    return {"measured": peak - before, **vars(estimate), "estimated": estimate.peak, "program": before}


def rows(sizes: list[int], wide: bool) -> list[tuple[int, dict[str, str]]]:
    asked = [{**DEFAULT, "representation": name} for name in REPRESENTATIONS]
    asked += [{**DEFAULT, "similarity": name} for name in SIMILARITIES[1:]]
    if wide:
        asked += [{**DEFAULT, "preset": name} for name in ("balanced", "accurate")]
        asked += [{**DEFAULT, "method": name} for name in ("gradicon", "sitreg", "nephi", "svf-r2net")]
        asked += [{**DEFAULT, "preset": "balanced", "method": "nephi"}]
    return [(n, options) for options in asked for n in (sizes if options == DEFAULT else sizes[-1:])]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("memory.json"))
    parser.add_argument("--sizes", default="64,96,128")
    parser.add_argument("--only", help="rows that hold one of these words")
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--gb", type=float, default=6.0)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(int(options.child[0]), json.loads(options.child[1]), options.gb)))
        return
    words = options.only.split(",") if options.only else []
    table = []
    print("| voxels | representation | similarity | preset | method | measured MB | estimated MB | ratio |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for n, asked in rows([int(n) for n in options.sizes.split(",")], options.wide):
        if words and not any(word in asked.values() for word in words):
            continue
        command = [sys.executable, __file__, "--gb", str(options.gb), "--child", str(n), json.dumps(asked)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode != 0:
            print(
                f"| {n} | {' | '.join(asked.values())} | failed: {run.stderr.strip()[-120:]} | | |",
                flush=True,
            )
            continue
        found = json.loads(run.stdout.splitlines()[-1])
        table.append({"n": n, **asked, **found})
        ratio = found["estimated"] / found["measured"]
        numbers = f"{found['measured'] / 1e6:.0f} | {found['estimated'] / 1e6:.0f} | {ratio:.2f}"
        print(f"| {n} | {' | '.join(asked.values())} | {numbers} |", flush=True)
        options.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
