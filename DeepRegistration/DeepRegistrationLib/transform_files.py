"""Transforms <-> files that SimpleITK and 3D Slicer both read. World is LPS mm; transforms are pull-backs.

=====================  ====================================================================
``.h5``                any transform; a displacement is stored as double, uncompressed, with a linear map
                       after it where there is one
``.nii.gz``, ``.nii``  a displacement as float32, NIfTI intent 1006 (displacement vector)
``.nrrd``, ``.mha``    a displacement as float32 vector image, LPS, uncompressed
``.tfm``, ``.txt``     any transform but a displacement, as text
=====================  ====================================================================
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from .atomic import atomic_path, check_space
from .errors import InputError, OutputError
from .file_checks import check_descriptors, check_file, itk_name, quiet_itk, survives
from .foreign_files import foreign_kind
from .frame import Frame
from .geometry_checks import SHEARED, check_nifti_holds, millimetres, sheared
from .io import IMAGE_EXTENSIONS, set_frame, write_image
from .transform_headers import displacement_image, unreadable_class
from .transform_parts import field_and_linear, lattice_points, linear_to_sitk, typed

_TEXT = (".tfm", ".txt")
_NIFTI = (".nii.gz", ".nii")
_SECONDS, _SLOWEST = 10.0, 1e7  # that reading a transform may take, and the bytes a second it takes at least
_HDF5_OVERHEAD = 1 << 16  # bytes, generously
_DISPLACEMENT_INTENT = 1006
_INTENT_OFFSET = 68  # of the 16-bit intent code in a NIfTI-1 header


def write_displacement(displacement_mm: np.ndarray | Tensor, frame: Frame, path: str | Path) -> None:
    """Write a displacement field, whole or not at all.

    Args:
        displacement_mm: (*frame.shape, d) moving point minus fixed point at each voxel centre of `frame`,
            mm, components (x, y, z) in LPS.
        frame: where the field lives: a lattice in the fixed image's space.
        path: .h5, .nii.gz, .nii, .nrrd or .mha.

    Raises:
        InputError: another shape, or numbers that are not finite.
        OutputError: another extension, a sheared frame for NIfTI, or the file could not be written.
    """
    path = Path(path)
    name = path.name.lower()
    field = _as_array(displacement_mm, (*frame.shape, frame.dimension))
    if name.endswith(".h5"):
        write_displacement_slabs((field[window] for window in frame.slabs()), frame, path)
    elif name.endswith(_NIFTI):
        if frame.dimension == 3 and frame.size[2] == 1:
            raise OutputError(f"{path} could not be written: a field of one slice needs .h5, .nrrd or .mha.")
        _write_nifti(field, frame, path)
    elif name.endswith(IMAGE_EXTENSIONS):
        image = sitk.GetImageFromArray(field.astype(np.float32, copy=False), isVector=True)
        # Compression would make it 1 % smaller and four times slower.
        with atomic_path(path) as temporary:
            write_image(set_frame(image, frame), temporary, compress=False)
    else:
        raise OutputError(
            f"{path} could not be written: deformations are saved as .h5, {', '.join(IMAGE_EXTENSIONS)}."
        )


def write_displacement_slabs(
    slabs: Iterable[np.ndarray | Tensor],
    frame: Frame,
    path: str | Path,
    linear: np.ndarray | None = None,
) -> None:
    """Write a displacement field as .h5 from slabs along the array's first axis, in order; nothing but the
    file's own doubles (8 d bytes a voxel) is held whole. Otherwise as `write_displacement`.

    Args:
        slabs: (rows, *frame.shape[1:], d) each, moved minus fixed point, mm, LPS.
        frame: where the field lives.
        path: .h5
        linear: homogeneous (d+1, d+1) matrix that goes on where the field ends, LPS mm. The file is then a
            composite: a field of what the map does besides, and the linear map after it. Both together are
            the same map on the lattice, and readers, which take a field as zero outside of its lattice,
            find the linear map there in place of the identity.
    """
    _write_itk(displacement_to_sitk(slabs, frame, linear), Path(path))


def displacement_to_sitk(
    slabs: Iterable[np.ndarray | Tensor], frame: Frame, linear: np.ndarray | None = None
) -> sitk.Transform:
    """What `write_displacement_slabs` writes; raises InputError."""
    image = set_frame(sitk.Image(frame.size, sitk.sitkVectorFloat64, frame.dimension), frame)
    whole, start = (slice(None),) * (frame.dimension - 1), 0
    inverse = None if linear is None else np.linalg.inv(linear)
    for slab in slabs:
        field = _as_array(slab, (len(slab), *frame.shape[1:], frame.dimension))
        field = field.astype(np.float64, copy=inverse is not None)
        if inverse is not None:
            for row, vectors in enumerate(field):  # a row at a time: coordinates are large
                points = lattice_points(frame, slice(start + row, start + row + 1))[0]
                vectors[:] = (points + vectors) @ inverse[:-1, :-1].T + inverse[:-1, -1] - points
        image[(*whole, slice(start, start + len(field)))] = sitk.GetImageFromArray(field, isVector=True)
        start += len(field)
    if start != frame.shape[0]:
        raise InputError("The displacement field and its grid do not have the same size.")
    # The transform takes over the image's memory: no copy is made.
    transform = sitk.DisplacementFieldTransform(image)
    if linear is None:
        return transform
    return sitk.CompositeTransform([linear_to_sitk(linear), transform])  # the last is applied first


def write_transform(transform: sitk.Transform, path: str | Path) -> None:
    """Write a SimpleITK transform: .h5 for all, .tfm or .txt for all but displacement fields, whose
    other formats are those of `write_displacement`. Whole or not at all.

    Raises:
        OutputError: a format that cannot hold the transform, or the file could not be written.
    """
    path = Path(path)
    transform = typed(transform)
    if isinstance(transform, sitk.DisplacementFieldTransform):
        write_displacement(*displacement_from_sitk(transform), path)
    elif path.name.lower().endswith((".h5", *_TEXT)):
        _write_itk(transform, path)
    else:
        raise OutputError(f"{path} could not be written: this transform is saved as .h5, .tfm or .txt.")


def write_linear(matrix: np.ndarray, path: str | Path) -> None:
    """Write a homogeneous (d+1, d+1) matrix, fixed to moving points in LPS mm, as .h5, .tfm or .txt."""
    write_transform(linear_to_sitk(matrix), path)


def read_transform_file(path: str | Path) -> sitk.Transform:
    """Read a transform: fixed points to moving points, LPS mm.

    Vector images (.nii.gz, .nii, .nrrd, .mha) become a DisplacementFieldTransform, as transform_headers.py
    says; everything else is read as an ITK transform file (.h5, .tfm, .txt, .mat).

    Raises:
        InputError: a missing, damaged or incomplete file, an image that is no displacement field, or a
            transform of a kind that cannot be read.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder, not a transform file.")
    check_file(path)
    image_file = path.name.lower().endswith(IMAGE_EXTENSIONS)
    try:
        with quiet_itk():
            if not image_file:
                name = itk_name(path)
                patience = _SECONDS + path.stat().st_size / _SLOWEST
                if not survives(lambda: sitk.ReadTransform(name), patience):
                    raise InputError(f"{path} is not a transform that can be read, or it is damaged.")
                return typed(sitk.ReadTransform(name))
            if millimetres(path) != 1:
                raise InputError(f"{path} is not in millimetres; convert it first.")
            image = displacement_image(sitk.ReadImage(itk_name(path)), path)
    except (RuntimeError, UnicodeDecodeError) as error:  # the latter where ITK quotes the file's bytes
        check_descriptors(path)
        if SHEARED in str(error):
            raise sheared(path) from error
        known = unreadable_class(str(error), path) or foreign_kind(path, "transform")
        if known is not None:
            raise InputError(known) from error
        raise InputError(f"{path} is not a transform that can be read, or it is damaged.") from error
    if not np.isfinite(sitk.GetArrayViewFromImage(image)).all():
        raise InputError(f"{path} has displacements that are not finite numbers.")
    return sitk.DisplacementFieldTransform(image)


