"""Run directories: what a training run leaves behind, and how it is read again."""

import contextlib
import dataclasses
import errno
import json
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from pyro.infer.elbo import ELBOModule
from pyro.nn import PyroModule

from pyro_sri.config import RunConfig, flag, from_yaml, nearest, to_yaml
from pyro_sri.data.format import DatasetFile
from pyro_sri.errors import UserError
from pyro_sri.presets import PRESETS

CONFIG = "config.yaml"
LOG = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
METRICS = Path("evaluation") / "metrics.json"
WEIGHTS = Path(__file__).parent / "weights"  # runs that ship with the package

Checkpoint = dict[str, Any]


@contextlib.contextmanager
def plain_disk_errors(path: Path) -> Iterator[None]:
    """Turns what a full or read-only disk raises into one plain line about `path`."""
    try:
        yield
    except OSError as error:
        reason, full = error.strerror or str(error), error.errno == errno.ENOSPC
    except RuntimeError as error:  # how torch.save says that it could not write
        if "write" not in str(error):
            raise
        reason, full = "the disk may be full", True
    else:
        return
    raise UserError(f"cannot write {path}: {reason}; {'free some space' if full else 'choose another place'}")


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file under a temporary name beside it, flushes it to the disk, and renames it.

    Raises:
        UserError: If the disk is full or read-only; the old file, if any, stays.
    """
    temporary = None
    try:
        with plain_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
                temporary = Path(file.name)
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            temporary.replace(path)
    except UserError:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint atomically; it can be read with `torch.load(weights_only=True)`."""
    write_atomically(path, lambda file: torch.save(checkpoint, file))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint, without running code from it.

    Raises:
        UserError: If it is missing, damaged, or not one of ours.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: was the run stopped before its first checkpoint?")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in many ways
        raise UserError(f"{path} is not a readable checkpoint: it is damaged or was not written by train") from error
    if not isinstance(checkpoint, dict) or not {"step", "objective"} <= checkpoint.keys():
        raise UserError(f"{path} is not a checkpoint of a run: it holds no step or weights")
    return checkpoint


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        path: The directory.
        config: What the run is.
    """

    path: Path
    config: RunConfig

    def checkpoint(self, name: str = "best") -> Path:
        """Where a checkpoint stands: "best" (by validation) or "last"."""
        return self.path / CHECKPOINTS / f"{name}.pt"

    @property
    def step(self) -> int:
        """The step of the best checkpoint."""
        return int(load_checkpoint(self.checkpoint())["step"])

    def load(self, name: str = "best") -> tuple[PyroModule, PyroModule]:
        """Model and guide with the weights of a checkpoint, on the CPU, in evaluation mode.

        Raises:
            UserError: If the checkpoint is missing, damaged or does not fit the configuration.
        """
        module = self.load_module(name)
        return module.model, module.guide

    def load_module(self, name: str = "best") -> ELBOModule:
        """The same with their objective: a module with `model`, `guide` and `elbo`."""
        path = self.checkpoint(name)
        weights = load_checkpoint(path)["objective"]
        with torch.random.fork_rng():  # the initial weights are thrown away: no one's random state should notice
            model, guide, elbo = self.config.build()
        module = elbo(model, guide)
        fill(module, weights, path)
        return module.eval()

    def log(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a line cut short by a crash is left out."""
        return read_log(self.path / LOG)

    def metrics(self) -> dict[str, Any] | None:
        """What `evaluate` found, or None."""
        path = self.path / METRICS
        try:
            metrics = json.loads(path.read_text()) if path.exists() else None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged: remove it and run pyro-sri evaluate {self.path}") from error
        return metrics if isinstance(metrics, dict) else None

    def command(self) -> str:
        """The command that repeats the run."""
        preset = PRESETS.get(self.config.preset)
        default = dataclasses.asdict(preset.config) if preset else {}
        words = ["pyro-sri", "train", self.config.preset]
        for name, value in dataclasses.asdict(self.config).items():
            if name == "preset" or (value == default.get(name) and name in default):
                continue
            if isinstance(value, bool):
                words.append(flag(name) if value else "--no-" + flag(name)[2:])
            else:
                words += [flag(name), str(value)]
        return shlex.join([*words, "--out", str(self.path)])

    def open_data(self) -> DatasetFile:
        """The run's dataset file.

        Raises:
            UserError: If the run names none, or it cannot be read.
        """
        return DatasetFile(self.config.data_file)


def fill(module: torch.nn.Module, weights: Any, path: Path) -> None:
    """Loads weights into a module.

    Raises:
        UserError: If they do not fit.
    """
    try:
        module.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise UserError(f"{path} does not fit the configuration: other networks, or a field was edited") from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; the last line may have been cut short by a crash and is then left out."""
    try:
        text = path.read_text() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: it is damaged or no file") from error
    lines = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            break
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            lines.append(entry)
    return lines


def open_run(path: Path) -> Run:
    """Reads a run directory's configuration.

    Raises:
        UserError: If there is none or it is wrong.
    """
    config = path / CONFIG
    try:
        text = config.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a run directory: it has no readable {CONFIG}") from error
    return Run(path, from_yaml(text, str(config)))


def find_run(run: Path | str) -> Run:
    """A run by its directory, or by the name of a preset whose weights ship.

    Raises:
        UserError: If there is neither.
    """
    path = Path(run)
    if not path.exists():
        shipped = WEIGHTS / str(run)
        if str(run) in PRESETS and shipped.is_dir():
            return open_run(shipped)
        if str(run) in PRESETS:
            raise UserError(f"no weights ship for '{run}': train it first, with 'pyro-sri train {run}'")
        raise UserError(f"there is no run directory {run}, nor a preset of that name; {nearest(str(run), PRESETS)}")
    return open_run(path)


def check_new(path: Path) -> None:
    """Raises UserError if a folder for a new run holds anything already."""
    if (path / CONFIG).exists():
        raise UserError(f"{path} holds another run: continue it with --resume, or choose another folder with --out")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} holds other files: choose another folder with --out")


def create_run(path: Path, config: RunConfig) -> Run:
    """Makes a run directory for a new run.

    Raises:
        UserError: If the folder holds anything already, or cannot be written.
    """
    check_new(path)
    write_config(path, config)
    return Run(path, config)


def write_config(path: Path, config: RunConfig) -> None:
    """Writes config.yaml into a run directory."""
    write_atomically(path / CONFIG, lambda file: file.write(to_yaml(config).encode()))
