"""The same tasks on a Dask cluster that is already there. Dask is imported here and nowhere else.

A task runs in a worker process of our own beside the Dask worker, as on one machine: so its threads are the
same, a crash takes no Dask worker down, and the pair ends with the Dask worker that is killed. Dask then
gives the task to another worker; a pair whose results are there is not done again.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .. import __version__
from ..errors import Cancelled, NotAvailableError
from .pair import RUNNING, Task
from .pool import Outcome, Pool

_CONNECT_SECONDS = 15
_PAUSE = 0.05
_LOOK = 0.5
"""Seconds between two looks at whether the batch is still wanted."""

_RETRIES = 2
_own = threading.local()


class Cluster:
    """A connection to a Dask scheduler; the interface is `pool.Pool`'s.

    Args:
        address: ``tcp://host:8786``, or the path of a scheduler file.

    Raises:
        NotAvailableError: Dask is not installed, nobody answers, or the workers do not have this version.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise NotAvailableError(
                "Dask is not installed; install this program's extra 'cluster', or do without a scheduler."
            ) from error
        try:
            where = _where(address)
            self._client = Client(where, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, KeyError, TypeError) as error:  # a timeout is an OSError as well
            raise NotAvailableError(f"No Dask scheduler answers at {address}.") from error
        try:
            self._check_workers()
        except BaseException:
            self.close()
            raise

    def run(
        self,
        tasks: Sequence[Task],
        moved: Callable[[float], None] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Outcome]:
        """Do the tasks; each gives one outcome, in the order in which they end.

        Args:
            moved: told how many tasks are over.
            stopped: looked at all the time; when true, what waits is taken back and what runs is ended.

        Raises:
            Cancelled: `stopped` was true.
            NotAvailableError: the scheduler is gone.
        """
        run = uuid.uuid4().hex[:12]
        marker = Path(tasks[0].parent) / f"{RUNNING}{run}" if tasks else None
        if marker is None:
            return
        marker.touch()
        waiting: dict[Any, Task] = {}
        try:
            for k, task in enumerate(tasks):
                arguments, key = (asdict(task), str(marker)), f"deepregistration-{run}-{k}"
                future = self._client.submit(do, *arguments, key=key, pure=False, retries=_RETRIES)
                waiting[future] = task
            while waiting:
                if stopped():
                    raise Cancelled("The batch was cancelled.")
                if self._client.status not in ("running", "connecting"):
                    raise NotAvailableError(
                        "The connection to the Dask scheduler is lost; go on with --resume."
                    )
                for future in [f for f in waiting if f.status not in ("pending", "lost")]:
                    yield _outcome(future, waiting.pop(future))
                    future.release()
                if moved is not None:
                    moved(len(tasks) - len(waiting))
                time.sleep(_PAUSE)
        finally:
            marker.unlink(missing_ok=True)
            if waiting and self._client.status == "running":
                self._client.cancel(list(waiting), force=True)

    def close(self) -> None:
        """Let go of the cluster, which goes on."""
        self._client.close(timeout=_CONNECT_SECONDS)

    def _check_workers(self) -> None:
        try:
            versions = set(self._client.run(version).values())
        except Exception as error:  # whatever a worker raises on its way to import us
            raise NotAvailableError(
                f"The cluster's workers cannot use DeepRegistrationLib ({error}); "
                f"install version {__version__} where they run."
            ) from error
        if versions - {__version__}:
            raise NotAvailableError(
                f"The cluster's workers have version {', '.join(sorted(versions - {__version__}))} of "
                f"DeepRegistrationLib, here it is {__version__}; install the same."
            )


def _where(address: str) -> str:
    """The scheduler's address, which may be in a file; somebody listens there.

    A look before Dask's own: its client leaves threads behind where nobody answers.
    """
    if Path(address).is_file():
        address = json.loads(Path(address).read_text(encoding="utf-8"))["address"]
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    socket.create_connection((parts.hostname, parts.port), _CONNECT_SECONDS).close()
    return address


def version() -> str:
    """The version of this package, as a Dask worker sees it."""
    return __version__


def do(task: dict[str, Any], marker: str) -> dict[str, Any]:
    """Do a task on a Dask worker.

    Args:
        task: the attributes of `pair.Task`.
        marker: a file that is there as long as the result is wanted.

    Returns:
        The attributes of `pool.Outcome`.
    """
    it, sign = Task(**task), Path(marker)
    if not sign.parent.is_dir():
        sentence = (
            f"The cluster's worker does not see the folder {sign.parent}; it needs a shared file system."
        )
        return asdict(Outcome(it.name, False, sentence, "input"))
    if not hasattr(_own, "pool"):
        _own.pool = Pool(1)
    last = [time.monotonic(), sign.exists()]

    def unwanted() -> bool:
        now = time.monotonic()
        if now - last[0] > _LOOK:
            last[:] = now, sign.exists()
        return not last[1]

    return asdict(next(_own.pool.run([it], stopped=unwanted)))


def _outcome(future: Any, task: Task) -> Outcome:
    if future.status == "finished":
        return Outcome(**future.result())
    if future.status == "cancelled":
        return Outcome(task.name, False, "The cluster took it back.", "cancelled")
    error = future.exception()
    sentence = f"The cluster could not do it: {type(error).__name__}: {error}."
    return Outcome(task.name, False, sentence, "died", repr(error))
