"""`make demo`: generates data, trains, evaluates and writes a report within ten minutes."""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_sri.scripts.cli import note
from pyro_sri.scripts.main import run
from pyro_sri.system.allocation import keep_freed_memory
from pyro_sri.system.errors import UserError
from pyro_sri.system.shell import command_line
from pyro_sri.system.threads import wait_passively

if TYPE_CHECKING:
    from pyro_sri.runs import Run

PRESET = "sri-quick"
IMAGES = 320
SECONDS = 450  # for everything except the installation, which takes one to two of the ten minutes
REST = 800  # evaluation and report take as long as this many steps of the segregation
SHARE = 0.68  # share of the available steps for separating objects and starting the prior
FEWEST = 1_500  # minimum number of these steps; with fewer, objects are not separated
FEWEST_ALONE = 1_000  # minimum number of cheaper steps of the prior alone; with fewer, few generated towers stand
STEP_ALONE = 0.8  # duration of such a step, relative to a step of the segregation
TIMED = 40  # steps of the segregation for measuring the speed of this machine


def demo(out: Path, seed: int) -> None:
    """Trains the quick preset from scratch, evaluates it and writes `out/report.html`.

    The number of steps depends on the time available. It is set twice: the speed of the machine determines when the
    prior starts to train alone, and the time that is then left determines for how long. So if other programs use the
    same cores, there are fewer steps, not more minutes. If the demo is stopped, the same command continues it.

    Args:
        out: Folder for the run and the report.
        seed: Seed of the training.
    """
    start = time.monotonic()
    path, page = out / PRESET, out / "report.html"
    from pyro_sri import runs  # only after the threads have been configured

    train = ["train", PRESET, "--seed", str(seed), "--out", str(path), "--resume"]
    if not (path / runs.CONFIG).exists():
        train += first_options()
    note(f"== 2/4 training {PRESET} from scratch into {path}")
    run(train)
    stored = runs.open_run(path)
    if stored.config.steps == stored.config.encoded_from:
        left = SECONDS - (time.monotonic() - start)
        speed = statistics.median(line["images_per_second"] for line in stored.log() if "images_per_second" in line)
        alone = steps_alone(left, speed / stored.config.batch_size)
        note(f"== 2/4 training only the prior for {alone} more steps")
        run(["train", PRESET, "--out", str(path), "--resume", "--steps", str(stored.config.steps + alone)])
    note("== 3/4 evaluating on held-out images")
    run(["evaluate", str(path), "--num-images", str(IMAGES)])
    note("== 4/4 writing the report")
    page.unlink(missing_ok=True)  # the demo's own page, replaced
    run(["report", str(path), "--out", str(page)])
    for line in closing(runs.open_run(path), page, (time.monotonic() - start) / 60):
        note(line)


def closing(trained: "Run", page: Path, minutes: float) -> tuple[str, str, str]:
    """The demo's last lines: the results, where to look, and what to try next."""
    metrics = trained.metrics() or {}
    sample = command_line(["pyro-sri", "sample", str(trained.path), "--num", "64"])
    apart, stand = metrics.get("ari_fg"), metrics.get("structure_accuracy")
    return (
        f"after {minutes:.1f} minutes and {trained.step} steps, objects are separated with an ARI-FG of "
        f"{'-' if apart is None else f'{apart:.2f}'} (1 is perfect), and "
        f"{'-' if stand is None else f'{100 * stand:.0f} %'} of the generated towers stand",
        f"to see the report, open {page.resolve()} in a browser",
        f"to draw new scenes: {sample}; docs/quick.md explains more",
    )


def first_options() -> list[str]:
    """Options of `train` until the prior trains alone: the preset's schedule, for as many steps as there is time for.

    Uses one thread or all threads, whichever is faster. Networks this small are seldom faster with a second thread.
    """
    import torch

    from pyro_sri.config import flag
    from pyro_sri.presets import find_preset

    note(f"== 1/4 timing {TIMED} steps with one thread and with all threads")
    speeds = {threads: steps_per_second(threads) for threads in sorted({torch.get_num_threads(), 1})}
    threads = max(speeds, key=speeds.__getitem__)
    preset = find_preset(PRESET).config
    most = preset.encoded_from or preset.steps
    first = max(FEWEST, min(most, int(SHARE * (SECONDS * speeds[threads] - REST)) // 100 * 100))
    fields = preset.stretched(round(first * preset.steps / most)).schedule() | {"steps": first, "threads": threads}
    return [word for name, value in fields.items() for word in (flag(name), str(value))]


def steps_alone(seconds: float, steps_per_second: float) -> int:
    """How many steps of the prior alone fit into the remaining seconds, without evaluation and report."""
    return max(FEWEST_ALONE, int((seconds * steps_per_second - REST) / STEP_ALONE) // 100 * 100)


def steps_per_second(threads: int) -> float:
    """The training speed of the segregation, measured on the second half of a few steps."""
    from pyro_sri import runs

    with tempfile.TemporaryDirectory() as folder:
        length = ["--steps", str(TIMED), "--segregation-steps", str(TIMED), "--log-every", str(TIMED // 2)]
        run(["train", PRESET, *length, "--threads", str(threads), "--out", f"{folder}/run"])
        timed = runs.open_run(Path(folder) / "run")
        *_, last = (line for line in timed.log() if "images_per_second" in line)
    return float(last["images_per_second"]) / timed.config.batch_size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    keep_freed_memory()
    wait_passively()
    try:
        demo(arguments.out, arguments.seed)
    except UserError as error:
        sys.exit(f"demo: {error}")
