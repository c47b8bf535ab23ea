"""Checks and measures on a GPU: ``make gpu`` runs this for half an hour and fills the GPU part of docs/performance.md.

The script first checks correctness (waits, recorded steps, checkpoints, resuming, the group norm). Then it measures
speeds. Finally it trains for ten minutes and compares the result with the bundled weights. It needs a PyTorch that can
use a GPU. ``--device cpu`` runs the same code on the CPU at a tiny size, to test the script, and writes nothing.
"""

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_sri import checkpoints, runs
from pyro_sri.config import RunConfig
from pyro_sri.data.making import make_dataset
from pyro_sri.nn.group_norm import channels_last_group_norm
from pyro_sri.presets import PRESETS
from pyro_sri.scripts.standard_bench import fill
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import write_atomically
from pyro_sri.training.capture import WARM_UP
from pyro_sri.training.devices import device_name
from pyro_sri.training.execution import can_compile
from pyro_sri.training.loop import train
from pyro_sri.training.step import Stepper, new_stepper

PAGE = Path("docs/performance.md")
BEGIN, END = "<!-- written by make gpu: begin -->", "<!-- written by make gpu: end -->"
MINUTES = 10  # of training
TIMED = 30  # steps
ROUNDING = 1e-3  # relative, of float32 parameters after a few steps: differences from the order of sums
SLACK = {"ari_fg": -0.02, "mse": 0.0003}  # tolerances for the comparison with the bundled weights
EXPLANATION = "Steps of `sri-mog-shapestacks` (64x64, 9 slots, batch 32) on random images, median of {} steps."

WAYS: dict[str, dict[str, Any]] = {
    "`--precision float32`": {},
    "`--precision tf32`": {"precision": "tf32"},
    "`--precision bf16`": {"precision": "bf16"},
    "`--precision bf16 --capture`": {"precision": "bf16", "capture": True},
    "the same, convolutions in any order": {"precision": "bf16", "capture": True, "any_order": True},
    "`--precision bf16 --capture --compile`": {"precision": "bf16", "capture": True, "compile": True},
}


class Finding(NamedTuple):
    """The result of a check: whether it passed (None if it is only information), and a description."""

    well: bool | None
    text: str

    def __str__(self) -> str:
        return f"{ {True: 'PASS', False: 'FAIL', None: 'INFO'}[self.well] } {self.text}"


Findings = Iterator[Finding]


class Place(NamedTuple):
    """The device and the working folder of the checks."""

    device: torch.device
    folder: Path

    @property
    def is_gpu(self) -> bool:
        """Whether this is a real run and not a test of the script."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Waits until the device has finished."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def data(self, size: int) -> Path:
        """A small dataset with images of a given size."""
        path = self.folder / f"{size}.h5"
        if not path.exists():
            make_dataset("tetrominoes", path, size=size, train=32, val=4, test=4, seed=1)
        return path


def systems() -> dict[str, str]:
    """One preset for each system."""
    return {preset.config.system: name for name, preset in reversed(PRESETS.items())}


def stepping(config: RunConfig, place: Place, steps: int) -> tuple[Stepper, Tensor]:
    """A stepper after some steps on random images, and the images."""
    stepper = new_stepper(config, place.device)
    stepper.module.train()
    shape = (config.batch_size, config.image_size, config.image_size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images = images.to(place.device)
    for step in range(steps):
        stepper(images, step)
    place.wait()
    return stepper, images


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The distance of two states, relative to the second. 0 if they are equal bit for bit."""
    pairs = [(one[name].double(), other[name].double()) for name in one if one[name].is_floating_point()]
    size = sum(float(second.square().sum()) for _, second in pairs)
    return (sum(float((first - second).square().sum()) for first, second in pairs) / size) ** 0.5


def check_waits(place: Place) -> Findings:
    """Checks that no training step waits for the device. PyTorch raises an error if one does."""
    for system, preset in systems().items():
        stepper, images = stepping(PRESETS[preset].config.tiny(), place, 2)
        if place.is_gpu:
            torch.cuda.set_sync_debug_mode("error")
        try:
            stepper(images, 2)
            yield Finding(True, f"a step of {system} does not wait for the device")
        except RuntimeError as error:
            yield Finding(False, f"a step of {system} waits for the device: {str(error).splitlines()[0][:200]}")
        finally:
            if place.is_gpu:
                torch.cuda.set_sync_debug_mode("default")


