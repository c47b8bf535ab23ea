"""Finds the fastest way to run on a device by trying: precision, recording, compilation."""

import dataclasses
import time
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import pyro
import torch

from pyro_sri.config import Precision, RunConfig, flag
from pyro_sri.system.errors import UserError
from pyro_sri.system.seeds import keeping_random_state
from pyro_sri.training.capture import WARM_UP
from pyro_sri.training.devices import device_name
from pyro_sri.training.execution import can_compile
from pyro_sri.training.step import new_stepper

CHOSEN = ("precision", "capture", "compile")  # fields
TIMED = 5  # steps


def fastest(config: RunConfig, device: torch.device, fixed: Collection[str] = ()) -> tuple[RunConfig, str]:
    """Tries several ways to run, each for some steps on random images, and returns the fastest that works.

    Several processes try nothing, because all must do the same. They use the first way.

    Args:
        config: The run.
        device: Where it will run.
        fixed: Fields that must not change.

    Returns:
        The configuration, and a sentence for the user.
    """
    if device.type != "cuda":
        return config, "--fast changes nothing on a CPU: on a GPU it chooses --precision, --capture and --compile"
    name = device_name(device)
    ways = list(_ways(config, device, fixed))
    if config.num_processes > 1:
        return ways[0], f"--fast on {name}: {_options(ways[0])}, untested because several processes share the run"
    seconds = [_seconds_per_step(way, device) for way in ways]
    best = min(range(len(ways)), key=seconds.__getitem__)
    if seconds[best] == float("inf"):
        return config, f"--fast changes nothing: none of {len(ways)} ways works on {name}"
    failed = sum(value == float("inf") for value in seconds)
    said = f"{_options(ways[best])} is the fastest of {len(ways)} ways, with {1000 * seconds[best]:.1f} ms a step"
    return ways[best], f"--fast on {name}: {said}" + (f" ({failed} did not work)" if failed else "")


def _ways(config: RunConfig, device: torch.device, fixed: Collection[str]) -> Iterator[RunConfig]:
    """Ways that may be the fastest, the likeliest first, without repetitions. The last one changes nothing."""
    precision = _precision(config, device)
    compiles = "compile" not in fixed and can_compile(device)
    wanted: list[dict[str, Any]] = [
        *([{"precision": precision, "capture": True, "compile": True}] if compiles else []),
        {"precision": precision, "capture": True},
        *([{"precision": precision, "compile": True}] if compiles and config.num_processes > 1 else []),
        {"precision": precision},
        {},
    ]
    seen: list[RunConfig] = []
    for fields in wanted:
        try:
            way = dataclasses.replace(config, **{name: value for name, value in fields.items() if name not in fixed})
        except UserError:  # steps of some runs cannot be recorded
            continue
        if way not in seen:
            seen.append(way)
            yield way


def _precision(config: RunConfig, device: torch.device) -> Precision:
    """The fastest precision of convolutions that the GPU has units for."""
    major, _ = torch.cuda.get_device_capability(device)
    return "bf16" if major >= 8 else config.precision  # Ampere and later


def _options(config: RunConfig) -> str:
    switches = [flag(name) for name in ("capture", "compile") if getattr(config, name)]
    return " ".join([f"--precision {config.precision}", *switches])


def _seconds_per_step(config: RunConfig, device: torch.device) -> float:
    """The time of the fastest of some steps, or infinity if they fail."""
    shape = (config.batch_size, config.image_size, config.image_size, 3)
    settings = pyro.settings.context(module_local_params=True)
    times = []
    try:
        with keeping_random_state(device), settings, pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from the compiler
            stepper = new_stepper(config, device)
            images = torch.randint(0, 256, shape, dtype=torch.uint8).to(device)
            for step in range(WARM_UP + 1 + TIMED):
                begin = time.perf_counter()
                stepper(images, step)
                _wait(device)
                times.append(time.perf_counter() - begin)
    except Exception:  # the error depends on the device and the version
        return float("inf")
    return min(times[-TIMED:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
