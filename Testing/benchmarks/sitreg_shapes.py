"""SITReg on triangles and circles: a whole 2-D training in minutes on two cores.

    python sitreg_shapes.py [--out sitreg_shapes] [--steps 300] [--size 48] [--threads 2]

Trains the small configuration on generated pairs, from images alone, with the method's own loss (local
correlation in 7 voxels and lambda 1; or the mean squared error). Prints a Markdown table of held-out pairs
for the untrained and the trained network, each evaluated in the standard and in the complete way: Dice
before and after, folds and smallest determinant of the map resampled to the voxels, inverse-consistency
error, by how much the maps of exchanged images differ, and the map's own determinants at random points by a
finite difference of 1e-7 voxel in double precision. Writes ``curves.png`` and
``pair.png`` (the first held-out pair).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from DeepRegistrationLib.allocator import use_large_heap
from DeepRegistrationLib.demo.picture import write_picture
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.interpolation import sample, voxel_centres
from DeepRegistrationLib.methods.maps import BatchMap
from DeepRegistrationLib.methods.sitreg.loss import PairLoss
from DeepRegistrationLib.methods.sitreg.network import SitRegNetwork
from DeepRegistrationLib.methods.sitreg.training import TASK
from DeepRegistrationLib.metrics import fold_statistics
from DeepRegistrationLib.objectives import LocalNCC, MeanSquaredError
from DeepRegistrationLib.registration import warped_volume
from DeepRegistrationLib.training.base import Batch
from DeepRegistrationLib.training.curve import Panel, draw_panels
from DeepRegistrationLib.training.data import PairSource, open_data
from DeepRegistrationLib.training.validate import overlap, validate
from torch import Tensor

SIMILARITIES = {"lncc": (LocalNCC(3), 1.0), "mse": (MeanSquaredError(), 0.02)}
PAIRS = 32
DIFFERENCE = 1e-7
HEAD = (
    "network",
    "evaluation",
    "Dice before",
    "Dice after",
    "folds %",
    "smallest determinant",
    "inverse error, voxels",
    "exchange error, voxels",
    "points",
    "determinants <= 0",
    "smallest at points",
)


def train(
    source: PairSource, arguments: argparse.Namespace
) -> tuple[SitRegNetwork, dict[str, list[float]], float]:
    """Network, curves over steps, and the training's seconds (looks at held-out pairs left out)."""
    torch.manual_seed(arguments.seed)
    network = TASK.network("small", 2)
    loss = PairLoss(*SIMILARITIES[arguments.similarity])
    optimiser = torch.optim.Adam(network.parameters(), lr=arguments.rate)
    curves: dict[str, list[float]] = {name: [] for name in ("step", "dice", "folds", "loss")}
    seconds, recent = 0.0, []
    for step in range(arguments.steps + 1):
        if step % arguments.every == 0:
            numbers = validate(TASK, network, source, pairs=PAIRS)
            curves["step"].append(step)
            curves["dice"].append(numbers["dice_after"])
            curves["folds"].append(numbers["folds_percent"])
            curves["loss"].append(statistics.fmean(recent) if recent else float("nan"))
            recent = []
            print(f"step {step}, Dice {numbers['dice_after']:.4f}, {seconds:.0f} s", file=sys.stderr)
        if step == arguments.steps:
            break
        begin = time.perf_counter()
        terms = loss(network, source.batch(arguments.batch, arguments.seed, step))
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        seconds += time.perf_counter() - begin
        recent.append(float(terms["loss"].detach()))
    return network.eval(), curves, seconds


