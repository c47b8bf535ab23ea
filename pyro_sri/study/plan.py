"""The runs of a study: their folders, their commands, and their progress."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pyro_sri import checkpoints, runs
from pyro_sri.config import RunConfig, nearest
from pyro_sri.data.format import DatasetFile
from pyro_sri.evaluation import Metrics
from pyro_sri.evaluation.measures.collapse import LEAST_SCENE
from pyro_sri.presets import train_options
from pyro_sri.study.specification import Evaluation, Row, Study
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import is_locked, write_numbered
from pyro_sri.system.shell import command_line
from pyro_sri.training.loop import DIVERGED, check_same

COMMAND = (sys.executable, "-m", "pyro_sri")  # runs `pyro-sri`, wherever it is installed
MARK = "study.yaml"  # in a study's folder: a copy of the study file
LOG_TAIL = 65_536  # bytes at the end of a log that are searched for its last line

# A run has collapsed if its latents or its scene variable hold no information about the image, or if all objects share
# a slot.
LEAST_NATS, LEAST_ARI_FG = 1.0, 0.05

Stage = Literal["train", "evaluate"]
StateName = Literal["missing", "begun", "running", "trained", "done", "collapsed", "diverged", "failed"]
FINISHED: tuple[StateName, ...] = ("done", "collapsed", "diverged")


class State(NamedTuple):
    """The state of a run.

    Attributes:
        name: missing, begun, running (in any process), trained but not evaluated, done; collapsed, which is also done;
            diverged, which more training cannot repair; failed for another reason, which is tried again.
        step: The step of its last checkpoint.
        reason: The reason for this state in one line; may be empty.
    """

    name: StateName
    step: int
    reason: str = ""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.name in FINISHED


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        row: The row that it belongs to.
        path: Its run directory.
        log: The file for the output of its commands.
        config: Its configuration, with seed and data.
        evaluation: How it is evaluated.
        tiny: Whether it is a `--tiny` run.
    """

    row: Row
    path: Path
    log: Path
    config: RunConfig
    evaluation: Evaluation
    tiny: bool

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.config.seed

    @property
    def name(self) -> str:
        """The name of the run in messages."""
        return f"{self.row.key} seed {self.seed}"

    @property
    def failure(self) -> Path:
        """The file with the reason, if the run failed."""
        return self.log.with_suffix(".failure")

    @property
    def run(self) -> runs.Run:
        """The run directory, for reading."""
        return runs.Run(self.path, self.config)

    def words(self, stage: Stage) -> list[str]:
        """The arguments of `pyro-sri` that train or evaluate the run."""
        if stage == "evaluate":
            return ["evaluate", str(self.path), *self.evaluation.words()]
        tiny = ["--tiny"] if self.tiny else []
        options = train_options(self.config, self.tiny)
        return ["train", self.config.preset, *tiny, *options, "--out", str(self.path), "--resume"]

    def command(self, stage: Stage = "train") -> str:
        """The same command as one line for people."""
        return command_line(["pyro-sri", *self.words(stage)])

    def check(self) -> None:
        """Raises UserError if the run directory does not hold the run that the row asks for."""
        if not (self.path / runs.CONFIG).exists():
            runs.check_new(self.path)
            return
        stored = runs.open_run(self.path).config
        try:
            if stored.preset != self.config.preset:
                raise UserError(f"its preset was {stored.preset}")
            check_same(dataclasses.replace(self.config, data=stored.data), stored)
        except UserError as error:
            raise UserError(
                f"row '{self.row.key}' has changed since {self.path} was trained ({error}): restore it, give the row "
                "another key, or choose another --out"
            ) from error

    def state(self) -> State:
        """The state of the run, from its directory."""
        try:
            return self._look()
        except UserError as error:  # something in it is damaged, which training will also report
            return State("failed", 0, str(error))

    def _look(self) -> State:
        step = self._checkpoint_step()
        if is_locked(self.path / runs.LOCK):
            return State("running", max(step, logged_step(self.path)))
        trained = step >= self.config.steps and self.run.checkpoint("last").exists()
        if trained and (metrics := self.metrics()) is not None:
            reason = collapse(metrics)
            return State("collapsed" if reason else "done", step, reason)
        if self.failure.exists():
            reason = self.failure.read_text(encoding="utf-8", errors="replace").strip()
            return State("diverged" if DIVERGED in reason else "failed", step, reason)
        if trained:
            return State("trained", step)
        return State("begun" if step else "missing", step)

    def metrics(self) -> Metrics | None:
        """The results of the evaluation, or None if this checkpoint has not been evaluated with these options."""
        found = self.run.metrics()
        if found is None:
            return None
        wanted = {"step": self.run_step(), "split": self.evaluation.split, "seed": self.evaluation.seed}
        wanted["checkpoint"] = self.evaluation.checkpoint
        if self.evaluation.num_images is not None:
            wanted["num_images"] = min(self.evaluation.num_images, self._available())
        return found if all(found.get(name) == value for name, value in wanted.items()) else None

    def run_step(self) -> int:
        """The step of the checkpoint that is evaluated."""
        return int(checkpoints.load_checkpoint(self.run.checkpoint(self.evaluation.checkpoint))["step"])

    def minutes(self) -> float:
        """Minutes of training, from the speeds in the log, without start-up time and work that was lost by a kill."""
        seconds, before = 0.0, 0
        for line in self.run.log():
            if "images_per_second" in line:
                images = sum(self.config.images_per_step(step) for step in range(before, line["step"]))
                seconds += images / line["images_per_second"]
                before = line["step"]
        return seconds / 60

    def _checkpoint_step(self) -> int:
        path = self.run.checkpoint("last")
        return int(checkpoints.load_checkpoint(path)["step"]) if path.exists() else 0

    def _available(self) -> int:
        with DatasetFile(self.config.data_file) as file:
            return file.num_images(self.evaluation.split)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study and its runs in a folder.

    Attributes:
        study: The study.
        out: The folder.
        jobs: Its runs, ordered by seed. Rows that are the same as another row have no runs of their own.
    """

    study: Study
    out: Path
    jobs: Sequence[Job]

    def of_row(self, row: Row) -> list[Job]:
        """The runs that a row shows."""
        return [job for job in self.jobs if job.row.key == row.runs_of]

    def only(self, keys: Sequence[str]) -> "Plan":
        """The plan with only some of the rows.

        Raises:
            UserError: If there is no such row.
        """
        rows = self.study.rows
        for key in keys:
            if key not in rows:
                raise UserError(f"--only {key}: the study has no such row; {nearest(key, rows)}")
        kept = {key: row for key, row in rows.items() if key in keys} if keys else dict(rows)
        of_rows = {row.runs_of for row in kept.values()}
        return Plan(
            dataclasses.replace(self.study, rows=kept), self.out, [job for job in self.jobs if job.row.key in of_rows]
        )


def make_plan(study: Study, out: Path, tiny: bool = False) -> Plan:
    """The runs of a study in a folder. Nothing is written.

    Args:
        study: The study.
        out: The folder.
        tiny: Whether the runs are `train --tiny` runs.

    Raises:
        UserError: If a data file does not fit a row.
    """
    study = study.tiny() if tiny else study
    jobs = [job for row in study.rows.values() if row.runs_of == row.key for job in _jobs(study, row, out, tiny)]
    jobs.sort(key=lambda job: study.seeds.index(job.config.seed))  # a study that stops early still compares all rows
    return Plan(study, out, jobs)


def data_file(study: Study, name: str, out: Path) -> Path:
    """Where a data set is, or will be."""
    file = study.data[name].file
    return (out / "data" / f"{name}.h5" if file is None else file).absolute()


def _jobs(study: Study, row: Row, out: Path, tiny: bool) -> Iterator[Job]:
    path = data_file(study, row.data, out)
    config = dataclasses.replace(_fitting(row, path), data=path)
    for seed in study.seeds:
        yield Job(
            row,
            path=out / "runs" / row.key / str(seed),
            log=out / "logs" / row.key / f"{seed}.txt",
            config=dataclasses.replace(config, seed=seed),
            evaluation=study.evaluation,
            tiny=tiny,
        )


def _fitting(row: Row, path: Path) -> RunConfig:
    """The row's configuration with the image size of a data file, if the file exists."""
    if not path.exists():
        return row.config
    with DatasetFile(path) as file:
        size = file.image_size
    if size not in row.config.image_sizes:
        raise UserError(
            f"row '{row.key}': {path} holds {size}x{size} images, which {row.config.preset} does not support"
        )
    return dataclasses.replace(row.config, image_size=size)


