"""An event loop as Slicer's: it runs in C++ and holds Python's lock, so that no thread of Python runs while
it idles. PySide's own lets go of the lock, and so hides what a thread would not have been able to do.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import PySide6
import shiboken6
from PySide6.QtCore import QEventLoop, QTimer

_EXEC = "_ZN10QEventLoop4execE6QFlagsINS_17ProcessEventsFlagEE"
"""`QEventLoop::exec(QEventLoop::ProcessEventsFlags)`, as Linux compilers call it."""

CAN_HOLD_THE_LOCK = sys.platform == "linux"


def idle(milliseconds: int) -> None:
    """Run the event loop for a time, holding Python's lock; slots of Python run in it as ever."""
    core = ctypes.PyDLL(str(Path(PySide6.__file__).parent / "Qt" / "lib" / "libQt6Core.so.6"))
    run = getattr(core, _EXEC)
    run.argtypes, run.restype = [ctypes.c_void_p, ctypes.c_int], ctypes.c_int
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    run(shiboken6.getCppPointer(loop)[0], 0)
