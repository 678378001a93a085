"""Runs without the weights that come with the program: what is tested here holds with any and with none.

`test_shipped_weights.py` looks at those themselves.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ["DEEPREGISTRATION_WEIGHTS"] = str(Path(__file__).parent / "no-weights")
