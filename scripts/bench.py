"""The command `pyro-sri bench`: measures training steps, inference, sampling, and the stages of a step."""

import dataclasses
import itertools
import json
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn

from pyro_sri.config import RunConfig, flag
from pyro_sri.data.format import SceneArrays
from pyro_sri.data.loading import to_images, training_batches
from pyro_sri.data.writing import write_dataset
from pyro_sri.guides.segregation import SegregationPair
from pyro_sri.inference import explain, sample_scenes
from pyro_sri.programs import Program, record_of
from pyro_sri.scripts.cli import note
from pyro_sri.scripts.preset_options import given_fields, parse_fields, preset_named
from pyro_sri.scripts.tables import print_table
from pyro_sri.system.errors import UserError
from pyro_sri.training import capture
from pyro_sri.training.devices import pick_device
from pyro_sri.training.fast import CHOSEN, fastest
from pyro_sri.training.step import TrainingStep, new_stepper

PROG = "pyro-sri bench"
TIMED_STEPS = 10
WARM_UP = 2
EVERYTHING = 10**9  # a step beyond every schedule: the whole objective
WHOLE_STEP = ("forward", "backward", "optimiser")  # these stages make up the step
OUTSIDE = "outside the networks, forward"
PASSES = 3  # of whole batches, through the loader or a system; the best counts
LATENCIES = 11  # single images or scenes; the median counts
LOADER_BYTES = 64 * 1024**2  # of the images that the loader is timed on
NO_PRIOR = "the system has no prior to sample from"
UNUSED = {
    "data": "the images are random",
    "start_from": "the weights are new",
    "devices": "it runs in one process",
    "nodes": "it runs in one process",
}

_SHORT = re.compile(r"--batch(?==|$)")

Result = dict[str, Any]
Clock = Callable[[], float]

_HELP = """Measure the speed of training, inference, sampling and image loading for a preset, on random images.

The training step is the one that `train` runs, at any size and precision. Every field of the preset is an option.

Machines differ and timings are noisy, so compare the best step with a fixed piece of work that is timed on the same
machine (python -m pyro_sri.scripts.unit). The loader reads a temporary file from the operating system's cache, so its
numbers do not show a slow disk. The table of stages comes from one extra step, which is neither compiled nor captured.

For example:

pyro-sri bench sri-quick

pyro-sri bench sri-mog-shapestacks --batch 8 --steps 5 --json

pyro-sri bench sri-mog-shapestacks --image-size 128 --num-slots 11 --recompute-decoder

pyro-sri bench sri-mog-shapestacks --precision bf16 --capture

--batch is short for --batch-size. --steps is the number of timed steps, after a warm-up.

Args:
    fast: Choose --precision, --capture and --compile by trying them on the GPU. Options that you give are kept.
        This has no effect on a CPU.
    json: Also print the results as one line of JSON at the end.
"""


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    preset = preset_named(args, PROG, _HELP, "[--batch B] [--steps N] [--fast] [--json]")
    if preset is None:
        return
    config, as_json = _read(preset.config, args[1:])
    result = measure(config)
    _print_table(result)
    if as_json:
        print(json.dumps(result))


def _read(preset: RunConfig, args: Sequence[str]) -> tuple[RunConfig, bool]:
    """The run to measure, and whether to print JSON."""
    default = dataclasses.replace(preset, steps=TIMED_STEPS)

    def read(config: RunConfig, json: bool = False, fast: bool = False) -> tuple[RunConfig, bool]:
        return config, json

    words = [_SHORT.sub("--batch-size", arg) for arg in args]
    config, as_json = parse_fields(read, default, _HELP, f"{PROG} {default.preset}", words)
    config.require(["steps"], lambda value: value > 0, "at least 1")
    for name, reason in UNUSED.items():
        if getattr(config, name) != getattr(default, name):
            raise UserError(f"{flag(name)} does not apply to a benchmark ({reason}); leave it out")
    if "--fast" in words:
        config, said = fastest(config, pick_device(config.device), fixed=given_fields(words, CHOSEN))
        note(said)
    return config, as_json