def displacement_from_sitk(
    transform: sitk.Transform | str | Path, frame: Frame | None = None
) -> tuple[np.ndarray, Frame]:
    """The displacement of a transform at voxel centres.

    Args:
        transform: a SimpleITK transform or a file that `read_transform_file` reads.
        frame: where to sample it (any transform); None keeps a displacement field's own lattice, also of
            one with linear maps after it.

    Returns:
        (*frame.shape, d) float64 moving minus fixed point, LPS mm, and the frame. Outside its own
        lattice ITK takes a displacement field as zero.

    Raises:
        InputError: no frame for something else than a displacement field, or of another dimension.
    """
    if not isinstance(transform, sitk.Transform):
        transform = read_transform_file(transform)
    transform = typed(transform)
    parts = field_and_linear(transform)
    if parts is not None:
        vectors, own, linear = parts
        if frame is None or frame.same_lattice(own):
            if linear is not None:
                for window in own.slabs():
                    points = lattice_points(own, window[0])
                    moved = points + vectors[window]
                    vectors[window] = moved @ linear[:-1, :-1].T + linear[:-1, -1] - points
            return vectors, own
    if frame is None:
        raise InputError("The transform is not a displacement field; say on which image grid to sample it.")
    if frame.dimension != transform.GetDimension():
        raise InputError(
            f"A {transform.GetDimension()}-D transform cannot be used with a {frame.dimension}-D image."
        )
    direction = [number for row in frame.direction for number in row]
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, frame.size, frame.origin, frame.spacing, direction
    )
    return np.array(sitk.GetArrayViewFromImage(field)), frame


