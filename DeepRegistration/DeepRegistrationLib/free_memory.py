"""How much memory there is, without torch: the panel asks, too."""

from __future__ import annotations

import os
from pathlib import Path


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
