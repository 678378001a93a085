"""A batch on a Dask cluster of two workers, one of them killed half-way, against the same in one process.

    python batch_cluster.py [--pairs 60] [--spacing 12] [--preset fast] [--folder DIR]

The cluster is a scheduler and two workers of one thread, each a process of its own as on a real cluster,
without a nanny that would start a killed worker again. When half of the pairs are over, one worker gets a
SIGKILL. Both maps and the warped image of every pair have to be the same, number by number, as those of one
worker process on this machine. Needs `distributed` (the extra ``cluster``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from DeepRegistrationLib.batch.names import RECORD
from DeepRegistrationLib.batch.pool import Outcome
from DeepRegistrationLib.batch.rows import read_table
from DeepRegistrationLib.batch.run import run_batch
from DeepRegistrationLib.demo.pair import demo_pair
from DeepRegistrationLib.io import write_volume


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--spacing", type=float, default=12.0, help="of the generated images, mm")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--folder", help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(options.folder or temporary).resolve()
        rows = read_table(
            made_pairs(root / "images", options.pairs, options.spacing), {"preset": options.preset}
        )
        begin = time.perf_counter()
        run_batch(rows, root / "one", workers=1, resume=True, picture=False)
        one = time.perf_counter() - begin
        with DaskCluster(root, 2) as cluster:
            ends: list[str] = []

            def told(outcome: Outcome, over: int) -> None:
                ends.append(outcome.name)
                if over == options.pairs // 2:
                    cluster.kill(0)

            begin = time.perf_counter()
            entries = run_batch(rows, root / "cluster", scheduler=str(cluster.file), told=told, picture=False)
            many = time.perf_counter() - begin
            alive = [worker.poll() is None for worker in cluster.workers]
        done = sum(entry.state == "done" for entry in entries)
        largest = [difference(root / "one" / row.name, root / "cluster" / row.name) for row in rows]
    numbers = {
        "pairs": options.pairs,
        "done": done,
        "told_once": len(ends) == len(set(ends)) == options.pairs,
        "workers_alive_at_the_end": alive,
        "equal": sum(d == 0.0 for d in largest),
        "largest_difference": max(largest),
        "seconds_one_process": round(one, 1),
        "seconds_cluster": round(many, 1),
    }
    print(json.dumps(numbers, indent=2))
    return 0 if numbers["equal"] == options.pairs else 1


def made_pairs(folder: Path, count: int, spacing: float) -> Path:
    """Generated heads with known deformations, and their table."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["name,fixed,moving"]
    for k in range(count):
        names = [f"sub-{k:02d}_ses-{session}_T1w.nii.gz" for session in (1, 2)]
        if not all((folder / name).is_file() for name in names):
            pair = demo_pair(k, spacing)
            for volume, name in zip((pair.fixed, pair.moving), names, strict=True):
                write_volume(volume, folder / name)
        lines.append(f"pair-{k:02d},{names[0]},{names[1]}")
    table = folder / "pairs.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def difference(one: Path, other: Path) -> float:
    """The largest difference of any number of both maps and the warped image of two results."""
    return max(float(np.abs(a - b).max()) for a, b in zip(numbers(one), numbers(other), strict=True))


def numbers(folder: Path) -> list[np.ndarray]:
    files = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
    transforms = [sitk.ReadTransform(str(folder / files[name])) for name in ("forward.h5", "inverse.h5")]
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / files["warped.nii.gz"])))
    maps = [np.asarray(part) for t in transforms for part in (t.GetParameters(), t.GetFixedParameters())]
    return [*maps, warped]


class DaskCluster:
    """A scheduler and some workers as processes; ended at exit.

    Attributes:
        file: the scheduler file.
        workers: their processes.
    """

    def __init__(self, root: Path, count: int) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.file = root / "scheduler.json"
        self.file.unlink(missing_ok=True)
        where = ["--scheduler-file", str(self.file)]
        self._scheduler = _python("dask_scheduler", *where, "--port", "0", "--no-dashboard", cwd=root)
        self.workers: list[subprocess.Popen[bytes]] = []
        while not (self.file.is_file() and self.file.read_text().rstrip().endswith("}")):
            if self._scheduler.poll() is not None:
                raise RuntimeError("the scheduler did not start")
            time.sleep(0.1)
        worker = ("dask_worker", *where, "--nthreads", "1", "--no-nanny", "--no-dashboard")
        self.workers = [_python(*worker, cwd=root) for _ in range(count)]

    def kill(self, index: int) -> None:
        self.workers[index].kill()

    def __enter__(self) -> DaskCluster:
        return self

    def __exit__(self, *error: object) -> None:
        for process in (*self.workers, self._scheduler):
            process.kill()
        for process in (*self.workers, self._scheduler):
            process.wait(30)


def _python(module: str, *arguments: str, cwd: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
