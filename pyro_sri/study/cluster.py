"""Runs of a study on a cluster: one submitit job per run. A requeued job continues its run."""

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

POLL = 10.0  # seconds between checks of a run that another process is working on
CHILD_POLL = 1.0  # seconds between checks of the command
SIGNAL_SECONDS = 120  # before a job's time limit: training saves a checkpoint after its current step
MOST_TIMEOUTS = 100  # then a job is no longer requeued
DEFAULT_CORES = 4  # of a run that does not set its number of threads
WAITING = ("PENDING", "RUNNING", "REQUEUED", "CONFIGURING", "COMPLETING", "SUSPENDED", "UNKNOWN", "READY")
# With SLURM's own variables, `train` would mistake the job for a distributed run.
HIDDEN = {"SLURM_NTASKS": None}


class ClusterRun:
    """A job, which trains and evaluates one run. When requeued, it continues from the last checkpoint.

    Args:
        job: The run.
    """

    def __init__(self, job: Job) -> None:
        self.job = dataclasses.replace(job, path=job.path.absolute(), log=job.log.absolute())
        self.command: Command | None = None

    def __call__(self) -> str:
        """Does what is left of the run, and returns its state."""
        while is_locked(self.job.path / runs.LOCK):
            time.sleep(POLL)
        stages: tuple[Stage, ...] = ("train", "evaluate")
        for stage in stages:
            state = self.job.state()
            if state.finished or (stage == "train" and state.step >= self.job.config.steps):
                continue
            self.command = carry_out(self.job, Place((), None), stage, HIDDEN)
            while self.command.process.poll() is None:  # not wait(), which would block `checkpoint`
                time.sleep(CHILD_POLL)
            if self.command.failed():
                break
        return self.job.state().name

    def checkpoint(self) -> Any:
        """Ends the command with a checkpoint when the job runs out of time or is preempted."""
        import submitit

        if self.command is not None and self.command.process.poll() is None:
            self.command.process.terminate()
            try:
                self.command.process.wait(SIGNAL_SECONDS / 2)
            except subprocess.TimeoutExpired:  # a very long step: the last checkpoint remains
                self.command.process.kill()
        return submitit.helpers.DelayedSubmission(ClusterRun(self.job))


def slurm_executor(folder: Path, partition: str | None, hours: float, gpus: int, jobs: Sequence[Job]) -> Any:
    """The executor that submits jobs to SLURM.

    Args:
        folder: Folder for the jobs' files, which all machines must share.
        partition: The partition; None for the cluster's default.
        hours: Hours after which a job is requeued.
        gpus: GPUs per job.
        jobs: The runs, which determine how many cores a job needs.

    Raises:
        UserError: If submitit is not installed, or this machine does not belong to a SLURM cluster.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError("--launcher slurm needs submitit: pip install 'pyro-sri[cluster]'") from error
    try:
        executor = submitit.SlurmExecutor(folder.absolute(), max_num_timeout=MOST_TIMEOUTS)
    except RuntimeError as error:
        raise UserError("there is no SLURM here (no srun): run this on a cluster's login machine") from error
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
    """Submits a job for each run that is not finished and has no job in the queue.

    Args:
        jobs: The runs.
        executor: An executor of submitit.

    Returns:
        The numbers of the new jobs by the names of their runs.

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
    """The file with the number of a run's job."""
    return job.log.with_suffix(".job")


def job_number(job: Job) -> str:
    """The number of a run's latest job, or an empty text if it has had none."""
    return ticket(job).read_text(encoding="utf-8").strip() if ticket(job).exists() else ""


def queue_state(job: Job, executor: Any) -> str:
    """The state of a run's job in the cluster's words, or an empty text if it has none."""
    if not job_number(job):
        return ""
    submitted = executor.job_class(executor.folder, job_number(job))
    if submitted.paths.result_pickle.exists():
        return "FINISHED"
    return str(submitted.state).split(" ", 1)[0].upper()


def _said(error: Exception) -> object:
    output = getattr(error, "stderr", None) or getattr(error, "output", None)
    return output.decode(errors="replace") if isinstance(output, bytes) else output or error
