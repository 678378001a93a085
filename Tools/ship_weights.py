"""Put the weights of a finished training among those that come with the extension, with their record.

    python Tools/ship_weights.py TRAINING [EARLIER ...]

TRAINING is a folder `deepregistration train` has written, trained with ``--half``; EARLIER are the folders of
the trainings it began with (``--start``), newest first; where the last of them began with the weights that
are there now, those' curves are taken over. Written are ``METHOD-Dd.pt`` and, for people,
``METHOD-Dd.json``: what the file says of itself, its size, the commit of the sources, and each training's
curve (step, loss; medians of fifty stretches).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "DeepRegistration"))

from DeepRegistrationLib.training.checkpoint import WEIGHTS  # noqa: E402
from DeepRegistrationLib.training.log import ROWS  # noqa: E402
from DeepRegistrationLib.weights import load_weights  # noqa: E402

SHIPPED = ROOT / "DeepRegistration" / "Resources" / "Weights"
MOST_BYTES = 8_000_000
STRETCHES = 50


def curve(folder: Path) -> list[tuple[int, float]]:
    """The loss of a training: the last step of each stretch, and the stretch's median."""
    rows = [json.loads(line) for line in (folder / ROWS).read_text(encoding="utf-8").splitlines()]
    losses = [(row["step"], row["terms"]["loss"]) for row in rows if "terms" in row]
    length = max(1, -(-len(losses) // STRETCHES))
    stretches = [losses[k : k + length] for k in range(0, len(losses), length)]
    return [(part[-1][0], round(median(loss for _, loss in part), 5)) for part in stretches]


def commit() -> str:
    """Of the sources as they are."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def taken_over(folder: Path) -> list[Any]:
    """The curves that are told of the weights a training began with, if those are the ones that ship now."""
    weights = load_weights(folder / WEIGHTS)
    there = SHIPPED / f"{weights.method}-{weights.dimension}d.json"
    told = json.loads(there.read_text(encoding="utf-8")) if there.exists() else {}
    start = weights.record.get("start") or {}
    return told["curves"] if told and told["sha256"] == start.get("sha256") else []


def record(folders: list[Path]) -> dict[str, Any]:
    """What is told of the first folder's weights."""
    weights = load_weights(folders[0] / WEIGHTS)
    return {
        "method": weights.method,
        "configuration": weights.configuration,
        "dimension": weights.dimension,
        "sha256": weights.sha256,
        "bytes": (folders[0] / WEIGHTS).stat().st_size,
        "commit": commit(),
        "convention": weights.convention,
        "training": weights.record,
        "curves": [*(curve(folder) for folder in folders), *taken_over(folders[-1])],
    }


def main() -> int:
    """Copy and describe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="TRAINING")
    folders = parser.parse_args().folders
    told = record(folders)
    if told["bytes"] > MOST_BYTES:
        print(f"ship_weights.py: {told['bytes']} bytes are more than {MOST_BYTES}; train with --half.")
        return 1
    SHIPPED.mkdir(exist_ok=True)
    name = f"{told['method']}-{told['dimension']}d"
    shutil.copyfile(folders[0] / WEIGHTS, SHIPPED / f"{name}.pt")
    text = json.dumps(told, indent=1)
    (SHIPPED / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(f"{name}: {told['bytes'] / 1e6:.2f} MB, {told['training']['steps']} steps, {told['sha256'][:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
