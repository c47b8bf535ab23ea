"""`pyro-sri study`: carry out what is missing of a study, then write its tables and a page."""

import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import Progress, TaskID

from pyro_sri.scripts.cli import bar_columns, can_redraw, name_column, note, parse, progress_bar, say
from pyro_sri.scripts.own_data import make_or_await
from pyro_sri.scripts.tables import print_table
from pyro_sri.study.cluster import job_number, queue_state, slurm_executor, submit_jobs
from pyro_sri.study.data import make_data, missing_data
from pyro_sri.study.estimate import training_hours
from pyro_sri.study.local import alone, find_places, run_jobs
from pyro_sri.study.plan import Job, Plan, Stage, State, check_folder, claim, make_plan
from pyro_sri.study.results import failed
from pyro_sri.study.specification import find_study, shipped_studies
from pyro_sri.study.writing import write_results
from pyro_sri.system.errors import UserError, printable
from pyro_sri.system.shell import command_line

PROG = "pyro-sri study"


def study(
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STUDY")],
    /,
    out: Path,
    jobs: int | None = None,
    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="ROW")] = (),
    dry_run: bool = False,
    status: bool = False,
    tiny: bool = False,
    launcher: Literal["local", "slurm"] = "local",
    partition: str | None = None,
    hours: float = 24.0,
    gpus: int = 1,
) -> None:
    """Carry out a study: these systems, these seeds, this data.

    STUDY is a YAML file or the name of a bundled study: {shipped}.

    It makes the data, trains and evaluates every missing run, several at a time, and writes results.json, tables
    (Markdown, CSV, LaTeX), samples of all rows side by side and report.html into DIR. Each run is an ordinary run
    directory, DIR/runs/ROW/SEED. If a run fails, the study reports it and continues with the others; the exit status
    is then 2.

    You can stop it at any time, even with kill -9, and continue with the same command. On Ctrl-C or SIGTERM every
    training saves a checkpoint and the command exits with status 0; a second signal stops everything at once. SIGHUP,
    SIGUSR1, SIGUSR2 and SIGXCPU do what the first SIGTERM does. Finished runs are not trained again. A row whose fields
    have changed since it was trained is refused. Only the results are overwritten. Two commands with the same DIR work
    one after the other: the second waits.

    A study file names data, seeds and systems. docs/studies.md explains its keys. For example:

    {title: Mine, data: {file: mine.h5}, seeds: [0, 1], rows: {sri: {preset: sri-quick}}}

    For example:

    pyro-sri study towers --out towers --dry-run

    pyro-sri study towers --out towers --jobs 2

    pyro-sri study mine.yaml --out mine --only sri --only genesis_v2

    pyro-sri study table2 --out table2 --launcher slurm --partition gpu --hours 24

    Args:
        name: A study file or the name of a bundled study.
        out: The study's folder: a new one, an empty one, or that of the same study.
        jobs: Number of runs at a time. If not given: one per GPU; without GPUs, one per core if every run uses one
            thread, otherwise one.
        only: Carry out only this row; may be given several times.
        dry_run: Print every run with its command, its state and the estimated hours; write nothing.
        status: Print the progress of every run; write nothing.
        tiny: Small images, few slots and features, 3 steps: checks in seconds per run that everything works.
        launcher: local runs everything on this machine; slurm submits one job per run (needs the extra cluster). Call
            it again when all jobs are done, and it writes the results.
        partition: The cluster partition for the jobs (if not given: the cluster's default).
        hours: Time limit of a job in hours. A job that reaches it is requeued and continues.
        gpus: GPUs of each job.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs is {jobs}: it must be at least 1")
    if gpus < 0 or not 0 < hours < 10_000:
        raise UserError(f"--gpus {gpus} or --hours {hours:g} is out of range: GPUs start at 0, hours above it")
    whole = make_plan(find_study(name), out, tiny)
    plan = whole.only(only)
    check_folder(out)
    for job in plan.jobs:
        job.check()
    if dry_run:
        print_plan(plan, len(find_places([job.config for job in plan.jobs], jobs)))
        return
    if status:
        print_states(plan)
        return
    command = _command(name, out, jobs, only, tiny)
    executor = slurm_executor(out / "cluster", partition, hours, gpus, plan.jobs) if launcher == "slurm" else None

    def wait(process: int | None) -> None:
        other = "another process" if process is None else f"process {process}"
        note(f"{other} is running this study in {out}: waiting for it to end (Ctrl-C ends the wait)")

    with alone(out, wait):
        claim(plan)
        _make_missing(plan)
        whole = make_plan(find_study(name), out, tiny)  # again: the images are there, and have a size
        plan = whole.only(only)
        if executor is not None and _submit(plan, executor):
            note("run the same command again when all jobs are done, to write the results; --status shows the progress")
            return
        with _watching(plan) as watcher:
            complete = run_jobs(plan.jobs, find_places([job.config for job in plan.jobs], jobs), watcher)
        if not complete:
            note(f"stopped; to continue: {command}")
            return
        for path in write_results(whole, command):
            say(f"wrote {path}")
    _report_failures(plan)


study.__doc__ = (study.__doc__ or "").replace("{shipped}", ", ".join(shipped_studies()))


def _command(name: str, out: Path, jobs: int | None, only: Sequence[str], tiny: bool) -> str:
    words = [*PROG.split(), name, "--out", str(out), *(word for key in only for word in ("--only", key))]
    words += [] if jobs is None else ["--jobs", str(jobs)]
    return command_line([*words, *(["--tiny"] if tiny else [])])


def _make_missing(plan: Plan) -> None:
    for name, path in missing_data(plan).items():
        note(f"making {path}: generated {plan.study.data[name].family}")
        with progress_bar() as report:
            make_or_await(path, functools.partial(make_data, plan.study.data[name], path, report))


def _submit(plan: Plan, executor: Any) -> bool:
    """Submits what is missing; whether jobs are under way."""
    submit_jobs(plan.jobs, executor)
    for job in plan.jobs:
        if queue := "" if job.state().finished else queue_state(job, executor):
            note(f"{job.name}: job {job_number(job)}, {queue.lower()}")
    return any(not job.state().finished for job in plan.jobs)


def _report_failures(plan: Plan) -> None:
    """Raises UserError if a run diverged or failed."""
    found = failed(plan)
    for job, state in found:
        note(f"{job.name} {state.name}: {state.reason}")
    if found:
        again = [str(job.failure) for job, state in found if state.name == "diverged"]
        hint = f"; to try a diverged run again, delete {again[0]}" if again else ""
        raise UserError(f"{len(found)} of {len(plan.jobs)} runs failed; the results are those of the others{hint}")


def print_states(plan: Plan) -> None:
    """The table of states."""
    rows = []
    for job in plan.jobs:
        state = job.state()
        number = "" if state.finished else job_number(job)
        remark = state.reason or (f"job {number}" if number else "")
        rows.append([job.name, state.name, str(state.step), str(job.config.steps), remark])
    print_table(["run", "state", "step", "of", "remark"], rows, title=plan.study.title, text_last=True)


def print_plan(plan: Plan, num_places: int) -> None:
    """Every run with its state and command, then hours by row."""
    say(f"{plan.study.title} ({plan.study.source})")
    for name, path in missing_data(plan).items():
        say(f"to be made: {path}, generated {plan.study.data[name].family}")
    for job in plan.jobs:
        say(f"{job.name}: {_in_words(job.state(), job.config.steps)}")
        print(f"  {job.command()}\n  {job.command('evaluate')}")
    rows: list[list[str]] = []
    each: list[float] = []  # hours of each run
    for row in plan.study.rows.values():
        if row.runs_of != row.key:
            rows.append([row.key, "", f"those of {row.runs_of}"])
            continue
        left = [job for job in plan.of_row(row) if not job.state().finished]
        hours = list(_hours(left))
        each += hours
        rows.append([row.key, str(len(left)), f"{sum(hours):.2f}"])
    rows.append(["all", str(len(each)), f"{sum(each):.2f}"])
    print_table(["row", "runs left", "hours"], rows, title="Training, estimated from a few steps of each phase here")
    together = max([sum(each) / num_places, *each])  # a run is not divided
    print(f"{num_places} at a time: about {together:.2f} hours; data and evaluation take additional time.")


def _hours(jobs: Sequence[Job]) -> Iterator[float]:
    """Hours of runs that differ in their seed alone: measured once for each step that one goes on from."""
    known: dict[int, float] = {}
    for job in jobs:
        step = job.state().step
        if step not in known:
            known[step] = training_hours(job.config, step)
        yield known[step]


def _in_words(state: State, steps: int) -> str:
    at = f", step {state.step} of {steps}" if state.step else ""
    return f"{state.name}{at}" + (f" ({state.reason})" if state.reason else "")


@contextmanager
def _watching(plan: Plan) -> Iterator["Lines | Bars"]:
    """Bars on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    if not can_redraw(console):
        yield Lines(len(plan.jobs))
        return
    columns = (name_column(), *bar_columns())
    with Progress(*columns, console=console, expand=True) as progress:
        yield Bars(plan, progress)


