"""Run directories: the files of a training run, and how to read them."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from pyro.infer.elbo import ELBOModule
from pyro.nn import PyroModule

from pyro_sri.checkpoints import evaluated_weights, fill, is_count, is_number, load_checkpoint
from pyro_sri.config import RunConfig, from_yaml, nearest, to_yaml
from pyro_sri.data.format import DatasetFile
from pyro_sri.objectives import TermsELBO, objective_of
from pyro_sri.presets import PRESETS, train_options
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import from_home, open_in_place, sole_use, unfinished, write_atomically
from pyro_sri.system.seeds import keeping_random_state
from pyro_sri.system.shell import command_line

CONFIG = "config.yaml"
LOG = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
METRICS = Path("evaluation") / "metrics.json"
LOCK = ".lock"  # exists while a process trains the run, and after a kill until the run is resumed
WEIGHTS = Path(__file__).parent / "weights"  # runs that are bundled with the package

LOG_SUFFIXES = (".log", ".txt", ".out", ".err")

LARGEST_TEXT = 4 * 1024**2  # characters of config.yaml, of metrics.json, or of a line of metrics.jsonl
LONGEST_NAME = 100  # of a metric


class Pair(NamedTuple):
    """A model and its guide."""

    model: PyroModule
    guide: PyroModule

    @property
    def objective(self) -> TermsELBO:
        """The objective that they were trained with, in evaluation mode."""
        return objective_of(self.model, self.guide)


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        path: The directory.
        config: Its configuration.
    """

    path: Path
    config: RunConfig

    def checkpoint(self, name: str = "best") -> Path:
        """The path of a checkpoint: "best" (by validation) or "last"."""
        return self.path / CHECKPOINTS / f"{name}.pt"

    @property
    def step(self) -> int:
        """The step of the best checkpoint."""
        return int(load_checkpoint(self.checkpoint())["step"])

    def load(self, name: str = "best") -> Pair:
        """Model and guide with the weights of a checkpoint, on the CPU, in evaluation mode.

        For a run with `ema`, these are the averaged weights. `load_checkpoint(path)["objective"]` has the others.

        Raises:
            UserError: If the checkpoint is missing, damaged or does not fit the configuration.
        """
        module = self.load_module(name)
        return Pair(module.model, module.guide)

    def load_module(self, name: str = "best") -> ELBOModule:
        """The same with the objective: a module with `model`, `guide` and `elbo`."""
        path = self.checkpoint(name)
        weights = evaluated_weights(load_checkpoint(path))
        with keeping_random_state():  # the initial weights are not used, so the caller's random state is kept
            model, guide, elbo = self.config.build()
        module = elbo(model, guide)
        fill(module, weights, path)
        return module.eval()

    def log(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without a last line that was cut short by a crash."""
        return read_log(self.path / LOG)

    def metrics(self) -> dict[str, Any] | None:
        """The result of `evaluate`, or None."""
        path = self.path / METRICS
        if not path.exists():
            return None
        try:
            metrics = json.loads(_read_text(path))
        except (OSError, ValueError, RecursionError):
            metrics = None
        if not isinstance(metrics, dict) or not all(_is_metric(name, value) for name, value in metrics.items()):
            raise UserError(f"{path} is damaged: remove it and run {self.evaluation_command()}")
        return metrics

    def command(self) -> str:
        """The command that repeats the run."""
        options = train_options(self.config)
        return command_line(["pyro-sri", "train", self.config.preset, *options, "--out", str(self.path)])

    def evaluation_command(self, given: str | None = None) -> str:
        """The command that evaluates the run; on another split if its data has no test images.

        Args:
            given: How the user named the run. None means by its directory.
        """
        split = []
        with contextlib.suppress(UserError), self.open_data() as file:
            split = split_option(file)
        return command_line(["pyro-sri", "evaluate", given or self.path, *split])

    def open_data(self) -> DatasetFile:
        """The run's dataset file.

        Raises:
            UserError: If the run has none, or it is missing or cannot be read.
        """
        return DatasetFile(self.find_data())

    def find_data(self) -> Path:
        """The path of the run's dataset file.

        Raises:
            UserError: If the run has none, or it is missing.
        """
        file = self.config.data_file
        if not file.exists():
            raise UserError(f"the data of {self.path}, {file}, is missing: if it has moved, name it with --data")
        return file


def split_option(file: DatasetFile) -> list[str]:
    """The option of `evaluate` for a dataset file without test images; otherwise none."""
    return [] if "test" in file.splits else ["--split", file.splits[-1]]


def open_log(run: Path) -> IO[str]:
    """Opens the log of a run directory to append lines, without following a link."""
    return open(run / LOG, "a", opener=open_in_place)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, without a last line that was cut short by a crash.

    Raises:
        UserError: If it cannot be read, or a line before the last is damaged.
    """
    lines: list[dict[str, Any]] = []
    try:
        with path.open("rb") as file:
            for number, text in enumerate(iter(lambda: file.readline(LARGEST_TEXT), b""), 1):
                try:
                    lines.append(_log_line(text))
                except (ValueError, RecursionError):
                    if file.read(1):
                        raise UserError(f"{path} is damaged in line {number}: repair or remove the line") from None
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read: it is damaged or not a file") from error
    return lines


def _log_line(text: bytes) -> dict[str, Any]:
    """A line of the log: a step, and numbers by name.

    Raises:
        ValueError: If it is not such a line.
    """
    line = json.loads(text.decode())
    if not isinstance(line, dict) or not is_count(line.get("step")) or not all(map(is_number, line.values())):
        raise ValueError("not a line of a log")
    return line


def _is_metric(name: str, value: object) -> bool:
    """Whether `evaluate` may have written this: a number, null, or a text."""
    if len(name) > LONGEST_NAME:
        return False
    if name == "training_seed":
        return value is None or is_count(value)
    if "_found_" in name:
        return is_count(value)
    if name.endswith("_stderr"):
        return value is None or is_number(value)
    return value is None or is_number(value) or isinstance(value, str)


def _read_text(path: Path) -> str:
    """The content of one of our text files.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not text, or too large to be one of ours.
    """
    with path.open(encoding="utf-8") as file:
        text = file.read(LARGEST_TEXT + 1)
    if len(text) > LARGEST_TEXT:
        raise ValueError("too large")
    return text


def open_run(path: Path) -> Run:
    """Reads a run directory's configuration.

    Raises:
        UserError: If it is missing or wrong.
    """
    config = path / CONFIG
    try:
        text = _read_text(config)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a run directory: it has no readable {CONFIG}{_run_near(path)}") from error
    return Run(path, from_yaml(text, str(config)))


def _run_near(path: Path) -> str:
    """What to name instead: a run directory above or below a path, if there is one."""
    above = [folder for folder in path.parents if (folder / CONFIG).is_file()]
    below = sorted(found.parent for found in path.glob(f"*/{CONFIG}")) if path.is_dir() else []
    if above:
        return f"; name its run directory, {above[0]}"
    return f"; name a run directory in it, such as {below[0]}" if below else "; name a folder that train has written"


def find_run(run: Path | str) -> Run:
    """Finds a run by its directory, or by the name of a preset with bundled weights.

    Raises:
        UserError: If there is neither.
    """
    path = from_home(run)
    if not path.exists():
        shipped = WEIGHTS / str(run)
        if str(run) in PRESETS and shipped.is_dir():
            return open_run(shipped)
        if str(run) in PRESETS:
            raise UserError(f"'{run}' has no bundled weights: train it first, with 'pyro-sri train {run}'")
        beside = (found.parent for found in path.parent.glob(f"*/{CONFIG}"))
        known = {*map(str, beside), *(name for name in PRESETS if (WEIGHTS / name).is_dir())}
        raise UserError(
            f"there is no run directory {run}, and no preset of that name with bundled weights: "
            f"{nearest(str(run), known)}"
        )
    return open_run(path)


def check_new(path: Path) -> None:
    """Raises UserError if a folder for a new run contains anything except logs of the command's output."""
    check_name(path)
    if (path / CONFIG).exists():
        raise UserError(f"{path} holds another run: continue it with --resume, or choose another folder with --out")
    leftovers = {LOCK, unfinished(path / CONFIG).name}  # of a run that was killed at its start
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: choose another folder with --out")
    other = sorted(f.name for f in path.iterdir() if f.name not in leftovers and not is_log(f)) if path.exists() else []
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        raise UserError(
            f"{path} holds other files ({other[0]}{more}): choose another folder with --out, or move them away"
        )


def check_name(path: Path) -> None:
    """Raises UserError if the name of a folder for runs is not UTF-8, because TensorBoard and YAML cannot write it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"the name {path} is not UTF-8: choose another folder with --out, or rename it") from None


def is_log(path: Path) -> bool:
    """Whether this looks like a shell's or batch system's log of a command. Runs have no such files."""
    return path.suffix in LOG_SUFFIXES and path.is_file()


@contextlib.contextmanager
def lock_run(path: Path) -> Iterator[None]:
    """Prevents other processes from training the run in `path`, if the file system has locks.

    A killed process leaves no lock, only an empty file, which the next process takes over.

    Raises:
        UserError: If another process is training it.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # if nothing can be written, training will say so
            taken = f"{path} is in use: another process is training this run; wait for it or stop it"
            stack.enter_context(sole_use(path / LOCK, taken))
        yield


def create_run(path: Path, config: RunConfig) -> Run:
    """Creates the directory of a new run.

    Raises:
        UserError: As `check_new`, or if the folder cannot be written.
    """
    check_new(path)
    write_config(path, config)
    return Run(path, config)


def write_config(path: Path, config: RunConfig) -> None:
    """Writes config.yaml into a run directory."""
    write_atomically(path / CONFIG, lambda file: file.write(to_yaml(config).encode()))
