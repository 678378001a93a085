"""How well networks find deformations that are known, on generated pairs that no training has seen.

    python Testing/benchmarks/held_out.py [FILE ...] [--pairs 100] [--data SPEC]

Each FILE holds weights; without one, those that come with the program are measured. Printed are means over
the pairs: distance to the true map (voxels), Dice of the structures, folds, and seconds per pair. The pairs
are always the same; each method sees the contrast it was trained for unless ``--data`` says otherwise.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from DeepRegistrationLib.errors import RegistrationError
from DeepRegistrationLib.resources import threads
from DeepRegistrationLib.training import TASKS
from DeepRegistrationLib.training.data import open_data
from DeepRegistrationLib.training.validate import validate
from DeepRegistrationLib.weights import Weights, load_weights, shipped_weights

HEAD = "| method | pairs | error before | after | Dice before | after | folds % | s |"


def row(weights: Weights, spec: str | None, pairs: int) -> str:
    """One line of the table."""
    task = TASKS[weights.method]
    network = task.network(weights.configuration, weights.dimension)
    for stage in range(1, weights.convention["stage"] + 1):
        network = task.enter_stage(network, stage)
    weights.into(network)
    source = open_data(spec or weights.record["data"], weights.dimension)
    begin = time.perf_counter()
    found = validate(task, network, source, pairs=pairs)
    seconds = (time.perf_counter() - begin) / found["pairs"]
    numbers = [f"{found[key]:.3f}" for key in ("error_before", "error_after", "dice_before", "dice_after")]
    cells = [weights.method, str(found["pairs"]), *numbers, f"{found['folds_percent']:.4f}", f"{seconds:.2f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """A table, a row per file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--data", metavar="SPEC", help="as for train (default: what they were trained on)")
    parser.add_argument("--dimension", type=int, default=3, help="of the weights that come with the program")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    shipped = (shipped_weights(method, arguments.dimension) for method in TASKS)
    files = arguments.files or [path for path in shipped if path]
    if not files:
        print("held_out.py: no weights come with the program; name files.", file=sys.stderr)
        return 2
    print(HEAD + "\n|" + "---|" * 8)
    with threads(arguments.threads):
        for file in files:
            try:
                print(row(load_weights(file), arguments.data, arguments.pairs), flush=True)
            except RegistrationError as error:
                print(f"held_out.py: {error}", file=sys.stderr)
                return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