def check_folder(out: Path) -> None:
    """Raises UserError if a study's folder is already used for something else."""
    runs.check_name(out)
    if (out / MARK).exists() or not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file: choose another folder with --out")
    if other := sorted(path.name for path in out.iterdir() if not _ours(path) and not runs.is_log(path)):
        raise UserError(
            f"{out} holds other files ({other[0]}) and is not a study folder: choose another folder with --out"
        )


def claim(plan: Plan) -> None:
    """Keeps a copy of the study file in the study's folder. Earlier copies are kept with a number.

    Raises:
        UserError: If the folder holds other files, or a run with another configuration.
    """
    check_folder(plan.out)
    for job in plan.jobs:
        job.check()
    mark, content = plan.out / MARK, plan.study.source.read_bytes()
    if not mark.exists() or mark.read_bytes() != content:
        write_numbered(mark, content)


def _ours(path: Path) -> bool:
    return path.name.startswith(".")


def collapse(metrics: Metrics) -> str:
    """Why a run counts as collapsed, or an empty text if it does not."""
    kl, scene, ari = (metrics.get(name) for name in ("kl", "kl_scene", "ari_fg"))
    if isinstance(kl, float) and kl < LEAST_NATS:
        return f"the latents hold {kl:.2g} nats"
    if isinstance(scene, float) and scene < LEAST_SCENE:
        return f"the scene variable holds {scene:.2g} nats"
    if isinstance(ari, float) and ari < LEAST_ARI_FG:
        return f"objects are not separated (ari_fg {ari:.2g})"
    return ""


def logged_step(path: Path) -> int:
    """The step of the last complete line in the log of a run directory, or 0 if there is none."""
    try:
        with (path / runs.LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - LOG_TAIL))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0
