"""Runs of a study on this machine: several at a time, each in its own process, on its own cores or GPU."""

import itertools
import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch

from pyro_sri import runs
from pyro_sri.config import RunConfig
from pyro_sri.study.plan import COMMAND, Job, Stage, State, logged_step
from pyro_sri.system.children import start_child, usable_cores
from pyro_sri.system.files import is_locked, wait_for_sole_use, write_atomically
from pyro_sri.system.signals import ENDING, URGENT, handling

LOCK = ".study.lock"  # in a study's folder, while a process runs it
POLL = 0.2  # seconds between checks of the processes
LONGEST_REASON = 1_000  # characters
PREFIX = "pyro-sri: "  # how the error message of a command begins
SAYS_WHY = re.compile(rf"{PREFIX}|[\w.]+(Error|Exception)\b")  # or Python's, if the failure is a bug


class Place(NamedTuple):
    """The cores and GPU that a run may use.

    Attributes:
        cores: The cores.
        gpu: The GPU, as named in CUDA_VISIBLE_DEVICES, or None.
    """

    cores: tuple[int, ...]
    gpu: str | None


class Watcher(Protocol):
    """An observer of the runs' progress."""

    def started(self, job: Job, stage: Stage) -> None:
        """A command begins."""

    def waiting(self, job: Job) -> None:
        """Another process is working on the run. Called once."""

    def advanced(self, job: Job, step: int) -> None:
        """A run has logged a step. Called repeatedly."""

    def ended(self, job: Job, state: State) -> None:
        """Nothing more will be done for a run."""


