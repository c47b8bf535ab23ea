"""Tables of mutations: ways to damage something, by name, each with a weight."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

A = TypeVar("A")
B = TypeVar("B")
Table = Mapping[str, tuple[float, A]]
Change = Callable[[np.random.Generator, Path], object]  # damages the files of a folder


def each(use: Callable[[A], B], values: Mapping[str, A]) -> Table[B]:
    """One mutation for each value, all of the same weight."""
    return {name: (1, use(value)) for name, value in values.items()}


def lifted(lift: Callable[[A], B], table: Table[A]) -> Table[B]:
    """Mutations of a part, such as bytes, made into those of a whole, such as a folder."""
    return {name: (weight, lift(mutation)) for name, (weight, mutation) in table.items()}


def part(prefix: str, weight: float, table: Table[A]) -> Table[A]:
    """A table to put into another one: its names get a prefix, and its weights add up to `weight`."""
    total = sum(weight for weight, _ in table.values())
    return {prefix + name: (weight * own / total, mutation) for name, (own, mutation) in table.items()}


def entropy(seed: Sequence[int], name: str) -> list[int]:
    """The seed of a mutation's own draws, which no other mutation changes."""
    return [*seed, zlib.crc32(name.encode())]


def chosen(table: Table[A], seed: Sequence[int]) -> str:
    """The name of one mutation, by weight: the first to arrive of random times.

    A mutation that is new takes the cases in which it comes first; all others stay as they are.
    """
    times = {name: np.random.default_rng([*entropy(seed, name), 1]).exponential() for name in table}
    return min(table, key=lambda name: times[name] / table[name][0])
