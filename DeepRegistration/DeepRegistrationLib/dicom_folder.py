"""A folder of DICOM files -> one image, with its slices where the scanner put them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .file_checks import itk_name, quiet_itk

_POSITION = "0020|0032"
_TOLERANCE = 0.25  # of the slice distance


def read_dicom_folder(folder: Path) -> sitk.Image:
    """The one series of `folder` as a 3-D image (subfolders are not searched).

    Beside scouts and other single images there may be only one series of several slices.

    Raises:
        InputError: no series, several of them, unreadable files, or slices that are missing, repeated,
            unevenly spaced or tilted.
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
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(stacks[0])
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        with quiet_itk():
            image = reader.Execute()
            positions = [_position(reader, k) for k in range(len(stacks[0]))]
    except RuntimeError as error:
        raise InputError(f"The DICOM images in {folder} cannot be read as one volume.") from error
    _check_positions(image, positions, folder)
    return image


def _position(reader: sitk.ImageSeriesReader, slice_number: int) -> list[float] | None:
    if not reader.HasMetaDataKey(slice_number, _POSITION):
        return None
    return [float(number) for number in reader.GetMetaData(slice_number, _POSITION).split("\\")]


def _check_positions(image: sitk.Image, positions: list[list[float] | None], folder: Path) -> None:
    """ITK spreads the slices evenly along their normal, right or wrong; compare with the files' own word."""
    if len(positions) < 2 or None in positions:
        return
    placed = [image.TransformIndexToPhysicalPoint((0, 0, k)) for k in range(len(positions))]
    error = np.linalg.norm(np.asarray(positions) - np.asarray(placed), axis=1).max()
    if error > _TOLERANCE * image.GetSpacing()[2]:
        raise InputError(
            f"The DICOM slices in {folder} are missing, repeated, unevenly spaced or tilted "
            f"(up to {error:.1f} mm from where they should be)."
        )
