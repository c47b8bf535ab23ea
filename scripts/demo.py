"""`make demo`: data, training, evaluation and a report, with the clock running."""

import argparse
import shutil
import time
from pathlib import Path

from pyro_sri.scripts.cli import note
from pyro_sri.scripts.main import run

PRESET = "sri-quick"


def demo(out: Path) -> None:
    """Trains the quick preset into `out`, evaluates it and writes `out/report.html`; goes on where it was stopped.

    Args:
        out: Folder for the run, its data and the report.
    """
    start = time.monotonic()
    run_path, page = out / PRESET, out / "report.html"
    note(f"== 1/3 training {PRESET} into {run_path} (stop it whenever you like: 'make demo' goes on from there)")
    run(["train", PRESET, "--out", str(run_path), "--resume"])
    note("== 2/3 evaluating on held-out images")
    run(["evaluate", str(run_path), "--num-images", "320"])
    note("== 3/3 writing the report")
    page.unlink(missing_ok=True)  # the demo's own page, written anew
    run(["report", str(run_path), "--out", str(page)])
    width = shutil.get_terminal_size().columns
    note("=" * min(width, 80))
    note(f"Done in {(time.monotonic() - start) / 60:.1f} minutes. Open {page.resolve()} in a browser.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    demo(parser.parse_args().out)
