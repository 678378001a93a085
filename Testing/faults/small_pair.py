"""A small pair of images on disk, and the program run on it, in this process or one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import DeepRegistrationLib
import numpy as np
import SimpleITK as sitk
from DeepRegistrationLib import cli

ENGINE = Path(DeepRegistrationLib.__file__).parents[1]
RESULTS = ["forward.h5", "inverse.h5", "quality.json", "warped.nii.gz"]
QUICK = ("--method", "classical", "--preset", "fast", "--linear", "none", "--device", "cpu", "--threads", "1")

Done = subprocess.CompletedProcess[str]

N = 18
FRAME = {
    "size": [N] * 3,
    "spacing": [2.0] * 3,
    "origin": [0.0] * 3,
    "direction": [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]],
}
PARAMETERS = {
    "frames": {"fixed": FRAME, "moving": FRAME},
    "options": {"preset": "fast", "linear": "none", "device": "cpu", "threads": 1},
}
"""Of the worker's task ``register``, for two balls."""

LANDMARKS = {"fixed": [[8.0, 17, 17], [26, 17, 17]], "moving": [[11.0, 17, 17], [29, 17, 17]]}


def ball(n: int = N, shift: float = 0.0) -> np.ndarray:
    """A soft ball with texture, (z, y, x) float32."""
    z, y, x = np.mgrid[:n, :n, :n] - (n - 1) / 2
    inside = 1 / (1 + np.exp(2 * (np.sqrt((x - shift) ** 2 + y**2 + z**2) - n / 3)))
    return (100 * inside * (1 + 0.3 * np.sin(x - shift) * np.cos(y) + 0.1 * np.sin(z))).astype(np.float32)


def write_pair(fixed: Path, moving: Path) -> None:
    for path, shift in ((fixed, 0.0), (moving, 1.0)):
        path.parent.mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(ball(shift=shift))
        image.SetSpacing((2.0, 2.0, 2.0))
        sitk.WriteImage(image, str(path))


def arguments(fixed: Path, moving: Path, out: Path, *more: str) -> list[str]:
    """Of ``deepregistration register``."""
    files = [f"--{role}={path}" for role, path in (("fixed", fixed), ("moving", moving), ("out", out))]
    return ["register", *files, *QUICK, *more]


def register(fixed: Path, moving: Path, out: Path, *more: str) -> Done:
    """The program in this process."""
    told, errors = StringIO(), StringIO()
    with redirect_stdout(told), redirect_stderr(errors):
        code = cli.main(arguments(fixed, moving, out, *more))
    return subprocess.CompletedProcess([], code, told.getvalue(), errors.getvalue())


def child(
    code: str,
    arguments: Sequence[object],
    variables: dict[str, str] | None = None,
    before: Sequence[str] = (),
) -> Done:
    """Python code in a process of its own, with other environment variables, or words before the command."""
    return subprocess.run(
        [*before, sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONPATH": str(ENGINE), "OMP_NUM_THREADS": "1", **(variables or {})},
        timeout=900,
    )


def complaint(done: Done) -> str:
    """The one sentence a failed run has to end with."""
    assert done.returncode in (1, 2), (done.returncode, done.stderr[-500:])
    assert done.stdout == ""
    assert done.stderr.startswith("deepregistration: error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "unexpected internal error" not in done.stderr, done.stderr
    return done.stderr
