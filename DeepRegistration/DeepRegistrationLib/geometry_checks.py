"""What image files say, and fail to say, of where their voxels lie: units, shears, two frames, none.

NIfTI gives a frame as a matrix (sform) or as a rotation with voxel sizes (qform), NRRD may use other units
than millimetres, which ITK ignores, and each may leave out how the axes run in the patient.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError, OutputError
from .file_checks import itk_name, quiet_itk
from .frame import Frame

SHEARED = "orthonormal"
"""What ITK says of a file whose only frame is a sform with a shear has this word."""
_PERMISSIVE = "ITK_NIFTI_SFORM_PERMISSIVE"
_NIFTI = (".nii", ".nii.gz")
_ROUNDING = 0.1
"""How far a corner may be from where the nearest frame without a shear has it, voxels."""
_APART = 0.5
"""How far apart the two frames of a file may be at a corner, voxels."""
_HEADER = 1 << 16
_UNITS = {
    1.0: ("mm", "millimeter", "millimeters", "millimetre", "millimetres"),
    1e-3: ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"),
    1e-6: ("nm", "nanometer", "nanometers", "nanometre", "nanometres"),
    10.0: ("cm", "centimeter", "centimeters", "centimetre", "centimetres"),
    1000.0: ("m", "meter", "meters", "metre", "metres"),
}
_FLIP = np.diag([-1.0, -1.0, 1.0])  # RAS <-> LPS
_ORIENTATION = re.compile(rb"^[ \t]*(TransformMatrix|Rotation|Orientation)[ \t]*[=:]", re.MULTILINE)
_PLAIN = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")


def nearest_frame(frame: Frame) -> Frame:
    """The nearest frame with axes at right angles, of the same voxel sizes and first voxel."""
    matrix = np.asarray(frame.direction) @ np.diag(frame.spacing)
    spacing = np.linalg.norm(matrix, axis=0)
    left, _, right = np.linalg.svd(matrix / spacing)
    axes = left @ right
    return Frame(frame.size, tuple(spacing.tolist()), frame.origin, tuple(map(tuple, axes.tolist())))


def is_sheared(frame: Frame) -> bool:
    """Whether the axes are not at right angles, by more than rounding."""
    return not frame.same_lattice(nearest_frame(frame), _ROUNDING)


def check_nifti_holds(frame: Frame, path: Path) -> None:
    """Raise OutputError for a NIfTI file and a sheared frame: ITK would write another one, silently."""
    if path.name.lower().endswith(_NIFTI) and is_sheared(frame):
        raise OutputError(
            f"{path} could not be written: NIfTI does not hold a sheared geometry, such as of a tilted "
            "gantry; choose .nrrd or .mha."
        )


def sheared(path: Path) -> InputError:
    """What to say of a file with a sheared geometry."""
    return InputError(f"{path} has a sheared geometry; resample it onto a regular grid first.")


def check_not_sheared(frame: Frame, role: str) -> None:
    """Raise InputError where results on an image's lattice could not be written as NIfTI."""
    if is_sheared(frame):
        raise InputError(
            f"The {role} image has a sheared geometry, such as of a tilted gantry, which the warped image's "
            "file cannot hold; resample it onto a regular grid first."
        )


@contextmanager
def any_sform() -> Iterator[None]:
    """Let ITK read a file whose only frame is a sform with a shear. It makes up the frame that it hands over:
    `mended_frame` has the right one."""
    before = os.environ.get(_PERMISSIVE)
    os.environ[_PERMISSIVE] = "ON"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PERMISSIVE]
        else:
            os.environ[_PERMISSIVE] = before


def mended_frame(reader: sitk.ImageFileReader, path: Path) -> Frame:
    """The nearest frame without a shear to the sform of a NIfTI file.

    Raises:
        InputError: they differ by more than rounding, or the image is not 3-D.
    """
    if reader.GetDimension() == 3:
        said = _sform(reader)
        spacing = np.linalg.norm(said[:, :3], axis=0)
        frame = nearest_frame(
            Frame(
                reader.GetSize(),
                tuple(spacing.tolist()),
                tuple(said[:, 3].tolist()),
                tuple(map(tuple, (said[:, :3] / spacing).tolist())),
            )
        )
        if _apart(said, frame) <= _ROUNDING:
            return frame
    raise sheared(path)


