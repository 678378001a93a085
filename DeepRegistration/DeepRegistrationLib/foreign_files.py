"""Files of other programs that cannot be read here, by what they hold: what they are, and what to do."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from pathlib import Path

_START = 4096
_GZIP = b"\x1f\x8b"
_NUMBER = rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_MATRIX = re.compile(rb"\s*(?:%s\s+){15}%s\s*" % (_NUMBER, _NUMBER))
_AFNI = re.compile(rb"(?:\s*#[^\n]*\n)*\s*(?:%s[ \t]+){11}%s\s*" % (_NUMBER, _NUMBER))
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".dcm")


def foreign_kind(path: Path, wanted: str) -> str | None:
    """What a file is that could not be read, as a sentence that begins with its name; None if not known.

    Args:
        path: of a file.
        wanted: "image" or "transform".
    """
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError:
        return None
    name, packed = path.name.lower(), start[:2] == _GZIP
    content = _unpacked(path) if packed else start
    kind = _image(name, content) or _transform(name, content)
    if kind is None and wanted == "transform" and name.endswith(_PICTURES):
        kind = "an image, not a transform"
    if kind is None and packed and name.endswith(".nii"):
        kind = f"compressed, although its name does not say so; rename it to {path.name}.gz"
    elif kind is None and packed and name.endswith((".nrrd", ".mha", ".h5", ".tfm", ".txt")):
        kind = "compressed as a whole; unpack it first"
    return None if kind is None else f"{path} is {kind}."


def _image(name: str, content: bytes) -> str | None:
    if name.endswith((".mgz", ".mgh")):
        return "a volume of FreeSurfer, not read here; convert it first (mri_convert in.mgz out.nii.gz)"
    if len(content) >= 8 and content[4:7] in (b"n+2", b"ni2") and _length(content) == 540:
        return "a NIfTI-2 file, which cannot be read here; save it as NIfTI-1 first"
    return None


def _transform(name: str, content: bytes) -> str | None:
    if re.search(rb'^\(Transform "', content, re.MULTILINE):
        return (
            "a parameter file of elastix, not a transform of ITK; let transformix write the deformation "
            "field (-def all) and use that"
        )
    if re.match(rb"(?:\s*#[^\n]*\n)*\s*type\s*=\s*\d+", content) and b"nxforms" in content:
        return (
            "a linear transform of FreeSurfer; convert it first (lta_convert --inlta in.lta --outitk out.txt)"
        )
    if name.endswith(".m3z"):
        return (
            "a deformation of FreeSurfer; convert it first (mri_warp_convert --inm3z in.m3z --outitk "
            "out.nii.gz)"
        )
    if name.endswith(".dat") and re.search(rb"^(round|tkregister)\s*$", content, re.MULTILINE):
        return "a registration file of FreeSurfer (register.dat); convert it to a transform of ITK first"
    if _MATRIX.fullmatch(content):
        return (
            "a bare matrix, as FSL and NiftyReg write, which does not say between which coordinates it "
            "leads; convert it to a transform of ITK first (for FSL: c3d_affine_tool -ref FIXED -src MOVING "
            "in.mat -fsl2ras -oitk out.txt)"
        )
    if name.endswith(".1d") and _AFNI.fullmatch(content):
        return "a matrix of AFNI; convert it to a transform of ITK first"
    return None


def _length(header: bytes) -> int | None:
    """The length of its header that a NIfTI file states."""
    lengths = [struct.unpack_from(f"{order}i", header)[0] for order in "<>"]
    return next((length for length in lengths if length in (348, 540)), None)


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path, "rb") as file:
            return file.read(_START)
    except (OSError, EOFError, zlib.error):
        return b""
