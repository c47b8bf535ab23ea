"""Estimates how long a run will train, from a few measured steps of each phase."""

import time
from collections.abc import Hashable, Iterator

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_sri.config import RunConfig
from pyro_sri.config.run import STEP_NUMBERS
from pyro_sri.data.loading import to_images
from pyro_sri.objectives.sri import encode_slots
from pyro_sri.system.seeds import keeping_random_state
from pyro_sri.training.devices import pick_device
from pyro_sri.training.step import Stepper, new_stepper

WARM_UP, TIMED = 1, 2  # steps of a phase


def training_hours(config: RunConfig, first: int = 0) -> float:
    """Estimated hours for the steps of a run on this machine, with random images and new weights.

    Steps of different phases (SRI's segregation alone, all of SRI, the prior alone on encoded slots) have different
    costs, so each phase is measured. The fastest of a few steps counts. Loading, validation, checkpoints and the
    encoding of slots are not included.

    Args:
        config: The run.
        first: The step from which it continues.
    """
    threads = torch.get_num_threads()
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        kept = keeping_random_state(pick_device(config.device))
        with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False), kept:
            return _hours(config, first)
    finally:
        torch.set_num_threads(threads)


def _hours(config: RunConfig, first: int) -> float:
    stepper = new_stepper(config, pick_device(config.device))
    seconds: dict[Hashable, float] = {}
    total = 0.0
    for start, stop in phases(config):
        stepper.module.elbo.step = start
        encoded = config.encoded_from is not None and start >= config.encoded_from
        phase = (stepper.module.elbo.phase, encoded)
        if stop <= first:
            continue
        if phase not in seconds:
            seconds[phase] = min(_times(stepper, _batch(config, stepper, start, encoded), start))
        total += (stop - max(start, first)) * seconds[phase]
    return total / 3600


def phases(config: RunConfig) -> Iterator[tuple[int, int]]:
    """First step and end of each part of a run. The computation may change only between parts."""
    bounds = {getattr(config, name, 0) for name in STEP_NUMBERS} | {config.encoded_from or 0}
    inside = sorted({0, *(bound for bound in bounds if 0 < bound < config.steps)})
    yield from zip(inside, [*inside[1:], config.steps], strict=True)


def _batch(config: RunConfig, stepper: Stepper, step: int, encoded: bool) -> Tensor:
    """The input of a step: random images, or the repeated slots of one of them."""
    device, size = stepper.fabric.device, config.image_size
    shape = (config.batch_size, size, size, 3)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    if not encoded:
        return images
    with torch.no_grad():
        slots = encode_slots(stepper.module.eval().guide, to_images(images[:1], device))
    stepper.module.train()
    return slots.expand(config.images_per_step(step), -1, -1)


def _times(stepper: Stepper, batch: Tensor, step: int) -> list[float]:
    """Seconds of some steps, after a warm-up."""
    times = []
    for _ in range(WARM_UP + TIMED):
        begin = time.perf_counter()
        stepper(batch, step)
        if stepper.fabric.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return times[WARM_UP:]
