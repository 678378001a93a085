"""Thousands of damaged files, each opened in a child process: read, or refused in one clear sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import DeepRegistrationLib
import pytest

HERE = Path(__file__).parent
FULL = os.environ.get("DEEPREGISTRATION_FAULTS") == "full"
COUNT = 2000 if FULL else 40
KINDS = (
    "nifti",
    "nifti float",
    "nifti compressed",
    "nrrd",
    "metaimage",
    "nrrd detached",
    "nrrd list",
    "nrrd pattern",
    "nrrd words",
    "nrrd words inside",
    "metaimage detached",
    "metaimage list",
    "metaimage pattern",
    "nifti pair",
    "labels",
    "mask",
    "header",
    "markups",
    "fcsv",
    "table",
    "weights",
    "checkpoint",
    "transform text",
    "transform composite",
    "transform hdf5",
    "transform hdf5 linear",
    "field nifti",
    "field nrrd",
)


Outcome = tuple[str, int, str]


def opened(folder: Path, jobs: list[tuple[str, int, int]]) -> list[Outcome]:
    """What became of the files of all jobs (kind, first, count); a crash is an outcome, and the rest goes
    on in a new process."""
    results: list[Outcome] = []
    while jobs:
        child = subprocess.run(
            [sys.executable, str(HERE / "hostile.py"), str(folder), json.dumps(jobs)],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(Path(DeepRegistrationLib.__file__).parents[1]),
            },
        )
        results += [tuple(json.loads(line)) for line in child.stdout.splitlines()]
        if child.returncode == 0:
            break
        # anything else is of the helper itself; a crash is a signal
        assert child.returncode < 0 or child.stderr.startswith("Timeout ("), child.stderr
        kind, crashed = json.loads((folder / "current").read_text())
        results.append((kind, crashed, f"crashed ({child.returncode}): {child.stderr.strip()[-200:]}"))
        at = next(k for k, job in enumerate(jobs) if job[0] == kind and job[1] <= crashed < job[1] + job[2])
        _, first, count = jobs[at]
        rest = (kind, crashed + 1, first + count - crashed - 1)
        jobs = [job for job in (rest, *jobs[at + 1 :]) if job[2] > 0]
    return results


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits and alarms are POSIX things")
def test_a_damaged_file_is_read_or_refused(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    jobs = [(kind, zlib.crc32(kind.encode()) % 10_000 * 100_000, COUNT) for kind in KINDS]
    results = opened(tmp_path, jobs)
    bad = [result for result in results if result[2] not in ("read", "refused")]
    assert not bad, (len(bad), bad[:5])
    counts = Counter((kind, what) for kind, _, what in results)
    for kind in KINDS:
        record_property(kind, f"{counts[kind, 'read']} read, {counts[kind, 'refused']} refused")
        assert counts[kind, "refused"] > 0 and counts[kind, "read"] + counts[kind, "refused"] == COUNT
