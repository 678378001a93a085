"""What ITK does not do about broken files: keep quiet, and notice voxels that are missing or no numbers."""

from __future__ import annotations

import gzip
import math
import os
import signal
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from .errors import InputError

_quiet = threading.RLock()
_CHUNK = 1 << 20
_FLOATS = {16: "f4", 64: "f8"}  # by NIfTI's data type codes
_NRRD_FIELD, _NRRD_TEXT, _NRRD_LINES = 400, 1 << 20, 100_000
_HEADER = 348  # bytes of a NIfTI-1 header; ITK reads no other version


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Hold back what ITK and the libraries in it print on standard error, for the time of one call.

    ITK's own warnings have a switch; HDF5, MetaIO and the NIfTI library write to the descriptor
    itself, so it is pointed at nothing meanwhile. Both are put back at exit. A lock keeps threads apart.
    """
    with _quiet:
        shown = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            with _muted_descriptor(2):
                yield
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(shown)


@contextmanager
def _muted_descriptor(descriptor: int) -> Iterator[None]:
    try:
        kept = os.dup(descriptor)
    except OSError:  # a program with windows only may have no standard error
        kept = -1
    if kept < 0:
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(sink)
        os.close(kept)


def itk_name(path: Path) -> str:
    """A path as ITK takes it, whose text has to be UTF-8: with other names it ends the program.

    Raises:
        InputError: a name that is not text.
    """
    if os.name == "nt":
        return str(path)
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError as error:
        shown = os.fsencode(path).decode("utf-8", "replace")
        raise InputError(f"The name {shown} is not text that every program can read; rename it.") from error


def survives(read: Callable[[], object], seconds: float) -> bool:
    """Whether a copy of this process lives through `read` in that time; what it raises does not count.

    HDF5 crashes, or never ends, on some files that are damaged where they describe themselves. Where the
    system cannot copy processes the answer is True.
    """
    if not hasattr(os, "fork"):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the copy calls ITK, and no thread
            pid = os.fork()
    except OSError:
        return True
    if pid == 0:
        try:
            read()
        finally:
            os._exit(0)
    ended, until = 0, time.monotonic() + seconds
    try:
        while not ended and time.monotonic() < until:
            time.sleep(0.002)
            ended, status = os.waitpid(pid, os.WNOHANG)
        return bool(ended) and not os.WIFSIGNALED(status)
    finally:  # also when somebody interrupts
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def check_file(path: Path) -> None:
    """Raise InputError when `path` is missing, closed to us, empty, or a NIfTI file that is cut short,
    damaged, or has voxels that are not finite numbers.

    ITK puts zeros in the place of what is missing at the end of a NIfTI file, and of NaN and infinite
    voxels, and says nothing, so its length and its numbers (and the checksum of a compressed one) are
    verified here: about 0.15 s for a 27 MB volume.
    """
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist.")
        with path.open("rb") as file:
            start = file.read(4)
            if start == b"NRRD" and not _sound_nrrd_header(file):
                raise InputError(f"{path} is damaged: its header is not one of an image.")
        if not start:
            raise InputError(f"{path} is an empty file.")
        if path.name.lower().endswith((".nii", ".nii.gz")):
            expected, held, bad = _nifti_content(path, compressed=start[:2] == b"\x1f\x8b")
            if held < expected:
                raise InputError(
                    f"{path} is incomplete ({held} of {expected} bytes); copy or export it again."
                )
            if bad:
                raise InputError(f"{path} has {bad} voxels that are not finite numbers (NaN or infinite).")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is incomplete or damaged; copy or export it again.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}.") from error


def _sound_nrrd_header(file: BinaryIO) -> bool:
    """Whether the lines of a NRRD header are as short as they ever are: ITK's reader crashes the program on
    long ones. Comments and key/value pairs, which hold text of any length, it reads well."""
    for _ in range(_NRRD_LINES):
        line = file.readline(_NRRD_TEXT)
        if not line.strip():
            return True
        if len(line) >= _NRRD_TEXT or (len(line) > _NRRD_FIELD and b":=" not in line and line[:1] != b"#"):
            return False
    return False


def _nifti_content(path: Path, compressed: bool) -> tuple[int, int, int]:
    """Bytes the header promises (0 when it is not understood), bytes there are, both uncompressed, and
    the number of voxel values that are not finite."""
    with gzip.open(path, "rb") if compressed else path.open("rb") as file:
        header = file.read(_HEADER)
        promised, offset, dtype = _layout(header)
        if not compressed and dtype is None:
            return promised, path.stat().st_size, 0
        held, bad = len(header) + len(file.read(max(0, offset - len(header)))), 0
        while chunk := file.read(_CHUNK):  # reading to the end verifies the checksum
            if dtype is not None:
                count = max(0, min(len(chunk), promised - held)) // dtype.itemsize
                bad += count - int(np.count_nonzero(np.isfinite(np.frombuffer(chunk, dtype, count))))
            held += len(chunk)
    return promised, held, bad


def _layout(header: bytes) -> tuple[int, int, np.dtype | None]:
    """Bytes a header promises in all (0 when it is not understood), where the voxels begin, and their
    type where that has values that are not finite."""
    if len(header) < _HEADER:
        return _HEADER, 0, None
    for order in "<>":
        dims = struct.unpack_from(f"{order}8h", header, 40)
        kind, bits = struct.unpack_from(f"{order}2h", header, 70)
        if header[344:347] == b"n+1" and 1 <= dims[0] <= 7:
            offset = int(struct.unpack_from(f"{order}f", header, 108)[0])
            dtype = np.dtype(f"{order}{_FLOATS[kind]}") if kind in _FLOATS else None
            return offset + math.prod(max(1, n) for n in dims[1 : dims[0] + 1]) * bits // 8, offset, dtype
    return 0, 0, None
