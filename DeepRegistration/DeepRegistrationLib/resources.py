"""The machine a run works on: threads, device, memory. What is changed is put back."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .errors import InputError, NotAvailableError, RegistrationError, ResourceError
from .memory import too_large_sentence


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """torch with this many threads for a while; None leaves its setting."""
    before = torch.get_num_threads()
    if count is not None:
        if count < 1:
            raise InputError("The number of threads must be at least one.")
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def surroundings(count: int | None) -> Iterator[None]:
    """What an engine run needs around it, and leaves as it was: threads, random numbers, gradients on."""
    with threads(count), torch.random.fork_rng(devices=[]), torch.enable_grad():
        yield


def device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: another name.
        NotAvailableError: ``cuda`` where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"There is no device '{name}'; choose auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise NotAvailableError("There is no usable CUDA device on this machine; choose the device cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def available_memory() -> int | None:
    """Bytes of memory this process can have without swapping, where the system tells.

    What is free, or less where a limit is set: of the process (``ulimit``), or of the container or batch
    job it runs in (control groups).
    """
    limits = [_free_memory(), _below_process_limit(), *_below_group_limits()]
    return min((limit for limit in limits if limit is not None), default=None)


def _free_memory() -> int | None:
    value = _field("/proc/meminfo", "MemAvailable:")
    if value is not None:
        return value
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _field(path: str, name: str) -> int | None:
    """A line "name: number kB" of one of the system's tables, bytes."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith(name)), None)
    except (OSError, ValueError, IndexError):
        return None


def _below_process_limit() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    left = []
    for limit, used in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):
        most, now = resource.getrlimit(limit)[0], _field("/proc/self/status", used)
        if most != resource.RLIM_INFINITY and now is not None:
            left.append(max(0, most - now))
    return min(left, default=None)


def _below_group_limits() -> list[int]:
    """What is left below the memory limits of this process's control groups, version 2 or 1."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    root, left = Path("/sys/fs/cgroup"), []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        names = ("memory.max", "memory.current", "inactive_file")
        top = root
        if controllers:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = root / "memory"
        folder = top / group.lstrip("/")
        places = [top]  # where a container, which may not see its group's path, finds its own limits
        while top in folder.parents:
            places.append(folder)
            folder = folder.parent
        found = (_below_group_limit(place, names) for place in places)
        left += [limit for limit in found if limit is not None]
    return left


def _below_group_limit(folder: Path, names: tuple[str, str, str]) -> int | None:
    try:
        most, now = ((folder / name).read_text(encoding="ascii").strip() for name in names[:2])
        if not most.isdigit() or int(most) >= 1 << 60:
            return None
        kept = 0  # of files that were read: given up where it is needed
        for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
            if line.split()[0] == names[2]:
                kept = int(line.split()[1])
        return max(0, int(most) - int(now) + kept)
    except (OSError, ValueError, IndexError):
        return None


@contextmanager
def out_of_memory_explained(needed: Callable[[], int]) -> Iterator[None]:
    """Turn running out of memory inside the body into a ResourceError; `needed` estimates the bytes."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RegistrationError) or not is_out_of_memory(error):
            raise
        raise ResourceError(too_large_sentence(needed())) from error


def let_go() -> None:
    """Hand back memory that nothing holds any more but torch keeps for later."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python's, torch's or ITK's says that memory ran out."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "allocate memory" in text
        or "bad_alloc" in text
        or "bad allocation" in text
        or "failed to map segment" in text  # of a library that is loaded late
    )
