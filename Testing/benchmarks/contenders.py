"""What `report.py` compares: this project's methods and presets, and other tools, as commands to run.

Without numpy and torch: the process that measures others stays small.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from DeepRegistrationLib import catalogue

HERE = Path(__file__).resolve().parent
OURS, PRESETS = tuple(catalogue.METHODS), tuple(catalogue.PRESETS)
START = "start"
"""The shared start, measured like a method's result."""

TOOLS = {
    "demons": "numpy, SimpleITK",
    "ants-quick": "numpy, SimpleITK, ants",
    "ants-cc": "numpy, SimpleITK, ants",
    "ants-mi": "numpy, SimpleITK, ants",
    "fireants-greedy": "SimpleITK, fireants.io.image, fireants.registration.greedy",
    "fireants-syn": "SimpleITK, fireants.io.image, fireants.registration.syn",
    "convexadam": "SimpleITK, convexAdam.convex_adam_MIND",
    "elastix": "numpy, SimpleITK, itk; itk.F, itk.ParameterObject, itk.elastix_registration_method",
}
"""The tools of `peers.py`, and what each has to import before it can start."""

_OUR_IMPORTS = "torch, SimpleITK, DeepRegistrationLib.cli, DeepRegistrationLib.pipeline"


@dataclass(frozen=True)
class Contender:
    """One row of the report.

    Attributes:
        name: ``start``, a tool's, or ``METHOD-PRESET``.
        method, preset: of this project; empty for tools.
    """

    name: str
    method: str = ""
    preset: str = ""

    @property
    def ours(self) -> bool:
        return bool(self.method)

    @property
    def imports(self) -> str:
        """Modules that have to be there, as written after ``import``."""
        return _OUR_IMPORTS if self.ours else TOOLS[self.name]

    def command(
        self,
        fixed: Path,
        moving: Path,
        out: Path,
        peer_python: str,
        threads: int,
        options: Sequence[str] = (),
    ) -> list[str]:
        """What writes ``forward.h5`` (and ``inverse.h5``, if it has one) to `out`, without a linear stage."""
        if not self.ours:
            files = [str(path) for path in (fixed, moving, out)]
            return [peer_python, str(HERE / "peers.py"), self.name, *files]
        command = register(fixed, moving, out, threads)
        command += ["--method", self.method, "--preset", self.preset, "--linear", "none"]
        return [*command, *options]


def register(fixed: Path, moving: Path, out: Path, threads: int) -> list[str]:
    """The command line's registration of two files, without its options."""
    command = [sys.executable, "-m", "DeepRegistrationLib.cli", "register", "--quiet", "--device", "cpu"]
    command += ["--fixed", str(fixed), "--moving", str(moving), "--out", str(out)]
    return [*command, "--threads", str(threads)]


def contenders(names: Sequence[str], presets: Sequence[str]) -> list[Contender]:
    """Those of a list of names; a method of this project stands for itself with each of the presets.

    What has no network has nothing to predict, so it comes without that preset.

    Raises:
        ValueError: there is none of that name.
    """
    found = []
    for name in names:
        method, _, preset = name.rpartition("-")
        if name == START or name in TOOLS:
            found.append(Contender(name))
        elif name in OURS:
            learns = catalogue.METHODS[name].learns
            fitting = [p for p in presets if learns or p != "prediction"]
            found += [Contender(f"{name}-{p}", name, p) for p in fitting]
        elif method in OURS and preset in PRESETS:
            found.append(Contender(name, method, preset))
        else:
            raise ValueError(f"There is no method {name}; choose {', '.join((START, *OURS, *TOOLS))}.")
    return found
