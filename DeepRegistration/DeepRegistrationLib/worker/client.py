"""The parent's side of the worker process: hand over a job, ask how it goes, stop it.

Standard library and numpy only. Nothing here waits: arrays are written and read by threads, and `poll` hands
out what has happened since the last time. So a panel can call everything from its GUI thread.

    client = WorkerClient()
    client.submit("register", parameters, {"fixed": a, "moving": b})
    while client.state == "running" or events:
        for event in client.poll(): ...

Tasks, parameters and results: see `tasks`.
"""

from __future__ import annotations

import atexit
import queue
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RegistrationError
from .arrays import job_folder, load_array, save_array
from .process import WorkerProcess, python_executable

_PATIENCE = 0.7
"""Seconds a job has to stop by itself after `cancel`; then its process is ended."""

_SMOOTHING = 0.2
"""Weight of the newest estimate of the time left."""


class WorkerBusyError(RegistrationError):
    """A job is running already."""


@dataclass(frozen=True)
class Job:
    """A job that was handed over."""

    number: int
    task: str


@dataclass(frozen=True)
class Progress:
    """Where the job stands: `fraction` 0 to 1; seconds_left is None as long as nobody can tell."""

    stage: str
    fraction: float
    objective: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class LogLine:
    """A line for the log."""

    text: str


@dataclass(frozen=True, eq=False)
class Finished:
    """The job is done; its arrays are as `submit`'s `convert` made them."""

    result: dict[str, Any]
    arrays: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """The job is over without a result.

    Attributes:
        sentence: for the user.
        kind: ``input``, ``not-available``, ``resource``, ``output``, ``no-torch``, ``unknown-session``,
            ``request``, ``internal``; ``died`` when the process ended, ``not-started`` when it never began.
        details: for the log.
    """

    sentence: str
    kind: str
    details: str = ""


@dataclass(frozen=True)
class Cancelled:
    """The job was cancelled."""


Event = Progress | LogLine | Finished | Failed | Cancelled


Convert = Callable[[np.ndarray, str], Any]
"""What becomes of an array of a result, given its name."""


