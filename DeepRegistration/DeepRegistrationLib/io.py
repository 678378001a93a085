"""Images, label maps and masks: files and SimpleITK images <-> `Volume`.

World coordinates are LPS mm throughout, as SimpleITK has them, whatever the file stores.
Landmarks are in landmarks.py, transforms in transform_files.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from .atomic import atomic_path
from .dicom_folder import dicom_series, read_series
from .dicom_frames import check_frames, frame_count
from .errors import InputError, OutputError, ResourceError
from .file_checks import check_descriptors, check_file, itk_name, quiet_itk
from .foreign_files import foreign_kind
from .frame import Frame, Volume
from .geometry_checks import SHEARED, any_sform, check_nifti_holds, mended_frame, millimetres

Source = str | Path | sitk.Image

IMAGE_EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha")
_LENGTHS = 0.05  # of directions, that may be missing from one or be beyond
_ROUNDING = 1e-3  # how far a stored label may be from a whole number
_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)


def read_volume(source: Source, device: torch.device | str = "cpu") -> Volume:
    """Read a grey-value image, 2-D or 3-D.

    Args:
        source: a NIfTI, NRRD, MetaImage or single DICOM file (or whatever else ITK reads), a folder
            with a DICOM series, or a SimpleITK image.
        device: where the tensor is to live.

    Returns:
        Volume of float32 data (1, *frame.shape); a 3-D image with one slice stays 3-D.

    Raises:
        InputError: missing, damaged or incomplete file; not an image; 4-D, colour, vector or complex
            voxels; NaN or infinite voxels; a folder without exactly one usable series.
        ResourceError: the image does not fit into memory.
    """
    image, name = _load(source, None)
    return Volume(_float_data(image, name).to(device), _frame(image, name))


def read_frame(source: Source) -> Frame:
    """The lattice of a grey-value image; a file's voxels are verified, but not kept.

    Raises:
        InputError: as `read_volume`, but for voxels that only reading them all shows.
    """
    if isinstance(source, sitk.Image) or os.path.isdir(source):
        image, name = _load(source, None)
        return _frame(image, name)
    path = Path(source)
    check_file(path)
    reader, mended = _reading(path, lambda reader: _check_kind(reader, str(path), None) or reader)
    if reader.GetDimension() == 4:
        return read_volume(path).frame
    return mended or _scaled(_frame(reader, str(path)), millimetres(path))


def read_labels(source: Source, component: int | None = None) -> Volume:
    """Read a label map; labels are kept exactly.

    Args:
        source: as for `read_volume`; a float image is accepted when all its values are whole numbers but for
            the rounding of a scale factor.
        component: which frame of a 4-D image, or which layer of a multi-component one, to take.

    Returns:
        Volume of int32 data (1, *frame.shape), int64 where the labels need it.

    Raises:
        InputError: as `read_volume`, or when a value is not a whole number of at most 64 bits.
    """
    image, name = _load(source, component)
    array = sitk.GetArrayViewFromImage(image)
    if array.dtype.kind == "f":
        _refuse_non_finite(array, name)
        whole = np.rint(array)
        if np.abs(array - whole).max() > _ROUNDING:
            raise InputError(f"{name} is not a label map: some of its values are not whole numbers.")
        array = whole
    lowest, highest = int(array.min()), int(array.max())
    for dtype in (np.int32, np.int64):
        if np.iinfo(dtype).min <= lowest and highest <= np.iinfo(dtype).max:
            return Volume(torch.from_numpy(array.astype(dtype))[None], _frame(image, name))
    raise InputError(f"{name} is not a label map: its values are too large for labels.")


def read_mask(source: Source, component: int | None = None) -> Volume:
    """Read a mask: bool data (1, *frame.shape), true where the voxel is not zero.

    Raises:
        InputError: as `read_volume`, or when the mask selects nothing.
    """
    image, name = _load(source, component)
    array = sitk.GetArrayViewFromImage(image)
    if array.dtype.kind == "f":
        _refuse_non_finite(array, name)
    mask = array != 0
    if not mask.any():
        raise InputError(f"{name} is an empty mask: it selects no voxel.")
    return Volume(torch.from_numpy(mask)[None], _frame(image, name))


def check_contrast(volume: Volume, role: str) -> None:
    """Raise InputError when every voxel has one value; `role` ("fixed", "moving") names the image."""
    if bool((volume.data == volume.data.flatten()[0]).all()):
        raise InputError(f"The {role} image has the same value everywhere, so there is nothing to align.")


def frame_from_sitk(image: sitk.Image | sitk.ImageFileReader) -> Frame:
    """The lattice of a SimpleITK image; raises InputError when its geometry is not usable."""
    d = image.GetDimension()
    spacing = np.asarray(image.GetSpacing())  # of a DICOM reader less than 0 where frames run backwards
    direction = np.asarray(image.GetDirection()).reshape(d, d) * np.where(spacing < 0, -1, 1)
    lengths = np.linalg.norm(direction, axis=0)
    held = not np.allclose(lengths, 1, atol=1e-3) and np.allclose(lengths, spacing, rtol=1e-3)
    if held or np.abs(lengths - 1).max() > _LENGTHS:
        raise InputError(
            "The columns of the image's direction matrix do not have the length 1, but "
            f"{', '.join(f'{length:.3g}' for length in lengths)}: does it hold the spacing, too?"
        )
    return Frame(
        image.GetSize(),
        tuple(np.abs(spacing).tolist()),
        image.GetOrigin(),
        tuple(map(tuple, direction.tolist())),
    )


def set_frame(image: sitk.Image, frame: Frame) -> sitk.Image:
    """Give a SimpleITK image of the same size the frame's spacing, origin and direction; returns it."""
    image.SetSpacing(frame.spacing)
    image.SetOrigin(frame.origin)
    image.SetDirection([number for row in frame.direction for number in row])
    return image


