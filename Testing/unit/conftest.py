"""Runs without the weights that come with the program: what is tested here holds with any and with none.

`test_shipped_weights.py` looks at those themselves. Helpers lie beside the tests.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ["DEEPREGISTRATION_WEIGHTS"] = str(Path(__file__).parent / "no-weights")
