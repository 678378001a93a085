"""Seeded damage: what disks, networks and ill will do to files."""

from __future__ import annotations

import random
import re
import struct

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORDS = (
    b"NaN",
    b"-inf",
    b"1e999",
    b"99999999999",
    b"-1",
    b"0",
    b"null",
    b"",
    b'"x"',
    b"[]",
    b"{}",
    b"\x00",
    b"2147483648",
)
_NUMBERS = (0, 1, -1, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_FLOATS = (float("nan"), float("inf"), -float("inf"), 1e308, 1e-320, 0.0, -1.0)
_HEAD = 600
"""Bytes at the beginning where most formats keep what they say of themselves."""


def mutated(content: bytes, seed: int) -> bytes:
    """The content with one to four damages; the same for the same seed."""
    rng = random.Random(seed)
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_DAMAGES)(data, rng)
    return bytes(data)


def _place(data: bytearray, rng: random.Random, width: int = 1) -> int:
    """Half of the time near the beginning."""
    end = max(1, len(data) - width + 1)
    return rng.randrange(min(end, _HEAD) if rng.random() < 0.5 else end)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 3, 20))):
        if data:
            data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    place, length = _place(data, rng), rng.choice((1, 4, 16, 300))
    fill = rng.choice((b"\x00", b"\xff", None))
    piece = rng.randbytes(length) if fill is None else fill * length
    data[place : place + length] = piece[: max(0, len(data) - place)]


def _remove(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    del data[place : place + rng.choice((1, 2, 8, 100))]


def _insert(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    data[place:place] = rng.randbytes(rng.choice((1, 2, 8, 100)))


def _repeat(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    data[place:place] = data[place : place + rng.choice((4, 40, 400))] * rng.choice((1, 2, 50))


def _forge_integer(data: bytearray, rng: random.Random) -> None:
    code = rng.choice(("<H", ">H", "<I", ">I", "<Q"))
    width = struct.calcsize(code)
    if len(data) >= width:
        place = _place(data, rng, width)
        value = rng.choice(_NUMBERS) & ((1 << 8 * width) - 1)
        struct.pack_into(code, data, place, value)


def _forge_float(data: bytearray, rng: random.Random) -> None:
    code = rng.choice(("<f", "<d"))
    width = struct.calcsize(code)
    if len(data) >= width:
        value = rng.choice(_FLOATS)
        if code == "<f" and abs(value) > 3e38:
            value = float("inf")
        struct.pack_into(code, data, _place(data, rng, width), value)


def _forge_text(data: bytearray, rng: random.Random) -> None:
    """Another number in the place of one that is written out."""
    found = list(_NUMBER.finditer(bytes(data[: 8 * _HEAD])))
    if found:
        match = rng.choice(found)
        data[match.start() : match.end()] = rng.choice(_WORDS)


def _forge_nested(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    data[place:place] = rng.choice((b"[", b'{"a":', b"(", b'"')) * rng.choice((10, 3000, 200_000))


_DAMAGES = (
    _cut,
    _flip,
    _flip,
    _overwrite,
    _remove,
    _insert,
    _repeat,
    _forge_integer,
    _forge_integer,
    _forge_float,
    _forge_text,
    _forge_text,
    _forge_nested,
)
