"""Saves one result again and again where it cannot be: python full_disk.py FIXED MOVING FOLDER [mount].

Prints how many failures of each kind ended in one sentence and left everything as it was.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from DeepRegistrationLib import register
from DeepRegistrationLib.errors import OutputError
from DeepRegistrationLib.registration import Registration

CODES = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)
CALLS: dict[str, Callable[..., Any]] = {"replace": os.replace, "mkdir": os.mkdir, "open": io.open}
SHARES = (0.02, 0.3, 0.6, 0.9)


def look(folder: Path) -> dict[str, bytes] | None:
    """What is in a folder, hidden files included; None where there is none."""
    if not folder.exists():
        return None
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def sentence(result: Registration, folder: Path) -> str | None:
    """What saving says, None where it succeeds."""
    try:
        result.save(folder)
    except OutputError as error:
        return str(error)
    return None


def check(said: str | None, folder: Path, before: dict[str, bytes] | None, case: object) -> None:
    assert said is not None and "\n" not in said.replace(str(folder), ""), (case, said)
    assert str(folder) in said and "/." not in said.replace(str(folder), ""), (case, said)
    assert look(folder) == before, (case, sorted(look(folder) or ()))


def limited(result: Registration, out: Path) -> int:
    """Files may not grow beyond a limit: each in turn is the one that fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    result.save(out / "whole")
    sizes = [len(content) for content in (look(out / "whole") or {}).values()]
    older = out / "older"
    older.mkdir()
    for name in ("forward.h5", "warped.nii.gz", "note.txt"):
        (older / name).write_text("older")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    count = 0
    for limit in sorted({0, 1, 100, 352, *(size - 1 for size in sizes), *(size // 2 for size in sizes)}):
        for folder in (older, out / "new"):
            before = look(folder)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            said = sentence(result, folder)
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            check(said, folder, before, limit)
            count += 1
    return count


def injected(result: Registration, out: Path) -> int:
    """The first, second, ... call of each kind fails, for each reason, in a folder that is not there yet."""
    count = 0
    for name in CALLS:
        for after in range(1, 9):
            for code in CODES:
                folder = out / f"case {name} {after} {code}"
                put(name, failing(name, folder, after, code))
                try:
                    said = sentence(result, folder)
                finally:
                    put(name, CALLS[name])
                if said is None:
                    continue
                check(said, folder, None, (name, after, code))
                count += 1
    return count


def failing(name: str, folder: Path, after: int, code: int) -> Callable[..., Any]:
    seen = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal seen
        mode = str(arguments[1] if len(arguments) > 1 else options.get("mode", "r"))
        if str(folder) in str(arguments[0]) and (name != "open" or set("wax+") & set(mode)):
            seen += 1
            if seen == after:
                raise OSError(code, os.strerror(code))
        return CALLS[name](*arguments, **options)

    return call


def put(name: str, call: Callable[..., Any]) -> None:
    setattr(io if name == "open" else os, name, call)
    if name == "open":
        builtins.open = call


def mounted(result: Registration, out: Path) -> int:
    """Disks that are really too small."""
    disk = out / "disk"
    disk.mkdir()
    result.save(out / "whole")
    needed = sum(len(content) for content in (look(out / "whole") or {}).values())
    for size in (max(4, int(share * needed / 1024)) for share in SHARES):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(disk)], check=True)
        said = sentence(result, disk / "new")
        assert said is not None and "the disk is full" in said, (size, needed, said)
        assert list(disk.iterdir()) == [], list(disk.rglob("*"))
        subprocess.run(["umount", str(disk)], check=True)
    return len(SHARES)


def main() -> None:
    fixed, moving, folder = map(Path, sys.argv[1:4])
    result = register(fixed, moving, preset="fast", linear="none", device="cpu", threads=1, features=True)
    found = {}
    for kind in (limited, injected, *([mounted] if "mount" in sys.argv else [])):
        out = folder / kind.__name__
        out.mkdir(parents=True)
        found[kind.__name__] = kind(result, out)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