def measure(config: RunConfig) -> Result:
    """Times training steps, inference, sampling, the loader, and the stages of one more step.

    Args:
        config: The run. `config.steps` steps on `config.batch_size` random images are timed, on one device.

    Returns:
        The content of `bench --json`: times in ms, and peak memory of the training steps in MiB (of the process on the
        CPU, of the allocator on a GPU). Inference is `explain` on a batch, without the imagined rollout. Sampling is
        drawing and decoding a batch of scenes. A system without a prior has None for it, and `<name>_reason`. The
        stages are the forward pass, the backward pass and the optimiser, which add up to a step; the forward passes of
        single networks, which are parts of the forward pass; and the rest of the forward pass.

    Raises:
        UserError: If the device does not exist, or there is no space for the loader's temporary file.
    """
    device = pick_device(config.device)
    now = _clock(device)
    size = config.image_size
    draws = np.random.default_rng(config.seed).integers(0, 256, (config.batch_size, size, size, 3), dtype=np.uint8)
    images = torch.from_numpy(draws).to(device)
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        return {
            "preset": config.preset,
            "batch": config.batch_size,
            "device": _name(device),
            "precision": config.precision,
            **_speed(config, images, now),
            **_loader_rates(config, device, now),
            "stages": _stage_times(dataclasses.replace(config, compile=False, capture=False), images, now),
        }


def _clock(device: torch.device) -> Clock:
    """Returns a clock in milliseconds that waits for the device first."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return 1000 * time.perf_counter()

    return now


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def _times(work: Callable[[], object], count: int, now: Clock, warm_up: int = 1) -> list[float]:
    """Milliseconds of every call after the warm-up."""
    times = []
    for _ in range(warm_up + count):
        start = now()
        work()
        times.append(now() - start)
    return times[warm_up:]


def _speed(config: RunConfig, images: Tensor, now: Clock) -> Result:
    """Measures training steps, their memory, inference and sampling, with the precision of the configuration."""
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    stepper = new_stepper(config, images.device)
    numbers = itertools.count(EVERYTHING)
    warm_up = capture.WARM_UP + 1 if config.capture else WARM_UP  # the last of them is recorded
    times = _times(lambda: stepper(images, next(numbers)), config.steps, now, warm_up)
    training = {
        "best_step_ms": round(min(times), 2),
        "median_step_ms": round(statistics.median(times), 2),
        "images_per_second": round(1000 * len(images) / statistics.median(times), 2),
        "peak_memory_mb": round(_peak_memory(images.device), 1),
    }
    module = stepper.module.eval()
    given = to_images(images, images.device)
    inference = _rates("inference_images_per_second", "infer_one_ms", len(images), now, _inferring(module, given))
    if not record_of(module.model).has_prior:
        names = ("sampling_images_per_second", "sample_one_ms")
        samples = dict.fromkeys(names) | {f"{name}_reason": NO_PRIOR for name in names}
    else:
        samples = _rates("sampling_images_per_second", "sample_one_ms", len(images), now, _sampling(module))
    return training | inference | samples


def _inferring(module: TrainingStep, images: Tensor) -> Callable[[int], object]:
    return lambda count: explain(module.model, module.guide, images[:count], module.elbo, imagine=False)


def _sampling(module: TrainingStep) -> Callable[[int], object]:
    return lambda count: sample_scenes(module.model, count, chunk=count)


def _rates(rate: str, latency: str, batch: int, now: Clock, work: Callable[[int], object]) -> Result:
    """Images per second in batches (best of several passes), and milliseconds for a single image (median)."""
    return {
        rate: round(1000 * batch / min(_times(lambda: work(batch), PASSES, now)), 2),
        latency: round(statistics.median(_times(lambda: work(1), LATENCIES, now)), 2),
    }


def _loader_rates(config: RunConfig, device: torch.device, now: Clock) -> Result:
    """Images per second from memory and from disk, as float batches on the device (best of several passes)."""
    size, batch = config.image_size, config.batch_size
    num_images = max(batch, LOADER_BYTES // (3 * size**2))
    images = np.random.default_rng(config.seed).integers(0, 256, (num_images, size, size, 3), dtype=np.uint8)
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.h5"
        write_dataset(path, {"train": [SceneArrays(images)]}, {})
        for source, limit in (("memory", images.nbytes), ("disk", 0)):
            batches = training_batches(
                path,
                "train",
                batch,
                config.seed,
                num_workers=config.num_workers,
                device=device,
                in_memory_limit_bytes=limit,
            )

            def load(batches: Iterator[dict[str, Tensor]] = batches) -> None:
                for _ in range(num_images // batch):
                    to_images(next(batches)["images"], device)

            best = min(_times(load, PASSES, now))  # the first pass fills the buffers
            rates[f"loader_{source}_images_per_second"] = round(1000 * (num_images // batch) * batch / best, 2)
    return rates


def _stage_times(config: RunConfig, images: Tensor, now: Clock) -> dict[str, float]:
    """Milliseconds of the stages of one step after a warm-up."""
    stepper = new_stepper(config, images.device)
    stepper(images, EVERYTHING)
    ends: list[float] = []
    with ExitStack() as handles:
        networks = handles.enter_context(ExitStack())
        inside = networks.enter_context(_watching(_stages(stepper.module), now))

        def forward_ends(*_: Any) -> None:
            networks.close()  # the backward pass may run networks again
            ends.append(now())

        handles.callback(stepper.module.register_forward_hook(forward_ends).remove)
        handles.callback(stepper.optimizer.register_step_pre_hook(lambda *_: ends.append(now())).remove)
        start = now()
        stepper(images, EVERYTHING + 1)
        ends.append(now())
    stages = {name: end - begin for name, begin, end in zip(WHOLE_STEP, [start, *ends], ends, strict=False)}
    stages |= {f"{name}, forward": ms for name, ms in inside.items()}
    stages[OUTSIDE] = stages["forward"] - sum(inside.values())
    return {name: round(ms, 2) for name, ms in stages.items()}


def _stages(module: TrainingStep) -> dict[str, nn.Module]:
    """The networks of the model and the guide, also inside nested programs."""
    return dict([*_networks("model", module.model), *_networks("guide", module.guide)])


def _networks(name: str, program: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The networks of a program and of its nested programs, by name; those of a segregation pair get its name."""
    for child_name, child in program.named_children():
        full_name = f"{name} {child_name.replace('_', ' ')}"
        if isinstance(child, Program):
            yield from _networks("segregation" if isinstance(child, SegregationPair) else full_name, child)
        elif any(True for _ in child.parameters()):
            yield full_name, child


