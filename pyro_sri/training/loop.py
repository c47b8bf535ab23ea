"""The training loop of every system, on lightning-fabric. It can stop and resume without changing the result."""

import contextlib
import dataclasses
import functools
import itertools
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyro
import torch
from lightning_fabric import Fabric
from pyro.infer.elbo import ELBOModule
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pyro_sri import checkpoints, runs
from pyro_sri.config import RESUMABLE, RunConfig, flag
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.loading import evaluation_batches, held_batches, to_images, training_batches
from pyro_sri.objectives import Terms
from pyro_sri.objectives.sri import encode_slots
from pyro_sri.presets import PRESETS
from pyro_sri.programs import record_of
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import plain_disk_errors, write_atomically
from pyro_sri.system.processes import mean_over_processes, plain_connection_errors, total_over_processes
from pyro_sri.system.seeds import seed_step
from pyro_sri.system.signals import ENDING, end_now, handling, hearing
from pyro_sri.training.capture import WARM_UP
from pyro_sri.training.launching import launch, waiting_for_the_others
from pyro_sri.training.optimizers import fill_optimizer
from pyro_sri.training.schedule import learning_rate
from pyro_sri.training.step import Stepper, TrainingStep, new_optimizer
from pyro_sri.viz import tensorboard_images

VALIDATED_STEPS = WARM_UP  # first steps of a run that check every distribution's arguments and sites' shapes
AGREE_EVERY = {"cpu": 1, "cuda": 10}  # steps between checks whether to stop, which wait for a GPU
PICTURE_IMAGES = 8
ENCODED_AT_ONCE = 64  # images
PATIENCE = 5.0  # seconds that a second Ctrl-C waits for a step of several processes
TENSORBOARD = "tensorboard"

# Parts of torch's error messages for numbers that have overflowed, in distributions and in draws.
REFUSED = ("but found invalid values", "either `inf`, `nan`", "expects all elements of std >= 0", "p_in >= 0")
DIVERGED = "training diverged"  # how the message of `Diverged` begins

Progress = Callable[[int, dict[str, float] | None], None]


class Diverged(UserError):
    """The loss or a parameter is no longer finite. The last good checkpoint is kept."""


@plain_connection_errors()
def train(config: RunConfig, path: Path, *, resume: bool = False, progress: Progress | None = None) -> runs.Run:
    """Trains a run from its start, or from its last checkpoint, to `config.steps`.

    The draws and the batch of a step depend only on (seed, process, step). So a resumed run gives the same result, bit
    for bit on CPUs, and on GPUs up to the order in which they add.

    In the main thread, Ctrl-C (SIGINT), SIGTERM and the other signals of `ENDING` end training after the current step,
    with a checkpoint. A second Ctrl-C ends it at once and does not change the last checkpoint. A kill leaves at most an
    empty file ".lock" and a file ".NAME.unfinished" next to each file NAME, which the resumed run takes over, and an
    incomplete last log line.

    Args:
        config: The run. `config.data` is the path of its dataset file.
        path: The run directory. It must be new or empty unless `resume`.
        resume: Continue the run in `path` if there is one.
        progress: Called before the first step and after every step, with the number of steps done and, at log lines,
            the means of the terms (otherwise None).

    Returns:
        The finished run, or the run as it was when it was interrupted.

    Raises:
        UserError: If the data does not fit, the folder contains something else or is in use, a field has changed, or
            the disk is full.
        Diverged: If the loss or a parameter is no longer finite, in every process of a distributed run.
        KeyboardInterrupt: On a second Ctrl-C.
    """
    fabric = launch(config)
    check_data(config)
    resumed = resume and (path / runs.CONFIG).exists()
    if resumed:
        check_same(config, runs.open_run(path).config)
    else:
        runs.check_new(path)
    config = dataclasses.replace(config, data_hash=config.data_hash or data_hash(config))
    run = runs.Run(path, config)
    torch.manual_seed(config.seed)
    step_module = TrainingStep(*config.build())
    optimizer = new_optimizer(step_module, config)
    state = _State()
    if config.start_from is not None and not (resumed and run.checkpoint("last").exists()):
        weights = runs.find_run(config.start_from).checkpoint()
        checkpoints.fill(step_module, checkpoints.evaluated_weights(checkpoints.load_checkpoint(weights)), weights)
    with waiting_for_the_others(config):
        fabric.barrier()  # every process has looked before the first one writes
    with _locked(fabric, path, new=not resumed):
        if resumed and run.checkpoint("last").exists():
            state.restore(run, step_module, optimizer)
        _check_shared(fabric, path, state.step)
        if state.step > config.steps:
            raise UserError(f"{path} is already at step {state.step}: --steps must be at least that")
        if state.step == config.steps and run.checkpoint("last").exists():
            return run
        if fabric.is_global_zero:
            runs.write_config(path, config)
        fabric.barrier()
        return _Trainer(config, run, fabric, step_module, optimizer, state, progress).run_steps()