def find_places(configs: Sequence[RunConfig], num_jobs: int | None) -> list[Place]:
    """Places for the runs that are carried out at the same time.

    Args:
        configs: The runs.
        num_jobs: How many at a time. None means one per GPU. Without GPUs, it means one per core if every run uses one
            thread, and otherwise one for all cores.
    """
    cores = usable_cores()
    gpus = [] if all(config.device == "cpu" for config in configs) else _shared(visible_gpus(), configs)
    single = all(config.threads == 1 for config in configs)
    count = num_jobs or (len(gpus) if gpus else len(cores) if single else 1)
    bounds = [i * len(cores) // count for i in range(count + 1)]
    shares = [tuple(cores[i:j]) or (cores[i],) for i, j in itertools.pairwise(bounds)]
    return [Place(share, gpus[i % len(gpus)] if gpus else None) for i, share in enumerate(shares)]


def _shared(gpus: Sequence[str], configs: Sequence[RunConfig]) -> list[str]:
    """The GPUs in groups. Each group has as many as the run with the most devices needs."""
    each = max((config.devices for config in configs), default=1)
    return [",".join(gpus[i : i + each]) for i in range(0, len(gpus) - each + 1, each)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as named in CUDA_VISIBLE_DEVICES."""
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return names if len(names) == count else [str(i) for i in range(count)]


def alone(out: Path, told: Callable[[int | None], None]) -> AbstractContextManager[None]:
    """Keeps other processes from running the study in a folder at the same time. Waits for one that already does.

    Args:
        out: The study's folder.
        told: Called once before a wait, with the number of the other process, if that is known.
    """
    return wait_for_sole_use(out / LOCK, told)


def run_jobs(jobs: Sequence[Job], places: Sequence[Place], watcher: Watcher) -> bool:
    """Trains and evaluates what is left of some runs.

    If a run fails, this is reported and the others continue. On Ctrl-C or SIGTERM, the trainings end with a checkpoint.
    On a second signal, they end at once.

    Args:
        jobs: The runs. Finished ones are skipped.
        places: The places to run them. As many runs are carried out at a time as there are places.
        watcher: The observer of their progress.

    Returns:
        Whether all runs were attempted. False if a signal stopped them.

    Raises:
        KeyboardInterrupt: On a second signal.
    """
    return _Launcher(jobs, places, watcher).run()


def carry_out(
    job: Job, place: Place, stage: Stage, environment: Mapping[str, str | None] = MappingProxyType({})
) -> "Command":
    """Starts a command of a run. Its output goes to the run's log.

    Args:
        job: The run.
        place: Where to run it. A place without cores means all cores of this process.
        stage: Which command.
        environment: Further changes to this process's environment variables. None removes a variable.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.failure.unlink(missing_ok=True)
    threads = job.config.threads or len(place.cores or usable_cores())
    variables: dict[str, str | None] = {"OMP_NUM_THREADS": str(threads), **environment}
    if place.gpu is not None:
        variables["CUDA_VISIBLE_DEVICES"] = place.gpu
    with job.log.open("ab") as log:
        log.write(f"$ {job.command(stage)}\n".encode(errors="backslashreplace"))
        log.flush()
        begin = log.tell()
        process = start_child([*COMMAND, *job.words(stage)], log, variables, place.cores)
    return Command(job, stage, place, process, begin)


@dataclass
class Command:
    """A command of a run that has been started.

    Attributes:
        job: The run.
        stage: What it does.
        place: Where it runs.
        process: Its process.
        begin: Position in the run's log where its own lines begin.
    """

    job: Job
    stage: Stage
    place: Place
    process: subprocess.Popen[bytes]
    begin: int

    def failed(self) -> bool:
        """Whether the command failed. If so, stores the reason."""
        status = self.process.returncode
        if status == 0:
            return False
        with self.job.log.open("rb") as log:
            log.seek(self.begin)
            lines = log.read().decode(errors="replace").splitlines()
        said = [line for line in lines if SAYS_WHY.match(line)] or lines[-1:]
        reason = said[-1].removeprefix(PREFIX) if said else ""
        if status < 0:
            reason = f"killed by signal {signal.Signals(-status).name}"
        reason = (reason or f"exit status {status}, see {self.job.log}")[:LONGEST_REASON]
        write_atomically(self.job.failure, lambda file: file.write(f"{self.stage}: {reason}\n".encode()))
        return True


class _Launcher:
    """The runs that are waiting, and those that are running."""

    def __init__(self, jobs: Sequence[Job], places: Sequence[Place], watcher: Watcher) -> None:
        self.waiting, self.watcher = deque(jobs), watcher
        self.free = list(places)
        self.commands: list[Command] = []
        self.told: set[Path] = set()
        self.signals = 0

    def run(self) -> bool:
        with handling(self._stop, *ENDING):
            try:
                while self.commands or (self.waiting and not self.signals):
                    self._start()
                    time.sleep(POLL)
                    self._look()
            finally:
                for command in self.commands:  # a bug, or a second signal
                    command.process.kill()
        return not self.signals

    def _stop(self, number: int, _: object) -> None:
        if self.signals and number not in URGENT:
            return  # a terminal that closes sends SIGHUP twice
        self.signals += 1
        for command in self.commands:
            command.process.terminate()
        if self.signals > 1:
            raise KeyboardInterrupt

    def _start(self) -> None:
        """Fills the free places. A run that another process is working on waits, and lets others go first."""
        for _ in range(len(self.waiting)):
            if not self.free or self.signals:
                return
            job = self.waiting.popleft()
            if is_locked(job.path / runs.LOCK):
                if job.path not in self.told:
                    self.told.add(job.path)
                    self.watcher.waiting(job)
                self.waiting.append(job)
            else:
                self._go_on(job, self.free.pop(0))

    def _go_on(self, job: Job, place: Place) -> None:
        """Starts the next command of a run, or reports that nothing is left."""
        state = job.state()
        if state.finished:
            self.free.append(place)
            self.watcher.ended(job, state)
            return
        stage: Stage = "evaluate" if state.step >= job.config.steps else "train"
        self.watcher.started(job, stage)
        self.commands.append(carry_out(job, place, stage))
        if self.signals:  # the signal came while the process was being started
            self.commands[-1].process.terminate()

    def _look(self) -> None:
        for command in list(self.commands):
            if command.process.poll() is None:
                self.watcher.advanced(command.job, logged_step(command.job.path))
                continue
            self.commands.remove(command)
            self.free.append(command.place)
            if self.signals:
                continue
            if command.failed() or command.stage == "evaluate":
                self.watcher.ended(command.job, command.job.state())
            else:
                self._go_on(command.job, self._take(command.place))

    def _take(self, place: Place) -> Place:
        self.free.remove(place)
        return place
