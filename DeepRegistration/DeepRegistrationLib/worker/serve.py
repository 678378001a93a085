"""The engine in a process of its own: JSON lines on standard input and output, arrays as .npy files.

    python -m DeepRegistrationLib.worker FOLDER

Requests, one a line:

* ``{"id": 3, "task": "register", "parameters": {...}, "arrays": ["fixed", "moving"]}``: the arrays lie in
  ``FOLDER/job-3/in-fixed.npy`` and so on. Tasks and their parameters: `tasks`.
* ``{"cancel": 3}``: stop job 3.

Answers: ``{"event": "hello", "pid"}`` first, then for a job any number of ``{"event": "progress", "id",
"stage", "fraction", "objective"}`` and one of ``finished`` (``result``, ``arrays``, which lie in
``FOLDER/job-3/out-forward.npy`` and so on), ``failed`` (``sentence``, ``kind``, ``details``) and
``cancelled``. A line that cannot be understood is answered by ``failed`` without an id. Nothing else is ever
written to standard output: what libraries print there goes to standard error.

One job runs at a time. When standard input ends, the parent is gone: the process removes FOLDER and ends.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import re
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from ..allocator import use_large_heap
from ..errors import Cancelled, RegistrationError
from ..progress import CancelToken, Progress
from .arrays import NAME, job_folder
from .failures import KINDS

MEMORY_LIMIT = "DEEPREGISTRATION_MEMORY_LIMIT_MB"
"""Environment variable: the most memory (address space) the worker may take, on systems that can limit it."""

_LONGEST_LINE = 16 << 20
_PROGRESS_INTERVAL = 0.03


class Worker:
    """Takes requests from one stream and answers on another until the first one ends."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO, root: Path) -> None:
        self._requests, self._answers, self._root = requests, answers, root
        self._writing, self._state = threading.Lock(), threading.Lock()
        self._jobs: queue.Queue[dict[str, Any]] = queue.Queue()
        self._running: tuple[int, CancelToken] | None = None
        self._cancelled: int | None = None  # the last job that was to be cancelled before it was there
        self._tasks: Any = None

    def serve(self) -> None:
        """Run jobs for ever; the reading thread ends the process."""
        self._send({"event": "hello", "pid": os.getpid()})
        threading.Thread(target=self._read, daemon=True).start()
        while True:
            self._run(self._jobs.get())

    def _read(self) -> None:
        while line := self._requests.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
                while (rest := self._requests.readline(_LONGEST_LINE)) and not rest.endswith(b"\n"):
                    pass
                self._refuse(None, "The request is too long.")
                continue
            try:
                self._take(line)
            except Exception as error:  # whatever was sent, the worker lives on
                self._refuse(None, "The request could not be understood.", repr(error)[:500])
        shutil.rmtree(self._root, ignore_errors=True)
        os._exit(0)  # at once, also in the middle of a job

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        request = json.loads(line)
        if "cancel" in request:
            with self._state:
                if self._running is not None and self._running[0] == request["cancel"]:
                    self._running[1].cancel()
                else:
                    self._cancelled = request["cancel"]
            return
        number, task = request["id"], request["task"]
        parameters, arrays = request.get("parameters", {}), request.get("arrays", [])
        fine = isinstance(number, int) and isinstance(task, str) and isinstance(parameters, dict)
        if not fine or not all(isinstance(a, str) and re.fullmatch(NAME, a) for a in arrays):
            raise ValueError("id, task, parameters or arrays are not what they should be")
        with self._state:
            if self._running is not None:
                self._refuse(
                    number, "A registration is running already; wait for it or cancel it.", "", "busy"
                )
                return
            self._running = number, CancelToken()
            if number == self._cancelled:
                self._running[1].cancel()
        self._jobs.put(request)

    def _run(self, request: dict[str, Any]) -> None:
        assert self._running is not None
        number, token = self._running
        progress = _Throttled(lambda line: self._send({"event": "progress", "id": number, **line}))
        try:
            if self._tasks is None:
                from .tasks import Tasks

                self._tasks = Tasks()
            folder = job_folder(self._root, number)
            arrays = request.get("arrays", [])
            result, names = self._tasks.run(
                request["task"], request.get("parameters", {}), folder, arrays, progress, token
            )
            answer = {"event": "finished", "result": result, "arrays": names}
        except Cancelled:
            answer = {"event": "cancelled"}
        except BaseException as error:
            answer = _failure(error)
        with self._state:
            self._running = None
        self._send({**answer, "id": number})

    def _refuse(self, number: int | None, sentence: str, details: str = "", kind: str = "request") -> None:
        self._send({"event": "failed", "id": number, "sentence": sentence, "kind": kind, "details": details})

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        try:
            with self._writing:
                self._answers.write(line)
                self._answers.flush()
        except OSError:  # nobody listens any more
            shutil.rmtree(self._root, ignore_errors=True)
            os._exit(0)


class _Throttled:
    """Passes progress on, at most some thirty times a second unless the stage changes."""

    def __init__(self, send: Any) -> None:
        self._send, self._stage, self._last = send, "", 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage == self._stage and now - self._last < _PROGRESS_INTERVAL:
            return
        self._stage, self._last = progress.stage, now
        value = progress.objective
        finite = value is not None and abs(value) < float("inf")
        self._send(
            {"stage": progress.stage, "fraction": progress.fraction, "objective": value if finite else None}
        )


def _failure(error: BaseException) -> dict[str, Any]:
    """What is said about an exception: a sentence for the user, the rest for the log."""
    details = "".join(traceback.format_exception(error))
    sentence, kind = str(error), getattr(error, "kind", None) or _kind(error)
    if kind == "memory":
        sentence, kind = OUT_OF_MEMORY, "resource"
    elif kind == "internal":
        sentence = "The registration stopped because of an error in the program; the log has the details."
    return {"event": "failed", "sentence": sentence, "kind": kind, "details": details}


OUT_OF_MEMORY = (
    "There is not enough memory for this registration. Use a coarser preset, a larger output spacing, "
    "or cropped or coarser images."
)


def _kind(error: BaseException) -> str:
    if isinstance(error, RegistrationError):
        return next((name for kind, name in KINDS.items() if isinstance(error, kind)), "internal")
    if isinstance(error, MemoryError):
        return "memory"
    if "torch" in sys.modules:
        from ..resources import is_out_of_memory

        return "memory" if is_out_of_memory(error) else "internal"
    return "internal"


def _limit_memory() -> None:
    """Keep to the address space that `MEMORY_LIMIT` grants, where the system can see to it."""
    limit = os.environ.get(MEMORY_LIMIT)
    if not limit or sys.platform == "win32":
        return
    import resource

    size = int(float(limit) * (1 << 20))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def main() -> int:
    """Serve the parent's requests."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        print("This is DeepRegistration's worker process; it is started by the program.", file=sys.stderr)
        return 2
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # libraries may neither read the requests nor write among the answers
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    faulthandler.enable()
    _limit_memory()
    use_large_heap()
    Worker(requests, answers, Path(sys.argv[1]).resolve()).serve()
    return 0
