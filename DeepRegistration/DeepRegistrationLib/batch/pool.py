"""Worker processes of this machine: one pair at a time each, and none takes the others down with it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import Cancelled
from ..worker.client import Cancelled as JobCancelled
from ..worker.client import Failed, Finished, Progress, WorkerClient
from .pair import Task

_PAUSE = 0.02
_PATIENCE = 2.0
"""Seconds that running pairs have to stop; `WorkerClient.cancel` ends them by force before."""

_AGAIN = ("died", "resource")
"""Failures that may be the neighbours' fault; such a pair is tried once more, alone."""


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
        name: of the task.
        done: whether its results are there.
        sentence: why not, for the user.
        kind: as `worker.client.Failed.kind`, ``cancelled``, or ``time`` where it took too long.
        details: for the log.
    """

    name: str
    done: bool
    sentence: str = ""
    kind: str = ""
    details: str = ""


class Pool:
    """Some worker processes that stay warm from one pair to the next.

    Args:
        size: how many at most.
        environment: variables for them.
    """

    def __init__(self, size: int, environment: dict[str, str] | None = None) -> None:
        # threads are set for each pair; libraries that count processors when they load would take more
        single = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self._slots = [_Slot({**single, **(environment or {})}) for _ in range(max(1, size))]

    def run(
        self,
        tasks: Sequence[Task],
        moved: Callable[[float], None] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Outcome]:
        """Do the tasks; each gives one outcome, in the order in which they end.

        A task whose process dies, or that finds too little memory, is done again when all others are over,
        with no neighbours.

        Args:
            moved: told how much is done, in tasks.
            stopped: looked at all the time; when true, what runs is ended.

        Raises:
            Cancelled: `stopped` was true. Whatever ends the iteration, no process is left working.
        """
        over, again = 0, list[Task]()

        def look(running: float) -> None:
            if stopped():
                raise Cancelled("The batch was cancelled.")
            if moved is not None:
                moved(over + running)

        try:
            for outcome, task in self._pass(deque(tasks), self._slots, look):
                if outcome.kind in _AGAIN:
                    again.append(task)
                else:
                    over += 1
                    yield outcome
            for outcome, _ in self._pass(deque(again), self._slots[:1], look):
                over += 1
                yield outcome
        finally:
            self._halt()

    def close(self) -> None:
        """End the processes."""
        for slot in self._slots:
            slot.client.stop()

    def _pass(
        self, waiting: deque[Task], slots: Sequence[_Slot], look: Callable[[float], None]
    ) -> Iterator[tuple[Outcome, Task]]:
        """Do the tasks once; `look` is called all the time, with what is done of those that run."""
        while waiting or any(slot.task is not None for slot in slots):
            for slot in slots:
                if slot.task is None and waiting:
                    slot.begin(waiting.popleft())
            look(sum(slot.fraction for slot in slots))
            for slot in slots:
                yield from slot.news()
            time.sleep(_PAUSE)

    def _halt(self) -> None:
        for slot in self._slots:
            slot.client.cancel()
        end = time.monotonic() + _PATIENCE
        for slot in self._slots:
            while slot.client.state == "running" and time.monotonic() < end:
                time.sleep(_PAUSE)
            if slot.client.state == "running":
                slot.client.stop()
            slot.forget()


class _Slot:
    """A worker process, and what it is doing."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.client = WorkerClient(environment=environment)
        self.task: Task | None = None
        self.fraction = 0.0
        self._begun, self._late = 0.0, False

    def begin(self, task: Task) -> None:
        self.task, self.fraction = task, 0.0
        self._begun, self._late = time.monotonic(), False
        self.client.submit("pair", asdict(task))

    def news(self) -> Iterator[tuple[Outcome, Task]]:
        """The outcome of the task, once there; one that takes too long is ended."""
        limit = None if self.task is None else self.task.minutes
        if limit is not None and not self._late and time.monotonic() - self._begun > 60 * limit:
            self._late = True
            self.client.cancel()
        for event in self.client.poll():
            if self.task is None:
                continue
            outcome = self._outcome(self.task, event)
            if outcome is not None:
                task, self.task, self.fraction = self.task, None, 0.0
                yield outcome, task

    def forget(self) -> None:
        self.client.poll()
        self.task, self.fraction = None, 0.0

    def _outcome(self, task: Task, event: Any) -> Outcome | None:
        if isinstance(event, Progress):
            self.fraction = event.fraction
        elif isinstance(event, Finished):
            return Outcome(task.name, True)
        elif isinstance(event, Failed):
            return Outcome(task.name, False, event.sentence, event.kind, event.details)
        elif isinstance(event, JobCancelled) and self._late:
            sentence = (
                f"It was given up after {task.minutes:g} minutes, the limit for a pair (--pair-minutes)."
            )
            return Outcome(task.name, False, sentence, "time")
        elif isinstance(event, JobCancelled):
            return Outcome(task.name, False, "It was cancelled.", "cancelled")
        return None
