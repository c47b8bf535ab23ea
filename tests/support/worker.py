"""One of two processes that train several runs, one after the other: `python -m support.worker DATA FOLDER RUN..`."""

import contextlib
import dataclasses
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pyro_sri.config import RunConfig
from pyro_sri.presets import PRESETS
from pyro_sri.training.loop import Diverged, train
from support.global_draws import double_precision, global_draws, halved_batch_norms
from support.systems import uncovered

STOP = 5  # steps done when a signal stops a run, between two checkpoints and two log lines

# Runs to compare: preset, fields. GECO moves fast, so that a wrong state would show.
_FAST: dict[str, Any] = {"geco_step": 1e-4}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "sri": ("sri-mog-shapestacks", _FAST),
    "sri-float32": ("sri-mog-shapestacks", _FAST | {"init": "pytorch"}),
    "sri-phases": ("sri-quick", _FAST | {"segregation_steps": 2, "prior_from": 4, "gradient_clip": 1.0}),
    "sri-emorl": ("sri_emorl-clevr6", _FAST),
    "sri-slot_attention": ("sri_sa-shapestacks", _FAST),
    "genesis_v2": ("genesis_v2-mog-shapestacks", _FAST | {"mask_kl": "attached"}),
    "genesis": ("genesis-shapestacks", _FAST),
    "emorl": ("emorl-clevr6", _FAST),
    "emorl-curriculum": ("emorl-clevr6", _FAST | {"refinement_drop": 3, "later_refinement_steps": 0}),
    "slot_attention": ("slot_attention-clevr6", {}),
    "air": ("air-multi_digits", {}),
    "air-score": ("air-multi_digits", {"estimator": "score"}),
    "dair": ("dair-multi_digits", {}),
    "recurrent": ("recurrent-mog-shapestacks", _FAST),
}
RUNS |= {preset: (preset, {}) for preset in uncovered(preset for preset, _ in RUNS.values())}
_SHARED: dict[str, Any] = {"device": "cpu", "image_size": 32, "batch_size": 4, "warmup_steps": 0, "decay_steps": 0}
_OFTEN: dict[str, Any] = {"steps": 6, "log_every": 1, "validate_every": 6, "picture_every": 6}
_SELDOM: dict[str, Any] = {"steps": 9, "log_every": 4, "checkpoint_every": 3, "validate_every": 9, "picture_every": 9}


def comparable(name: str, data: Path) -> RunConfig:
    """A small run that logs every step."""
    preset, fields = RUNS[name]
    return dataclasses.replace(PRESETS[preset].config.tiny(), data=data, **(_SHARED | _OFTEN | fields))


def long(data: Path) -> RunConfig:
    """A small run that logs now and then, to be stopped on its way."""
    return dataclasses.replace(comparable("sri", data), **_SELDOM)


def train_comparable(name: str, data: Path, folder: Path, rank: int = 0, num_processes: int = 1) -> None:
    """Trains one of `RUNS`, in float64 but where its name says otherwise."""
    config = dataclasses.replace(comparable(name, data), devices=num_processes)
    with contextlib.ExitStack() as stack:
        stack.enter_context(global_draws(rank, num_processes))
        if num_processes == 1:
            stack.enter_context(halved_batch_norms())
        if not name.endswith("float32"):
            stack.enter_context(double_precision())
        train(config, folder / name)


def stop_at(step: int) -> Callable[[int], None]:
    """Sends this process a SIGTERM in the course of the step that makes it `step` steps."""

    def before_step(number: int) -> None:
        if number == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    return before_step


def _stop_and_go_on(data: Path, folder: Path, rank: int, num_processes: int) -> None:
    """A run at once; the same, stopped by a signal to the last process; that resumed, and what one process left."""
    config = dataclasses.replace(long(data), devices=num_processes)
    with double_precision():
        with global_draws(rank, num_processes):
            train(config, folder / "whole")
        with global_draws(rank, num_processes, stop_at(STOP) if rank == num_processes - 1 else lambda step: None):
            train(config, folder / "stopped")
        if rank == 0:
            shutil.copytree(folder / "stopped", folder / "resumed")
        torch.distributed.barrier()
        for name in ("resumed", "from-one"):
            with global_draws(rank, num_processes):
                train(config, folder / name, resume=True)


def _diverge(step: int, data: Path, folder: Path, rank: int, num_processes: int) -> None:
    """The last process draws what is not finite."""
    broken = [False]

    def before_step(number: int) -> None:
        broken[0] = number == step and rank == num_processes - 1

    config = dataclasses.replace(long(data), devices=num_processes)
    try:
        with global_draws(rank, num_processes, before_step, lambda noise: noise * torch.nan if broken[0] else noise):
            train(config, folder / f"diverged-{step}")
    except Diverged as error:
        (folder / f"diverged-{step}-{rank}.txt").write_text(str(error))


def _main() -> None:
    torch.set_num_threads(1)
    data, folder, *names = sys.argv[1:]
    place = (Path(data), Path(folder), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    for name in names:
        if name == "stops":
            _stop_and_go_on(*place)
        elif name == "diverges":
            for step in (0, 4):
                _diverge(step, *place)
        else:
            train_comparable(name, *place)


if __name__ == "__main__":
    _main()
