"""A stand-in of Slicer's launcher, `PythonSlicer`: a program between the application and Python."""

from __future__ import annotations

import sys
from pathlib import Path

_PROGRAM = """#!{python}
import subprocess, sys
done = subprocess.run([{python!r}, *sys.argv[1:]])
if done.returncode < 0:  # a crash or a kill: the launcher says so, and keeps the signal to itself
    print("error: [{python}] exit abnormally - Report the problem.", file=sys.stderr)
    sys.exit(1)
sys.exit(done.returncode)
"""


def make_launcher(folder: Path) -> Path:
    """Write the program `PythonSlicer` into a folder.

    It runs this Python as a child, hands every stream through, and turns any crash or kill of the child into
    exit code 1, as the real one does.
    """
    path = folder / "PythonSlicer"
    path.write_text(_PROGRAM.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return path
