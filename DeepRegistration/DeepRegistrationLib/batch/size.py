"""How many pairs this machine can do at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk
import torch

from .. import resources
from ..detached import check_header
from ..errors import InputError
from ..file_checks import itk_name, quiet_itk
from ..frame import Frame
from ..io import frame_from_sitk
from ..memory import Request
from ..thread_count import processors
from .rows import Row

_PROCESS_BYTES = 600 << 20
"""A worker process with its libraries, before it has seen an image."""

_SHARE = 0.85
"""Of the free memory, what the worker processes may take."""


def workers_for(rows: Sequence[Row]) -> int:
    """As many as there are processors for (each pair takes its threads), as fit into the free memory, and
    one where a graphics processor is shared; at least one."""
    wanted = min(len(rows), processors() // max(row.options["threads"] for row in rows))
    if torch.cuda.is_available() and any(row.options.get("device") != "cpu" for row in rows):
        wanted = 1
    available = resources.available_memory()
    if wanted > 1 and available is not None:
        most = max(needed_bytes(row) for row in rows)
        wanted = min(wanted, int(_SHARE * available / most))
    return max(1, wanted)


def needed_bytes(row: Row) -> int:
    """Memory a row's process needs, from its images' headers; of images without a readable one (which fail
    soon, or are DICOM folders), as little as a process needs."""
    try:
        fixed, moving = (_frame(row.options[role]) for role in ("fixed", "moving"))
    except (InputError, RuntimeError):
        return _PROCESS_BYTES
    return _PROCESS_BYTES + Request.of(fixed, moving, row.options).estimate().peak


def _frame(path: str) -> Frame:
    """An image's lattice, from its header."""
    check_header(Path(path))
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_name(Path(path)))
    with quiet_itk():
        reader.ReadImageInformation()
    return frame_from_sitk(reader)
