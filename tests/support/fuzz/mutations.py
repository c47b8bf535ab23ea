"""Damage to files, drawn from a generator: the same generator does the same damage."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

Damage = Callable[[np.random.Generator, bytes], bytes]


def place(rng: np.random.Generator, length: int) -> int:
    """A place among `length` bytes: anywhere, or often near one of the ends, where headers and indices are."""
    near = int(np.exp(rng.uniform(0, np.log(max(2, length)))))
    return min(length, (int(rng.integers(length + 1)), near, length - near)[rng.integers(3)])


def stretch(rng: np.random.Generator, length: int) -> tuple[int, int]:
    """Beginning and end of a stretch of 1 byte to all of them, short ones more often."""
    start = place(rng, length)
    return start, min(length, start + int(np.exp(rng.uniform(0, np.log(max(2, length))))))


def cut(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: place(rng, len(data))]


def empty(rng: np.random.Generator, data: bytes) -> bytes:
    return b""


def flip_bit(rng: np.random.Generator, data: bytes) -> bytes:
    return _flipped(rng, data, 1)


def flip_many(rng: np.random.Generator, data: bytes) -> bytes:
    return _flipped(rng, data, int(np.exp(rng.uniform(0, np.log(max(2, len(data) / 10))))))


def _flipped(rng: np.random.Generator, data: bytes, count: int) -> bytes:
    changed = bytearray(data)
    for _ in range(count):
        changed[min(place(rng, len(data)), len(data) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def zero(rng: np.random.Generator, data: bytes) -> bytes:
    start, stop = stretch(rng, len(data))
    return data[:start] + bytes(stop - start) + data[stop:]


def scramble(rng: np.random.Generator, data: bytes) -> bytes:
    start, stop = stretch(rng, len(data))
    return data[:start] + rng.bytes(stop - start) + data[stop:]


def remove(rng: np.random.Generator, data: bytes) -> bytes:
    start, stop = stretch(rng, len(data))
    return data[:start] + data[stop:]


def repeat(rng: np.random.Generator, data: bytes) -> bytes:
    start, stop = stretch(rng, len(data))
    return data[:stop] + data[start:]


def swap(rng: np.random.Generator, data: bytes) -> bytes:
    a, b, c, d = sorted((*stretch(rng, len(data)), *stretch(rng, len(data))))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def append(rng: np.random.Generator, data: bytes) -> bytes:
    return data + rng.bytes(1 + place(rng, 4096))


def insert(rng: np.random.Generator, data: bytes) -> bytes:
    start = place(rng, len(data))
    return data[:start] + rng.bytes(1 + int(rng.integers(64))) + data[start:]


def largest_number(rng: np.random.Generator, data: bytes) -> bytes:
    """Eight bytes that are a size in some header become the largest number there is."""
    start = place(rng, len(data))
    return data[:start] + b"\xff" * int(rng.choice([1, 4, 7, 8])) + data[start + 8 :]


DAMAGES: tuple[Damage, ...] = (
    *(cut, cut, empty, flip_bit, flip_bit, flip_bit, flip_many, zero, scramble, remove, repeat, swap, append, insert),
    largest_number,
)


def damage(rng: np.random.Generator, data: bytes) -> bytes:
    """The data with one random damage; rarely two."""
    for _ in range(1 if rng.random() < 0.9 else 2):
        if data:
            data = DAMAGES[rng.integers(len(DAMAGES))](rng, data)
    return data


def damage_one_of(rng: np.random.Generator, paths: list[Path]) -> None:
    """Damages one of these files."""
    path = sorted(paths)[rng.integers(len(paths))]
    path.write_bytes(damage(rng, path.read_bytes()))
