"""What ITK does not do about broken files: keep quiet, and notice voxels that are missing or no numbers."""

from __future__ import annotations

import errno
import gzip
import math
import os
import re
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

from .detached import check_data_file, check_header
from .errors import InputError, ResourceError

_AT_ONCE = 8  # files that reading one may have open
_quiet = threading.RLock()
_CHUNK = 1 << 20
_FLOATS = {16: "f4", 64: "f8"}  # by NIfTI's data type codes
_PAIR = re.compile(r"(.+)\.(?:hdr|img|HDR|IMG)(?:\.gz)?", re.DOTALL)
_HEADER = 348  # bytes of a NIfTI-1 header; ITK reads no other version
_FARTHEST = 1 << 50  # byte in a file; not to be reached


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
    kept = sink = -1
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        kept = os.dup(descriptor)
    except OSError:  # a program with windows only may have no standard error, another too many files open
        if sink >= 0:
            os.close(sink)
        yield
        return
    try:
        os.dup2(sink, descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(sink)
        os.close(kept)


def itk_name(path: Path) -> str:
    """A path as SimpleITK takes it: text in UTF-8.

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

    HDF5 has crashed on damaged files. Where the system cannot copy processes the answer is True.
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


def check_descriptors(path: Path) -> None:
    """Raise ResourceError where so many files are open that a reader cannot open `path` any more."""
    opened = []
    try:
        for _ in range(_AT_ONCE):
            opened.append(os.open(path, os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise ResourceError(
                f"{path} cannot be opened: this program may not have more files open at a time. Close some, "
                "or raise the limit (ulimit -n)."
            ) from error
    finally:
        for descriptor in opened:
            os.close(descriptor)


def check_file(path: Path) -> None:
    """Raise InputError when `path` is missing, closed to us, empty, not a file, a header whose voxels are not
    there (`detached.check_header`), or NIfTI that is cut short, damaged, or has voxels that are not finite.

    ITK puts zeros in the place of what is missing at the end of a NIfTI file, and of NaN and infinite
    voxels, and says nothing, so its length and its numbers (and the checksum of a compressed one) are
    verified here: about 0.15 s for a 27 MB volume.
    """
    check_header(path)
    files = _nifti_files(path)
    if files is None:
        return
    try:
        expected, held, bad = _nifti_content(*files)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is incomplete or damaged; copy or export it again.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}.") from error
    if held < expected:
        raise InputError(f"{path} is incomplete ({held} of {expected} bytes); copy or export it again.")
    if bad:
        raise InputError(f"{path} has {bad} voxels that are not finite numbers (NaN or infinite).")


def _nifti_files(path: Path) -> tuple[Path, Path] | None:
    """The NIfTI file twice, or the header and the voxels of a pair of files; None for other formats."""
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return path, path
    match = _PAIR.fullmatch(path.name)
    if match is None:
        return None
    header, voxels = (_beside(path, match[1], ends) for ends in (("hdr", "HDR"), ("img", "IMG")))
    if not header.exists():
        raise InputError(f"{path} has no header {header.name} beside it.")
    check_data_file(header, voxels)
    return header, voxels


def _beside(path: Path, base: str, ends: tuple[str, ...]) -> Path:
    """The file of one of these ends, compressed or not, that is there; the first if none is."""
    paths = [path.with_name(f"{base}.{end}{packed}") for end in ends for packed in ("", ".gz")]
    return next((path for path in paths if path.exists()), paths[0])


def _nifti_content(header_file: Path, voxels: Path) -> tuple[int, int, int]:
    """Bytes the header promises of the voxels' file (0 when it is not understood), bytes there are, both
    uncompressed, and the number of voxel values that are not finite."""
    with _opened(header_file) as file:
        promised, offset, dtype = _layout(file.read(_HEADER), header_file == voxels)
    with _opened(voxels) as file:
        if dtype is None and not isinstance(file, gzip.GzipFile):
            return promised, voxels.stat().st_size, 0
        held = bad = 0
        while chunk := file.read(min(_CHUNK, offset - held) if held < offset else _CHUNK):
            # reading to the end verifies the checksum
            if dtype is not None and held >= offset:
                count = max(0, min(len(chunk), promised - held)) // dtype.itemsize
                bad += count - int(np.count_nonzero(np.isfinite(np.frombuffer(chunk, dtype, count))))
            held += len(chunk)
    return promised, held, bad


def _opened(path: Path) -> BinaryIO:
    """A file as it is, or what a compressed one holds."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]


def _layout(header: bytes, single: bool) -> tuple[int, int, np.dtype | None]:
    """Bytes a header promises in all (0 when it is not understood), where the voxels begin, and their
    type where that has values that are not finite. A pair's header can be Analyze's as well."""
    if len(header) < _HEADER:
        return _HEADER, 0, None
    for order in "<>":
        (length,) = struct.unpack_from(f"{order}i", header)
        dims = struct.unpack_from(f"{order}8h", header, 40)
        kind, bits = struct.unpack_from(f"{order}2h", header, 70)
        known = header[344:347] == b"n+1" if single else length == _HEADER
        if known and 1 <= dims[0] <= 7:
            (told,) = struct.unpack_from(f"{order}f", header, 108)
            offset = int(min(told, _FARTHEST)) if told > 0 else 0
            dtype = np.dtype(f"{order}{_FLOATS[kind]}") if kind in _FLOATS else None
            return offset + math.prod(max(1, n) for n in dims[1 : dims[0] + 1]) * bits // 8, offset, dtype
    return 0, 0, None
