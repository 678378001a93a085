"""One run at a time in the worker: started, heard of, cancelled. Knows nothing of the scene."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from DeepRegistrationLib.errors import (
    Cancelled,
    InputError,
    NotAvailableError,
    OutputError,
    RegistrationError,
    ResourceError,
)
from DeepRegistrationLib.worker import client as worker

ERRORS: dict[str, type[RegistrationError]] = {
    "input": InputError,
    "not-available": NotAvailableError,
    "no-torch": NotAvailableError,
    "not-started": NotAvailableError,
    "resource": ResourceError,
    "output": OutputError,
}
"""The worker's kinds of failure as exceptions; any other is a RegistrationError."""


Landing = Callable[[dict[str, Any], dict[str, Any]], Generator[None, None, Any]]


@dataclass(frozen=True)
class Callbacks:
    """Who hears of a run, always from inside `poll`.

    Attributes:
        progress: gets an event with `stage`, `fraction`, `objective` and `seconds_left`.
        finished: gets the result.
        failed: gets the exception; `Cancelled` when it was cancelled.
        log: gets lines of text.
    """

    progress: Callable[[worker.Progress], object] | None = None
    finished: Callable[[Any], object] | None = None
    failed: Callable[[RegistrationError], object] | None = None
    log: Callable[[str], object] | None = None


@dataclass(frozen=True)
class Work:
    """A job for the worker.

    Attributes:
        task, parameters, arrays: what it is sent.
        land: makes the run's result of the worker's answer (result, arrays), in steps: `poll` does one at
            a time, so that the application is never kept for long.
        convert: what is done to each array of the answer before, not by `poll` but by another thread.
    """

    task: str
    land: Landing
    parameters: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    convert: worker.Convert | None = None


@dataclass
class Run:
    """Something the worker does, or has done.

    Attributes:
        work: what.
        callbacks: who hears of it.
        otherwise: what to do instead where the worker no longer knows the session, or None.
        done: whether it is over, one way or the other.
        result: once it has succeeded.
        error: why it has not.
        dropped: why its result is not wanted any more, in a sentence.
    """

    work: Work
    callbacks: Callbacks = field(default_factory=Callbacks)
    otherwise: Callable[[], Work] | None = None
    done: bool = False
    result: Any = None
    error: RegistrationError | None = None
    dropped: str | None = None


class Runner:
    """Hands runs to a worker's client and its events to the runs' callbacks."""

    def __init__(self, client: worker.WorkerClient) -> None:
        self.client = client
        self.run: Run | None = None
        self._polling = False
        self._landing: Generator[None, None, Any] | None = None

    def refuse_second(self) -> None:
        """Raise InputError if a run is going on."""
        if self.run is not None:
            raise InputError("A registration is running already; wait for it or cancel it.")

    def start(self, run: Run) -> Run:
        """Begin; `poll` tells the rest.

        Raises:
            InputError: a run is going on.
        """
        self.refuse_second()
        work = run.work
        self.client.submit(work.task, dict(work.parameters), dict(work.arrays), work.convert)
        self.run = run
        return run

    def drop(self, sentence: str) -> None:
        """Stop the run, if there is one; whatever comes of it, its result is not used."""
        if self.run is not None:
            self.run.dropped = sentence
            self.client.cancel()

    def cancel(self) -> None:
        """Stop the run, if there is one; `poll` tells when it has stopped."""
        self.drop("The registration was cancelled.")

    def poll(self) -> None:
        """Hand out what has happened since the last call; never waits."""
        if self._polling:  # a callback lets the application process its events
            return
        self._polling = True
        try:
            if self._landing is not None:
                self._land(self._landing)
            for event in self.client.poll():
                self._take(event)
        finally:
            self._polling = False

    def stop(self) -> None:
        """End the worker and the run; nobody but the run itself and its `failed` hears of it."""
        run, self.run, self._landing = self.run, None, None
        self.client.stop()
        self.client.poll()
        if run is not None:
            _end(run, error=Cancelled("The registration was stopped."))

    def _take(self, event: worker.Event) -> None:
        run = self.run
        if run is None:
            return  # of a run that nobody waits for any more
        if isinstance(event, worker.LogLine):
            _call(run.callbacks.log, event.text)
        elif isinstance(event, worker.Progress):
            _call(run.callbacks.progress, event)
        elif isinstance(event, worker.Finished):
            self._landing = run.work.land(event.result, event.arrays)
            self._land(self._landing)
        elif isinstance(event, worker.Cancelled):
            self.run = None
            _end(run, error=Cancelled(run.dropped or "The registration was stopped."))
        elif isinstance(event, worker.Failed):
            self.run = None
            self._failed(run, event)

    def _land(self, landing: Generator[None, None, Any]) -> None:
        """One step of bringing a result home."""
        run, result, error = self.run, None, None
        assert run is not None
        try:
            if run.dropped is not None:
                raise Cancelled(run.dropped)
            next(landing)
            return
        except StopIteration as end:
            result = end.value
        except RegistrationError as failure:
            error = failure
        except Exception as failure:  # who started the run is told, whatever it was
            _call(run.callbacks.log, repr(failure))
            error = OutputError(f"The result could not be used: {failure or type(failure).__name__}")
        self.run = self._landing = None
        _end(run, result, error)

    def _failed(self, run: Run, event: worker.Failed) -> None:
        if event.details:
            _call(run.callbacks.log, event.details)
        if run.dropped is not None:
            _end(run, error=Cancelled(run.dropped))
        elif event.kind == "unknown-session" and run.otherwise is not None:
            try:
                run.work, run.otherwise = run.otherwise(), None
                self.start(run)
            except RegistrationError as error:
                _end(run, error=error)
        else:
            _end(run, error=ERRORS.get(event.kind, RegistrationError)(event.sentence))


def _end(run: Run, result: Any = None, error: RegistrationError | None = None) -> None:
    run.result, run.error, run.done = result, error, True
    if error is None:
        _call(run.callbacks.finished, result)
    else:
        _call(run.callbacks.failed, error)


def _call(callback: Callable[[Any], object] | None, value: Any) -> None:
    if callback is not None:
        callback(value)
