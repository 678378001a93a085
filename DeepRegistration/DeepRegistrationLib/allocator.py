"""glibc's memory allocator, told to keep large blocks for a process of our own."""

from __future__ import annotations

import ctypes
import os
import sys

SWITCH = "DEEPREGISTRATION_ALLOCATOR"
"""Environment variable; ``system`` leaves the allocator alone."""

# names of mallopt's parameters in malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_LARGEST = 2**31 - 1
_PAD = 256 << 20


def use_large_heap() -> bool:
    """Keep freed memory in the heap instead of handing every large array back to the system.

    By default glibc maps each large array anew and the kernel clears its pages one fault at a time,
    which takes longer than most of what is done with them. This setting is the whole process's: only
    programs of our own call it, first thing, never the library.

    Returns:
        Whether anything was set: False without glibc, or where the user's environment says otherwise.
    """
    if not sys.platform.startswith("linux") or os.environ.get(SWITCH) == "system":
        return False
    return _set((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST), (_TOP_PAD, _PAD))


def map_large_blocks() -> bool:
    """Hand arrays of 32 MB and more back to the system when they are freed, for images so large that the
    holes they leave in a heap would matter more than time. The whole process's, as `use_large_heap`.

    Returns:
        Whether anything was set.
    """
    if not sys.platform.startswith("linux"):
        return False
    return _set((_MMAP_THRESHOLD, 32 << 20), (_MMAP_MAX, 1 << 16))


def _set(*settings: tuple[int, int]) -> bool:
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return all(library.mallopt(name, value) == 1 for name, value in settings)
