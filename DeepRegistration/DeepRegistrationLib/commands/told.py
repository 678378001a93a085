"""What the numbers mean, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ..verdict import GOOD, verdict


def tell(quality: Mapping[str, Any], grave_only: bool = False) -> None:
    """Print the findings of quality.json's numbers, the gravest first.

    Args:
        quality: the numbers.
        grave_only: leave out those that ask for nothing.
    """
    for sentence in verdict(quality):
        if sentence.level != GOOD or not grave_only:
            print(f"deepregistration: {sentence.level}: {sentence.text}", file=sys.stderr)
