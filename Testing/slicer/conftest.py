"""These tests need Slicer's libraries, and some of them Qt; what is not installed is left out."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

collect_ignore_glob = [] if find_spec("slicer") else ["test_*.py"]

if find_spec("slicer"):
    sys.path.insert(0, str(Path(__file__).parent))
    from scene_support import scene

    __all__ = ["scene"]

if find_spec("slicer") and find_spec("PySide6") and find_spec("pytestqt"):
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    from harness.fixtures import panel, slicer_session, temporary

    __all__ += ["panel", "slicer_session", "temporary"]
