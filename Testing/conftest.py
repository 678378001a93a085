"""Where tests run side by side (`pytest -n 2`), each process keeps to one thread: they share the cores."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
