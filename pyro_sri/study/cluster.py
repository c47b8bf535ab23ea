"""Runs of a study on a cluster: one job for each, by submitit, which a requeued job goes on with."""

import dataclasses
import subprocess
import time
from collections.abc import Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any

from pyro_sri import runs
from pyro_sri.study.local import Command, Place, carry_out
from pyro_sri.study.plan import Job, Stage
from pyro_sri.system.errors import UserError, one_line
from pyro_sri.system.files import is_locked, write_atomically

POLL = 10.0  # seconds between looks at a run that another process has
CHILD_POLL = 1.0  # seconds between looks at the command
SIGNAL_SECONDS = 120  # before a job's time is over: training ends with a checkpoint after its step
MOST_TIMEOUTS = 100  # after which a job is no longer requeued
DEFAULT_CORES = 4  # of a run that does not say how many threads it takes
WAITING = ("PENDING", "RUNNING", "REQUEUED", "CONFIGURING", "COMPLETING", "SUSPENDED", "UNKNOWN", "READY")
# SLURM's own variables would have `train` take the job for one of its distributed runs.
HIDDEN = {"SLURM_NTASKS": None}


class ClusterRun:
    """What a job does: trains and evaluates one run. Requeued, it goes on from the last checkpoint.

    Args:
        job: The run.
    """

    def __init__(self, job: Job) -> None:
        self.job = dataclasses.replace(job, path=job.path.absolute(), log=job.log.absolute())
        self.command: Command | None = None

    def __call__(self) -> str:
        """Carries out what is left of the run; returns its state."""
        while is_locked(self.job.path / runs.LOCK):
            time.sleep(POLL)
        stages: tuple[Stage, ...] = ("train", "evaluate")
        for stage in stages:
            state = self.job.state()
            if state.finished or (stage == "train" and state.step >= self.job.config.steps):
                continue
            self.command = carry_out(self.job, Place((), None), stage, HIDDEN)
            while self.command.process.poll() is None:  # not wait(), which `checkpoint` would have to wait for
                time.sleep(CHILD_POLL)
            if self.command.failed():
                break
        return self.job.state().name

    def checkpoint(self) -> Any:
        """Ends the command with a checkpoint, when the job's time is over or others need its place."""
        import submitit

        if self.command is not None and self.command.process.poll() is None:
            self.command.process.terminate()
            try:
                self.command.process.wait(SIGNAL_SECONDS / 2)
            except subprocess.TimeoutExpired:  # a very long step: the last checkpoint stands
                self.command.process.kill()
        return submitit.helpers.DelayedSubmission(ClusterRun(self.job))


def slurm_executor(folder: Path, partition: str | None, hours: float, gpus: int, jobs: Sequence[Job]) -> Any:
    """What submits jobs to SLURM.

    Args:
        folder: Where the jobs' files go; every machine must see it.
        partition: The partition; None for the cluster's default.
        hours: Hours that a job may take before it is requeued.
        gpus: GPUs of each job.
        jobs: The runs, which say how many cores they need.

    Raises:
        UserError: If submitit is not installed, or this is no machine of a SLURM cluster.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError("--launcher slurm needs submitit: pip install 'pyro-sri[cluster]'") from error
    try:
        executor = submitit.SlurmExecutor(folder.absolute(), max_num_timeout=MOST_TIMEOUTS)
    except RuntimeError as error:
        raise UserError("there is no SLURM here (no srun): call it on a cluster's login machine") from error
    executor.update_parameters(
        job_name="pyro-sri-study",
        nodes=1,
        ntasks_per_node=1,
        time=max(1, round(60 * hours)),
        gpus_per_node=gpus,
        cpus_per_task=max((job.config.threads or DEFAULT_CORES for job in jobs), default=1),
        signal_delay_s=SIGNAL_SECONDS,
        **({} if partition is None else {"partition": partition}),
    )
    return executor


def submit_jobs(jobs: Sequence[Job], executor: Any) -> dict[str, str]:
    """Submits a job for each run that is not finished and has none yet.

    Args:
        jobs: The runs.
        executor: One of submitit's.

    Returns:
        The numbers of the new jobs, by the name of the run.

    Raises:
        UserError: If the cluster refuses a job.
    """
    submitted = {}
    for job in jobs:
        if job.state().finished or queue_state(job, executor) in WAITING:
            continue
        job.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            number = executor.submit(ClusterRun(job)).job_id
        except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
            raise UserError(f"the cluster does not take {job.name}: {one_line(_said(error))}") from error
        write_atomically(ticket(job), methodcaller("write", f"{number}\n".encode()))
        submitted[job.name] = number
    return submitted


def ticket(job: Job) -> Path:
    """Where the number of a run's job stands."""
    return job.log.with_suffix(".job")


def job_number(job: Job) -> str:
    """The number of a run's job, or of its last one; empty if it has had none."""
    return ticket(job).read_text(encoding="utf-8").strip() if ticket(job).exists() else ""


def queue_state(job: Job, executor: Any) -> str:
    """What the cluster says of a run's job, in its words; empty if it has none."""
    if not job_number(job):
        return ""
    submitted = executor.job_class(executor.folder, job_number(job))
    if submitted.paths.result_pickle.exists():
        return "FINISHED"
    return str(submitted.state).split(" ", 1)[0].upper()


def _said(error: Exception) -> object:
    output = getattr(error, "stderr", None) or getattr(error, "output", None)
    return output.decode(errors="replace") if isinstance(output, bytes) else output or error