def volume_from_sitk(image: sitk.Image, device: torch.device | str = "cpu") -> Volume:
    """A float32 copy of a SimpleITK image; errors as `read_volume`."""
    return read_volume(image, device)


def volume_to_sitk(volume: Volume, dtype: np.dtype | type | None = None) -> sitk.Image:
    """A SimpleITK copy of a volume; several channels become vector voxels.

    Args:
        volume: data (C, *S) of any type and device; bool becomes 8-bit, half precision float32.
        dtype: numpy type of the voxels; by default that of the data. Numbers are rounded for integers.
    """
    data = volume.data.detach().cpu()
    if data.dtype in (torch.float16, torch.bfloat16):
        data = data.float()
    array = data.numpy()
    if dtype is not None and np.dtype(dtype).kind in "iu" and array.dtype.kind == "f":
        array = np.rint(array)
    array = array.astype(dtype or (np.uint8 if array.dtype == bool else array.dtype), copy=False)
    if volume.channels == 1:
        image = sitk.GetImageFromArray(array[0])
    else:
        image = sitk.GetImageFromArray(np.ascontiguousarray(np.moveaxis(array, 0, -1)), isVector=True)
    return set_frame(image, volume.frame)


def write_volume(volume: Volume | sitk.Image, path: str | Path, labels: bool = False) -> None:
    """Write an image as .nii.gz, .nii, .nrrd or .mha, whole or not at all.

    Args:
        volume: what to write.
        path: where; an existing file is replaced.
        labels: store the smallest integer type that holds the values of a `Volume`.

    Raises:
        OutputError: another extension, a sheared geometry for NIfTI, a missing or closed folder, a full disk.
    """
    path = Path(path)
    if not path.name.lower().endswith(IMAGE_EXTENSIONS):
        raise OutputError(f"{path} could not be written: images are saved as {', '.join(IMAGE_EXTENSIONS)}.")
    if isinstance(volume, Volume):
        volume = volume_to_sitk(volume, _label_type(volume) if labels else None)
    check_nifti_holds(frame_from_sitk(volume), path)
    with atomic_path(path) as temporary:
        write_image(volume, temporary, compress=True)


def write_image(image: sitk.Image, path: Path, compress: bool) -> None:
    """Write through ITK inside an `atomic_path`; raises RuntimeError unless the whole file is there."""
    writer = sitk.ImageFileWriter()
    writer.SetFileName(itk_name(path))
    writer.SetUseCompression(compress)
    # Level 1 takes half the time of the default for NRRD and MetaImage; NIfTI has no levels.
    writer.SetCompressionLevel(1)
    with quiet_itk():
        writer.Execute(image)
    try:
        check_file(path)
    except InputError as error:  # ITK's NIfTI writer says nothing about a full disk
        raise RuntimeError(str(error)) from error


def _label_type(volume: Volume) -> type:
    lowest, highest = int(volume.data.min()), int(volume.data.max())
    for dtype in (np.uint8, np.int16, np.int32):
        if np.iinfo(dtype).min <= lowest and highest <= np.iinfo(dtype).max:
            return dtype
    return np.int64


