"""One trained DIO network, one pair, every transform representation: a Markdown table.

    python dio_switching.py [--weights FILE] [--data generated:shapes] [--pair 0] [--steps 600] [--threads 2]

The network is trained with one representation (configuration "small": the compositive diffeomorphism);
nothing is trained again for the others. Without `--weights` it is trained first, on the data. Columns: Dice
before and after, folds (share of voxels where the smallest one-sided Jacobian determinant is not positive),
smallest determinant, whether folds are excluded by construction, seconds. Weights and features are checked to
be the same bits at the end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.interpolation import sample
from DeepRegistrationLib.methods.dio.features import features_of
from DeepRegistrationLib.methods.dio.inference import feature_network, scaled
from DeepRegistrationLib.metrics import fold_statistics
from DeepRegistrationLib.objective import Channel, PairObjective
from DeepRegistrationLib.objectives import MeanSquaredError
from DeepRegistrationLib.presets import PRESETS, settings_for
from DeepRegistrationLib.solver import solve
from DeepRegistrationLib.training.base import Batch
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.loop import train
from DeepRegistrationLib.training.options import TrainingOptions
from DeepRegistrationLib.training.validate import overlap
from DeepRegistrationLib.transforms import REPRESENTATIONS, LinearTransform
from DeepRegistrationLib.weights import Weights, load_weights

HEAD = ("representation", "Dice before", "after", "folds %", "smallest determinant", "cannot fold", "seconds")


def rows(weights: Weights, batch: Batch, preset: str = "balanced") -> list[list[str]]:
    """A row per representation, for one pair of the batch's lattice."""
    frame = Frame.regular(tuple(reversed(batch.fixed.shape[2:])), batch.spacing)
    network = feature_network(weights, frame.dimension)
    with torch.no_grad():
        pair = scaled(*(features_of(network, Volume(v[0], frame)) for v in (batch.fixed, batch.moving)))
    kept = [v.data.clone() for side in pair for v in side.levels]
    objective = PairObjective([Channel(*pair, MeanSquaredError())], LinearTransform.identity(frame.dimension))
    before = overlap(batch.moving_labels, batch.fixed_labels)
    result = []
    for name, kind in REPRESENTATIONS.items():
        begin = time.perf_counter()
        settings = replace(settings_for(PRESETS[preset], name, "mse"), smallest=8)
        found, _ = solve(objective, kind.seeded(frame, "cpu", 0), settings)
        seconds = time.perf_counter() - begin
        field = Field(found.displacement().detach().float(), frame)
        folds = fold_statistics(field)
        labels = sample(batch.moving_labels, frame.grid() + field.displacement, mode="nearest")
        result.append(
            [
                name,
                f"{before:.3f}",
                f"{overlap(labels, batch.fixed_labels):.3f}",
                f"{folds['folds_percent']:.3g}",
                f"{folds['determinant_min']:.3f}",
                "yes" if kind.diffeomorphic else "no",
                f"{seconds:.1f}",
            ]
        )
    same = all(torch.equal(a, v.data) for a, v in zip(kept, (v for s in pair for v in s.levels), strict=True))
    same &= all(torch.equal(v, weights.state[k]) for k, v in network.state_dict().items())
    if not same:
        raise AssertionError("Switching the representation altered weights or features.")
    return result


def main() -> int:
    """Train or load, switch, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="of a trained network")
    parser.add_argument("--data", default="generated:shapes?pairs=same", help="default: %(default)s")
    parser.add_argument("--pair", type=int, default=0, help="which held-out pair; default: %(default)s")
    parser.add_argument("--steps", type=int, default=600, help="of the training; default: %(default)s")
    parser.add_argument("--preset", default="balanced", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.weights
        if path is None:
            path = Path(folder) / "weights.pt"
            options = TrainingOptions(
                Path(folder), "dio", "small", arguments.data, arguments.steps, device="cpu"
            )
            done = train(options)
            print(f"trained {done.steps} steps: {done.validation}", file=sys.stderr)
        weights = load_weights(path, "dio")
    source = open_data(arguments.data, weights.dimension, weights.convention["shape"])
    table = [
        list(HEAD),
        ["---"] * len(HEAD),
        *rows(weights, source.held_out(arguments.pair), arguments.preset),
    ]
    print("\n".join("| " + " | ".join(row) + " |" for row in table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
