"""Triangles and circles: GradICON against ICON, one network against several. Some minutes on two cores.

    python gradicon_shapes.py [--out gradicon_shapes] [--steps 400] [--threads 2]

The 2-D experiment of Tian et al. (arXiv 2206.05897, section 4): predict the map between any two shapes, from
images alone (mean squared error), with the weights published for it, 0.2 for GradICON's penalty and 1024
for ICON's. All four trainings see the same pairs in the same order. Prints a Markdown table of held-out pairs
(Dice before and after, folds, smallest determinant, inverse-consistency error, Dice of some before and after
the networks were adapted to them). Writes ``curves.png`` (convergence) and ``pair_*.png`` (a held-out pair).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from DeepRegistrationLib.allocator import use_large_heap
from DeepRegistrationLib.demo.picture import write_picture
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.interpolation import sample
from DeepRegistrationLib.methods.gradicon.instance import optimised
from DeepRegistrationLib.methods.gradicon.inverse_consistency import InverseConsistency
from DeepRegistrationLib.methods.gradicon.loss import PairLoss, both_directions
from DeepRegistrationLib.methods.gradicon.predictor import Predictor
from DeepRegistrationLib.methods.gradicon.training import TASK
from DeepRegistrationLib.metrics import inverse_consistency
from DeepRegistrationLib.objectives import MeanSquaredError
from DeepRegistrationLib.registration import warped_volume
from DeepRegistrationLib.training.base import Batch
from DeepRegistrationLib.training.curve import Panel, draw_panels
from DeepRegistrationLib.training.data import PairSource, open_data
from DeepRegistrationLib.training.validate import overlap, validate

WEIGHTS = {"gradicon": 0.2, "icon": 1024.0}
NAMES = {"gradicon": "GradICON", "icon": "ICON"}
EVERY = 25
PAIRS, ADAPTED = 32, 8
HEAD = (
    "penalty",
    "networks",
    "Dice before",
    "Dice after",
    "folds %",
    "smallest determinant",
    "inverse error, voxels",
    f"Dice adapted ({ADAPTED} pairs)",
    "training s",
)


def train(
    kind: str, networks: int, source: PairSource, arguments: argparse.Namespace
) -> tuple[Predictor, PairLoss, dict[str, list[float]], float]:
    """One training: network, loss, curves over steps, and its seconds (looks at held-out pairs left out)."""
    torch.manual_seed(arguments.seed)
    network = Predictor("small", 2, networks)
    penalty = InverseConsistency(kind, sparse=True)
    loss = PairLoss(MeanSquaredError(), penalty, WEIGHTS[kind])
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    curves: dict[str, list[float]] = {"step": [], "similarity": [], "dice": [], "folds": []}
    seconds, recent = 0.0, []
    for step in range(arguments.steps + 1):
        if step % EVERY == 0:
            numbers = validate(TASK, network, source, pairs=PAIRS)
            curves["step"].append(step)
            curves["dice"].append(numbers["dice_after"])
            curves["folds"].append(numbers["folds_percent"])
            curves["similarity"].append(statistics.fmean(recent) if recent else float("nan"))
            recent = []
            print(
                f"{NAMES[kind]}, {networks}: step {step}, Dice {numbers['dice_after']:.4f}", file=sys.stderr
            )
        if step == arguments.steps:
            break
        begin = time.perf_counter()
        batch = source.batch(arguments.batch, arguments.seed, step)
        terms = loss(network, batch.moving, batch.fixed, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        seconds += time.perf_counter() - begin
        recent.append(float(terms["similarity"].detach()) / 2)
    return network.eval(), loss, curves, seconds


def measured(network: Predictor, loss: PairLoss, source: PairSource, out: Path, name: str) -> list[str]:
    """Held-out numbers of a trained network, and a picture of the first pair."""
    numbers = validate(TASK, network, source, pairs=PAIRS)
    errors, adapted = [], []
    for index in range(PAIRS):
        batch = source.held_out(index)
        with torch.no_grad():
            maps = both_directions(network, batch.moving, batch.fixed)
        frame = Frame.regular(tuple(reversed(source.shape)))
        forward, backward = (Field(m.displacement(source.shape)[0], frame) for m in maps)
        errors.append(inverse_consistency(forward, backward)["mean_mm"])
        if index < ADAPTED:
            tuned = optimised(network, batch.moving, batch.fixed, loss)
            adapted.append((dice(network, batch), dice(tuned, batch)))
        if index == 0:
            moving = Volume(batch.moving[0], frame)
            warped = warped_volume(moving, forward, frame)
            write_picture(out / f"pair_{name}.png", Volume(batch.fixed[0], frame), moving, warped, forward)
    return [
        f"{numbers['dice_before']:.3f}",
        f"{numbers['dice_after']:.3f}",
        f"{numbers['folds_percent']:.3g}",
        f"{numbers['determinant_min']:.2f}",
        f"{statistics.fmean(errors):.2f}",
        " > ".join(f"{statistics.fmean(values):.3f}" for values in zip(*adapted, strict=True)),
    ]


def dice(network: Predictor, batch: Batch) -> float:
    """Overlap of the label after the network's map."""
    assert batch.moving_labels is not None and batch.fixed_labels is not None
    with torch.no_grad():
        points = network(batch.moving, batch.fixed).on_grid(batch.fixed.shape[2:])
    return overlap(sample(batch.moving_labels, points[0], mode="nearest"), batch.fixed_labels)


def main() -> int:
    """Train the four, print the table, write the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("gradicon_shapes"), help="folder; default: %(default)s"
    )
    parser.add_argument("--steps", type=int, default=400, help="of each training; default: %(default)s")
    parser.add_argument("--batch", type=int, default=16, help="pairs per step; default: %(default)s")
    parser.add_argument("--size", type=int, default=48, help="voxels along each side; default: %(default)s")
    parser.add_argument("--networks", default="1,3", help="how many, comma-separated; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    arguments = parser.parse_args()
    use_large_heap()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    source = open_data(f"generated:shapes?size={arguments.size}", 2)
    table, panels = [list(HEAD), ["---"] * len(HEAD)], {"dice": {}, "similarity": {}, "folds": {}}
    for kind in WEIGHTS:
        for networks in map(int, arguments.networks.split(",")):
            network, loss, curves, seconds = train(kind, networks, source, arguments)
            row = measured(network, loss, source, arguments.out, f"{kind}_{networks}")
            table.append([NAMES[kind], str(networks), *row, f"{seconds:.0f}"])
            for name, lines in panels.items():
                lines[f"{NAMES[kind]}, {networks}"] = (curves["step"], curves[name])
    labels = {"dice": "Dice", "similarity": "mean squared error", "folds": "folds %"}
    titles = {"dice": "held-out overlap", "similarity": "training images", "folds": "held-out folds"}
    draw_panels(
        arguments.out / "curves.png",
        [Panel(panels[n], titles[n], "step", labels[n], log=n == "similarity") for n in panels],
    )
    print("\n".join("| " + " | ".join(row) + " |" for row in table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