class WorkerClient:
    """Runs one job at a time in a worker process, which is started when needed and stays for the next job.

    Args:
        python: the interpreter; by default `python_executable()`.
        environment: variables for the worker besides this process's own.
        temporary: folder for arrays; by default the system's. What is put there is removed again: after each
            job, when the worker dies, at `stop`, at the interpreter's exit, and at the next start if this
            process is killed.

    Attributes:
        state: ``off``, ``idle`` or ``running``.
    """

    def __init__(
        self,
        python: str | None = None,
        environment: Mapping[str, str] | None = None,
        temporary: Path | None = None,
    ) -> None:
        self._python = python or python_executable()
        self._environment, self._temporary = dict(environment or {}), temporary
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._process: WorkerProcess | None = None
        self._job: Job | None = None
        self._count = 0
        self._cancelled = False
        self._left = TimeLeft()
        self._convert: Convert | None = None
        _CLIENTS.add(self)

    @property
    def state(self) -> str:
        if self._job is not None:
            return "running"
        return "off" if self._living() is None else "idle"

    @property
    def pid(self) -> int | None:
        """Of the worker process, where there is one."""
        process = self._living()
        return None if process is None else process.pid

    def start(self) -> None:
        """Start the worker process unless it runs; does not wait for it. A dead one is replaced.

        Raises:
            OSError: it could not be started.
        """
        with self._lock:
            if self._living() is not None:
                return
            if self._process is not None:  # dead, and its threads have not told it yet
                self._events.put(LogLine("The process had ended while idle; another is started."))
                shutil.rmtree(self._process.folder, ignore_errors=True)
            token = object()  # tells this process's messages from those of one that was replaced
            self._token = token
            self._process = WorkerProcess(
                self._python,
                self._environment,
                self._temporary,
                lambda message: self._receive(token, message),
                lambda line: self._events.put(LogLine(line)),
                lambda sentence: self._ended(token, sentence),
            )

    def submit(
        self,
        task: str,
        parameters: dict[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
        convert: Convert | None = None,
    ) -> Job:
        """Hand over a job. What becomes of it, `poll` tells, also when the worker cannot be started.

        The arrays are written by a thread, straight from where they lie: the caller leaves them unchanged
        until the first `Progress` (a view of an image that is edited meanwhile would be sent half edited).

        Args:
            task, parameters, arrays: see `tasks`.
            convert: applied to each array of the result by the thread that reads it, so that whoever polls
                need not spend the time.

        Raises:
            WorkerBusyError: a job is running.
        """
        with self._lock:
            if self._job is not None:
                raise WorkerBusyError("A registration is running already; wait for it or cancel it.")
            self._count += 1
            job = Job(self._count, task)
            try:
                self.start()
            except OSError as error:
                self._events.put(Failed(f"The worker could not be started: {error}.", "not-started"))
                return job
            self._job, self._cancelled, self._left = job, False, TimeLeft()
            self._convert = convert
            arguments = (self._process, job, parameters, dict(arrays or {}))
            threading.Thread(target=self._hand_over, args=arguments, daemon=True).start()
            return job

    def poll(self) -> list[Event]:
        """What has happened since the last call, in order; never waits."""
        events = []
        with suppress(queue.Empty):
            while True:
                events.append(self._events.get_nowait())
        return events

    def cancel(self) -> None:
        """Stop the running job: it is asked to, and after 0.7 s its whole process tree is ended."""
        with self._lock:
            job, process = self._job, self._process
            if job is None or process is None or self._cancelled:
                return
            self._cancelled = True
        threading.Thread(target=process.send, args=({"cancel": job.number},), daemon=True).start()
        timer = threading.Timer(_PATIENCE, self._end_if_still_running, (process, job))
        timer.daemon = True
        timer.start()

    def stop(self) -> None:
        """End the worker and remove every temporary file; a running job is cancelled.

        Waits until that is done: about as long as a process takes to end.
        """
        with self._lock:
            process, self._process = self._process, None
            self._token = object()
            if self._job is not None:
                self._over(Cancelled())
        if process is not None:
            process.stop()

    def _hand_over(
        self, process: WorkerProcess, job: Job, parameters: dict[str, Any], arrays: dict[str, np.ndarray]
    ) -> None:
        folder = job_folder(process.folder, job.number)
        try:
            folder.mkdir()
            for name, array in arrays.items():
                if self._cancelled:
                    raise InterruptedError
                save_array(folder, "in", name, np.asarray(array))
            if self._cancelled:
                raise InterruptedError
            request = {
                "id": job.number,
                "task": job.task,
                "parameters": parameters,
                "arrays": list(arrays),
            }
            process.send(request)
            process.cleared()
        except InterruptedError:
            self._finish(process, job, Cancelled())
            process.cleared()
        except Exception as error:
            if process.cleared():  # the folder went with the worker, whose end is told
                return
            event = Failed("The registration could not be handed over.", "request", repr(error))
            if isinstance(error, RegistrationError):
                event = Failed(str(error), "output")
            self._finish(process, job, event)

    def _receive(self, token: object, message: dict[str, Any]) -> None:
        """An answer of the worker, in the thread that reads them."""
        job, process = self._job, self._process
        if token is not self._token or job is None or process is None:
            return
        if message.get("id") not in (job.number, None):
            return
        try:
            self._take(process, job, message)
        except Exception as error:  # which would end the thread, and nobody would hear of the job again
            sentence = "What the registration's process answered could not be understood."
            self._finish(process, job, Failed(sentence, "internal", repr(error)))
            process.kill()

    def _take(self, process: WorkerProcess, job: Job, message: dict[str, Any]) -> None:
        kind = message.get("event")
        if kind == "progress":
            fraction = float(message["fraction"])
            left = self._left(fraction)
            self._events.put(Progress(message["stage"], fraction, message.get("objective"), left))
        elif kind == "cancelled" or (kind in ("finished", "failed") and self._cancelled):
            self._finish(process, job, Cancelled())
        elif kind == "failed":
            event = Failed(message["sentence"], message["kind"], message.get("details", ""))
            self._finish(process, job, event)
        elif kind == "finished":
            folder = job_folder(process.folder, job.number)
            event = _finished(message, folder, self._convert)
            self._finish(process, job, event)

    def _finish(self, process: WorkerProcess, job: Job, event: Event) -> None:
        shutil.rmtree(job_folder(process.folder, job.number), ignore_errors=True)
        with self._lock:
            if self._job is job:
                self._over(Cancelled() if self._cancelled else event)

    def _over(self, event: Event) -> None:
        """The job ends with this event; called under the lock, once per job."""
        self._events.put(event)
        self._job = None

    def _living(self) -> WorkerProcess | None:
        """The process, unless it is dead already, which its threads may not have had the time to tell."""
        process = self._process
        return None if process is None or process.ended else process

    def _ended(self, token: object, sentence: str) -> None:
        """The process is gone, and its folder."""
        with self._lock:
            if token is not self._token:
                return
            self._process = None
            if self._job is not None:
                self._over(Cancelled() if self._cancelled else Failed(sentence, "died"))

    def _end_if_still_running(self, process: WorkerProcess, job: Job) -> None:
        with self._lock:
            running = self._job is job
        if running:
            process.kill()


class TimeLeft:
    """Seconds a job still needs, from how its fraction has grown; smoothed."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        self._end: float | None = None

    def __call__(self, fraction: float, now: float | None = None) -> float | None:
        """Take note of a fraction, seen at `now` (seconds); None while there is nothing to go by."""
        now = time.monotonic() if now is None else now
        if self._first is None:
            self._first = now, fraction
        start, begin = self._first
        if fraction - begin < 0.02 or now <= start:
            return None
        end = now + (now - start) * max(0.0, 1 - fraction) / (fraction - begin)
        self._end = end if self._end is None else self._end + _SMOOTHING * (end - self._end)
        return max(0.0, self._end - now)


def _finished(message: dict[str, Any], folder: Path, convert: Convert | None) -> Event:
    try:
        arrays: dict[str, Any] = {}
        for name in message["arrays"]:
            array = load_array(folder, "out", name)
            arrays[name] = array if convert is None else convert(array, name)
        return Finished(message["result"], arrays)
    except Exception as error:  # files that are gone, no memory; an exception would end the reading thread
        return Failed("The result could not be read.", "output", repr(error))


_CLIENTS: weakref.WeakSet[WorkerClient] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for client in list(_CLIENTS):
        client.stop()