@torch.no_grad()
def measured(network: SitRegNetwork, source: PairSource, complete: bool, points: int) -> list[str]:
    """Means over held-out pairs; determinants at `points` random points, shared out among the pairs."""
    rows, worst = [], []
    for index in range(PAIRS):
        batch = source.held_out(index)
        assert batch.moving_labels is not None and batch.fixed_labels is not None
        forward, backward = network(batch.moving, batch.fixed, batch.spacing, complete).directions()
        exchanged = network(batch.fixed, batch.moving, batch.spacing, complete).directions()[1]
        displacement = forward.displacement(source.shape)
        there = forward.on_grid(source.shape)
        folds = fold_statistics(Field(displacement[0], Frame.regular(source.shape[::-1])))
        half = displacement.new_tensor(source.shape[::-1]) / 2
        back = backward(there) - voxel_centres(source.shape, there)
        rows.append(
            (
                overlap(batch.moving_labels, batch.fixed_labels),
                overlap(sample(batch.moving_labels, there[0], mode="nearest"), batch.fixed_labels),
                folds["folds_percent"],
                folds["determinant_min"],
                float((back * half).norm(dim=-1).max()),
                float(((exchanged.displacement(source.shape) - displacement) * half).abs().max()),
            )
        )
        if points:
            worst.append(point_determinants(network, batch, complete, points // PAIRS, index))
    columns = list(zip(*rows, strict=True))
    result = [f"{statistics.fmean(columns[k]):.3f}" for k in (0, 1)]
    result += [f"{statistics.fmean(columns[2]):.3g}", f"{min(columns[3]):.3f}"]
    result += [f"{max(columns[k]):.2g}" for k in (4, 5)]
    values = torch.cat(worst) if worst else torch.ones(0)
    return [
        *result,
        str(len(values)),
        str(int((values <= 0).sum())),
        f"{float(values.min()):.4f}" if worst else "-",
    ]


def point_determinants(network: SitRegNetwork, batch: Batch, complete: bool, count: int, seed: int) -> Tensor:
    """Determinants of the forward map of one pair at random points of the box, double precision."""
    network = network.double()
    forward, _ = network(batch.moving.double(), batch.fixed.double(), batch.spacing, complete).directions()
    network.float()
    return determinants(forward, batch.fixed.shape[2:], count, seed)


def determinants(forward: BatchMap, shape: Sequence[int], count: int, seed: int) -> Tensor:
    """Jacobian determinants of one map at random points by one-sided differences of `DIFFERENCE` voxel."""
    d = len(shape)
    points = (
        torch.rand(1, count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    )
    voxel = 2 / torch.tensor(shape[::-1], dtype=torch.float64)
    here = forward(points)
    columns = []
    for axis in range(d):
        step = torch.zeros(d, dtype=torch.float64)
        step[axis] = DIFFERENCE * voxel[axis]
        columns.append((forward(points + step) - here) / voxel / DIFFERENCE)
    return torch.linalg.det(torch.stack(columns, -1))[0]


def picture(network: SitRegNetwork, source: PairSource, path: Path) -> None:
    """The first held-out pair."""
    batch = source.held_out(0)
    frame = Frame.regular(source.shape[::-1])
    with torch.no_grad():
        field = Field(TASK.displacement(network, batch)[0], frame)
    moving = Volume(batch.moving[0], frame)
    write_picture(path, Volume(batch.fixed[0], frame), moving, warped_volume(moving, field, frame), field)


def main() -> int:
    """Train, print the table, write the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("sitreg_shapes"), help="folder; default: %(default)s"
    )
    parser.add_argument("--steps", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--every", type=int, default=25, help="steps between looks; default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="pairs per step; default: %(default)s")
    parser.add_argument("--size", type=int, default=48, help="voxels along each side; default: %(default)s")
    parser.add_argument("--rate", type=float, default=1e-3, help="of Adam; default: %(default)s")
    parser.add_argument(
        "--similarity", choices=SIMILARITIES, default="lncc", help="loss; default: %(default)s"
    )
    parser.add_argument("--points", type=int, default=1_000_000, help="random points; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    arguments = parser.parse_args()
    use_large_heap()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    source = open_data(f"generated:shapes?size={arguments.size}", 2)
    torch.manual_seed(arguments.seed)
    untrained = TASK.network("small", 2).eval()
    network, curves, seconds = train(source, arguments)
    panels = [
        Panel({"held out": (curves["step"], curves["dice"])}, "overlap", "step", "Dice"),
        Panel({"training": (curves["step"], curves["loss"])}, "loss", "step", "loss"),
        Panel({"held out": (curves["step"], curves["folds"])}, "folds", "step", "folds %"),
    ]
    draw_panels(arguments.out / "curves.png", panels)
    picture(network, source, arguments.out / "pair.png")
    table = [list(HEAD), ["---"] * len(HEAD)]
    for name, one in (("untrained", untrained), ("trained", network)):
        for complete in (False, True):
            row = measured(one, source, complete, arguments.points)
            table.append([name, "complete" if complete else "standard", *row])
    print("\n".join("| " + " | ".join(row) + " |" for row in table))
    print(f"\n{arguments.steps} steps of {arguments.batch} pairs in {seconds:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
