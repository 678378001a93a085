"""DICOM files of several frames, such as enhanced CT and MR: read as a stack only where their frames are one.

ITK stacks the frames as they are stored, at even distances and with the scale factor of the first. What the
frames themselves say only pydicom tells, which Slicer has and others may install.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .frame import Frame

TOLERANCE = 0.25
"""How far a slice may be from where even distances have it, as a share of their distance."""
_COUNT = "0028|0008"
_CONVERT = "convert it to NIfTI or NRRD first, for instance by Slicer or dcm2niix"


def frame_count(reader: sitk.ImageFileReader) -> int:
    """How many frames a file has that a reader has the header of; 1 for other formats than DICOM."""
    try:
        return int(reader.GetMetaData(_COUNT)) if reader.HasMetaDataKey(_COUNT) else 1
    except ValueError:
        return 1


def check_frames(frame: Frame, path: Path) -> None:
    """Look at the frames of a DICOM file that has several.

    Args:
        frame: of the stack, as ITK has it.
        path: of the file.

    Raises:
        InputError: frames that do not say where they lie, are not one stack in order, or have different scale
            factors; no pydicom to tell.
    """
    try:
        import pydicom
    except ImportError as error:
        raise InputError(
            f"{path} is a DICOM file of several frames, whose places only pydicom tells: install it (pip "
            f"install pydicom), or {_CONVERT}."
        ) from error
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        positions, scales = _positions(dataset), _scales(dataset)
    except Exception as error:  # whatever pydicom and a damaged file come to
        raise InputError(f"{path} has DICOM frames that cannot be understood; {_CONVERT}.") from error
    if positions is None or len(positions) != frame.size[-1]:
        raise InputError(
            f"{path} is a DICOM file of several frames that do not say where they lie, such as a film; "
            f"{_CONVERT}."
        )
    index = np.zeros((len(positions), 4))
    index[:, 2], index[:, 3] = np.arange(len(positions)), 1
    placed = index @ frame.index_to_world[:3].T
    error_mm = float(np.linalg.norm(positions - placed, axis=1).max())
    if not error_mm <= TOLERANCE * frame.spacing[2]:
        raise InputError(
            f"The frames of {path} are interleaved, missing, unevenly spaced or of several times (up to "
            f"{error_mm:.1f} mm from where they should be); {_CONVERT}."
        )
    if len(scales) > 1:
        raise InputError(f"The frames of {path} have scale factors of their own; {_CONVERT}.")


def _positions(dataset: Any) -> np.ndarray | None:
    """(N, 3) of the first voxel of each frame, LPS mm; None where the file does not say."""
    offsets = dataset.get("GridFrameOffsetVector")  # of a radiotherapy dose
    if offsets is not None:
        first = np.asarray(dataset.ImagePositionPatient, np.float64)
        rows, columns = np.asarray(dataset.ImageOrientationPatient, np.float64).reshape(2, 3)
        return first + np.asarray(offsets, np.float64)[:, None] * np.cross(rows, columns)
    found = _of_each(dataset, "PlanePositionSequence")
    if not found or None in found:
        return None
    return np.array([group.ImagePositionPatient for group in found], np.float64)


def _scales(dataset: Any) -> set[tuple[float, float]]:
    """The slopes and intercepts that occur."""
    found = _of_each(dataset, "PixelValueTransformationSequence")
    return {(1.0, 0.0) if g is None else (float(g.RescaleSlope), float(g.RescaleIntercept)) for g in found}


def _of_each(dataset: Any, name: str) -> list[Any]:
    """A functional group of each frame: its own, or the one that all share; None where there is neither."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or [{}]
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    groups = [frame.get(name) or shared[0].get(name) for frame in frames]
    return [group[0] if group else None for group in groups]
