"""Triangles and circles: NePhi trained in 2-D, and fitted to single pairs. Some minutes on two cores.

    python nephi_shapes.py [--out nephi_shapes] [--steps 1500] [--threads 2]

Trains the small configuration on generated pairs, from images alone (Tian et al., arXiv 2309.07322, whose 2-D
data are such shapes). Prints a Markdown table of held-out pairs: Dice before and after, folds, smallest
determinant, how far the two networks are from being each other's inverse, and Dice of some of the pairs
before and after code and networks were optimised for them, from the encoder's prediction. Writes
``curves.png`` (convergence) and ``pair.png`` (a held-out pair).
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
from DeepRegistrationLib.methods.nephi.instance import optimised
from DeepRegistrationLib.methods.nephi.loss import BatchImages
from DeepRegistrationLib.methods.nephi.maps import MapPair
from DeepRegistrationLib.methods.nephi.predictor import Predictor
from DeepRegistrationLib.methods.nephi.training import TASK
from DeepRegistrationLib.metrics import fold_statistics, inverse_consistency
from DeepRegistrationLib.registration import warped_volume
from DeepRegistrationLib.training.base import Batch
from DeepRegistrationLib.training.curve import Panel, draw_panels
from DeepRegistrationLib.training.data import PairSource, open_data
from DeepRegistrationLib.training.validate import overlap, validate

EVERY = 100
PAIRS, ADAPTED = 32, 8
HEAD = (
    "Dice before",
    "Dice after",
    "folds %",
    "smallest determinant",
    "inverse error, voxels",
    f"Dice optimised ({ADAPTED} pairs)",
    "folds % optimised",
    "training s",
    "s per optimisation",
)


def train(source: PairSource, arguments: argparse.Namespace) -> tuple[Predictor, dict[str, list], float]:
    """Network, curves over steps, and seconds of training (looks at held-out pairs left out)."""
    torch.manual_seed(arguments.seed)
    network = TASK.network("small", 2)
    optimiser = TASK.optimiser(network, TASK.stages("small")[0])
    rates = [group["lr"] for group in optimiser.param_groups]
    names = ("step", "dice", "folds", "similarity", "inverse_consistency")
    curves: dict[str, list] = {name: [] for name in names}
    seconds, recent = 0.0, []
    for step in range(arguments.steps + 1):
        if step % EVERY == 0 or step == arguments.steps:
            numbers = validate(TASK, network, source, pairs=PAIRS)
            curves["step"].append(step)
            curves["dice"].append(numbers["dice_after"])
            curves["folds"].append(numbers["folds_percent"])
            for k, name in enumerate(names[3:]):
                curves[name].append(statistics.fmean(r[k] for r in recent) if recent else float("nan"))
            recent = []
            print(
                f"step {step}, Dice {numbers['dice_after']:.4f}, folds {numbers['folds_percent']:.3g} %, "
                f"similarity {curves['similarity'][-1]:.4f}, {seconds:.0f} s",
                file=sys.stderr,
            )
        if step == arguments.steps:
            break
        begin = time.perf_counter()
        for group, rate in zip(optimiser.param_groups, rates, strict=True):  # to a tenth over the last third
            group["lr"] = rate * min(1.0, 0.1 + 2.7 * (1 - step / arguments.steps))
        batch = source.batch(arguments.batch, arguments.seed, step)
        terms = TASK.loss(network, batch, step / arguments.steps, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), TASK.clip)
        optimiser.step()
        seconds += time.perf_counter() - begin
        recent.append([float(terms[name].detach()) for name in names[3:]])
    return network.eval().requires_grad_(False), curves, seconds


def measured(network: Predictor, source: PairSource, out: Path, steps: int) -> list[str]:
    """Held-out numbers of a trained network, and a picture of the first pair."""
    numbers = validate(TASK, network, source, pairs=PAIRS)
    frame = Frame.regular(tuple(reversed(source.shape)))
    errors, dices, folds, seconds = [], [], [], []
    for index in range(PAIRS):
        batch = source.held_out(index)
        maps = network(batch.fixed, batch.moving)
        forward, backward = fields(maps, frame)
        errors.append(inverse_consistency(forward, backward)["mean_mm"])
        if index < ADAPTED:
            begin = time.perf_counter()
            images = BatchImages(batch.fixed, batch.moving)
            tuned, _ = fields(optimised(maps, images, network.loss(), steps), frame)
            seconds.append(time.perf_counter() - begin)
            dices.append((dice(forward, batch), dice(tuned, batch)))
            folds.append(fold_statistics(tuned)["folds_percent"])
        if index == 0:
            moving = Volume(batch.moving[0], frame)
            warped = warped_volume(moving, forward, frame)
            write_picture(out / "pair.png", Volume(batch.fixed[0], frame), moving, warped, forward)
    return [
        f"{numbers['dice_before']:.3f}",
        f"{numbers['dice_after']:.3f}",
        f"{numbers['folds_percent']:.3g}",
        f"{numbers['determinant_min']:.2f}",
        f"{statistics.fmean(errors):.2f}",
        " > ".join(f"{statistics.fmean(values):.3f}" for values in zip(*dices, strict=True)),
        f"{statistics.fmean(folds):.3g}",
        f"{statistics.fmean(seconds):.1f}",
    ]


def fields(maps: MapPair, frame: Frame) -> tuple[Field, Field]:
    """Both directions of a single pair."""
    both = (m.displacement(frame.shape)[0] for m in (maps.forward, maps.backward))
    forward, backward = (Field(u, frame) for u in both)
    return forward, backward


def dice(field: Field, batch: Batch) -> float:
    """Overlap of the label after a map."""
    assert batch.moving_labels is not None and batch.fixed_labels is not None
    points = field.frame.grid() + field.displacement
    return overlap(sample(batch.moving_labels, points, mode="nearest"), batch.fixed_labels)


def main() -> int:
    """Train, print the table, write the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("nephi_shapes"), help="folder; default: %(default)s")
    parser.add_argument("--steps", type=int, default=1500, help="of the training; default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="pairs per step; default: %(default)s")
    parser.add_argument("--size", type=int, default=64, help="voxels along each side; default: %(default)s")
    parser.add_argument("--instance-steps", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    arguments = parser.parse_args()
    use_large_heap()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    source = open_data(f"generated:shapes?size={arguments.size}", 2)
    network, curves, seconds = train(source, arguments)
    row = measured(network, source, arguments.out, arguments.instance_steps)
    row.insert(-1, f"{seconds:.0f}")
    steps = curves["step"]
    draw_panels(
        arguments.out / "curves.png",
        [
            Panel({"Dice": (steps, curves["dice"])}, "held-out overlap", "step", "Dice"),
            Panel({"folds": (steps, curves["folds"])}, "held-out folds", "step", "folds %"),
            Panel({"similarity": (steps, curves["similarity"])}, "1 - correlation", "step", "loss"),
            Panel(
                {"inverse consistency": (steps, curves["inverse_consistency"])},
                "gradient inverse consistency",
                "step",
                "loss",
                log=True,
            ),
        ],
    )
    table = [list(HEAD), ["---"] * len(HEAD), row]
    print("\n".join("| " + " | ".join(cells) + " |" for cells in table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