class Lines:
    """A line at the start and at the end of every run."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.begun: dict[Path, float] = {}

    def started(self, job: Job, stage: Stage) -> None:
        """A command begins."""
        if job.path not in self.begun:
            self.begun[job.path] = time.monotonic()
            self.say(f"{job.name}: {'training' if stage == 'train' else 'evaluating'}, see {job.log}")

    def waiting(self, job: Job) -> None:
        """Another process has the run."""
        self.say(f"{job.name}: another process is training it; waiting for it")

    def advanced(self, job: Job, step: int) -> None:
        """Nothing is said of steps."""

    def ended(self, job: Job, state: State) -> None:
        """Nothing more is done about a run."""
        self.done += 1
        took = f" after {(time.monotonic() - self.begun[job.path]) / 60:.1f} min" if job.path in self.begun else ""
        self.say(f"{job.name}: {_in_words(state, job.config.steps)}{took} ({self.done} of {self.total})")

    def say(self, text: str) -> None:
        """Prints a line."""
        note(text)


class Bars(Lines):
    """The same lines above a bar for each run under way, and one for all."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        super().__init__(len(plan.jobs))
        self.progress = progress
        self.steps = {job.path: job.state().step for job in plan.jobs}
        self.all = progress.add_task("all runs", total=sum(job.config.steps for job in plan.jobs))
        self.tasks: dict[Path, TaskID] = {}
        self._update()

    def started(self, job: Job, stage: Stage) -> None:
        """A command begins: a bar appears."""
        super().started(job, stage)
        what = job.name if stage == "train" else f"{job.name}, evaluating"
        if job.path not in self.tasks:
            self.tasks[job.path] = self.progress.add_task(what, total=job.config.steps)
        self.progress.update(self.tasks[job.path], description=what, completed=self.steps[job.path])

    def advanced(self, job: Job, step: int) -> None:
        """Its bar grows."""
        self.steps[job.path] = max(step, self.steps[job.path])
        self.progress.update(self.tasks[job.path], completed=self.steps[job.path])
        self._update()

    def ended(self, job: Job, state: State) -> None:
        """Its bar goes."""
        super().ended(job, state)
        self.steps[job.path] = job.config.steps
        if job.path in self.tasks:
            self.progress.remove_task(self.tasks.pop(job.path))
        self._update()

    def say(self, text: str) -> None:
        """Prints a line above the bars."""
        self.progress.console.print(printable(text), markup=False, highlight=False)

    def _update(self) -> None:
        self.progress.update(self.all, completed=sum(self.steps.values()))


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(study, PROG, args)
