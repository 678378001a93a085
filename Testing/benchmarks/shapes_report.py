"""What the benchmarks on triangles and circles share: options, a training with curves, pictures, a table.

A training here is a plain loop that looks at held-out pairs on the way and counts its seconds without them;
trainings that are to be compared see the same pairs in the same order.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from DeepRegistrationLib.allocator import use_large_heap
from DeepRegistrationLib.demo.picture import write_picture
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.registration import warped_volume
from DeepRegistrationLib.training.base import Batch, TrainingTask
from DeepRegistrationLib.training.curve import Panel, draw_panels
from DeepRegistrationLib.training.data import PairSource, open_data
from DeepRegistrationLib.training.validate import validate
from torch import Tensor, nn

PAIRS = 32
"""Held-out pairs that are looked at."""

Loss = Callable[[nn.Module, Batch, float, torch.Generator], dict[str, Tensor]]
"""As `TrainingTask.loss`."""


def shapes_parser(doc: str, out: str, steps: int, batch: int = 8, size: int = 48) -> argparse.ArgumentParser:
    """The options all have, with these defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = (
        ("--steps", int, steps, "of each training"),
        ("--every", int, 50, "steps between looks at held-out pairs"),
        ("--batch", int, batch, "pairs per step"),
        ("--size", int, size, "voxels along each side"),
        ("--rate", float, 1e-3, "of Adam"),
        ("--seed", int, 0, "of networks and pairs"),
        ("--threads", int, 2, "processor threads"),
    )
    parser.add_argument("--out", type=Path, default=Path(out), help="folder; default: %(default)s")
    for flag, kind, default, what in numbers:
        parser.add_argument(flag, type=kind, default=default, help=f"{what}; default: %(default)s")
    return parser


def prepared(arguments: argparse.Namespace) -> PairSource:
    """Memory, threads and the folder are made ready; the generated pairs."""
    use_large_heap()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    return open_data(f"generated:shapes?size={arguments.size}", 2)


@dataclass(frozen=True)
class Trained:
    """What came out of a training.

    Attributes:
        network: in evaluation mode.
        curves: `step`; `held_out_dice` and `held_out_folds` (per cent); the loss's terms, means since the
            look before.
        held_out: of `validate` at the end.
        seconds: without the looks.
    """

    network: nn.Module
    curves: dict[str, list[float]]
    held_out: dict[str, float]
    seconds: float


def train(
    name: str,
    task: TrainingTask,
    network: nn.Module,
    loss: Loss,
    source: PairSource,
    arguments: argparse.Namespace,
    rate_at: Callable[[float], float] = lambda done: 1.0,
) -> Trained:
    """Adam on `loss`, gradients clipped as the task says; `rate_at` is a factor on the rate.

    Torch's global generator is seeded before each step, so what a loss draws depends on the step alone.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=arguments.rate)
    curves: dict[str, list[float]] = {"step": [], "held_out_dice": [], "held_out_folds": []}
    seconds, recent, numbers = 0.0, [], {}
    network.train()
    for step in range(arguments.steps + 1):
        if step % arguments.every == 0 or step == arguments.steps:
            numbers = validate(task, network, source, pairs=PAIRS)
            dice, folds = numbers["dice_after"], numbers["folds_percent"]
            found = {"step": step, "held_out_dice": dice, "held_out_folds": folds}
            if recent:
                found |= {key: statistics.fmean(terms[key] for terms in recent) for key in recent[0]}
            for key, value in found.items():  # terms are not known before the first step
                curves.setdefault(key, [float("nan")]).append(value)
            recent = []
            print(
                f"{name}: step {step}, Dice {dice:.4f}, folds {folds:.3g} %, {seconds:.0f} s", file=sys.stderr
            )
        if step == arguments.steps:
            break
        begin = time.perf_counter()
        done = step / arguments.steps
        for group in optimiser.param_groups:
            group["lr"] = arguments.rate * rate_at(done)
        batch = source.batch(arguments.batch, arguments.seed, step)
        torch.manual_seed(arguments.seed + step)
        terms = loss(network, batch, done, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), task.clip)
        optimiser.step()
        seconds += time.perf_counter() - begin
        recent.append({key: float(term.detach()) for key, term in terms.items()})
    return Trained(network.eval(), curves, numbers, seconds)


def held_out_cells(numbers: Mapping[str, float]) -> list[str]:
    """Dice before and after, folds and the smallest determinant, for a table."""
    return [
        f"{numbers['dice_before']:.3f}",
        f"{numbers['dice_after']:.3f}",
        f"{numbers['folds_percent']:.3g}",
        f"{numbers['determinant_min']:.2f}",
    ]


HELD_OUT_HEAD = ("Dice before", "Dice after", "folds %", "smallest determinant")
"""Of `held_out_cells`."""


def draw_trainings(path: Path, trainings: Mapping[str, Trained], terms: Mapping[str, str]) -> None:
    """Held-out overlap and folds over steps, and the loss's `terms` (key: title), one line each training."""
    panels = {"held_out_dice": ("overlap, held-out pairs", "Dice")}
    panels |= {"held_out_folds": ("folds, held-out pairs", "folds %")}
    panels |= {key: (title, "loss") for key, title in terms.items()}
    draw_panels(
        path,
        [
            Panel(
                {name: (one.curves["step"], one.curves[key]) for name, one in trainings.items()},
                title,
                "step",
                label,
                log=key in terms,
            )
            for key, (title, label) in panels.items()
        ],
    )


def draw_pair(path: Path, task: TrainingTask, network: nn.Module, source: PairSource) -> None:
    """The first held-out pair."""
    batch = source.held_out(0)
    frame = Frame.regular(source.shape[::-1])
    with torch.no_grad():
        field = Field(task.displacement(network, batch)[0], frame)
    moving = Volume(batch.moving[0], frame)
    write_picture(path, Volume(batch.fixed[0], frame), moving, warped_volume(moving, field, frame), field)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """As Markdown."""
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |")
