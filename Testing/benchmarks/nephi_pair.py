"""NePhi fitted to a single pair of images, without training: alone and in the multi-resolution form. Minutes.

    python nephi_pair.py FIXED MOVING [--out nephi_pair] [--steps 200] [--rates 1e-4,1e-3] [--points 8192,256]
        [--forms alone,coarse,both] [--preset balanced] [--threads 1] [--seed 0]

The instance optimisation of Tian et al. (arXiv 2309.07322, section 3.4) with fresh networks and a random
code, for two images (files) of the same contrast, after normalisation and affine alignment:

* alone: NePhi from the affine alignment on;
* coarse: the engine's solver at the coarsest scale of the preset, for comparison;
* both: NePhi on what that leaves, maps composed (section 3.5).

Each is a fresh child process. Prints a Markdown table over the fixed subject's box: correlation (what NePhi
sees) and local correlation (which it does not see) before and after, folds counted strictly, smallest
determinant, how far forward and inverse map are from undoing each other, seconds, and by how much the
resident set grew at most over what was there before. Writes ``curves.png`` (the loss) and a picture of each
form. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

FORMS = {"alone": "NePhi alone", "coarse": "coarse solver alone", "both": "coarse solver, then NePhi"}
HEAD = (
    "form",
    "correlation",
    "local correlation",
    "folds %",
    "smallest determinant",
    "inverse error mm, mean",
    "seconds",
    "memory MB",
)
_EDGE = 0.85
"""Inverse errors are taken inside this part of the box, where both maps are read."""


def child(form: str, arguments: argparse.Namespace) -> dict:
    """The numbers of one form, and the loss at every step."""
    import torch
    from DeepRegistrationLib.demo.picture import write_picture
    from DeepRegistrationLib.io import read_volume
    from DeepRegistrationLib.linear_stage import LinearPair, linear_stage
    from DeepRegistrationLib.methods import MethodInput
    from DeepRegistrationLib.methods.nephi.hybrid import coarse_start, fitted
    from DeepRegistrationLib.methods.nephi.loss import SampledLoss
    from DeepRegistrationLib.metrics import correlation, fold_statistics, local_correlation
    from DeepRegistrationLib.objective import Prompts
    from DeepRegistrationLib.prepare import crop, foreground_box, normalised
    from DeepRegistrationLib.presets import preset_by_name, similarity_for
    from DeepRegistrationLib.progress import Progress, Reporter
    from DeepRegistrationLib.registration import warped_volume
    from DeepRegistrationLib.transforms import FieldTransform, LinearTransform, Transform
    from nephi_memory import resident  # beside this script

    torch.set_num_threads(arguments.threads)
    preset = preset_by_name(arguments.preset)
    whole, moving = (normalised(read_volume(path)) for path in (arguments.fixed, arguments.moving))
    fixed = crop(whole, foreground_box(whole))
    linear = linear_stage(
        LinearPair(fixed, moving, Prompts(), whole.frame), "affine", None, Reporter()
    ).transform
    pair = MethodInput(fixed, moving, linear, similarity_for("lncc", preset), preset)
    frame, losses = fixed.frame, {}

    def watch(progress: Progress) -> None:
        if progress.stage.startswith("Fitting") and progress.objective is not None:
            losses[progress.fraction] = progress.objective  # several words a step

    def alike(found: Transform) -> tuple[float, float]:
        warped = warped_volume(moving, linear.compose(found).field(frame), frame).data[0]
        return correlation(fixed.data[0], warped), local_correlation(fixed.data[0], warped)

    torch.nn.functional.conv3d(torch.rand(1, 1, 5, 5, 5), torch.rand(1, 1, 3, 3, 3))  # libraries are loaded
    before = resident(fresh=True)
    begin = time.perf_counter()
    start = None if form == "alone" else coarse_start(pair)
    if form == "coarse":
        found: Transform = FieldTransform(start)
    else:
        loss = SampledLoss(*(int(n) for n in arguments.points.split(",")))
        rates = tuple(float(r) for r in arguments.rates.split(","))
        report = Reporter(watch)
        found = fitted(pair, None, start, arguments.steps, loss, rates, arguments.seed, report)
    seconds = time.perf_counter() - begin
    grown = resident() - before
    field = found.field(frame)
    folds = fold_statistics(field)
    inner = frame.grid(dtype=torch.float64).reshape(-1, frame.dimension)[::97]
    points = frame.points().reshape(-1, frame.dimension)[::97][(inner.abs() < _EDGE).all(-1)]
    error = (found.inverse().map(found.map(points)) - points).norm(dim=-1).mean()
    seen = warped_volume(moving, linear.field(frame), frame)
    warped = warped_volume(moving, linear.compose(found).field(frame), frame)
    write_picture(arguments.out / f"pair_{form}.png", fixed, seen, warped, field)
    return {
        "before": alike(LinearTransform.identity(frame.dimension)),
        "after": alike(found),
        "folds": folds["folds_percent"],
        "smallest": folds["determinant_min"],
        "error": float(error),
        "seconds": seconds,
        "grown": grown,
        "losses": list(losses.values()),
        "size": frame.size,
    }


def measured(form: str) -> dict:
    """The child's numbers.

    Raises:
        SystemExit: it failed.
    """
    command = [sys.executable, __file__, *sys.argv[1:], "--child", form]
    done = subprocess.run(
        command, env={**os.environ, "MALLOC_ARENA_MAX": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Measure, print the table, write the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fixed", type=Path)
    parser.add_argument("moving", type=Path)
    parser.add_argument("--out", type=Path, default=Path("nephi_pair"), help="folder; default: %(default)s")
    parser.add_argument("--steps", type=int, default=200, help="of NePhi; default: %(default)s")
    parser.add_argument("--rates", default="1e-4,1e-3", help="of networks and code; default: %(default)s")
    parser.add_argument("--points", default="8192,256", help="similarity, regularity; default: %(default)s")
    parser.add_argument("--forms", default="alone,coarse,both", help="default: %(default)s")
    parser.add_argument("--preset", default="balanced", help="of the solver; default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--child", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.child:
        print(json.dumps(child(arguments.child, arguments)))
        return 0
    from DeepRegistrationLib.training.curve import draw_curves

    rows, curves = [list(HEAD), ["---"] * len(HEAD)], {}
    for form in arguments.forms.split(","):
        result = measured(form)
        if len(rows) == 2:
            first, second = result["before"]
            rows.append(["affine alignment", f"{first:.4f}", f"{second:.4f}", *[""] * (len(HEAD) - 3)])
            print("voxels of the fixed subject's box:", *result["size"], file=sys.stderr)
        first, second = result["after"]
        rows.append(
            [
                FORMS[form],
                f"{first:.4f}",
                f"{second:.4f}",
                f"{result['folds']:.3g}",
                f"{result['smallest']:.2f}",
                f"{result['error']:.2f}",
                f"{result['seconds']:.0f}",
                f"{result['grown']:.0f}",
            ]
        )
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
        if result["losses"]:
            curves[FORMS[form]] = (list(range(1, len(result["losses"]) + 1)), result["losses"])
    print("\n".join("| " + " | ".join(row) + " |" for row in rows))
    if curves:
        draw_curves(arguments.out / "curves.png", curves, "NePhi fitted to a pair", "step", "loss")
    return 0


if __name__ == "__main__":
    sys.exit(main())
