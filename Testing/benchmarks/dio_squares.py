"""DIO's toy problem: a 32 x 32 square in 256 x 256 voxels, half of the pairs without overlap.

    python dio_squares.py [--out squares] [--size 256] [--steps 200] [--pairs 40] [--threads 2]

Intensities say nothing about where a square is that does not overlap; features can be trained to. Trains
the configuration "squares" (rigid solver, 36 iterations), then aligns held-out pairs by intensities and by
features with the same solver. Prints a Markdown table, apart for both halves, and leaves in the folder
`squares.png` (rows: pairs; columns: fixed, moving, by intensities, by features, and the strongest feature
of either), `weights.pt` and the training's log and curve. Jena et al., arXiv 2406.07361, section on the
toy problem.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from DeepRegistrationLib.atomic import atomic_path
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.interpolation import sample
from DeepRegistrationLib.methods.dio.features import features_of
from DeepRegistrationLib.methods.dio.layer import AlignmentLayer, Differentiation
from DeepRegistrationLib.methods.dio.training import Configuration
from DeepRegistrationLib.objective import Pyramid
from DeepRegistrationLib.training.base import Batch
from DeepRegistrationLib.transforms import representation
from torch import Tensor, nn

HALVES = ("overlapping", "apart")


@dataclass(frozen=True)
class Outcome:
    """A held-out pair: the warped moving images (1, 1, *S), by name, and what to show beside them."""

    batch: Batch
    warped: dict[str, Tensor]
    features: tuple[Tensor, Tensor]

    @property
    def half(self) -> str:
        return HALVES[int(float((self.batch.fixed * self.batch.moving).sum()) == 0)]

    def dice(self, name: str) -> float:
        warped, fixed = self.warped[name], self.batch.fixed
        return 2 * float((warped * fixed).sum()) / max(1e-9, float((warped + fixed).sum()))

    def loss(self, name: str) -> float:
        return float((self.warped[name] - self.batch.fixed).square().mean())


def align(network: nn.Module, chosen: Configuration, batch: Batch) -> Outcome:
    """One pair by its intensities and by its features, with the same solver."""
    frame = Frame.regular(tuple(reversed(batch.fixed.shape[2:])), batch.spacing)
    images = [Volume(v[0], frame) for v in (batch.fixed, batch.moving)]
    with torch.no_grad():
        learned = [features_of(network, image) for image in images]
    layer = AlignmentLayer(chosen.settings(), Differentiation(steps=0))
    warped, start = {"start": batch.moving}, representation(chosen.representation)
    sources = {"intensities": [Pyramid((v,), frame) for v in images], "features": learned}
    for name, (fixed, moving) in sources.items():
        last = layer(fixed, moving, start(frame))[-1]
        u = Field(last.displacement, last.frame).resampled(frame).displacement
        warped[name] = sample(batch.moving, frame.grid() + u, padding="zeros")
    level = len(learned[0].levels) // 2  # one that the solver reads
    strongest = int(learned[0].levels[level].data.flatten(1).var(1).argmax())
    shown = tuple(v.levels[level].data[strongest] for v in learned)
    return Outcome(batch, warped, (shown[0], shown[1]))


def table(outcomes: list[Outcome]) -> list[list[str]]:
    """A row per half and way of aligning: Dice (mean, worst, share above 0.9) and mean squared error."""
    rows = []
    for half in HALVES:
        those = [o for o in outcomes if o.half == half]
        for name in those[0].warped if those else ():
            dice, loss = [o.dice(name) for o in those], [o.loss(name) for o in those]
            solved = 100 * sum(d > 0.9 for d in dice) / len(dice)
            numbers = f"{statistics.fmean(dice):.3f}", f"{min(dice):.3f}", f"{solved:.0f}"
            rows.append([half, name, str(len(those)), *numbers, f"{statistics.fmean(loss):.5f}"])
    return rows


def picture(path: Path, outcomes: list[Outcome], cell: int = 128) -> None:
    """A row per pair."""
    rows = []
    for o in outcomes:
        images = [o.batch.fixed, *o.warped.values()]
        cells = [_cell(v[0, 0], 0.0, 1.0, cell) for v in images]
        low = float(min(f.min() for f in o.features))
        high = float(max(f.max() for f in o.features))
        cells += [_cell(f, low, high, cell) for f in o.features]
        rows.append(np.concatenate(cells, 1))
    with atomic_path(path) as temporary:
        sitk.WriteImage(sitk.GetImageFromArray(np.concatenate(rows)), str(temporary))


def _cell(image: Tensor, low: float, high: float, size: int) -> np.ndarray:
    """Grey values of an image, enlarged without interpolation, in a thin frame."""
    scaled = ((image - low) / max(1e-9, high - low)).clamp(0, 1)[None, None]
    shown = nn.functional.interpolate(scaled, size=(size - 2, size - 2), mode="nearest")[0, 0]
    return np.pad((shown * 255).round().numpy().astype(np.uint8), 1, constant_values=90)


def main() -> int:
    """Train, align, print, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("squares"), help="folder; default: %(default)s")
    parser.add_argument("--size", type=int, default=256, help="voxels; default: %(default)s")
    parser.add_argument("--steps", type=int, default=None, help="default: the configuration's")
    parser.add_argument("--pairs", type=int, default=40, help="held out; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the training; default: %(default)s")
    arguments = parser.parse_args()
    # the loop is only needed here, so that the functions above can be used without it
    from DeepRegistrationLib.methods.dio.inference import feature_network
    from DeepRegistrationLib.methods.dio.training import CONFIGURATIONS
    from DeepRegistrationLib.training.data import open_data
    from DeepRegistrationLib.training.loop import train
    from DeepRegistrationLib.training.options import TrainingOptions
    from DeepRegistrationLib.weights import load_weights

    torch.set_num_threads(arguments.threads)
    shape = (arguments.size,) * 2
    options = TrainingOptions(
        arguments.out,
        "dio",
        "squares",
        "generated:squares",
        arguments.steps,
        arguments.seed,
        dimension=2,
        shape=shape,
        device="cpu",
        threads=arguments.threads,
    )

    def tell(progress) -> None:
        print(f"\r{progress.fraction:5.1%} loss {progress.objective:.5f}", end="", file=sys.stderr)

    done = train(options, progress=tell)
    print(f"\ntrained {done.steps} steps in {done.seconds / 60:.1f} minutes", file=sys.stderr)
    network = feature_network(load_weights(arguments.out / "weights.pt", "dio", 2), 2)
    source = open_data("generated:squares", 2, shape)
    count = min(arguments.pairs, source.held_out_count)
    outcomes = [align(network, CONFIGURATIONS["squares"], source.held_out(k)) for k in range(count)]
    head = ["half", "aligned by", "pairs", "Dice", "worst", "above 0.9, %", "mean squared error"]
    print("\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *table(outcomes)]))
    picture(arguments.out / "squares.png", outcomes[:10])
    return 0


if __name__ == "__main__":
    sys.exit(main())
