"""`make demo`: data, training, evaluation and a report, with the clock running."""

import argparse
import sys
import time
from pathlib import Path

from pyro_sri.allocation import keep_freed_memory
from pyro_sri.errors import UserError
from pyro_sri.scripts.cli import note
from pyro_sri.scripts.main import run
from pyro_sri.threads import wait_passively

PRESET = "sri-quick"
STEPS = 2_800  # of the preset's 8,400: objects are apart by then; scenes drawn from the model get better later
IMAGES = 320


def demo(out: Path, seed: int) -> None:
    """Trains the quick preset from scratch, evaluates it and writes `out/report.html`.

    Stopped half-way, it goes on where it was.

    Args:
        out: Folder for the run and the report.
        seed: Seed of the training.
    """
    start = time.monotonic()
    run_path, page = out / PRESET, out / "report.html"
    note(f"== 1/3 training {PRESET} from scratch ({STEPS} steps) into {run_path}")
    run(["train", PRESET, "--steps", str(STEPS), "--seed", str(seed), "--out", str(run_path), "--resume"])
    note("== 2/3 evaluating on held-out images")
    run(["evaluate", str(run_path), "--num-images", str(IMAGES)])
    note("== 3/3 writing the report")
    page.unlink(missing_ok=True)  # the demo's own page, written anew
    run(["report", str(run_path), "--out", str(page)])
    note(f"Done in {(time.monotonic() - start) / 60:.1f} minutes. Open {page.resolve()} in a browser.")


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