def _load(source: Source, component: int | None) -> tuple[sitk.Image, str]:
    """A scalar 2-D or 3-D image and the name to call it by in messages."""
    if isinstance(source, sitk.Image):
        return _single(source, "The image", component), "The image"
    path = Path(source)
    if os.path.isdir(path):  # which takes names of any length
        files = dicom_series(path)
        image = read_series(files, path) if len(files) > 1 else _read_file(Path(files[0]), component)
    else:
        check_file(path)
        image = _read_file(path, component)
    return _single(image, str(path), component), str(path)


def _read_file(path: Path, component: int | None) -> sitk.Image:
    def read(reader: sitk.ImageFileReader) -> sitk.Image:
        # Refuse before the voxels are loaded: a 4-D file can be larger than the memory.
        _check_kind(reader, str(path), component)
        return reader.Execute()

    image, mended = _reading(path, read)
    if mended is not None:
        return set_frame(image, mended)
    unit = millimetres(path)
    if unit != 1:
        image.SetSpacing([unit * s for s in image.GetSpacing()])
        image.SetOrigin([unit * o for o in image.GetOrigin()])
    return image


def _reading(path: Path, act: Callable[[sitk.ImageFileReader], Any]) -> tuple[Any, Frame | None]:
    """What `act` makes of a reader that has read a file's header, and the frame to use in place of the
    reader's, if there is one."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_name(path))
    with _explained(path), quiet_itk():
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            if SHEARED not in str(error):
                raise
            with any_sform():
                reader.ReadImageInformation()
                mended = mended_frame(reader, path)
                return act(reader), mended
        if frame_count(reader) > 1:
            check_frames(_frame(reader, str(path)), path)
        return act(reader), None


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What ITK says of a file it cannot read, in a sentence."""
    try:
        yield
    except (RuntimeError, UnicodeDecodeError) as error:  # the latter where ITK quotes the file's bytes
        if "allocate memory" in str(error):
            raise ResourceError(f"{path} is too large for this machine's memory.") from error
        check_descriptors(path)
        known = foreign_kind(path, "image")
        if known is not None:
            raise InputError(known) from error
        raise InputError(
            f"{path} is not an image that can be read, or it is damaged or incomplete."
        ) from error


def _single(image: sitk.Image, name: str, component: int | None) -> sitk.Image:
    _check_kind(image, name, component)
    if image.GetDimension() == 4:
        return image[:, :, :, component or 0]
    if image.GetNumberOfComponentsPerPixel() > 1:
        return sitk.VectorIndexSelectionCast(image, component or 0)
    return image


def _check_kind(image: sitk.Image | sitk.ImageFileReader, name: str, component: int | None) -> None:
    reader = isinstance(image, sitk.ImageFileReader)
    size, kind = image.GetSize(), image.GetPixelID()
    channels = image.GetNumberOfComponents() if reader else image.GetNumberOfComponentsPerPixel()
    if len(size) > 4:
        raise InputError(f"{name} has {len(size)} dimensions; a 2-D or 3-D image is needed.")
    if 0 in size:
        raise InputError(f"{name} is empty: it has no voxels.")
    if kind in _COMPLEX:
        raise InputError(f"{name} has complex numbers for voxels; save its magnitude as an image first.")
    layers = size[3] if len(size) == 4 else channels
    if len(size) == 4 and channels > 1:
        raise InputError(
            f"{name} is a 4-D image with {channels} values in each voxel; a 3-D image is needed."
        )
    if component is None:
        if layers == 1:
            return
        found = (
            f"a 4-D image of {layers} volumes"
            if len(size) == 4
            else f"a colour or vector image of {layers} values"
        )
        raise InputError(f"{name} is {found}; one value in each voxel of a 2-D or 3-D image is needed.")
    if not 0 <= component < layers:
        raise InputError(
            f"{name} has {layers} components (0 to {layers - 1}); there is no number {component}."
        )


def _float_data(image: sitk.Image, name: str) -> torch.Tensor:
    with np.errstate(over="ignore"):  # what float32 cannot hold is found as infinite below
        array = np.array(sitk.GetArrayViewFromImage(image), dtype=np.float32)
    _refuse_non_finite(array, name)
    return torch.from_numpy(array)[None]


def _refuse_non_finite(array: np.ndarray, name: str) -> None:
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        raise InputError(f"{name} has {bad} voxels that are not finite numbers (NaN or infinite).")


def _frame(image: sitk.Image | sitk.ImageFileReader, name: str) -> Frame:
    try:
        return frame_from_sitk(image)
    except InputError as error:
        raise InputError(f"{name} cannot be used. {error}") from error


def _scaled(frame: Frame, factor: float) -> Frame:
    spacing, origin = (tuple(factor * n for n in numbers) for numbers in (frame.spacing, frame.origin))
    return frame if factor == 1 else Frame(frame.size, spacing, origin, frame.direction)
