"""Makes the data set of a family in pieces, with several processes. It can be resumed."""

import json
import multiprocessing
import os
import shutil
import signal
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyro_sri.data.format import SPLITS, DatasetFile, Report, SceneArrays
from pyro_sri.data.generators import GENERATORS, find_generator
from pyro_sri.data.generators.family import Drawn
from pyro_sri.data.generators.pieces import Pieces, folder_of, pieces_of
from pyro_sri.data.writing import refuse_existing, write_dataset
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import from_home

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


def draw(task: Task) -> Drawn:
    """Draw the scenes of a task.

    Scene i is drawn from `np.random.default_rng([seed, crc32 of the family's name, number of the split, i])`, so it
    depends neither on the number of workers nor on the other scenes.
    """
    family = GENERATORS[task.family]
    key = [task.seed, zlib.crc32(task.family.encode()), SPLITS.index(task.split)]
    rngs = [np.random.default_rng([*key, scene]) for scene in range(task.start, task.stop)]
    return family.make(rngs, task.size, task.options, task.split)


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
) -> int:
    """Generate a data set and write it to a file.

    Finished pieces are kept in the folder F.h5.parts next to the file until it is complete. After an interruption,
    a kill or a full disk, the same call continues where the last one stopped.

    Args:
        name: A key of GENERATORS.
        out: The file to make.
        size: Side of the images in pixels; None for the family's published size.
        train: Scenes in the split train; 0 leaves the split out.
        val: Scenes in the split val, likewise.
        test: Scenes in the split test, likewise.
        seed: The same seed gives the same arrays.
        workers: Number of processes. It affects only the time that the work takes.
        options: Options of the family by name; see its options class.
        progress: Called as progress("train", scenes written, scenes in total) after every piece.

    Returns:
        How many pieces were already finished.

    Raises:
        InUse: If another process is making the file.
        UserError: For an unknown family or option, a value out of range, or a file that cannot be written.
    """
    out = from_home(out)
    family = find_generator(name)
    size = family.default_size if size is None else size
    counts = {"train": train, "val": val, "test": test}
    family.check_request(size, counts, seed)
    if workers < 1:
        raise UserError(f"workers is {workers}: it must be at least 1")
    parsed = family.parse_options(options or {})
    tasks = {
        split: [
            Task(name, split, start, min(start + family.scenes_per_task, count), size, seed, parsed)
            for start in range(0, count, family.scenes_per_task)
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
        **({} if family.background_entities == (0,) else {"background_entities": list(family.background_entities)}),
        **{option: list(value) if isinstance(value, tuple) else value for option, value in asdict(parsed).items()},
    }
    if _is_made(out, attributes, {split: count for split, count in counts.items() if count}):
        shutil.rmtree(folder_of(out), ignore_errors=True)
        return 0
    refuse_existing(out)
    recipe = json.loads(json.dumps(attributes | counts))
    with pieces_of(out, recipe) as pieces:
        refuse_existing(out)  # another process may have made it meanwhile
        found = pieces.count()
        with _made([task for some in tasks.values() for task in some], workers, pieces) as scenes:
            # The splits are written one after the other, each taking as many pieces as it has tasks.
            splits = {split: _reported(some, scenes, progress) for split, some in tasks.items()}
            write_dataset(out, splits, attributes)
    return found


def _is_made(out: Path, attributes: Mapping[str, object], counts: Mapping[str, int]) -> bool:
    """Whether the file is complete, and a kill only prevented the removal of its pieces."""
    if not (out.is_file() and folder_of(out).is_dir()):
        return False
    try:
        with DatasetFile(out) as file:
            same = all(file.attributes.get(name) == value for name, value in attributes.items())
            return same and {split: file.num_images(split) for split in file.splits} == counts
    except UserError:
        return False


def _reported(tasks: Sequence[Task], scenes: Iterator[SceneArrays], progress: Report | None) -> Iterator[SceneArrays]:
    for task in tasks:
        yield next(scenes)
        if progress is not None:
            progress(task.split, task.stop, tasks[-1].stop)


@contextmanager
def _made(tasks: Sequence[Task], workers: int, pieces: Pieces) -> Iterator[Iterator[SceneArrays]]:
    """The scenes of tasks, in order. Worker w makes those of tasks w, w + workers, w + 2 workers, ..."""
    workers = min(workers, len(tasks))
    if workers == 1:
        yield (_taken(task, pieces) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        with _one_thread_each(), _without_interrupts():
            for worker in range(workers):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(sender, tasks[worker::workers], pieces), daemon=True)
                process.start()
                sender.close()  # only the worker has the other end: when it dies, reading ends
                pipes.append(receiver)
                processes.append(process)
        yield (_taken(task, pieces, pipes[number % workers]) for number, task in enumerate(tasks))
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(sender: Connection, tasks: Sequence[Task], pieces: Pieces) -> None:
    """Make the missing pieces of tasks, and report after each task what went wrong, if anything."""
    try:
        for task in tasks:
            if not pieces.path(task.split, task.start).exists():
                pieces.save(task.split, task.start, draw(task))
            sender.send(None)
    except UserError as error:
        sender.send(str(error))
    except BrokenPipeError:
        return  # the main process is gone


def _taken(task: Task, pieces: Pieces, pipe: Connection | None = None) -> SceneArrays:
    """The scenes of a task from its piece, once a worker has made it. A missing or damaged piece is made here."""
    if pipe is not None:
        try:
            problem = pipe.recv()
        except (EOFError, OSError):  # before a message, or in the middle of one
            raise UserError("a worker process died, perhaps for lack of memory; use fewer workers") from None
        if problem is not None:
            raise UserError(problem)
    drawn = pieces.load(task.split, task.start)
    if drawn is None:
        drawn = draw(task)
        pieces.save(task.split, task.start, drawn)
    return drawn.scenes()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started inside never get SIGINT, which a terminal sends to all of them. The main one cleans up."""
    resource_tracker.ensure_running()  # otherwise multiprocessing starts it later, and unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """NumPy uses one thread in each process started inside, because the workers share the cores."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
