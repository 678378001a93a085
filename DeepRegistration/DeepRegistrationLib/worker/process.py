"""The worker's process and its temporary folder, as the parent sees them: started, ended, cleared away."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..folder_lock import abandoned, hold

_MACHINE = hashlib.sha256(platform.node().encode("utf-8", "replace")).hexdigest()[:8]
_PREFIX = f"deepregistration-{_MACHINE}-"
_ENGINE = Path(__file__).resolve().parents[2]
_REMEMBERED = 100
"""Lines of standard error that may tell how the process died: a crash's traceback and what follows it."""
_LAUNCHER_CODE, _LAUNCHER_SAYS = 1, "exit abnormally"
"""Slicer's launcher of programs (`PythonSlicer` is one) turns every crash and kill of its program into this
exit code, and writes this on standard error before."""
_LAST_WORDS = 1.0
"""Seconds that are waited for the rest of standard error once the process has ended."""
_CRASHED = re.compile(r"(?:Fatal Python error|Windows fatal exception): (.+)")
"""What Python's faulthandler, which the worker enables, writes on standard error in a crash."""


def python_executable(executable: str | Path | None = None) -> str:
    """The Python to run the worker with.

    In Slicer ``sys.executable`` can be the application itself, which would open a second Slicer;
    its ``PythonSlicer`` lies next to it or in ``bin`` (of the same folder or the one above). Elsewhere
    it is the Python that runs.

    Args:
        executable: in place of ``sys.executable``.
    """
    path = Path(executable or sys.executable)
    name = "PythonSlicer.exe" if path.suffix.lower() == ".exe" else "PythonSlicer"
    for folder in (path.parent, path.parent / "bin", path.parent.parent / "bin"):
        if (folder / name).is_file():
            return str(folder / name)
    return str(path)


class WorkerProcess:
    """One run of `worker`, in a process group of its own.

    Args:
        python: the interpreter.
        environment: variables besides those of this process.
        temporary: where to make the folder for arrays.
        on_message: called from a thread with each answer.
        on_log: called from a thread with each line the worker wrote for the log.
        on_end: called from a thread once, with a sentence about how it ended, when the process has ended and
            its folder is gone.

    Attributes:
        folder: for the arrays.
        pid: of the process.

    Raises:
        OSError: it could not be started.
    """

    def __init__(
        self,
        python: str,
        environment: Mapping[str, str],
        temporary: Path | None,
        on_message: Callable[[dict[str, Any]], None],
        on_log: Callable[[str], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._on_message, self._on_log, self._on_end = on_message, on_log, on_end
        base = Path(temporary or tempfile.gettempdir())
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        try:
            self._held = hold(self.folder)
        except OSError:
            self.folder.rmdir()
            raise
        variables = {**os.environ, **environment}
        paths = [str(_ENGINE), variables.get("PYTHONPATH", "")]
        variables["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
        variables.setdefault("PYTHONIOENCODING", "utf-8")
        group: dict[str, Any] = (
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
            if sys.platform == "win32"
            else {"start_new_session": True}
        )
        try:
            self._process = subprocess.Popen(
                [python, "-m", "DeepRegistrationLib.worker", str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=_ENGINE,  # which -m looks in first: no file of the user's gets in the way
                env=variables,
                **group,
            )
        except BaseException:
            self._remove_folder()
            raise
        self.pid, self._over = self._process.pid, False
        self._said: deque[str] = deque(maxlen=_REMEMBERED)
        self._sending = threading.Lock()
        self._log = threading.Thread(target=self._read_log, daemon=True)
        self._log.start()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=clear_stale_folders, args=(base,), daemon=True).start()

    def send(self, message: dict[str, Any]) -> None:
        """Send one request; nothing happens when the process is gone (its end is told by `on_end`)."""
        assert self._process.stdin is not None
        with self._sending, suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    @property
    def ended(self) -> bool:
        """Whether the process is dead; asks the system, since the threads here may not have been able to run:
        an application whose event loop holds Python's lock keeps them waiting while it idles."""
        return self._over or self._process.poll() is not None

    def cleared(self) -> bool:
        """Whether the process has ended; then what was put into its folder meanwhile is removed as well."""
        if self._over:
            shutil.rmtree(self.folder, ignore_errors=True)
        return self._over

    def kill(self) -> None:
        """End the process and all it started, at once; does not wait."""
        if self._process.poll() is not None:
            return
        if sys.platform == "win32":
            subprocess.Popen(
                ["taskkill", "/T", "/F", "/PID", str(self.pid)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                creationflags=subprocess.CREATE_NO_WINDOW,
            )
        else:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def stop(self, patience: float = 0.5) -> None:
        """End the process, by the end of its input or by force, and wait until all is cleared away."""
        with suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self.kill()
        if threading.current_thread() is not self._reader:
            self._reader.join(5)
        self._remove_folder()

    def _remove_folder(self) -> None:
        self._held.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with suppress(ValueError, RecursionError):
                    message = json.loads(line)
                    if isinstance(message, dict):
                        self._on_message(message)
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:  # it lives on but says nothing more
            self.kill()
            code = self._process.wait()
        self._log.join(_LAST_WORDS)
        self._over = True
        self._remove_folder()
        with suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._on_end(cause_of_death(code, list(self._said)))

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                text = line.decode("utf-8", "replace").rstrip()
                self._said.append(text)
                self._on_log(text)


def clear_stale_folders(base: Path) -> None:
    """Remove the folders in `base` whose parents, processes of this machine, have ended without a chance to:
    machines may share the place, and need not see each other's locks."""
    with suppress(OSError):
        for path in base.glob(f"{_PREFIX}*"):
            if abandoned(path):
                shutil.rmtree(path, ignore_errors=True)


def cause_of_death(code: int, said: Sequence[str] = ()) -> str:
    """A sentence for a process that ended by itself, with what may help.

    Args:
        code: its exit code.
        said: the last lines that it, and a launcher in front of it, wrote on standard error.
    """
    hint = "Try a coarser preset, a larger output spacing or cropped images."
    crashes = [match[1] for match in map(_CRASHED.search, said) if match]
    launched = code == _LAUNCHER_CODE and any(_LAUNCHER_SAYS in line for line in said)
    windows = sys.platform == "win32"
    if crashes:
        return f"The registration's process crashed ({crashes[-1]}). {hint}"
    if windows and code in (0xC0000005, 0xC0000409, 0xC00000FD):
        return f"The registration's process crashed. {hint}"
    if launched or (not windows and code == -signal.SIGKILL):
        return f"The registration's process was ended from outside, most likely for want of memory. {hint}"
    if code < 0:
        return f"The registration's process crashed ({_signal_name(-code)}). {hint}"
    return f"The registration's process ended unexpectedly (code {code}); the log may say why. {hint}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
