"""Scenes made here, with exact masks and factors.

A new family is one file with a `Generator`, and one entry in `GENERATORS`.
"""

import multiprocessing
import os
import signal
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from difflib import get_close_matches
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyro_sri.data.format import SPLITS, Report, Scenes, write_dataset
from pyro_sri.data.generators.family import Generator
from pyro_sri.data.generators.multi_dsprites import MULTI_DSPRITES
from pyro_sri.data.generators.tetrominoes import TETROMINOES
from pyro_sri.errors import UserError
from pyro_sri.seeds import check_seed

GENERATORS: dict[str, Generator] = {family.name: family for family in (TETROMINOES, MULTI_DSPRITES)}

# Scenes made in one go: enough for NumPy to be quick, 10 MB at 64 x 64.
SCENES_PER_TASK = 256
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Task(NamedTuple):
    """Scenes `start` to `stop` of a split, for a worker."""

    family: str
    split: str
    start: int
    stop: int
    size: int
    seed: int
    options: Any


def find_generator(name: str) -> Generator:
    """The family of that name.

    Raises:
        UserError: If there is none, naming the nearest.
    """
    if name not in GENERATORS:
        nearest = get_close_matches(name, GENERATORS, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(GENERATORS)}"
        raise UserError(f"no generator {name!r}; {hint}")
    return GENERATORS[name]


def make_scenes(task: Task) -> Scenes:
    """Make the scenes of a task.

    Scene i is drawn from `np.random.default_rng([seed, crc32 of the family's name, number of the split, i])`, so it
    is the same whatever the number of workers and the scenes made beside it.
    """
    family = GENERATORS[task.family]
    key = [task.seed, zlib.crc32(task.family.encode()), SPLITS.index(task.split)]
    rngs = [np.random.default_rng([*key, scene]) for scene in range(task.start, task.stop)]
    return family.make(rngs, task.size, task.options, task.split).scenes()


def make_dataset(
    name: str,
    out: Path | str,
    size: int | None = None,
    train: int = 20_000,
    val: int = 1_000,
    test: int = 1_000,
    seed: int = 0,
    workers: int = 1,
    options: Mapping[str, object] | None = None,
    progress: Report | None = None,
) -> None:
    """Generate a data set and write it to a file.

    Args:
        name: A key of GENERATORS.
        out: The file to make.
        size: Side of the images in pixels; None is the family's published size.
        train: Scenes in the split train; 0 leaves the split out.
        val: Scenes in the split val, likewise.
        test: Scenes in the split test, likewise.
        seed: The same seed gives the same arrays.
        workers: Processes; more are quicker where drawing takes longer than moving arrays, and change nothing else.
        options: Options of the family by name; see its options class.
        progress: Called as progress("train", scenes written, scenes in all) after every piece.

    Raises:
        UserError: For an unknown family or option, a value out of range, or a file that cannot be written.
    """
    family = find_generator(name)
    size = family.default_size if size is None else size
    smallest, largest = family.sizes
    if not smallest <= size <= largest:
        raise UserError(f"{name} cannot be made at size {size}; use a size from {smallest} to {largest}")
    counts = {"train": train, "val": val, "test": test}
    if min(counts.values()) < 0 or not any(counts.values()):
        raise UserError(f"cannot make {counts} images; counts start at 0, and one of them at least at 1")
    check_seed(seed)
    if workers < 1:
        raise UserError(f"{workers} workers can do nothing; use at least 1")
    parsed = family.parse_options(options or {})

    tasks = {
        split: [
            Task(name, split, start, min(start + SCENES_PER_TASK, count), size, seed, parsed)
            for start in range(0, count, SCENES_PER_TASK)
        ]
        for split, count in counts.items()
        if count
    }
    attributes = {
        "source": "generated",
        "generator": name,
        "generator_version": family.version,
        "seed": seed,
        "size": size,
        "factor_names": list(family.factor_names),
        **asdict(parsed),
    }
    with _made([task for some in tasks.values() for task in some], workers) as pieces:
        # The splits are written one after the other, each taking as many pieces as it has tasks.
        splits = {split: _reported(some, pieces, progress) for split, some in tasks.items()}
        write_dataset(out, splits, attributes)


def _reported(tasks: Sequence[Task], pieces: Iterator[Scenes], progress: Report | None) -> Iterator[Scenes]:
    for task in tasks:
        yield next(pieces)
        if progress is not None:
            progress(task.split, task.stop, tasks[-1].stop)


@contextmanager
def _made(tasks: Sequence[Task], workers: int) -> Iterator[Iterator[Scenes]]:
    """The scenes of tasks, in their order; worker w makes those of tasks w, w + workers, w + 2 workers, ..."""
    if workers == 1:
        yield map(make_scenes, tasks)
        return
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        with _one_thread_each():
            for worker in range(min(workers, len(tasks))):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(sender, tasks[worker::workers]), daemon=True)
                process.start()
                sender.close()  # the worker holds the only other end: when it dies, reading ends
                pipes.append(receiver)
                processes.append(process)
        yield _received(len(tasks), pipes)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(sender: Connection, tasks: Sequence[Task]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt reaches every process; the main one cleans up
    try:
        for task in tasks:
            sender.send(make_scenes(task))  # waits until there is room, which bounds memory
    except BrokenPipeError:
        return  # the main process is gone


def _received(count: int, pipes: Sequence[Connection]) -> Iterator[Scenes]:
    for task in range(count):
        try:
            yield pipes[task % len(pipes)].recv()
        except (EOFError, OSError):  # before a message, or in the middle of one
            raise UserError("a worker process died, perhaps for lack of memory; use fewer workers") from None


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """NumPy in the processes started here uses one thread: the workers share the cores among themselves."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
