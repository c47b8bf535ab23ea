"""What only a GPU can show: ``make gpu`` runs this in half an hour, and writes the GPU part of docs/performance.md.

First whether it is right (waits, recorded steps, checkpoints, resuming, the group norm), then how fast, then a training
of ten minutes that must reach the figures of the bundled weights. Needs a PyTorch that can use a GPU; ``--device cpu``
runs the same lines on the CPU at a tiny size, to try the script, and writes nothing.
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
ROUNDING = 1e-3  # of float32 parameters after a few steps: how far two orders of sums may lead, relative
SLACK = {"ari_fg": -0.02, "mse": 0.0003}  # how far from the bundled weights' figures counts as reaching them
EXPLANATION = "Steps of `sri-mog-shapestacks` (64x64, 9 slots, batch 32) on random images; the median of {} steps."

WAYS: dict[str, dict[str, Any]] = {
    "`--precision float32`": {},
    "`--precision tf32`": {"precision": "tf32"},
    "`--precision bf16`": {"precision": "bf16"},
    "`--precision bf16 --capture`": {"precision": "bf16", "capture": True},
    "the same, convolutions in any order": {"precision": "bf16", "capture": True, "any_order": True},
    "`--precision bf16 --capture --compile`": {"precision": "bf16", "capture": True, "compile": True},
}


class Finding(NamedTuple):
    """What one check found: whether it is well (None: that is not the question), and what there is to say."""

    well: bool | None
    text: str

    def __str__(self) -> str:
        return f"{ {True: 'PASS', False: 'FAIL', None: 'INFO'}[self.well] } {self.text}"


Findings = Iterator[Finding]


class Place(NamedTuple):
    """Where all of it runs, and in which folder."""

    device: torch.device
    folder: Path

    @property
    def is_gpu(self) -> bool:
        """Whether it is more than a trial of this script."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until the device has done its work."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def data(self, size: int) -> Path:
        """A small set of images of a size."""
        path = self.folder / f"{size}.h5"
        if not path.exists():
            make_dataset("tetrominoes", path, size=size, train=32, val=4, test=4, seed=1)
        return path


def systems() -> dict[str, str]:
    """A preset of each system."""
    return {preset.config.system: name for name, preset in reversed(PRESETS.items())}


def stepping(config: RunConfig, place: Place, steps: int) -> tuple[Stepper, Tensor]:
    """What has taken some steps on random images; and the images."""
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
    """Between two states, relative to the second; 0 where every bit is the same."""
    pairs = [(one[name].double(), other[name].double()) for name in one if one[name].is_floating_point()]
    size = sum(float(second.square().sum()) for _, second in pairs)
    return (sum(float((first - second).square().sum()) for first, second in pairs) / size) ** 0.5


def check_waits(place: Place) -> Findings:
    """No step of any system waits for the device: PyTorch raises at the line that does."""
    for system, preset in systems().items():
        stepper, images = stepping(PRESETS[preset].config.tiny(), place, 2)
        if place.is_gpu:
            torch.cuda.set_sync_debug_mode("error")
        try:
            stepper(images, 2)
            yield Finding(True, f"a step of {system} waits for nothing")
        except RuntimeError as error:
            yield Finding(False, f"a step of {system} waits: {str(error).splitlines()[0][:200]}")
        finally:
            if place.is_gpu:
                torch.cuda.set_sync_debug_mode("default")


def check_recording(place: Place) -> Findings:
    """Recorded steps are the steps."""
    for system, preset in systems().items():
        config = PRESETS[preset].config.tiny()
        states = []
        for capture in (True, False):
            stepper, _ = stepping(dataclasses.replace(config, capture=capture), place, WARM_UP + 5)
            states.append(stepper.module.state_dict())
        apart = distance(*states)
        yield Finding(apart <= ROUNDING, f"recorded steps of {system} are {apart:.1e} from those of Python")


def check_runs(place: Place) -> Findings:
    """Resuming, and checkpoints that hold tensors of the CPU."""
    config = PRESETS["sri-quick"].config.tiny()
    device: Any = place.device.type
    config = dataclasses.replace(config, data=place.data(config.image_size), device=device, segregation_steps=2)
    whole = train(dataclasses.replace(config, steps=8), place.folder / "whole")
    train(dataclasses.replace(config, steps=5), place.folder / "parts")
    parts = train(dataclasses.replace(config, steps=8), place.folder / "parts", resume=True)
    states = [checkpoints.load_checkpoint(run.checkpoint("last"))["objective"] for run in (parts, whole)]
    apart = distance(*states)
    yield Finding(apart <= ROUNDING, f"a resumed run is {apart:.1e} from one that was not stopped")
    stored = torch.load(whole.checkpoint("last"), weights_only=True)["objective"]
    yield Finding(all(tensor.device.type == "cpu" for tensor in stored.values()), "checkpoints hold tensors of the CPU")


