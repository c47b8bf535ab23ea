"""The command `pyro-sri report`: writes a page about one or more runs."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from pyro_sri.config import flag
from pyro_sri.presets import PRESETS
from pyro_sri.report.gallery import missing_data
from pyro_sri.report.page import make_page
from pyro_sri.report.subjects import show_run
from pyro_sri.runs import Run, find_run
from pyro_sri.scripts.cli import check_new_file, note, parse, say
from pyro_sri.scripts.evaluate import evaluate_runs
from pyro_sri.scripts.own_data import own_data_of
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import write_atomically
from pyro_sri.system.seeds import check_seed
from pyro_sri.system.shell import command_line


def report(
    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN [RUN ...]")],
    /,
    out: Path = Path("report.html"),
    data: Path | None = None,
    seed: int = 0,
) -> None:
    """Write a page with the metrics, pictures, curves, configuration and commands of one or more runs.

    Several runs are shown side by side. Runs that differ only in the seed are grouped, with mean and standard
    deviation. The page is a single file that works offline, in any browser. An existing file is never overwritten.

    For example:
      pyro-sri report runs/quick
      pyro-sri report runs/seed0 runs/seed1 runs/other --out comparison.html

    Args:
        runs: Run directories, or names of presets with bundled weights.
        out: The .html file to write.
        data: Dataset file whose images are shown (if not given: the one that each run was trained on).
        seed: Random seed for the pictures.

    Raises:
        UserError: If a run cannot be read, or the file exists or cannot be written.
    """
    if not runs:
        raise UserError("no run given; name at least one: pyro-sri report RUN [RUN ...] --out report.html")
    check_new_file(out, (".html", ".htm"))
    check_seed(seed)
    runs = tuple(dict.fromkeys(runs))
    found = [find_run(given) for given in runs]  # find all of them before the work on the first one starts
    named = zip(found, runs, short_names(runs), strict=True)
    subjects = [
        show_run(run, given, name, data=data or own_data_of(run), seed=seed, commands=_commands(run, given))
        for run, given, name in named
    ]
    for run, subject in zip(found, subjects, strict=True):
        if data is None and own_data_of(run) is None and (missing := missing_data(run)):
            note(f"skipped the pictures of {subject.name} that need images: {missing}; name the file with --data")
    shown = [] if data is None else ["--data", str(data)]
    command = command_line(["pyro-sri", "report", *runs, *shown, "--out", str(out), "--seed", str(seed)])
    content = make_page(subjects, command, seed).encode(errors="backslashreplace")
    write_atomically(out, lambda file: file.write(content))
    say(f"wrote {out} ({len(content) / 2**20:.1f} MB); open it in a browser")


def short_names(given: Sequence[str]) -> list[str]:
    """The last parts of the paths if these are all different, otherwise the whole paths."""
    last = [Path(name).resolve().name if Path(name).exists() else name for name in given]
    return last if len(set(last)) == len(last) else list(given)


def _commands(run: Run, given: str) -> tuple[str, ...]:
    """The command that trains the run, and the one that evaluates it in the same way as before, without defaults."""
    metrics = run.metrics()
    trained = [run.command()] if run.config.preset in PRESETS else []  # imported weights were not trained here
    if metrics is None:
        return *trained, run.evaluation_command(given)
    words = ["pyro-sri", "evaluate", given]
    if file := _other_data(run, metrics):
        words += ["--data", file]
    for name, parameter in inspect.signature(evaluate_runs).parameters.items():
        if name != "data" and metrics.get(name) not in (None, parameter.default):
            words += [flag(name), str(metrics[name])]
    if str(metrics.get("frechet_features")).startswith("inception"):
        words.append("--download-inception")
    return *trained, command_line(words)


def _other_data(run: Run, metrics: Mapping[str, Any]) -> str:
    """The file that a run was evaluated on, if it is not the one that `evaluate` uses by default; otherwise empty."""
    name, own, preset = metrics.get("data"), run.config.data, PRESETS.get(run.config.preset)
    if not isinstance(name, str) or (own is None and preset is not None and preset.makes_data is not None):
        return ""
    file = str(metrics.get("data_file", name.removeprefix("generated: ")))  # earlier versions stored only the name
    same = own is not None and (Path(file).name == own.name if "data_file" not in metrics else Path(file) == own)
    return "" if same else file


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(report, "pyro-sri report", args)
