"""Damage to bytes, drawn from a generator: the same generator does the same damage."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from support.fuzz.tables import Change, Table, lifted, part

ByteChange = Callable[[np.random.Generator, bytes], bytes]


def places(rng: np.random.Generator, length: int, count: int) -> np.ndarray:
    """Places among `length` bytes: anywhere, or often near one of the ends, where headers and indices are."""
    near = np.exp(rng.uniform(0, np.log(max(2, length)), count)).astype(int)
    anywhere = rng.integers(length + 1, size=count)
    return np.minimum(length, np.choose(rng.integers(3, size=count), [anywhere, near, length - near]))


def place(rng: np.random.Generator, length: int) -> int:
    return int(places(rng, length, 1)[0])


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
    changed = np.frombuffer(data, np.uint8).copy()
    where = np.minimum(places(rng, len(data), count), len(data) - 1)
    np.bitwise_xor.at(changed, where, (1 << rng.integers(8, size=count)).astype(np.uint8))
    return changed.tobytes()


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


ONCE: Table[ByteChange] = {
    "cut": (2, cut),
    "emptied": (1, empty),
    "a bit flipped": (3, flip_bit),
    "bits flipped": (1, flip_many),
    "zeroed": (1, zero),
    "scrambled": (1, scramble),
    "removed": (1, remove),
    "repeated": (1, repeat),
    "swapped": (1, swap),
    "appended": (1, append),
    "inserted": (1, insert),
    "largest number": (1, largest_number),
}


def twice(rng: np.random.Generator, data: bytes) -> bytes:
    """Two of the others."""
    for name in rng.choice(list(ONCE), 2):
        if data:
            data = ONCE[name][1](rng, data)
    return data


BYTES: Table[ByteChange] = {**part("", 0.9, ONCE), "two of these": (0.1, twice)}


def in_file(pattern: str) -> Callable[[ByteChange], Change]:
    """Makes a change of bytes one of a folder: of one of the files whose names match."""

    def lift(change: ByteChange) -> Change:
        def damage(rng: np.random.Generator, folder: Path) -> None:
            paths = sorted(path for path in folder.rglob(pattern) if path.is_file() and path.stat().st_size)
            path = paths[rng.integers(len(paths))]
            path.write_bytes(change(rng, path.read_bytes()))

        return damage

    return lift


def bytes_of(pattern: str, weight: float = 1) -> Table[Change]:
    """Changes of the bytes of one of the files whose names match."""
    return part("bytes: ", weight, lifted(in_file(pattern), BYTES))
