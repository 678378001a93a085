"""Small pictures for the tests of batches and templates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk


def blobs(
    path: Path,
    shift: float = 0.0,
    scale: float = 1.0,
    size: int = 40,
    labels: bool = False,
    bend: float = 0.0,
) -> Path:
    """A 2-D picture of a few soft blobs about the origin, or of what is bright in them, at 1 mm; `bend` mm
    of a wave along y displace them along x."""
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) / scale
    x = x - bend * np.sin(y / 5)
    image = np.zeros((size, size))
    for cx, cy, width, height in ((0, 0, 9, 500), (6, 3, 3, 400), (-5, -6, 2.5, 300), (-4, 7, 2, 350)):
        image += height * np.exp(-((x - cx - shift) ** 2 + (y - cy) ** 2) / (2 * width**2))
    values = (image > 450).astype(np.uint8) + (image > 250) if labels else image.astype(np.float32)
    written = sitk.GetImageFromArray(values)
    written.SetOrigin([-(size - 1) / 2] * 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(written, str(path))
    return path
