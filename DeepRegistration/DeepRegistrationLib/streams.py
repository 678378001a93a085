"""Standard streams that are closed, full or hung up: they cost a command its words, and never its results."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import OutputError


@contextmanager
def usable_streams() -> Iterator[None]:
    """Standard input, output and error that can be used meanwhile.

    Streams that are closed are connected to nothing, so that no file gets their numbers, to which libraries
    write. What cannot be written to standard error is left out. What cannot be written to standard output
    raises OutputError, or BrokenPipeError where its reader has left.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        sys.stdout, sys.stderr = _Output(before[0] or nothing), _Quiet(before[1] or nothing)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def drop_output() -> None:
    """Connect standard output to nothing, where what waits to be written to it cannot be."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def _open_closed() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the lowest free number is this one
            os.open(os.devnull, os.O_RDWR)


class _Stream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Quiet(_Stream):
    """Leaves out what cannot be written."""

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            return


class _Output(_Stream):
    """Says in a sentence that it cannot be written to, at each flush once something is lost."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._lost: StreamError | None = None

    def write(self, text: str) -> int:
        with self._explained():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._explained():
            self._stream.flush()
        if self._lost is not None:
            raise self._lost

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            self._lost = StreamError(f"Standard output could not be written: {error.strerror}.")
            raise self._lost from error


class StreamError(OutputError):
    """Standard output could not be written."""