def check_recording(place: Place) -> Findings:
    """Checks that recorded steps equal steps run from Python."""
    for system, preset in systems().items():
        config = PRESETS[preset].config.tiny()
        states = []
        for capture in (True, False):
            stepper, _ = stepping(dataclasses.replace(config, capture=capture), place, WARM_UP + 5)
            states.append(stepper.module.state_dict())
        apart = distance(*states)
        yield Finding(apart <= ROUNDING, f"recorded steps of {system} differ by {apart:.1e} from steps run from Python")


def check_runs(place: Place) -> Findings:
    """Checks resuming, and that checkpoints contain CPU tensors."""
    config = PRESETS["sri-quick"].config.tiny()
    device: Any = place.device.type
    config = dataclasses.replace(config, data=place.data(config.image_size), device=device, segregation_steps=2)
    whole = train(dataclasses.replace(config, steps=8), place.folder / "whole")
    train(dataclasses.replace(config, steps=5), place.folder / "parts")
    parts = train(dataclasses.replace(config, steps=8), place.folder / "parts", resume=True)
    states = [checkpoints.load_checkpoint(run.checkpoint("last"))["objective"] for run in (parts, whole)]
    apart = distance(*states)
    yield Finding(apart <= ROUNDING, f"a resumed run differs by {apart:.1e} from an uninterrupted one")
    stored = torch.load(whole.checkpoint("last"), weights_only=True)["objective"]
    yield Finding(all(tensor.device.type == "cpu" for tensor in stored.values()), "checkpoints contain CPU tensors")


def check_group_norm(place: Place) -> Findings:
    """Checks that the channels-last group norm equals PyTorch's in double precision."""
    maps = torch.randn(4, 64, 16, 16, dtype=torch.float64, device=place.device)
    maps = maps.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 64, dtype=torch.float64, device=place.device)
    ours, plain = channels_last_group_norm(maps, 8, weight, bias), F.group_norm(maps, 8, weight, bias)
    apart = float((ours - plain).abs().max())
    yield Finding(apart < 1e-12, f"the group norm differs by {apart:.1e} from PyTorch's")


