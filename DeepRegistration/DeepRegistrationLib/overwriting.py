"""Results never take the place of what they are made from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from .errors import InputError


def check_overwriting(outputs: Iterable[str | Path], inputs: Mapping[str, str | Path | None]) -> None:
    """Refuse to write over an input, also one that is known by another path or a link.

    Args:
        outputs: the files that are going to be written.
        inputs: the files that are read, by what they are called in a sentence; None for those not given.

    Raises:
        InputError: a file is both.
    """
    there = [output for output in outputs if os.path.exists(output)]
    for role, path in inputs.items():
        if path is None or not os.path.exists(path):
            continue
        for output in there:
            if os.path.samefile(output, path):
                raise InputError(
                    f"The result {output} would be written over the {role.replace('_', ' ')} {path}; "
                    "choose another place for the results."
                )
