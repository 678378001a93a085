"""Memory of one optimisation step against image size: NePhi and methods on voxels (Figure 3 of NePhi).

    python nephi_memory.py [--out nephi_memory] [--sizes 64,96,128,192,256,320]
        [--methods nephi,solver,gradicon] [--limit-gb 10] [--seconds 240]

Tian et al. (arXiv 2309.07322, Figure 3) optimise a pair of n^3 voxels. Rows are sizes, columns methods:

* nephi: NePhi, 20 000 points for similarity and 500 for regularity, both directions, codes and networks;
* solver: one iteration of the engine's solver (diffeomorphic, local correlation) at full resolution;
* gradicon: one step of GradICON's instance optimisation with the small networks, both directions.

Each is a fresh child process that loads both images (float32, 8 n^3 bytes), takes a step on tiny images so
that libraries are loaded, and then one or two steps that count. Printed is by how much the resident set grew
at most over what was there before those, in megabytes: all a step needs besides the images. A child whose
address space would exceed ``--limit-gb`` or that takes longer than ``--seconds`` is ended and its larger
sizes are left out. Prints a Markdown table and writes ``memory.png``. Linux with glibc.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

METHODS = {
    "nephi": "NePhi",
    "solver": "solver, local correlation",
    "gradicon": "GradICON, small networks",
}
POINTS, REGULARITY_POINTS = 20_000, 500


def child(method: str, n: int, limit_gb: float) -> dict:
    """The growth in this process, megabytes."""
    import resource

    import torch
    import torch.nn.functional as F

    torch.set_num_threads(1)
    limit = int(limit_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def images(side: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Smooth noise and the same shifted, with nothing larger on the way."""
        noise = torch.rand(1, 1, 9, 9, 9, generator=torch.Generator().manual_seed(0))
        fixed = F.interpolate(noise, size=(side,) * 3, mode="trilinear")
        return fixed, fixed.roll(max(1, side // 32), -1)

    step = STEPS[method]
    step(*images(24))
    fixed, moving = images(n)
    before = resident(fresh=True)
    step(fixed, moving)
    return {"grown": resident() - before}


def resident(fresh: bool = False) -> float:
    """The largest resident set of this process in megabytes; if `fresh`, counted from now on, with what is
    free handed back. Linux with glibc."""
    if fresh:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def nephi_step(fixed, moving) -> None:
    """Two steps: the first finds the last layers at zero, where little is derived."""
    from DeepRegistrationLib.methods.nephi.instance import from_scratch, optimised
    from DeepRegistrationLib.methods.nephi.loss import BatchImages, SampledLoss

    loss = SampledLoss(POINTS, REGULARITY_POINTS)
    optimised(from_scratch(3), BatchImages(fixed, moving), loss, steps=2)


def solver_step(fixed, moving) -> None:
    from DeepRegistrationLib.frame import Frame, Volume
    from DeepRegistrationLib.objective import Channel, PairObjective
    from DeepRegistrationLib.presets import PRESETS, settings_for, similarity_for
    from DeepRegistrationLib.solver import Scale, solve
    from DeepRegistrationLib.transforms import Diffeomorphic, LinearTransform

    frame = Frame.regular(tuple(fixed.shape[2:]))
    measure = similarity_for("lncc", PRESETS["balanced"])
    channel = Channel(Volume(fixed[0], frame), Volume(moving[0], frame), measure)
    settings = replace(settings_for(PRESETS["balanced"], "diffeomorphic", "lncc"), scales=(Scale(1, 1),))
    solve(PairObjective([channel], LinearTransform.identity(3)), Diffeomorphic(frame), settings)


def gradicon_step(fixed, moving) -> None:
    import torch
    from DeepRegistrationLib.methods.gradicon.instance import optimised
    from DeepRegistrationLib.methods.gradicon.predictor import Predictor

    torch.manual_seed(0)
    network = Predictor("small", 3).eval()
    optimised(network, moving, fixed, network.pair_loss(), steps=1)


STEPS: dict[str, Callable] = {"nephi": nephi_step, "solver": solver_step, "gradicon": gradicon_step}


def measured(method: str, n: int, arguments: argparse.Namespace) -> dict | str:
    """A child's numbers, or why there are none."""
    command = [
        sys.executable,
        __file__,
        "--child",
        method,
        "--sizes",
        str(n),
        "--limit-gb",
        str(arguments.limit_gb),
    ]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    try:
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=arguments.seconds
        )
    except subprocess.TimeoutExpired:
        return f"over {arguments.seconds:.0f} s"
    if done.returncode:
        words = done.stderr.lower()
        memory = "memory" in words or "bad_alloc" in words
        return f"over {arguments.limit_gb:g} GB" if memory else f"failed: {done.stderr.splitlines()[-1:]}"
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Measure, print the table, write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("nephi_memory"), help="folder; default: %(default)s")
    parser.add_argument("--sizes", default="64,96,128,192,256,320", help="default: %(default)s")
    parser.add_argument("--methods", default="nephi,solver,gradicon", help="default: %(default)s")
    parser.add_argument("--limit-gb", type=float, default=10.0, help="per child; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=240.0, help="per child; default: %(default)s")
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = [int(n) for n in arguments.sizes.split(",")]
    if arguments.child:
        print(json.dumps(child(arguments.child, sizes[0], arguments.limit_gb)))
        return 0
    from DeepRegistrationLib.training.curve import draw_curves

    names = arguments.methods.split(",")
    rows = [["voxels", "both images MB", *(f"{METHODS[m]} MB" for m in names)], ["---"] * (2 + len(names))]
    found: dict[str, list[float]] = {m: [] for m in names}
    ended: dict[str, str] = {}
    for n in sizes:
        cells = []
        for method in names:
            result = ended.get(method) or measured(method, n, arguments)
            if isinstance(result, str):
                ended[method] = result
                found[method].append(math.nan)
                cells.append(result)
            else:
                found[method].append(result["grown"])
                cells.append(f"{result['grown']:.0f}")
            print(f"{method} {n}: {cells[-1]}", file=sys.stderr, flush=True)
        rows.append([f"{n}^3", f"{8 * n**3 / 1e6:.0f}", *cells])
    print("\n".join("| " + " | ".join(row) + " |" for row in rows))
    arguments.out.mkdir(parents=True, exist_ok=True)
    curves = {METHODS[m]: (sizes, values) for m, values in found.items()}
    title = "memory of one optimisation step"
    draw_curves(arguments.out / "memory.png", curves, title, "voxels along each side", "megabytes", log=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
