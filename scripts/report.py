"""The command `pyro-sri report`: one page about one or several runs."""

import inspect
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pyro_sri.config import flag
from pyro_sri.report.page import make_page
from pyro_sri.report.subjects import show_run
from pyro_sri.runs import Run, find_run
from pyro_sri.scripts.cli import check_new_file, parse
from pyro_sri.scripts.evaluate import evaluate_runs
from pyro_sri.scripts.own_data import own_data_of
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import write_atomically
from pyro_sri.system.seeds import check_seed


def report(
    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN [RUN ...]")],
    /,
    out: Path = Path("report.html"),
    data: Path | None = None,
    seed: int = 0,
) -> None:
    """Write one page about one or more runs, side by side: metrics, pictures, curves, configuration, commands.

    The page is a single file that needs no network: open it in any browser, or send it to someone.
    Runs that differ only in the seed are grouped, with mean and standard deviation.
    An existing file is never overwritten.

    For example:
      pyro-sri report runs/quick
      pyro-sri report runs/seed0 runs/seed1 runs/other --out comparison.html

    Args:
        runs: Run directories, or names of presets with bundled weights.
        out: The .html file to make.
        data: Dataset file whose images are shown (if not given: the one that each run was trained on).
        seed: Seed of the pictures' draws.

    Raises:
        UserError: If a run cannot be read, or the file exists or cannot be written.
    """
    if not runs:
        raise UserError("which runs? give at least one: pyro-sri report RUN [RUN ...] --out report.html")
    check_new_file(out, (".html", ".htm"))
    check_seed(seed)
    runs = tuple(dict.fromkeys(runs))
    found = [find_run(given) for given in runs]  # all of them, before work on the first begins
    named = zip(found, runs, short_names(runs), strict=True)
    subjects = [
        show_run(run, given, name, data=data or own_data_of(run), seed=seed, commands=_commands(run, given))
        for run, given, name in named
    ]
    shown = [] if data is None else ["--data", str(data)]
    command = shlex.join(["pyro-sri", "report", *runs, *shown, "--out", str(out), "--seed", str(seed)])
    content = make_page(subjects, command, seed).encode()
    write_atomically(out, lambda file: file.write(content))
    print(f"wrote {out} ({len(content) / 2**20:.1f} MB); open it in a browser")


def short_names(given: Sequence[str]) -> list[str]:
    """The last parts of paths where they differ, else the whole."""
    last = [Path(name).resolve().name if Path(name).exists() else name for name in given]
    return last if len(set(last)) == len(last) else list(given)


def _commands(run: Run, given: str) -> tuple[str, ...]:
    """What trains the run, and what evaluates it as it was evaluated if it was; defaults are left out."""
    words = ["pyro-sri", "evaluate", given]
    metrics = run.metrics() or {}
    data, own = metrics.get("data"), run.config.data
    if isinstance(data, str) and own is not None and data.removeprefix("generated: ") != own.name:
        words += ["--data", data.removeprefix("generated: ")]
    for name, parameter in inspect.signature(evaluate_runs).parameters.items():
        if name != "data" and metrics.get(name) not in (None, parameter.default):
            words += [flag(name), str(metrics[name])]
    if str(metrics.get("frechet_features")).startswith("inception"):
        words.append("--download-inception")
    return run.command(), shlex.join(words)


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(report, "pyro-sri report", args)
