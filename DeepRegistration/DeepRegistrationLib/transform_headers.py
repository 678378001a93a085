"""Vector images as displacement fields, by what their headers say the vectors are.

=======================================  ====================================================================
NRRD, ``displacement field type``        Slicer's: ``resampling`` is a displacement, ``modeling`` the inverse
                                         of one, which is refused
NIfTI, intent name ``NREG_TRANS``        NiftyReg's, RAS; ``intent_p1`` 0: positions, 1: displacements; others
                                         are refused
NIfTI, intent name ``Mapping``, or the   SPM's: positions, RAS
description "Deformation field"
NIfTI, the description "Flow field" or   SPM's: refused
"Velocity"
NIfTI, intent 2006 to 2018               FSL's, in its own coordinates: refused
whole numbers, or colours                a picture: refused
=======================================  ====================================================================

All others are displacements in LPS mm, as SimpleITK reads them.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .frame import Frame
from .io import frame_from_sitk, set_frame
from .transform_parts import lattice_points

CONVERT_IN_SLICER = (
    "In Slicer, convert it to a grid transform (module Transforms, section Convert, with the fixed image as "
    "reference) and save that one."
)
"""How Slicer's user gets what can be read."""

_FLOATS = (sitk.sitkVectorFloat32, sitk.sitkVectorFloat64)
_POSITIONS, _DISPLACEMENTS = 0, 1
_FSL = range(2006, 2019)
_CLASS = re.compile(r'Could not create an instance of "(\w+?)(?:_(?:double|float)_\d_\d)?"')


def displacement_image(image: sitk.Image, path: Path) -> sitk.Image:
    """The displacement field of an image file, moving minus fixed point, LPS mm, vectors of float64.

    Args:
        image: as SimpleITK reads the file.
        path: of the file, for messages.

    Raises:
        InputError: an image that is no displacement field, or one of a kind that cannot be converted.
    """
    way = _said(image, "displacement field type").lower()
    if way == "modeling":
        raise InputError(
            f"{path} holds a transform to parent, as Slicer calls it: it leads from the moving to the fixed "
            f"image, the opposite of what is needed here. {CONVERT_IN_SLICER}"
        )
    if way not in ("", "resampling"):
        raise InputError(f"{path} has displacements of an unknown type: {way[:40]}.")
    if _number(image, "intent_code") in _FSL:
        raise InputError(
            f"{path} is a warp of FSL, which counts in its own coordinates; convert it to a displacement "
            "field of ITK first."
        )
    words = _said(image, "descrip").lower()
    if words.startswith(("flow field", "velocity")):
        raise InputError(
            f"{path} is a velocity of SPM (Dartel or Shoot); let SPM write the deformation (y_*.nii) instead."
        )
    spm = _said(image, "intent_name") == "Mapping" or words.startswith("deformation")
    nifty_reg = _said(image, "intent_name") == "NREG_TRANS"
    if image.GetDimension() == 5 and spm:  # where the intent does not tell that these are vectors
        image = _vectors(image)
    d = image.GetDimension()
    if image.GetNumberOfComponentsPerPixel() != d:
        raise InputError(f"{path} is an image, but not a displacement field.")
    if image.GetPixelID() not in _FLOATS or "color" in _said(image, "NRRD_kinds[pixel]"):
        raise InputError(
            f"{path} is a colour picture or holds whole numbers; it is not a displacement field."
        )
    if not spm and not nifty_reg:
        return sitk.Cast(image, sitk.sitkVectorFloat64)
    kind = _POSITIONS if spm else _number(image, "intent_p1")
    if kind not in (_POSITIONS, _DISPLACEMENTS):
        raise InputError(
            f"{path} holds a velocity or the control points of a spline of NiftyReg; save the deformation "
            "field instead (reg_transform -def)."
        )
    return _from_ras(image, kind == _POSITIONS)


def unreadable_class(message: str, path: Path) -> str | None:
    """What to say of a transform file of a class that SimpleITK does not know, by its message; None for other
    messages."""
    found = _CLASS.search(message)
    if found is None:
        return None
    if found[1].startswith("Inverse"):
        what = (
            "a transform to parent, as Slicer calls it, whose way back would have to be computed "
            f"({found[1]})"
        )
    else:
        what = f"a {found[1]}, a kind of transform that SimpleITK does not read"
    return f"{path} holds {what}. {CONVERT_IN_SLICER}"


def _from_ras(image: sitk.Image, positions: bool) -> sitk.Image:
    frame = frame_from_sitk(image)
    vectors = np.array(sitk.GetArrayViewFromImage(image), dtype=np.float64)
    vectors[..., :2] *= -1
    if positions:
        for row, moved in enumerate(vectors):  # a row at a time: coordinates are large
            moved -= lattice_points(frame, slice(row, row + 1))[0]
    return set_frame(sitk.GetImageFromArray(vectors, isVector=True), frame)


def _vectors(image: sitk.Image) -> sitk.Image:
    """A vector image of one whose fifth axis has the components."""
    array = sitk.GetArrayViewFromImage(image)[:, 0]
    direction = np.asarray(image.GetDirection()).reshape(5, 5)[:3, :3]
    frame = Frame(
        image.GetSize()[:3],
        image.GetSpacing()[:3],
        image.GetOrigin()[:3],
        tuple(map(tuple, direction.tolist())),
    )
    return set_frame(sitk.GetImageFromArray(np.moveaxis(array, 0, -1), isVector=True), frame)


def _said(image: sitk.Image, key: str) -> str:
    return image.GetMetaData(key).strip("\0 ") if image.HasMetaDataKey(key) else ""


def _number(image: sitk.Image, key: str) -> float | None:
    try:
        return float(_said(image, key))
    except ValueError:
        return None