def speed(place: Place) -> Iterator[list[str]]:
    """Rows of a table: options, ms per step, steps per second, peak memory in GiB."""
    for name, fields in WAYS.items():
        if fields.get("compile") and not (place.is_gpu and can_compile(place.device)):
            yield [
                name,
                "no compiler for this GPU" if place.is_gpu else "skipped on the CPU, where it takes minutes",
                "",
                "",
            ]
            continue
        if place.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        config = PRESETS["sri-mog-shapestacks"].config
        config = config if place.is_gpu else config.tiny()
        chosen = {field: value for field, value in fields.items() if field != "any_order"}
        try:
            stepper, images = stepping(dataclasses.replace(config, **chosen), place, 0)
            torch.backends.cudnn.deterministic = not fields.get("any_order", False)
            times = []
            for step in range(WARM_UP + 1 + (TIMED if place.is_gpu else 1)):
                begin = time.perf_counter()
                stepper(images, step)
                place.wait()
                times.append(time.perf_counter() - begin)
        except Exception as error:  # failures depend on the device; measure the other options anyway
            yield [name, f"failed: {str(error).splitlines()[0][:80]}", "", ""]
            continue
        finally:
            torch.backends.cudnn.deterministic = True
        seconds = sorted(times[WARM_UP + 1 :])[len(times[WARM_UP + 1 :]) // 2]
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if place.is_gpu else ""
        yield [name, f"{1000 * seconds:.1f}", f"{1 / seconds:.0f}", peak]


def check_training(place: Place) -> Findings:
    """Trains sri-quick from scratch with `--fast` for ten minutes, and compares it with the bundled weights."""
    run = place.folder / "quick"
    size = [] if place.is_gpu else ["--tiny"]
    words = ["train", "sri-quick", "--fast", "--device", place.device.type, "--out", str(run), *size]
    begin = time.perf_counter()
    try:
        done = _command(place, *words, timeout=60 * MINUTES + 300)  # includes generating data and trying options
    except subprocess.TimeoutExpired:
        yield Finding(False, f"training sri-quick took longer than {MINUTES + 5} minutes and was stopped")
        return
    for line in done.stderr.splitlines():
        if line.startswith("--fast"):
            yield Finding(None, line)
    if done.returncode:
        yield Finding(False, f"training sri-quick failed: {done.stderr.strip().splitlines()[-1]}")
        return
    minutes = (time.perf_counter() - begin) / 60
    yield Finding(
        minutes <= MINUTES or None, f"training sri-quick took {minutes:.1f} minutes, including data and trials"
    )
    if not place.is_gpu:
        return
    ours, bundled = (_figures(place, name, run) for name in (str(run), "sri-quick"))
    for name, slack in SLACK.items():
        reached = ours[name] >= bundled[name] + slack if slack < 0 else ours[name] <= bundled[name] + slack
        yield Finding(reached, f"{name} is {ours[name]:.4f}, and {bundled[name]:.4f} for the bundled weights")


def _figures(place: Place, name: str, run: Path) -> dict[str, float]:
    """The metrics of `evaluate` for a run or bundled weights, on the images of another run."""
    copy = place.folder / f"{Path(name).name}-evaluated"
    data = runs.open_run(run).config.data_file
    source = runs.find_run(name).path
    shutil.copytree(source, copy)
    done = _command(place, "evaluate", str(copy), "--data", str(data), "--num-samples", "0", "--iwae-images", "0")
    if done.returncode:
        raise UserError(f"{name} cannot be evaluated: {done.stderr.strip().splitlines()[-1]}")
    metrics: dict[str, float] = json.loads((copy / runs.METRICS).read_text())
    return metrics


def _command(place: Place, *words: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyro_sri", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=place.folder, timeout=timeout)


CHECKS: tuple[Callable[[Place], Findings], ...] = (check_waits, check_recording, check_runs, check_group_norm)


def carry_out(place: Place) -> tuple[list[Finding], list[list[str]]]:
    """Runs everything and prints the results as they come. Returns findings and the rows of the table of speeds."""
    findings: list[Finding] = []

    def note(found: Findings) -> None:
        for finding in found:
            print(finding, flush=True)
            findings.append(finding)

    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        for check in CHECKS:
            note(check(place))
        rows = []
        for row in speed(place):
            print("INFO", *row, flush=True)
            rows.append(row)
    note(check_training(place))
    return findings, rows


def lay_out(name: str, findings: list[Finding], rows: list[list[str]]) -> str:
    """The text for the page."""
    header = ["training step", "ms", "steps/s", "peak memory, GiB"]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * 4, *rows])
    found = "\n".join(f"- {finding}" for finding in findings)
    about = f"Measured on {name}, torch {torch.__version__}. {EXPLANATION.format(TIMED)}"
    return f"{about}\n\n{table}\n\n{found}"


def main() -> int:
    """Returns the exit status: 0 if all checks pass, 1 if one fails, 2 without a GPU or a place to write."""
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: test the script")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print(
            f"gpu: PyTorch {torch.__version__} cannot use a GPU here, so nothing was checked or measured; on a machine "
            "with a GPU, install PyTorch with CUDA and name its Python: make gpu GPU_PYTHON=python3",
            file=sys.stderr,
        )
        return 2
    try:
        if args.device == "cuda":
            fill(PAGE, "", BEGIN, END)  # fail now if the page has no place for the text, not after half an hour
        with tempfile.TemporaryDirectory() as folder:
            place = Place(torch.device(args.device), Path(folder))
            findings, rows = carry_out(place)
        if place.is_gpu:
            text = fill(PAGE, lay_out(device_name(place.device), findings, rows), BEGIN, END)
            write_atomically(PAGE, lambda file: file.write(text.encode()))
    except UserError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    return int(any(finding.well is False for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