@contextmanager
def _watching(networks: dict[str, nn.Module], now: Clock) -> Iterator[dict[str, float]]:
    """Adds up the milliseconds spent in each network, whichever of its modules is called.

    If one network calls another, the time counts for the caller. A shared module counts for the network named first.
    """
    milliseconds: dict[str, float] = {}
    depth, start = 0, 0.0

    def enter(*_: Any) -> None:
        nonlocal depth, start
        if depth == 0:
            start = now()
        depth += 1

    def leave(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            nonlocal depth
            depth -= 1
            if depth == 0:
                milliseconds[name] = milliseconds.get(name, 0.0) + now() - start

        return hook

    owners: dict[nn.Module, str] = {}
    for name, network in networks.items():
        for module in network.modules():
            owners.setdefault(module, name)
    with ExitStack() as handles:
        for module, name in owners.items():
            handles.callback(module.register_forward_pre_hook(enter).remove)
            handles.callback(module.register_forward_hook(leave(name)).remove)
        yield milliseconds


def _peak_memory(device: torch.device) -> float:
    """MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _print_table(result: Result) -> None:
    title = "{preset}, batch {batch}, {precision}, {device}".format_map(result)
    rows = [
        ["step, best", f"{result['best_step_ms']:.1f}", ""],
        ["step, median", f"{result['median_step_ms']:.1f}", ""],
    ]
    whole = sum(result["stages"][name] for name in WHOLE_STEP)
    rows += [[name, f"{ms:.1f}", f"{100 * ms / whole:.0f}%"] for name, ms in result["stages"].items()]
    for source in ("memory", "disk"):
        ms = 1000 * result["batch"] / result[f"loader_{source}_images_per_second"]
        rows.append([f"loading, from {source}", f"{ms:.2f}", f"{100 * ms / result['median_step_ms']:.2f}%"])
    rows.append(["inferring one image", f"{result['infer_one_ms']:.1f}", ""])
    if result["sample_one_ms"] is not None:
        rows.append(["sampling one scene", f"{result['sample_one_ms']:.1f}", ""])
    print_table(["what", "ms", "share"], rows, title=title)
    print(f"{result['images_per_second']:.1f} images/s, peak memory {result['peak_memory_mb']:.0f} MiB")
    print(f"inference: {result['inference_images_per_second']:.1f} images/s in batches of {result['batch']}")
    if result["sampling_images_per_second"] is None:
        print(f"no samples: {result['sampling_images_per_second_reason']}")
    else:
        print(f"samples: {result['sampling_images_per_second']:.1f} images/s in batches of {result['batch']}")
    print(
        f"loading: {result['loader_memory_images_per_second']:.0f} images/s from memory, "
        f"{result['loader_disk_images_per_second']:.0f} from disk"
    )
