"""A small coverage-guided fuzzer for parsers in Python: inputs that reach new lines are damaged further.

As AFL does it (Zalewski: Technical whitepaper for afl-fuzz, 2014), with transitions between lines for edges
and the parsers' own constants for a dictionary.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import CodeType, FrameType, ModuleType
from typing import Any

from mutations import mutated

Edge = tuple[str, int, int]
_LONGEST = 1 << 15
"""Bytes of an input that is kept."""


@dataclass
class Found:
    """What exploring a parser has shown.

    Attributes:
        runs: how many inputs it got.
        edges: transitions between lines that were seen.
        corpus: the inputs that showed one first.
        wrong: input and what was wrong with its outcome.
    """

    runs: int = 0
    edges: set[Edge] = field(default_factory=set)
    corpus: list[bytes] = field(default_factory=list)
    wrong: list[tuple[bytes, str]] = field(default_factory=list)

    @property
    def lines(self) -> int:
        """How many lines were seen."""
        return len({(file, line) for file, _, line in self.edges})


def explore(
    call: Callable[[bytes], str | None],
    seeds: Sequence[bytes],
    modules: Sequence[ModuleType],
    count: int,
    seed: int,
    guided: bool = True,
) -> Found:
    """Try `count` inputs.

    Args:
        call: what takes an input; returns what was wrong, None if all was as it should be.
        seeds: inputs to begin with.
        modules: whose lines count.
        count, seed: number of inputs, and of the random numbers.
        guided: whether inputs that show something new are kept; without, only the seeds are damaged.
    """
    rng, found = random.Random(seed), Found()
    words = sorted({word for module in modules for word in _constants(module)})
    files = {module.__file__ or "" for module in modules}

    def run(data: bytes) -> None:
        edges, wrong = _traced(call, data, files)
        found.runs += 1
        if wrong is not None:
            found.wrong.append((data, wrong))
        if not edges <= found.edges and len(data) <= _LONGEST:
            found.edges |= edges
            if guided:
                found.corpus.append(data)

    for data in seeds:
        run(data)
    if not guided:
        found.corpus = list(seeds)
    while found.runs < count:
        # half of the time what was found last: there is most to find beside it
        recent = found.corpus[-8:] if rng.random() < 0.5 else found.corpus
        run(_child(rng.choice(recent), found.corpus, words, rng))
    return found


def _child(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], rng: random.Random) -> bytes:
    kind = rng.random()
    if kind < 0.5:
        return mutated(data, rng.randrange(1 << 30))
    place = rng.randrange(len(data) + 1)
    if kind < 0.7 or not words:
        other = rng.choice(corpus)
        return data[:place] + other[rng.randrange(len(other) + 1) :]
    # a word of the parser's own, put in or in the place of another
    end = place if kind < 0.85 else min(len(data), place + rng.choice((1, 2, 4, 8, 16)))
    return data[:place] + rng.choice(words) + data[end:]


def _traced(
    call: Callable[[bytes], str | None], data: bytes, files: set[str]
) -> tuple[set[Edge], str | None]:
    edges: set[Edge] = set()

    def enter(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        name = frame.f_code.co_filename
        if name not in files:
            return None
        last = 0

        def line(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
            nonlocal last
            if event == "line":
                edges.add((name, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        wrong = call(data)
    finally:
        sys.settrace(before)
    return edges, wrong


def _constants(module: ModuleType) -> Iterator[bytes]:
    """The short texts in a module's code."""
    with open(module.__file__ or "", "rb") as file:
        yield from _texts(compile(file.read(), "", "exec"))


def _texts(code: CodeType) -> Iterator[bytes]:
    for constant in code.co_consts:
        for value in constant if isinstance(constant, tuple | frozenset) else (constant,):
            if isinstance(value, CodeType):
                yield from _texts(value)
            elif isinstance(value, str | bytes) and 0 < len(value) <= 24:
                yield value.encode() if isinstance(value, str) else value