def check_group_norm(place: Place) -> Findings:
    """The group norm that keeps channels last is PyTorch's, in double precision."""
    maps = torch.randn(4, 64, 16, 16, dtype=torch.float64, device=place.device)
    maps = maps.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 64, dtype=torch.float64, device=place.device)
    ours, plain = channels_last_group_norm(maps, 8, weight, bias), F.group_norm(maps, 8, weight, bias)
    apart = float((ours - plain).abs().max())
    yield Finding(apart < 1e-12, f"the group norm is {apart:.1e} from PyTorch's")


def speed(place: Place) -> Iterator[list[str]]:
    """Rows of a table: a way, ms of a step, steps in a second, GiB at the peak."""
    for name, fields in WAYS.items():
        if fields.get("compile") and not (place.is_gpu and can_compile(place.device)):
            yield [
                name,
                "no compiler for it" if place.is_gpu else "not tried on the CPU, where it takes minutes",
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
        except Exception as error:  # what fails depends on the device: the other ways are still worth knowing
            yield [name, f"failed: {str(error).splitlines()[0][:80]}", "", ""]
            continue
        finally:
            torch.backends.cudnn.deterministic = True
        seconds = sorted(times[WARM_UP + 1 :])[len(times[WARM_UP + 1 :]) // 2]
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if place.is_gpu else ""
        yield [name, f"{1000 * seconds:.1f}", f"{1 / seconds:.0f}", peak]


def check_training(place: Place) -> Findings:
    """sri-quick from scratch, as `--fast` carries it out, in ten minutes; its figures beside those of the weights."""
    run = place.folder / "quick"
    size = [] if place.is_gpu else ["--tiny"]
    words = ["train", "sri-quick", "--fast", "--device", place.device.type, "--out", str(run), *size]
    begin = time.perf_counter()
    try:
        done = _command(place, *words, timeout=60 * MINUTES + 300)  # data is made, and ways are tried, before
    except subprocess.TimeoutExpired:
        yield Finding(False, f"sri-quick is not trained after {MINUTES + 5} minutes")
        return
    for line in done.stderr.splitlines():
        if line.startswith("--fast"):
            yield Finding(None, line)
    if done.returncode:
        yield Finding(False, f"sri-quick does not train: {done.stderr.strip().splitlines()[-1]}")
        return
    minutes = (time.perf_counter() - begin) / 60
    yield Finding(
        minutes <= MINUTES or None, f"sri-quick is trained in {minutes:.1f} minutes, data and trials included"
    )
    if not place.is_gpu:
        return
    ours, bundled = (_figures(place, name, run) for name in (str(run), "sri-quick"))
    for name, slack in SLACK.items():
        reached = ours[name] >= bundled[name] + slack if slack < 0 else ours[name] <= bundled[name] + slack
        yield Finding(reached, f"{name} is {ours[name]:.4f}; that of the bundled weights is {bundled[name]:.4f}")


def _figures(place: Place, name: str, run: Path) -> dict[str, float]:
    """What `evaluate` finds of a run on the images of another; of bundled weights as it prints it."""
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
    """All of it, printed as it is done: findings, and the rows of the table of speeds."""
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
    """What goes into the page."""
    header = ["training step", "ms", "steps/s", "peak memory, GiB"]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * 4, *rows])
    found = "\n".join(f"- {finding}" for finding in findings)
    about = f"Measured on {name}, torch {torch.__version__}. {EXPLANATION.format(TIMED)}"
    return f"{about}\n\n{table}\n\n{found}"


def main() -> int:
    """The exit status: 0 if all is well, 1 if some check fails, 2 if there is no GPU or no place to write."""
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try this script")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print(
            f"gpu: there is no GPU that PyTorch {torch.__version__} can use, so nothing was checked or measured; on a "
            "machine with one, install a PyTorch for CUDA and name its Python: make gpu GPU_PYTHON=python3",
            file=sys.stderr,
        )
        return 2
    try:
        if args.device == "cuda":
            fill(PAGE, "", BEGIN, END)  # refuses a page without a place now, not in half an hour
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
