"""`make demo`: data, training, evaluation and a report, with the clock running."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from pyro_sri.scripts.cli import note
from pyro_sri.scripts.main import run
from pyro_sri.system.allocation import keep_freed_memory
from pyro_sri.system.errors import UserError
from pyro_sri.system.threads import wait_passively

PRESET = "sri-quick"
IMAGES = 320
SECONDS = 450  # for all but installing, which takes one to two of the ten minutes
REST = 1_150  # steps that take as long as evaluating and the report do
FEWEST = 2_800  # steps, of the preset's 9,000: with fewer, objects are not apart
TIMED = 40  # steps of the segregation that say how fast this machine is; others take about as long


def demo(out: Path, seed: int) -> None:
    """Trains the quick preset from scratch, evaluates it and writes `out/report.html`.

    It trains for as many steps as this machine has time for. Stopped half-way, it continues.

    Args:
        out: Folder for the run and the report.
        seed: Seed of the training.
    """
    start = time.monotonic()
    run_path, page = out / PRESET, out / "report.html"
    from pyro_sri import runs  # not before threads have been told how to wait

    steps, threads = affordable()
    if (run_path / runs.CONFIG).exists():
        steps = runs.open_run(run_path).config.steps
    note(f"== 2/4 training {PRESET} from scratch ({steps} steps) into {run_path}")
    length = ["--steps", str(steps), "--threads", str(threads)]
    run(["train", PRESET, *length, "--seed", str(seed), "--out", str(run_path), "--resume"])
    note("== 3/4 evaluating on held-out images")
    run(["evaluate", str(run_path), "--num-images", str(IMAGES)])
    note("== 4/4 writing the report")
    page.unlink(missing_ok=True)  # the demo's own page, written anew
    run(["report", str(run_path), "--out", str(page)])
    note(f"Done in {(time.monotonic() - start) / 60:.1f} minutes. Open {page.resolve()} in a browser.")


def affordable() -> tuple[int, int]:
    """How many steps this machine has time for, and the number of threads, one or all, on which it trains faster.

    Networks this small seldom gain by a second thread.
    """
    import torch

    from pyro_sri.presets import find_preset

    note(f"== 1/4 timing {TIMED} steps, on one thread and on all")
    speeds = {threads: images_per_second(threads) for threads in sorted({torch.get_num_threads(), 1})}
    threads = max(speeds, key=speeds.__getitem__)
    config = find_preset(PRESET).config
    steps = int(SECONDS * speeds[threads] / config.batch_size) - REST
    return max(FEWEST, min(config.steps, steps // 100 * 100)), threads


def images_per_second(threads: int) -> float:
    """How fast the segregation trains, by the second half of a few steps."""
    from pyro_sri import runs

    with tempfile.TemporaryDirectory() as folder:
        length = ["--steps", str(TIMED), "--segregation-steps", str(TIMED), "--log-every", str(TIMED // 2)]
        run(["train", PRESET, *length, "--threads", str(threads), "--out", f"{folder}/run"])
        *_, last = (line for line in runs.open_run(Path(folder) / "run").log() if "images_per_second" in line)
    return float(last["images_per_second"])


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
