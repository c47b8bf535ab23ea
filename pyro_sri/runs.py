"""Run directories: what a training run leaves behind, and how it is read again."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import math
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from pyro.infer.elbo import ELBOModule
from pyro.nn import PyroModule

from pyro_sri.config import RunConfig, flag, from_yaml, nearest, to_yaml
from pyro_sri.data.format import DatasetFile
from pyro_sri.errors import UserError, causes
from pyro_sri.optimizers import kept_of
from pyro_sri.presets import PRESETS
from pyro_sri.torch_files import fits, is_finite, is_plain, load_torch_file

CONFIG = "config.yaml"
LOG = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
METRICS = Path("evaluation") / "metrics.json"
LOCK = ".lock"  # there while a process trains the run, and after a kill until it is resumed
WEIGHTS = Path(__file__).parent / "weights"  # runs that ship with the package

Checkpoint = dict[str, Any]

LARGEST_TEXT = 4 * 1024**2  # characters of config.yaml, of metrics.json, or of a line of metrics.jsonl
LONGEST_NAME = 100  # of a metric
NOT_NEGATIVE = {"step", "exp_avg_sq"}  # of what an optimiser keeps of a parameter
ADAM_SETTINGS = ("params", "betas", "eps", "weight_decay", "amsgrad", "maximize")  # what a resumed run keeps
LARGEST_NUMBER = 1e38  # about the largest of float32: neither training nor evaluation writes a larger one


@contextlib.contextmanager
def plain_disk_errors(path: Path) -> Iterator[None]:
    """Turns what a full or read-only disk raises into one plain line about `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save raises its own after the disk's, or instead of it
        failure = next((cause for cause in causes(error) if isinstance(cause, OSError)), None)
        if failure is None and "write" not in str(error):
            raise
        reason = "the disk may be full" if failure is None else failure.strerror or str(failure)
        full = failure is None or failure.errno in (errno.ENOSPC, errno.EDQUOT)
    else:
        return
    raise UserError(f"cannot write {path}: {reason}; {'free some space' if full else 'choose another place'}")


def unfinished(path: Path) -> Path:
    """Where a file stands while `write_atomically` writes it."""
    return path.with_name(f".{path.name}.unfinished")


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file under another name beside it, flushes it to the disk, and renames it.

    A kill leaves at most the file `unfinished(path)`, which the next writing of `path` takes over. Two processes that
    write `path` do so one after the other.

    Raises:
        UserError: If the disk is full or read-only; the old file, if any, stays.
    """
    temporary = unfinished(path)
    with plain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open_alone(temporary, wait=True) as file:
            try:
                write(file)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise


@contextlib.contextmanager
def _open_alone(path: Path, wait: bool) -> Iterator[IO[bytes]]:
    """Opens a file, emptied, that no other process opens this way until it is closed, renamed or removed.

    The kernel keeps the lock, and drops it when this process ends in whatever way; processes forked from this one do
    not have it. On file systems without locks any number of processes may open the file.

    Raises:
        BlockingIOError: If another process has the file and this one is not to wait.
    """
    while True:
        with open(path, "wb", opener=_open_in_place) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise BlockingIOError(errno.EAGAIN, "in use by another process") from None
            try:
                still_there = os.path.samestat(path.stat(), os.fstat(file.fileno()))
            except FileNotFoundError:
                still_there = False
            if still_there:  # else the process that had it has renamed or removed it meanwhile
                file.truncate()
                yield file
                return


def open_log(run: Path) -> IO[str]:
    """Opens the log of a run directory for more lines, never where a link leads that came with the directory."""
    return open(run / LOG, "a", opener=_open_in_place)


def _open_in_place(path: str, flags: int) -> int:
    """Opens a file as it is, and never where a link leads that came with a run directory."""
    return os.open(path, flags & ~os.O_TRUNC | os.O_NOFOLLOW, 0o666)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint atomically; it can be read with `torch.load(weights_only=True)`."""
    write_atomically(path, lambda file: torch.save(checkpoint, file))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint, without running code from it, and verifies its checksums.

    Raises:
        UserError: If it is missing, damaged, not one of ours, or holds values that are not finite.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: was the run stopped before its first checkpoint?")
    try:
        checkpoint = load_torch_file(path)
    except Exception as error:  # a damaged file can fail in many ways
        raise UserError(f"{path} is not a readable checkpoint: it is damaged or was not written by train") from error
    if not isinstance(checkpoint, dict) or not {"step", "objective"} <= checkpoint.keys():
        raise UserError(f"{path} is not a checkpoint of a run: it holds no step or weights")
    step, best, totals = checkpoint["step"], checkpoint.get("best", 0.0), checkpoint.get("totals", {})
    if not _is_count(step) or not _is_number(best) or best != best or not isinstance(totals, dict):  # NaN is not itself
        raise UserError(f"{path} is not a checkpoint of a run: its step, best or totals are none")
    groups = {"weights": checkpoint["objective"], "totals": totals, "averaged weights": checkpoint.get("averaged", {})}
    for group, tensors in groups.items():
        if not isinstance(tensors, dict) or not all(map(is_plain, tensors.values())):
            raise UserError(f"{path} is not a checkpoint of a run: its {group} are no tensors")
        if not all(map(is_finite, tensors.values())):
            raise UserError(f"{path} holds {group} that are not finite: use another checkpoint")
    if any(not isinstance(name, str) or total.shape != (2,) for name, total in totals.items()):
        raise UserError(f"{path} is not a checkpoint of a run: its step, best or totals are none")
    return checkpoint


def evaluated_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The weights that are evaluated, drawn from and started from: averaged over steps where the run did that."""
    weights: dict[str, torch.Tensor] = checkpoint["averaged" if "averaged" in checkpoint else "objective"]
    return weights


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_NUMBER


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

        Those of a run with `ema` are its averaged weights; `load_checkpoint(path)["objective"]` has the others.

        Raises:
            UserError: If the checkpoint is missing, damaged or does not fit the configuration.
        """
        module = self.load_module(name)
        return module.model, module.guide

    def load_module(self, name: str = "best") -> ELBOModule:
        """The same with their objective: a module with `model`, `guide` and `elbo`."""
        path = self.checkpoint(name)
        weights = evaluated_weights(load_checkpoint(path))
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
        if not path.exists():
            return None
        try:
            metrics = json.loads(_read_text(path))
        except (OSError, ValueError, RecursionError):
            metrics = None
        if not isinstance(metrics, dict) or not all(_is_metric(name, value) for name, value in metrics.items()):
            raise UserError(f"{path} is damaged: remove it and run pyro-sri evaluate {self.path}")
        return metrics

    def command(self) -> str:
        """The command that repeats the run."""
        preset = PRESETS.get(self.config.preset)
        default: dict[str, Any] = {}
        if preset is not None:  # whose schedule follows --steps
            default = dataclasses.asdict(preset.config.stretched(self.config.steps)) | {"steps": preset.config.steps}
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
    """Loads weights into a module, all or none.

    Raises:
        UserError: If they do not fit.
    """
    check_fits(module, weights, path)
    module.load_state_dict(weights)


def check_fits(module: torch.nn.Module, weights: Any, path: Path) -> None:
    """Raises UserError unless weights are those of such a module: names, shapes and types."""
    ours = module.state_dict()
    try:
        fit = weights.keys() == ours.keys() and all(fits(weights[name], tensor) for name, tensor in ours.items())
    except (RuntimeError, TypeError, AttributeError, KeyError, ValueError):
        fit = False
    if not fit:
        raise UserError(f"{path} does not fit the configuration: other networks, or a field was edited")


def fill_optimizer(optimizer: torch.optim.Optimizer, state: Any, path: Path) -> None:
    """Loads the state of a run's optimiser, all or none.

    The optimiser itself accepts states of any shape, and computes with what then lies beside them in memory.

    Raises:
        UserError: If it is not that of the same parameters and settings.
    """
    parameters = dict(enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]))
    groups = optimizer.state_dict()["param_groups"]
    try:
        if not isinstance(state, dict):
            raise TypeError("no state")
        for ours, theirs in zip(groups, state["param_groups"], strict=True):
            if any(ours[name] != theirs[name] for name in ADAM_SETTINGS):
                raise ValueError("other parameters or settings")
        for number, kept in state["state"].items():
            expected = kept_of(optimizer, parameters[number])
            if kept.keys() != expected.keys() or not all(fits(kept[name], like) for name, like in expected.items()):
                raise ValueError("moments of other parameters")
            negative = any((kept[name] < 0).any() for name in NOT_NEGATIVE & kept.keys())
            if negative or not all(map(is_finite, kept.values())):
                raise ValueError("moments that no training has")
        optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    except (RuntimeError, TypeError, AttributeError, KeyError, ValueError, IndexError) as error:
        raise UserError(f"{path} does not fit {CONFIG} beside it: its optimiser state is another's") from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; the last line may have been cut short by a crash and is then left out.

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
        raise UserError(f"{path} cannot be read: it is damaged or no file") from error
    return lines


def _log_line(text: bytes) -> dict[str, Any]:
    """A line of the log: a step, and numbers by name.

    Raises:
        ValueError: If it is none.
    """
    line = json.loads(text.decode())
    if not isinstance(line, dict) or not _is_count(line.get("step")) or not all(map(_is_number, line.values())):
        raise ValueError("no line of a log")
    return line


def _is_metric(name: str, value: object) -> bool:
    """Whether `evaluate` may have written this: a number, or a text beside the numbers; null where there is none."""
    if len(name) > LONGEST_NAME:
        return False
    if name == "training_seed":
        return value is None or _is_count(value)
    if "_found_" in name:
        return _is_count(value)
    if name.endswith("_stderr"):
        return value is None or _is_number(value)
    return value is None or _is_number(value) or isinstance(value, str)


def _is_number(value: object) -> bool:
    """Whether this is a number of ordinary size, which can be drawn and averaged, or not a finite one."""
    if isinstance(value, float) and not math.isfinite(value):
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


def _read_text(path: Path) -> str:
    """A text file of ours.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no text, or too large to be one of ours.
    """
    with path.open(encoding="utf-8") as file:
        text = file.read(LARGEST_TEXT + 1)
    if len(text) > LARGEST_TEXT:
        raise ValueError("too large")
    return text


def open_run(path: Path) -> Run:
    """Reads a run directory's configuration.

    Raises:
        UserError: If there is none or it is wrong.
    """
    config = path / CONFIG
    try:
        text = _read_text(config)
    except (OSError, ValueError) as error:
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
    leftovers = {LOCK, unfinished(path / CONFIG).name}  # of a run that was killed as it began
    if path.exists() and (not path.is_dir() or any(file.name not in leftovers for file in path.iterdir())):
        raise UserError(f"{path} holds other files: choose another folder with --out")


@contextlib.contextmanager
def keep_alone(path: Path) -> Iterator[None]:
    """Keeps every other process from training the run in `path` meanwhile, as far as the file system has locks.

    A killed process leaves no lock behind, only its empty file, which the next one takes over.

    Raises:
        UserError: If another process trains it.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # where nothing can be written, training will say so
            path.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(_open_alone(path / LOCK, wait=False))
            except BlockingIOError:
                raise UserError(f"{path} is in use: another process trains this run; wait for it or stop it") from None
            stack.callback((path / LOCK).unlink, missing_ok=True)
        yield


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