def millimetres(path: Path) -> float:
    """What one unit of length of an image file is in mm, where ITK does not see to that.

    Raises:
        InputError: different units along different axes.
    """
    with path.open("rb") as file:
        start = file.read(_HEADER)
    if start[:4] != b"NRRD":
        return 1.0
    header = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0].decode("utf-8", "replace")
    for field in ("space units", "units"):
        line = re.search(rf"^{field}:(.*)$", header, re.MULTILINE | re.IGNORECASE)
        names = [] if line is None else re.findall(r'"([^"]*)"', line[1])
        lengths = {size for name in names for size, known in _UNITS.items() if name.strip().lower() in known}
        if len(lengths) > 1:
            raise InputError(f"{path} has its axes in different units ({', '.join(names)}).")
        if lengths:
            return lengths.pop()
    return 1.0


def geometry_cautions(path: Path, role: str) -> list[str]:
    """Sentences on what a file of a 3-D image says of its place: nothing of its orientation, or two frames
    that differ.

    Args:
        path: of a file that can be read.
        role: "fixed" or "moving".
    """
    if path.is_dir():
        return []
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_name(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError:  # a sform whose rounding is mended is all that such a file has
        return []
    if reader.GetDimension() != 3 or 1 in reader.GetSize():
        return []
    if _silent(reader, path):
        return [
            f"The file of the {role} image says nothing of its orientation: its axes are taken to run to the "
            "left, to the back and up (LPS)."
        ]
    if 0 in (_code(reader, "sform"), _code(reader, "qform")):
        return []
    frame, apart = _as_read(reader), {}
    for name, said in (("sform", _sform(reader)), ("qform", _qform(reader))):
        apart[name] = _apart(said, frame)
    other = max(apart, key=lambda name: apart[name])
    if apart[other] <= _APART:
        return []
    distance = apart[other] * min(frame.spacing)
    used = "qform" if other == "sform" else "sform"
    return [
        f"The file of the {role} image places it twice, up to {distance:.3g} mm apart: its {used} is used, "
        f"as in Slicer, and not its {other}."
    ]


def _silent(reader: sitk.ImageFileReader, path: Path) -> bool:
    name = path.name.lower()
    if reader.HasMetaDataKey("sform_code"):
        return _code(reader, "sform") == 0 and _code(reader, "qform") == 0
    with path.open("rb") as file:
        start = file.read(_HEADER)
    if start[:4] == b"NRRD":
        return not reader.HasMetaDataKey("NRRD_space") or reader.GetMetaData("NRRD_space").startswith("3D-")
    if name.endswith((".mha", ".mhd")):
        return not _ORIENTATION.search(start.split(b"ElementDataFile")[0])
    return name.endswith(_PLAIN)


def _code(reader: sitk.ImageFileReader, name: str) -> int:
    key = f"{name}_code"
    return int(reader.GetMetaData(key)) if reader.HasMetaDataKey(key) else 0


def _as_read(reader: sitk.ImageFileReader) -> Frame:
    direction = np.asarray(reader.GetDirection()).reshape(3, 3)
    return Frame(
        reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), tuple(map(tuple, direction.tolist()))
    )


def _numbers(reader: sitk.ImageFileReader, *keys: str) -> list[float]:
    return [float(word) for key in keys for word in reader.GetMetaData(key).split()]


def _unit(reader: sitk.ImageFileReader) -> float:
    """Millimetres in a NIfTI header's unit of length."""
    return {1: 1000.0, 3: 1e-3}.get(int(_numbers(reader, "xyzt_units")[0]) & 7, 1.0)


def _sform(reader: sitk.ImageFileReader) -> np.ndarray:
    """(3, 4) matrix from voxel indices to LPS mm."""
    rows = np.reshape(_numbers(reader, "srow_x", "srow_y", "srow_z"), (3, 4))
    return _FLIP @ rows * _unit(reader)


def _qform(reader: sitk.ImageFileReader) -> np.ndarray:
    """(3, 4) matrix from voxel indices to LPS mm."""
    b, c, d = _numbers(reader, "quatern_b", "quatern_c", "quatern_d")
    a = max(0.0, 1 - b * b - c * c - d * d) ** 0.5
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    handed, *spacing = _numbers(reader, *(f"pixdim[{k}]" for k in range(4)))
    spacing[2] *= -1 if handed < 0 else 1
    offset = np.array(_numbers(reader, "qoffset_x", "qoffset_y", "qoffset_z"))
    return _FLIP @ np.column_stack([rotation * spacing, offset]) * _unit(reader)


def _apart(matrix: np.ndarray, frame: Frame) -> float:
    """How far a (3, 4) matrix from voxel indices to LPS mm puts a corner voxel from where a frame does, in
    voxels of the smallest side."""
    difference = matrix - frame.index_to_world[:3]
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in frame.size], (1,), indexing="ij"), -1).reshape(-1, 4)
    return float(np.linalg.norm(corners @ difference.T, axis=1).max()) / min(frame.spacing)