def _check_shared(fabric: Fabric, path: Path, step: int) -> None:
    """Raises UserError unless all processes found the same checkpoint, if any, in the run directory."""
    if mean_over_processes(torch.tensor(step, device=fabric.device, dtype=torch.float64)).item() != step:
        raise UserError(f"the processes do not see the same run in {path}: put it in a folder that all machines share")


@contextlib.contextmanager
def _locked(fabric: Fabric, path: Path, new: bool) -> Iterator[None]:
    """Keeps other runs out of the run directory. If there is one already, every process raises UserError."""
    with contextlib.ExitStack() as stack:
        refusal = None
        if fabric.is_global_zero:
            try:
                stack.enter_context(runs.lock_run(path))
                if new:
                    runs.check_new(path)
            except UserError as error:
                refusal = error
        if total_over_processes(torch.tensor(float(refusal is not None), device=fabric.device)).item():
            raise refusal or UserError(f"the first process cannot use {path}: see its message")
        yield


def check_data(config: RunConfig) -> None:
    """Raises UserError unless the data file exists and fits the run."""
    with DatasetFile(config.data_file) as data:
        data.require_size(config.image_size)
        if config.batch_size > data.num_images("train"):
            raise UserError(
                f"{config.data} has {data.num_images('train')} training images, fewer than --batch-size "
                f"{config.batch_size}: choose a smaller batch or make more"
            )


def check_same(config: RunConfig, stored: RunConfig) -> None:
    """Raises UserError if a resumed run would not be the stored one."""
    if type(config) is not type(stored):
        raise UserError(f"the run to resume is of the system '{stored.system}', not '{config.system}'")
    if stored.data_hash is not None and data_hash(config) != stored.data_hash:
        were = "than when the run to resume began" if config.data == stored.data else f"than the run's {stored.data}"
        raise UserError(f"{config.data} has different scenes {were}: use the same data, or start a new run")
    changed = [
        f"{flag(field.name)} (was {getattr(stored, field.name)})"
        for field in dataclasses.fields(config)
        if field.name not in RESUMABLE and getattr(config, field.name) != getattr(stored, field.name)
    ]
    if changed:
        raise UserError(f"a resumed run cannot change {', '.join(changed)}: leave it out, or start a new run")


def data_hash(config: RunConfig) -> str:
    """The content hash of the run's data file. A resumed run may use a copy, but not a changed file."""
    return _content_hash(config.data_file, _stamp(config.data_file))


