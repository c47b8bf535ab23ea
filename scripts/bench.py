"""`pyro-sri bench`: what a training step and its images cost, and where the time goes."""

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyro
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn

from pyro_sri.config import Device, RunConfig
from pyro_sri.data.format import Scenes
from pyro_sri.data.loading import to_images, training_batches
from pyro_sri.data.writing import write_dataset
from pyro_sri.errors import UserError
from pyro_sri.presets import find_preset
from pyro_sri.scripts.cli import parse
from pyro_sri.seeds import check_seed
from pyro_sri.stepping import TrainingStep
from pyro_sri.training import pick_device

WARM_UP = 2
EVERYTHING = 10**9  # a step beyond every schedule: the whole objective
WHOLE_STEP = ("forward", "backward", "optimiser")  # these stages make up the step
LOADER_BYTES = 64 * 1024**2  # of the images that the loader is timed on
LOADER_PASSES = 3


def bench(
    preset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PRESET")],
    /,
    batch: int | None = None,
    steps: int = 10,
    device: Device = "auto",
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure a preset's training step on random images, and how fast images can be loaded.

    Quote the best step as a ratio to a fixed piece of work on the same machine, timed in turn: machines differ and
    are noisy. The loader reads a temporary file, which the operating system's cache holds: a slow disk shows up in
    neither of its figures.

    For example:

    pyro-sri bench sri-quick

    pyro-sri bench sri-mog-shapestacks --batch 8 --steps 5 --json

    Args:
        preset: Name of a preset.
        batch: Images per step; the preset's own number if not given.
        steps: Steps that are timed, after two that are not.
        device: Where to run; auto takes a GPU if there is one.
        seed: Seed of weights, images and draws.
        json: End with one line of JSON.
    """
    check_seed(seed)
    if steps < 1 or (batch is not None and batch < 1):
        raise UserError("--steps and --batch must be at least 1")
    config = find_preset(preset).config
    result = measure(config, batch or config.batch_size, steps, pick_device(device), seed)
    _print_table(result)
    if json:
        _print_json(result)


def measure(config: RunConfig, batch: int, steps: int, device: torch.device, seed: int) -> dict[str, Any]:
    """Times training steps, then the loader.

    Args:
        config: The run.
        batch: Images per step.
        steps: Timed steps.
        device: Where.
        seed: Seed of weights, images and draws.

    Returns:
        What `bench --json` prints: times in ms, memory in MiB (of the process on the CPU, of the allocator on a GPU).
        The stages are those of one more step: forward pass, backward pass and optimiser, which add up to it, and the
        forward passes of single networks, which are parts of the first.

    Raises:
        UserError: If there is no room for the loader's temporary file.
    """
    torch.manual_seed(seed)
    module = TrainingStep(*config.build()).to(device)
    optimizer = torch.optim.Adam(module.parameters(), lr=config.learning_rate, fused=True)
    module.elbo.step = EVERYTHING
    images = torch.rand(batch, 3, config.image_size, config.image_size, device=device)
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def step(clock: "StageClock | None" = None) -> float:
        wait()
        start = time.perf_counter()
        optimizer.zero_grad()
        loss, _ = module(images)
        forward_end = time.perf_counter()
        loss.backward()
        wait()
        backward_end = time.perf_counter()
        optimizer.step()
        wait()
        if clock is not None:
            clock.add("forward", forward_end - start)
            clock.add("backward", backward_end - forward_end)
            clock.add("optimiser", time.perf_counter() - backward_end)
        return 1000 * (time.perf_counter() - start)

    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        for _ in range(WARM_UP):
            step()
        times = [step() for _ in range(steps)]
        clock = StageClock(wait)
        with clock.watching(_stages(module)):
            step(clock)
    peak_memory = _peak_memory(device)  # of the steps, without the loader
    from_memory, from_disk = _loader_rates(config, batch, device, seed, wait)
    return {
        "preset": config.preset,
        "batch": batch,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "precision": "float32",
        "best_step_ms": round(min(times), 2),
        "median_step_ms": round(statistics.median(times), 2),
        "images_per_second": round(1000 * batch / statistics.median(times), 2),
        "peak_memory_mb": round(peak_memory, 1),
        "loader_memory_images_per_second": round(from_memory, 2),
        "loader_disk_images_per_second": round(from_disk, 2),
        "stages": {name: round(ms, 2) for name, ms in clock.milliseconds.items()},
    }


def _loader_rates(
    config: RunConfig, batch: int, device: torch.device, seed: int, wait: Callable[[], object]
) -> tuple[float, float]:
    """Images per second from memory and from disk, as float batches on the device: the best of some passes."""
    size = config.image_size
    num_images = max(batch, LOADER_BYTES // (3 * size**2))
    images = np.random.default_rng(seed).integers(0, 256, (num_images, size, size, 3), dtype=np.uint8)
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.h5"
        write_dataset(path, {"train": [Scenes(images)]}, {})
        for limit in (images.nbytes, 0):
            batches = training_batches(
                path,
                "train",
                batch,
                seed,
                num_workers=config.num_workers,
                device=device,
                in_memory_limit_bytes=limit,
            )
            times = []
            for _ in range(1 + LOADER_PASSES):
                wait()
                start = time.perf_counter()
                for _ in range(num_images // batch):
                    to_images(next(batches)["images"], device)
                wait()
                times.append(time.perf_counter() - start)
            rates.append(num_images // batch * batch / min(times[1:]))  # the first pass fills the buffers
    return rates[0], rates[1]


def _stages(module: TrainingStep) -> dict[str, nn.Module]:
    """The networks that model, guide and, within it, a segregation pair are made of."""
    roots = {"model": module.model, "guide": module.guide}
    if (pair := getattr(module.guide, "segregation", None)) is not None:
        roots |= {"segregation model": pair.model, "segregation guide": pair.guide}
    return {
        f"{root} {name.replace('_', ' ')}": network
        for root, parent in roots.items()
        if parent is not None  # a segregation that SRI trains has no model
        for name, network in parent.named_children()
        if name != "segregation"
    }


class StageClock:
    """Adds up the time spent in stages of a step."""

    def __init__(self, wait: Callable[[], object]) -> None:
        self.wait = wait
        self.milliseconds: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds to a stage."""
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + 1000 * seconds

    @contextmanager
    def watching(self, stages: dict[str, nn.Module]) -> Iterator[None]:
        """Times the forward passes of these modules while inside."""
        starts: dict[str, float] = {}

        def before(name: str) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                self.wait()
                starts[name] = time.perf_counter()

            return hook

        def after(name: str) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                self.wait()
                self.add(f"{name}, forward", time.perf_counter() - starts[name])

            return hook

        handles = []
        for name, stage in stages.items():
            handles += [stage.register_forward_pre_hook(before(name)), stage.register_forward_hook(after(name))]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _peak_memory(device: torch.device) -> float:
    """MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _print_table(result: dict[str, Any]) -> None:
    table = Table("what", "ms", "share", title=f"{result['preset']}, batch {result['batch']}, {result['device']}")
    table.add_row("step, best", f"{result['best_step_ms']:.1f}", "")
    table.add_row("step, median", f"{result['median_step_ms']:.1f}", "")
    whole = sum(result["stages"][name] for name in WHOLE_STEP)
    for name, ms in result["stages"].items():
        table.add_row(name, f"{ms:.1f}", f"{100 * ms / whole:.0f}%")
    table.add_section()
    for source in ("memory", "disk"):
        ms = 1000 * result["batch"] / result[f"loader_{source}_images_per_second"]
        table.add_row(f"loading, from {source}", f"{ms:.2f}", f"{100 * ms / result['median_step_ms']:.2f}%")
    console = Console()
    console.print(table)
    console.print(f"{result['images_per_second']:.1f} images/s, peak memory {result['peak_memory_mb']:.0f} MiB")
    console.print(
        f"loading: {result['loader_memory_images_per_second']:.0f} images/s from memory, "
        f"{result['loader_disk_images_per_second']:.0f} from disk"
    )


def _print_json(result: dict[str, Any]) -> None:
    print(json.dumps(result))


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(bench, "pyro-sri bench", args)