def _as_array(displacement: np.ndarray | Tensor, shape: tuple[int, ...]) -> np.ndarray:
    field = displacement.detach().cpu().numpy() if isinstance(displacement, Tensor) else displacement
    if field.shape != shape:
        raise InputError("The displacement field and its grid do not have the same size.")
    if not np.isfinite(field).all():
        raise InputError("The displacement field has numbers that are not finite.")
    return field


def _write_itk(transform: sitk.Transform, path: Path) -> None:
    text = path.name.lower().endswith(_TEXT)
    with atomic_path(path) as temporary, quiet_itk():
        if not text:
            # HDF5 has crashed where a file could not be finished.
            check_space(temporary, 8 * transform.GetNumberOfParameters() + _HDF5_OVERHEAD)
        sitk.WriteTransform(transform, itk_name(temporary))
        # ITK's text writer says nothing about a full disk.
        if text and sitk.ReadTransform(itk_name(temporary)).GetParameters() != transform.GetParameters():
            raise RuntimeError("the file does not hold the transform")


def _write_nifti(field: np.ndarray, frame: Frame, path: Path) -> None:
    """NIfTI stores displacements in RAS under intent 1006, and ITK and Slicer turn them back. SimpleITK
    cannot write that intent (its plain vectors, 1007, load wrongly in Slicer), so it is put into the header
    afterwards. Two-dimensional fields stay plain LPS vectors: nothing else can be read back.
    """
    spatial = frame.dimension == 3
    vectors = field.astype(np.float32)
    if spatial:
        vectors[..., :2] *= -1
    image = set_frame(sitk.GetImageFromArray(vectors, isVector=True), frame)
    check_nifti_holds(frame, path)
    with atomic_path(path) as temporary:
        packed = path.name.lower().endswith(".gz")
        plain = temporary.with_suffix("") if packed else temporary
        try:
            write_image(image, plain, compress=False)
            if spatial:
                with plain.open("r+b") as file:
                    file.seek(_INTENT_OFFSET)
                    file.write(struct.pack("=h", _DISPLACEMENT_INTENT))
            if packed:
                _compress(plain, temporary)
        finally:
            if packed:
                plain.unlink(missing_ok=True)


def _compress(source: Path, target: Path) -> None:
    """gzip, with run-length coding only: a third of the time for a field 5 % larger."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    with source.open("rb") as plain, target.open("wb") as packed:
        while chunk := plain.read(1 << 20):
            packed.write(packer.compress(chunk))
        packed.write(packer.flush())