def _stamp(file: Path) -> tuple[int, ...]:
    """Properties that change when a file changes. Empty if there is no file."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=8)
def _content_hash(file: Path, stamp: tuple[int, ...]) -> str:
    """The content hash of a file. It is slow, so it is cached until the stamp changes."""
    with DatasetFile(file) as data:
        return data.content_hash()


@dataclasses.dataclass
class _State:
    """The state of a run, apart from weights and optimiser."""

    step: int = 0
    best: float = math.inf
    totals: dict[str, Tensor] = dataclasses.field(default_factory=dict)  # sums for the next log line
    averaged: dict[str, Tensor] | None = None  # the weights, averaged over steps

    def restore(self, run: runs.Run, module: ELBOModule, optimizer: torch.optim.Optimizer) -> None:
        path = run.checkpoint("last")
        checkpoint = checkpoints.load_checkpoint(path)
        checkpoints.fill(module, checkpoint["objective"], path)
        fill_optimizer(optimizer, checkpoint.get("optimizer"), path)
        self.step, self.best = checkpoint["step"], float(checkpoint.get("best", math.inf))
        self.totals = dict(checkpoint.get("totals", {}))
        if run.config.ema:
            checkpoints.check_fits(module, checkpoint.get("averaged"), path)
            self.averaged = checkpoint["averaged"]


class _Trainer:
    """The loop and its bookkeeping."""

    def __init__(
        self,
        config: RunConfig,
        run: runs.Run,
        fabric: Fabric,
        module: TrainingStep,
        optimizer: torch.optim.Optimizer,
        state: _State,
        progress: Progress | None,
    ) -> None:
        self.config, self.run, self.fabric, self.state, self.progress = config, run, fabric, state, progress
        self.module, self.optimizer = module, optimizer
        self.stepper = Stepper(config, fabric, module, optimizer, state.totals, state.averaged)
        self.log_start = (state.step, time.perf_counter())
        self.stopped = False
        self.saved_step = state.step
        self.writer: SummaryWriter | None = None
        if fabric.is_global_zero:
            self._cut_log()
            with plain_disk_errors(run.path / TENSORBOARD):
                self.writer = SummaryWriter(run.path / TENSORBOARD, purge_step=state.step + 1)

    def run_steps(self) -> runs.Run:
        """Trains until the last step or a signal, and saves a checkpoint in both cases."""
        config, state = self.config, self.state
        batches = self._batches()
        first = state.step
        self._report(None)
        if config.steps == 0:
            self._save(improved=True)
        self.module.train()
        try:
            with pyro.settings.context(module_local_params=True), self._signals():
                while state.step < config.steps and not self._should_stop():
                    # A process that alone rejects its batch would leave the others waiting.
                    validated = state.step < first + VALIDATED_STEPS and self.fabric.world_size == 1
                    with self._divergence_told():
                        with pyro.validation_enabled(validated):
                            self.stepper(next(batches), state.step)
                        state.step += 1
                        self._bookkeeping()
                if self.saved_step != state.step:  # stopped by a signal
                    self._save(improved=False)
        finally:
            if self.writer is not None:
                with contextlib.suppress(OSError):  # what could not be written has been reported
                    self.writer.close()
        return self.run

    def _batches(self) -> Iterator[Tensor]:
        """The batches of the next steps: images, then encoded slots if the run uses them."""
        config, step = self.config, self.state.step
        images = training_batches(
            config.data_file,
            "train",
            config.batch_size,
            config.seed,
            step,
            num_workers=config.num_workers,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
            device=self.fabric.device,
        )
        until = config.encoded_from
        taken = itertools.islice(images, None if until is None else max(until - step, 0))
        return itertools.chain((batch["images"] for batch in taken), self._encoded_batches())

    def _encoded_batches(self) -> Iterator[Tensor]:
        """Slots of training images, which are encoded when the first batch is requested."""
        config, first = self.config, self.config.encoded_from
        assert first is not None, "images never end otherwise"
        slots, processes = self._encode(first), self.fabric.world_size
        size = min(config.images_per_step(first), len(slots) - len(slots) % processes)  # or a whole small set
        yield from held_batches(slots, size, config.seed, self.state.step - first, self.fabric.global_rank, processes)

    @torch.no_grad()
    def _encode(self, first: int) -> Tensor:
        """Slots of all training images [N, K, 2D] from step `first` on, the same in every process and resumed run."""
        seed_step(self.config.seed, 0, first)
        module = self.module.eval()
        batches = evaluation_batches(self.config.data_file, "train", ENCODED_AT_ONCE, masks=False)
        images = (to_images(batch["images"], self.fabric.device) for batch in batches)
        slots = torch.cat([encode_slots(module.guide, batch) for batch in images])
        module.train()
        return slots

    def _should_stop(self) -> bool:
        """Whether a signal came to any process. They check this every few steps, to stop after the same step."""
        if self.fabric.world_size == 1:
            return self.stopped
        if self.state.step % AGREE_EVERY[self.fabric.device.type]:
            return False
        return bool(total_over_processes(torch.tensor(float(self.stopped), device=self.fabric.device)).item())

    def _bookkeeping(self) -> None:
        """Does what is due after a step: log line, validation, pictures, checkpoint."""
        step, config = self.state.step, self.config
        last = step == config.steps
        line = self._log() if step % config.log_every == 0 or last else None
        self._report(line)
        validate = step % config.validate_every == 0 or last
        improved = self._validate() if validate else False
        if self.writer is not None and (step % config.picture_every == 0 or last):
            self._log_pictures(self.writer)
        if validate or last or step % config.checkpoint_every == 0:
            self._save(improved)

    def _report(self, line: dict[str, float] | None) -> None:
        if self.progress is not None and self.fabric.is_global_zero:
            self.progress(self.state.step, line)

    def _log(self) -> dict[str, float]:
        self._require_finite()
        since, start = self.log_start
        images = sum(self.config.images_per_step(step) for step in range(since, self.state.step))
        seconds = time.perf_counter() - start
        line = self.stepper.take_means()
        if record_of(self.module.model).has_prior:  # an auto-encoder has no KL to weigh
            line |= self.module.elbo.weights()
        line["learning_rate"] = learning_rate(self.config, self.state.step - 1)
        line["images_per_second"] = images / seconds
        self.log_start = (self.state.step, time.perf_counter())
        self._write(line)
        return line

    def _write(self, line: dict[str, float]) -> None:
        if self.writer is None:
            return
        with plain_disk_errors(self.run.path / runs.LOG), runs.open_log(self.run.path) as log:
            log.write(json.dumps({"step": self.state.step, **line}) + "\n")
        with plain_disk_errors(self.run.path / TENSORBOARD):
            for name, value in line.items():
                self.writer.add_scalar(name, value, self.state.step)
            self.writer.flush()

    @torch.no_grad()
    def _validate(self) -> bool:
        """Logs mean terms over validation images. True if -ELBO is the lowest so far, or there are no images."""
        with DatasetFile(self.config.data_file) as data:
            if "val" not in data.splits:
                return True
            available = data.num_images("val")
        module = self.module.eval()
        seed_step(self.config.seed, 0, 0)
        sums: Terms = {}
        count = 0
        total = min(self.config.validation_images, available)
        with self.stepper.averaged():
            for batch in evaluation_batches(self.config.data_file, "val", self.config.batch_size, total):
                images = to_images(batch["images"], self.fabric.device)
                for name, term in module.elbo.terms(module.model, module.guide, images).items():
                    sums[name] = sums.get(name, 0) + term.sum()
                count += len(images)
        module.train()
        means = {name: value / count for name, value in sums.items()}
        self._write({f"val_{name}": mean.item() for name, mean in means.items()})
        negative_elbo = module.elbo.negative_elbo(means).item()
        improved = negative_elbo < self.state.best
        if improved:
            self.state.best = negative_elbo
        return improved

    @torch.no_grad()
    def _log_pictures(self, writer: SummaryWriter) -> None:
        split = "val"
        with DatasetFile(self.config.data_file) as data:
            split = split if split in data.splits else "train"
            count = min(PICTURE_IMAGES, data.num_images(split))
        batch = next(evaluation_batches(self.config.data_file, split, count, count))
        seed_step(self.config.seed, 0, 0)
        module = self.module.eval()
        images = to_images(batch["images"], self.fabric.device)
        with self.stepper.averaged():
            pictures = tensorboard_images(module.model, module.guide, images, PICTURE_IMAGES, module.elbo)
        with plain_disk_errors(self.run.path / TENSORBOARD):
            for name, picture in pictures.items():
                writer.add_image(name, picture, self.state.step, dataformats="HWC")
            writer.flush()
        module.train()

    def _save(self, improved: bool) -> None:
        self._require_finite()
        totals = {name: mean_over_processes(total).cpu() for name, total in self.stepper.totals.items()}
        if self.fabric.is_global_zero:
            checkpoint = {
                "step": self.state.step,
                "best": self.state.best,
                "objective": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "totals": totals,
            }
            if self.stepper.average is not None:
                checkpoint["averaged"] = self.stepper.average.state_dict()
            if improved or not self.run.checkpoint("best").exists():
                checkpoints.save_checkpoint(self.run.checkpoint("best"), checkpoint)
            checkpoints.save_checkpoint(self.run.checkpoint("last"), checkpoint)
        self.saved_step = self.state.step
        self.fabric.barrier()

    def _require_finite(self) -> None:
        """Raises Diverged in every process if something is not finite in one of them."""
        if total_over_processes((~self._is_finite()).float()).item():
            raise self._diverged()

    def _is_finite(self) -> Tensor:
        """Whether every loss so far, and every parameter and buffer, is finite in this process."""
        fine = self.stepper.finite
        for tensor in self.module.state_dict().values():
            fine = fine & torch.isfinite(tensor).all()
        return fine

    @contextlib.contextmanager
    def _divergence_told(self) -> Iterator[None]:
        """Raises Diverged if torch rejects values that are not finite."""
        try:
            yield
        except (ValueError, RuntimeError) as error:
            if any(sign in str(error) for sign in REFUSED) or not self._is_finite():
                raise self._diverged() from None
            raise

    def _diverged(self) -> Diverged:
        last = self.run.checkpoint("last")
        kept = f"{last} is the last good checkpoint" if last.exists() else "there is no checkpoint yet"
        return Diverged(
            f"{DIVERGED} before step {self.state.step}: the loss or a parameter is not finite; {kept}; "
            f"start a new run with a smaller --learning-rate or with --gradient-clip{self._calmer()}"
        )

    def _calmer(self) -> str:
        """The command of a run that starts from the best weights so far, if any, and learns more slowly."""
        config, path = self.config, self.run.path
        if config.preset not in PRESETS:  # not created by a command
            return ""
        rate = min(config.learning_rate / 10, PRESETS[config.preset].config.learning_rate)
        start = str(path) if self.run.checkpoint("best").exists() else config.start_from
        places = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
        free = next(place for place in places if not place.exists())
        calmer = dataclasses.replace(config, learning_rate=rate, start_from=start)
        command = runs.Run(free, calmer).command()
        said = "" if "--learning-rate" in command else f" --learning-rate {rate}"
        return f", for example: {command}{said}"

    def _cut_log(self) -> None:
        """Removes log lines after the checkpoint, because their steps will be repeated."""
        path = self.run.path / runs.LOG
        kept = [line for line in runs.read_log(path) if line["step"] <= self.state.step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        if path.exists() and path.read_text() != text:
            write_atomically(path, lambda file: file.write(text.encode()))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the current step, with a checkpoint. A second Ctrl-C ends it at once."""
        interrupted, heard = False, itertools.count(1)

        def stop(number: int, _: object) -> None:
            nonlocal interrupted
            if number == signal.SIGINT and interrupted:
                raise KeyboardInterrupt
            self.stopped, interrupted = True, interrupted or number == signal.SIGINT

        def insist(number: int, left: threading.Event) -> None:  # for steps that wait for a hanging process
            if number == signal.SIGINT and next(heard) > 1 and not left.wait(PATIENCE):
                end_now(number)

        with handling(stop, *ENDING), hearing(insist) if self.fabric.world_size > 1 else contextlib.nullcontext():
            yield
