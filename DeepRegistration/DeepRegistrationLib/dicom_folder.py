"""A folder of DICOM files -> one image, with its slices where the scanner put them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .dicom_frames import TOLERANCE
from .errors import InputError
from .file_checks import itk_name, quiet_itk

_POSITION = "0020|0032"
_SCALE = ("0028|1053", "0028|1052")  # rescale slope and intercept


def dicom_series(folder: Path) -> list[str]:
    """The files of the one series of `folder`, in the order of their slices (subfolders are not searched).

    Beside scouts and other single images there may be only one series of several slices.

    Raises:
        InputError: no series, or several of them.
    """
    with quiet_itk():
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(itk_name(folder))
        names = [sitk.ImageSeriesReader.GetGDCMSeriesFileNames(itk_name(folder), uid) for uid in series]
    if not names:
        raise InputError(f"The folder {folder} has no DICOM images in it.")
    stacks = [files for files in names if len(files) > 1] if len(names) > 1 else names
    if len(stacks) != 1:
        raise InputError(
            f"The folder {folder} has {len(names)} DICOM series, {len(stacks)} of them with several slices; "
            "choose a folder with a single series."
        )
    return list(stacks[0])


def read_series(files: Sequence[str], folder: Path) -> sitk.Image:
    """The slices of a series as a 3-D image, each with its own scale factor.

    Raises:
        InputError: unreadable files, slices that do not say where they lie, or that are missing, repeated,
            unevenly spaced or tilted.
    """
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        with quiet_itk():
            image = reader.Execute()
            positions = [_position(reader, k) for k in range(len(files))]
            scales = {tuple(_value(reader, k, key) for key in _SCALE) for k in range(len(files))}
            if len(scales) > 1:  # the first slice's would decide on the type, in which the others do not fit
                reader.SetOutputPixelType(sitk.sitkFloat32)
                image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"The DICOM images in {folder} cannot be read as one volume.") from error
    _check_positions(image, positions, folder)
    return image


def _value(reader: sitk.ImageSeriesReader, slice_number: int, key: str) -> str:
    return reader.GetMetaData(slice_number, key).strip() if reader.HasMetaDataKey(slice_number, key) else ""


def _position(reader: sitk.ImageSeriesReader, slice_number: int) -> list[float] | None:
    value = _value(reader, slice_number, _POSITION)
    return [float(number) for number in value.split("\\")] if value else None


def _check_positions(image: sitk.Image, positions: list[list[float] | None], folder: Path) -> None:
    """ITK spreads the slices evenly along their normal, right or wrong; compare with the files' own word."""
    if None in positions:
        raise InputError(
            f"The DICOM slices in {folder} do not say where they lie, so they cannot be stacked."
        )
    placed = [image.TransformIndexToPhysicalPoint((0, 0, k)) for k in range(len(positions))]
    error = np.linalg.norm(np.asarray(positions) - np.asarray(placed), axis=1).max()
    if error > TOLERANCE * image.GetSpacing()[2]:
        raise InputError(
            f"The DICOM slices in {folder} are missing, repeated, unevenly spaced or tilted "
            f"(up to {error:.1f} mm from where they should be)."
        )
