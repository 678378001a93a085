"""Regularity against the number of points its loss is sampled at (Figure 4 of NePhi). Minutes on two cores.

    python nephi_points.py [--out nephi_points] [--points 1,4,16,64,256,1024] [--pairs 6] [--steps 150]

Tian et al. (arXiv 2309.07322, Figure 4) vary how many points per image the gradient inverse consistency is
sampled at and find that it suffers only below about 64. Here NePhi is fitted from scratch to pairs of
generated shapes that are to be matched with one another, 2-D, for each number of points anew. Printed are
means over the pairs: Dice after, share of folded voxels, smallest determinant, and the penalty itself at 4096
fresh points. Prints a Markdown table and writes ``points.png``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch
from DeepRegistrationLib.allocator import use_large_heap
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.interpolation import sample
from DeepRegistrationLib.methods.nephi.instance import from_scratch, optimised
from DeepRegistrationLib.methods.nephi.loss import BatchImages, SampledLoss
from DeepRegistrationLib.metrics import fold_statistics
from DeepRegistrationLib.training.base import Batch
from DeepRegistrationLib.training.curve import Panel, draw_panels
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.validate import overlap

FRESH = 4096
HEAD = ("regularity points", "Dice before", "Dice after", "folds %", "smallest determinant", "penalty")


def fitted(batch: Batch, points: int, arguments: argparse.Namespace) -> tuple[float, float, float, float]:
    """Dice, folds in percent, smallest determinant and penalty of one pair."""
    images = BatchImages(batch.fixed, batch.moving)
    loss = SampledLoss(arguments.similarity_points, points)
    start = from_scratch(2, seed=arguments.seed)
    maps = optimised(start, images, loss, arguments.steps, (arguments.rate, 10 * arguments.rate))
    frame = Frame.regular(tuple(reversed(batch.fixed.shape[2:])))
    field = Field(maps.forward.displacement(frame.shape)[0], frame)
    folds = fold_statistics(field)
    warped = sample(batch.moving_labels, frame.grid() + field.displacement, mode="nearest")
    with torch.no_grad():
        fresh = replace(loss, similarity_points=16, regularity_points=FRESH)
        penalty = fresh(maps, images, torch.Generator().manual_seed(99))["inverse_consistency"]
    return (
        overlap(warped, batch.fixed_labels),
        folds["folds_percent"],
        folds["determinant_min"],
        float(penalty),
    )


def main() -> int:
    """Fit, print the table, write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("nephi_points"), help="folder; default: %(default)s")
    parser.add_argument("--points", default="1,4,16,64,256,1024", help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=6, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=150, help="of each fit; default: %(default)s")
    parser.add_argument("--rate", type=float, default=3e-4, help="of Adam on networks; default: %(default)s")
    parser.add_argument("--similarity-points", type=int, default=1024, help="default: %(default)s")
    parser.add_argument("--size", type=int, default=64, help="voxels along each side; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    arguments = parser.parse_args()
    use_large_heap()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    source = open_data(f"generated:shapes?size={arguments.size}", 2)
    batches = [source.held_out(k) for k in range(arguments.pairs)]
    before = statistics.fmean(overlap(b.moving_labels, b.fixed_labels) for b in batches)
    counts = [int(n) for n in arguments.points.split(",")]
    table, columns = [list(HEAD), ["---"] * len(HEAD)], []
    for count in counts:
        rows = [fitted(batch, count, arguments) for batch in batches]
        dice, folds, _, penalty = (statistics.fmean(values) for values in zip(*rows, strict=True))
        smallest = min(row[2] for row in rows)
        columns.append((dice, folds, penalty))
        table.append(
            [str(count), f"{before:.3f}", f"{dice:.3f}", f"{folds:.3g}", f"{smallest:.2f}", f"{penalty:.4f}"]
        )
        print(" ".join(table[-1]), file=sys.stderr, flush=True)
    powers = [len(bin(count)) - 3 for count in counts]
    panels = zip(("Dice", "folds %", "penalty"), zip(*columns, strict=True), strict=True)
    draw_panels(
        arguments.out / "points.png",
        [Panel({name: (powers, values)}, name, "log2 of the points", name) for name, values in panels],
    )
    print("\n".join("| " + " | ".join(row) + " |" for row in table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
