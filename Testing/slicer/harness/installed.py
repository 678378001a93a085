"""The extension as `cmake --install` leaves it: configured by the stand-in of Slicer's CMake package."""

from __future__ import annotations

import subprocess
from pathlib import Path

SLICER_DIR = Path(__file__).parent / "cmake"


def install(source: Path, folder: Path, cmake: str = "cmake") -> Path:
    """Configure, build and install `source` below `folder`; returns the folder of the scripted modules.

    Raises RuntimeError with CMake's output where a step fails.
    """
    build, prefix = folder / "build", folder / "installed"
    for command in (
        [cmake, "-S", source, "-B", build, f"-DSlicer_DIR={SLICER_DIR}", f"-DCMAKE_INSTALL_PREFIX={prefix}"],
        [cmake, "--build", build],
        [cmake, "--install", build],
    ):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}")
    return next(prefix.glob("lib/Slicer-*/qt-scripted-modules"))
