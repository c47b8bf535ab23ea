"""A process that reads damaged files with little memory, watched, and started anew when it dies."""

import importlib
import itertools
import multiprocessing
import resource
import shutil
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from support.fuzz.outcomes import FAILED, Kind, Numbers, Outcome, judge
from support.fuzz.tables import chosen, entropy

SECONDS = 300.0  # until a case counts as hanging; a loaded machine is slow
SPARE_BYTES = 1024**3  # what a case may allocate beside what the process has
CHECK_EVERY = 32  # cases between two readings of the sound files, to see that the process is well


class Worker:
    """Judges cases in a process of its own; use it as a context manager.

    Args:
        folder: Where the files go.
        module: The module that has the kinds of files, in KINDS.
        seconds: Until a case counts as hanging.
    """

    def __init__(self, folder: Path, module: str = "kinds", seconds: float = SECONDS):
        self._folder, self._module, self._seconds = folder, module, seconds
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._connection, other = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(other, self._folder, self._module), daemon=True)
        self._process.start()
        other.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()

    def judge(self, kind: str, seed: int, case: int, only: str | None = None) -> Outcome:
        """What becomes of a case of a kind of file, as damaged by `damaged_copy`."""
        self._connection.send((kind, seed, case, only))
        try:
            if self._connection.poll(self._seconds):
                outcome: Outcome = self._connection.recv()
                return outcome
            what = f"no end within {self._seconds:g} s"
            self._process.kill()
            self._process.join()
        except (EOFError, ConnectionResetError):
            self._process.join()
            what = f"the interpreter died with status {self._process.exitcode}"
        self._connection.close()
        self._start()
        return Outcome(FAILED, what)


def damaged_copy(kind: Kind, seed: Sequence[int], folder: Path, only: str | None = None) -> Path:
    """Makes the sound files of a kind in `folder/sound`, unless they are there, and a damaged copy; its folder.

    The seed draws the mutation, unless `only` names one, and what the mutation draws: the same seed and mutation give
    the same files.
    """
    name = only or chosen(kind.mutations, seed)
    own = entropy(seed, name)
    path = folder / "-".join(map(str, own))
    shutil.copytree(_make_sound(kind, folder), path)
    kind.mutations[name][1](np.random.default_rng(own), path)
    return path


def _make_sound(kind: Kind, folder: Path) -> Path:
    path = folder / "sound"
    if not path.exists():
        path.mkdir(parents=True)
        kind.make(path)
    return path


def _read_sound(kind: Kind, folder: Path) -> dict[str, Numbers]:
    """What every reader of a kind reads from a copy of the sound files."""
    path = folder / "again"
    shutil.copytree(_make_sound(kind, folder), path)
    try:
        return {name: read(path) for name, read in kind.readers.items()}
    finally:
        shutil.rmtree(path)


def _serve(connection: Connection, folder: Path, module: str) -> None:
    kinds: Mapping[str, Kind] = importlib.import_module(f"support.fuzz.{module}").KINDS
    expected: dict[str, Mapping[str, Numbers]] = {}
    for number in itertools.count(1):
        try:
            name, seed, case, only = connection.recv()
        except EOFError:
            return
        kind, place = kinds[name], folder / name
        try:
            if name not in expected:
                _limit_memory(None)
                expected[name] = _read_sound(kind, place)
                _limit_memory(SPARE_BYTES)
            path = damaged_copy(kind, [seed, case], place, only)
            outcome = judge(kind, expected[name], path)
            if outcome.result != FAILED:
                shutil.rmtree(path)  # what failed stays, to be looked at
            if number % CHECK_EVERY == 0:
                for reader, numbers in _read_sound(kind, place).items():
                    kind.agree(expected[name][reader], numbers)
        except BaseException:
            outcome = Outcome(FAILED, f"the process is not well: {traceback.format_exc()}")
        connection.send(outcome)


def _limit_memory(spare: int | None) -> None:
    """Lets the process have so many bytes of address space more than it has now."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard if spare is None else has + spare, hard))
