"""The command `pyro-sri report`: one page about one or several runs."""

import dataclasses
import inspect
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pyro.infer.elbo import ELBOModule
from tyro.conf import Positional, arg

from pyro_sri import __version__
from pyro_sri.config import flag
from pyro_sri.data.generators import GENERATORS
from pyro_sri.errors import UserError
from pyro_sri.evaluation import MEANINGS, METRICS
from pyro_sri.gallery import ACTIVENESS_IMAGES, Exhibit, Images, gallery, load_images, missing_data
from pyro_sri.runs import Run, find_run, write_atomically
from pyro_sri.scripts.cli import parse
from pyro_sri.scripts.evaluate import CONFUSION, evaluate_runs
from pyro_sri.scripts.own_data import own_data_of
from pyro_sri.scripts.sample import check_new_file
from pyro_sri.seeds import check_seed
from pyro_sri.summary import CONDITIONS, Spread, differing_conditions, group_runs, summarise, why_not_summarised
from pyro_sri.viz.page import Cell, Html, animation, element, facts, hint, join, matrix, page, picture, table

NUM_SCENES = 6  # on a sheet
WORDY_FACTS = ("data", "what it is")
NO_BREAK = "\N{NO-BREAK SPACE}"

# What readers look for first stands first, and what moves after what does not.
FIRST, LAST = ("reconstructions", "boxes", "samples", "samples_slots"), "curves"

HEADLINES = ("ari_fg", "mse", "iwae_bpd", "frechet", "structure_accuracy", "count_accuracy")  # told beside the runs
OTHER = "other metrics"
WHAT_IT_IS = Cell("what it is", kind="long soft")  # stands above explanations


def report(
    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN [RUN ...]")],
    /,
    out: Path = Path("report.html"),
    data: Path | None = None,
    seed: int = 0,
) -> None:
    """Write one page about one or several runs, side by side: metrics, pictures, curves, configuration, commands.

    The page is a single file that needs no network: open it in any browser, or send it to someone.
    Runs that differ in nothing but their seed stand together, with mean and standard deviation.
    An existing file is never overwritten.

    For example:
      pyro-sri report runs/quick
      pyro-sri report runs/seed0 runs/seed1 runs/other --out comparison.html

    Args:
        runs: Run directories, or names of presets whose weights ship.
        out: The .html file to make.
        data: Dataset file whose images are shown; the one that each run was trained on if not given.
        seed: Seed of the pictures' draws.

    Raises:
        UserError: If a run cannot be read, or the file exists or cannot be written.
    """
    if not runs:
        raise UserError("which runs? pyro-sri report RUN [RUN ...] --out report.html takes at least one")
    check_new_file(out, (".html", ".htm"))
    check_seed(seed)
    runs = tuple(dict.fromkeys(runs))
    found = [find_run(given) for given in runs]  # all of them, before the first takes its time
    named = zip(found, runs, short_names(runs), strict=True)
    subjects = [_subject(run, given, name, data, seed) for run, given, name in named]
    shown = [] if data is None else ["--data", str(data)]
    command = shlex.join(["pyro-sri", "report", *runs, *shown, "--out", str(out), "--seed", str(seed)])
    content = make_page(subjects, command, seed).encode()
    write_atomically(out, lambda file: file.write(content))
    print(f"wrote {out} ({len(content) / 2**20:.1f} MB); open it in a browser")


class Figure(NamedTuple):
    """An exhibit as it stands on the page.

    Attributes:
        title: What it is called.
        html: The picture and its caption.
    """

    title: str
    html: Html


class Subject(NamedTuple):
    """A run and what the page shows of it.

    Attributes:
        given: How the user named the run.
        name: A short name, different from the others'.
        run: The run.
        facts: What it is, in a few words each.
        figures: Its pictures, by the name of the exhibit and whether it moves.
        metrics: What `evaluate` found, or None.
    """

    given: str
    name: str
    run: Run
    facts: dict[str, str]
    figures: dict[tuple[str, bool], Figure]
    metrics: dict[str, Any] | None


class Column(NamedTuple):
    """A column of the table of metrics: a run, or the seeds of a configuration.

    Attributes:
        name: What stands above it.
        note: A small line below the name.
        metrics: What `evaluate` found for each seed.
        spreads: Their mean and standard deviation by metric.
    """

    name: str
    note: str
    metrics: list[dict[str, Any]]
    spreads: dict[str, Spread]


def make_page(subjects: Sequence[Subject], command: str, seed: int) -> str:
    """The whole page.

    Args:
        subjects: The runs, in the order in which they stand side by side.
        command: What makes this page again.
        seed: Seed of the pictures' draws.
    """
    sections = [
        ("runs", "Runs" if len(subjects) > 1 else "Run", _runs(subjects)),
        ("metrics", "Metrics", _metrics(subjects)),
        *_pictures(subjects),
        ("configuration", "Configuration", _configuration(subjects)),
        ("commands", "Commands", _commands(subjects, command)),
    ]
    names = ", ".join(subject.name for subject in subjects)
    links = join(element("a", title, href=f"#{anchor}") for anchor, title, _ in sections)
    header = element("header", element("h1", names), element("nav", links))
    body = [element("section", element("h2", title, id=anchor), content) for anchor, title, content in sections]
    footer = element("footer", f"pyro-sri {__version__}, PyTorch {torch.__version__}; pictures drawn with seed {seed}")
    return page(f"{names} - pyro-sri", join([header, element("main", join(body)), footer]))


def short_names(given: Sequence[str]) -> list[str]:
    """The last parts of paths where they differ, else the whole."""
    last = [Path(name).resolve().name if Path(name).exists() else name for name in given]
    return last if len(set(last)) == len(last) else list(given)


def _subject(run: Run, given: str, name: str, data: Path | None, seed: int) -> Subject:
    module, metrics = run.load_module(), run.metrics()
    images = load_images(run, None, ACTIVENESS_IMAGES, data or own_data_of(run))
    exhibits = gallery(run, images, num=NUM_SCENES, seed=seed, module=module)
    figures = {(exhibit.name, len(exhibit.frames) > 1): _figure(exhibit, name) for exhibit in exhibits}
    return Subject(given, name, run, _facts(run, module, images, metrics), figures, metrics)


def _figure(exhibit: Exhibit, name: str) -> Figure:
    alt = f"{exhibit.title} of {name}"
    if len(exhibit.frames) > 1:
        html = animation(exhibit.frames, exhibit.milliseconds, alt, exhibit.caption)
    else:
        html = picture(exhibit.frames[0], alt, exhibit.caption, pixelated=exhibit.pixelated)
    return Figure(exhibit.title, html)


def _facts(run: Run, module: ELBOModule, images: Images | None, metrics: dict[str, Any] | None) -> dict[str, str]:
    config, untrained = run.config, run.config.untrained(run.step)
    return {
        "what it is": (inspect.getdoc(type(config)) or config.preset).splitlines()[0],
        "preset": config.preset,
        "data": _describe_data(run, images, metrics),
        "images": f"{config.image_size} x {config.image_size}",
        "trained for": f"{run.step} of {config.steps} steps" + (f"; {untrained}" if untrained else ""),
        "slots": str(module.model.num_slots),
        "parameters": f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} million",
        "training seed": str(config.seed),
    }


def _describe_data(run: Run, images: Images | None, metrics: dict[str, Any] | None) -> str:
    if images is not None:
        return images.origin
    if metrics is not None and "data" in metrics:
        return f"{metrics['data']} ({missing_data(run)})"
    dataset = run.config.dataset
    origin = ", generated unless converted from published files" if dataset in GENERATORS else ""
    return f"{dataset}{origin} ({missing_data(run)})"


def _runs(subjects: Sequence[Subject]) -> Html:
    """What is known of a run; of several, a table with the metrics that are looked for first."""
    if len(subjects) == 1:
        return element("div", facts(subjects[0].facts.items()), class_="card")
    evaluated = [subject.metrics for subject in subjects if subject.metrics is not None]
    headlines = [
        name
        for name in HEADLINES
        if any(metrics.get(name) is not None for metrics in evaluated) and not differing_conditions(evaluated, name)
    ]
    names = sorted(subjects[0].facts, key=lambda name: name in WORDY_FACTS)
    rows = []
    for subject in subjects:
        found = [_metric_cell(name, subject.metrics or {})._replace(note="") for name in headlines]
        told = [(subject.facts[name], "text" if name in WORDY_FACTS else None) for name in names]
        shown = [Cell(value, _leading_number(value), kind=kind) for value, kind in told]
        rows.append([Cell(subject.name, subject.name), *found, *shown])
    return table(_headers("run", *map(_with_arrow, headlines), *names), rows)


def _leading_number(value: str) -> str:
    """What a fact is sorted by: the number it starts with, if it does."""
    number = re.match(r"\d+(\.\d+)?", value)
    return number[0] if number else value


def _metrics(subjects: Sequence[Subject]) -> Html:
    evaluated = [subject for subject in subjects if subject.metrics is not None]
    parts = [_not_evaluated(subject) for subject in subjects if subject.metrics is None]
    if not evaluated:
        return join(parts)
    every = [subject.metrics or {} for subject in evaluated]
    columns, notes = _columns(evaluated)
    parts += [element("p", note) for note in notes]
    if len(columns) > 1:
        compare = not differing_conditions(every)
        different = "These runs were evaluated on different images: values do not compare."
        best = element("p", "The best value of a row is bold.", class_="soft")
        parts.append(best if compare else element("p", different))
    if any(name.endswith("_stderr") for column in columns for name in column.metrics[0] if len(column.metrics) == 1):
        parts.append(element("p", "s.e.: standard error over images.", class_="soft"))
    if any(len(column.metrics) > 1 for column in columns):
        meaning = "Mean ± standard deviation over seeds (n - 1); below it the value of each seed."
        parts.append(element("p", meaning, class_="soft"))
    names = [name for name in _union(every) if not name.endswith(("_reason", "_stderr"))]
    found = [name for name in names if name not in CONDITIONS and not CONFUSION.fullmatch(name)]
    parts += [_metrics_table(found, columns, every), _confusions(evaluated), element("h3", "How they were computed")]
    conditions = [name for name in CONDITIONS if name in names]
    rows = [
        [Cell(name, name), *(_metric_cell(name, metrics) for metrics in every), _explanation(name)]
        for name in conditions
    ]
    parts.append(table([*_headers("condition", *(subject.name for subject in evaluated)), WHAT_IT_IS], rows))
    glossary = facts((name, _explain(name)) for name in [*found, *conditions] if _explain(name))
    parts.append(element("details", element("summary", "What these mean"), glossary, class_="narrow"))
    return join(parts)


def _headers(*names: str) -> list[Cell]:
    return [Cell(name, name) for name in names]


def _not_evaluated(subject: Subject) -> Html:
    command = shlex.join(["pyro-sri", "evaluate", subject.given])
    return join([element("p", f"{subject.name} is not evaluated yet. This does it:"), element("pre", command)])


def _columns(subjects: Sequence[Subject]) -> tuple[list[Column], list[str]]:
    """Columns of the table of metrics, and why seeds were not put together where they could have been."""
    columns, notes = [], []
    for group in group_runs([subject.run for subject in subjects]):
        members = [subject for subject in subjects if any(subject.run is run for run in group.runs)]
        metrics = [subject.metrics or {} for subject in members]
        if reason := why_not_summarised(metrics):
            notes.append(f"No mean over {', '.join(subject.name for subject in members)}: {reason}.")
        if reason or len(members) == 1:
            columns += [Column(subject.name, "", [subject.metrics or {}], {}) for subject in members]
        else:
            seeds = ", ".join(str(subject.run.config.seed) for subject in members)
            names = ", ".join(subject.name for subject in members)
            columns.append(Column(group.name, f"{len(members)} seeds: {seeds} ({names})", metrics, summarise(metrics)))
    return columns, notes


def _metrics_table(names: Sequence[str], columns: Sequence[Column], every: Sequence[dict[str, Any]]) -> Html:
    rows: list[list[Cell]] = []
    headings = {}
    known: dict[str, list[str | None]] = {heading: list(meanings) for heading, meanings in METRICS.items()}
    known[OTHER] = [None]
    for heading, metrics in known.items():
        inside = [name for metric in metrics for name in names if _metric_of(name) == metric]
        if inside:
            headings[len(rows)] = heading[0].upper() + heading[1:]
        for name in inside:
            cells = [_column_cell(name, column) for column in columns]
            if len(columns) > 1 and not differing_conditions(every, name):
                cells = _mark_best(name, cells)
            label = element("span", hint(_with_arrow(name), _explain(name)))
            rows.append([Cell(label, name), *cells, _explanation(name)])
    headers = [Cell("metric", "metric"), *(Cell(column.name, column.name, column.note) for column in columns)]
    return table([*headers, WHAT_IT_IS], rows, headings=headings)


def _metric_of(name: str) -> str | None:
    """The metric that a name is or begins with, as ppc_contrast_surprising does with ppc_contrast; None if none is."""
    return max((metric for metric in MEANINGS if f"{name}_".startswith(f"{metric}_")), key=len, default=None)


def _better(name: str) -> str | None:
    return MEANINGS[name].better if name in MEANINGS else None


def _with_arrow(name: str) -> str:
    better = _better(name)
    return name if better is None else f"{name}{NO_BREAK}{'↑' if better == 'higher' else '↓'}"


def _explain(name: str) -> str:
    if name in MEANINGS:
        return MEANINGS[name].text
    return CONDITIONS.get(name, "")


def _explanation(name: str) -> Cell:
    return Cell(_explain(name), kind="long soft")


def _column_cell(name: str, column: Column) -> Cell:
    cells = [_metric_cell(name, metrics) for metrics in column.metrics]
    if len(cells) == 1:
        error = column.metrics[0].get(f"{name}_stderr")
        return cells[0] if error is None else cells[0]._replace(note=f"s.e. {error:.2g}")
    spread = column.spreads.get(name)
    values = ", ".join(cell.content for cell in cells)
    if spread is not None:
        left_out = f" (mean of {len(spread.values)})" if spread.missing else ""
        return Cell(str(spread).replace(" ", NO_BREAK), spread.mean, values + left_out)
    if all(cell.key is None for cell in cells):
        return cells[0]
    different = differing_conditions(column.metrics, name)
    return Cell("–", note=f"{values} (no mean: different {', '.join(different)})" if different else values)


def _metric_cell(name: str, metrics: dict[str, Any]) -> Cell:
    value = metrics.get(name)
    if value is None:
        return Cell("–", note=str(metrics.get(f"{name}_reason", "not computed")))
    return Cell(f"{value:.4g}" if isinstance(value, float) else str(value), value)


def _mark_best(name: str, cells: Sequence[Cell]) -> list[Cell]:
    """Makes the best value bold, and those that equal it."""
    numbers = [cell.key for cell in cells if isinstance(cell.key, int | float)]
    better = _better(name)
    if len(numbers) < 2 or better is None:
        return list(cells)
    best = max(numbers) if better == "higher" else min(numbers)
    return [cell._replace(content=element("strong", cell.content)) if cell.key == best else cell for cell in cells]


def _confusions(subjects: Sequence[Subject]) -> Html:
    """How many objects there are and how many are found, for the runs that count."""
    parts = []
    for subject in subjects:
        pairs = {
            tuple(map(int, match.groups())): value
            for name, value in (subject.metrics or {}).items()
            if (match := CONFUSION.fullmatch(name))
        }
        if pairs:
            true, found = (sorted({pair[i] for pair in pairs}) for i in range(2))
            counts = [[pairs.get((i, j), 0) for j in found] for i in true]
            title = element("h3", f"Counts of {subject.name}: images by number of objects")
            sheet = matrix("objects", [f"{i}" for i in true], [f"{j} found" for j in found], counts)
            parts.append(element("div", title, sheet))
    return element("div", join(parts), class_="runs") if parts else Html("")


def _pictures(subjects: Sequence[Subject]) -> list[tuple[str, str, Html]]:
    """A section for each exhibit, with every run's side by side: its anchor, title and content."""
    figures = {key: figure for subject in subjects for key, figure in subject.figures.items()}
    ranks = {key: rank for rank, key in enumerate(figures)}

    def order(key: tuple[str, bool]) -> tuple[bool, int, bool, int]:
        name, moves = key
        return name == LAST, FIRST.index(name) if name in FIRST else len(FIRST), moves, ranks[key]

    sections = []
    for name, moves in sorted(figures, key=order):
        parts = []
        for subject in subjects:
            figure = subject.figures.get((name, moves))
            shown = _without(subject, name) if figure is None else figure.html
            parts.append(join([element("h3", subject.name), shown]) if len(subjects) > 1 else shown)
        runs = element("div", join(element("div", part) for part in parts), class_="runs")
        sections.append((f"{name}-moving" if moves else name, figures[name, moves].title, runs))
    return sections


def _without(subject: Subject, name: str) -> Html:
    if name == LAST:
        reason = "This run has no training log."
    elif (missing := missing_data(subject.run)) is not None:
        reason = f"Not drawn: {missing}."
    else:
        reason = "This system has none."
    return element("p", reason, class_="soft")


def _configuration(subjects: Sequence[Subject]) -> Html:
    """Every field; of several runs, those in which they differ come first."""
    configs = [{"system": s.run.config.system, **dataclasses.asdict(s.run.config)} for s in subjects]
    shown = {
        name: ["not a field" if name not in c else "none" if c[name] is None else str(c[name]) for c in configs]
        for name in _union(configs)
    }
    differs = {name: len(set(values)) > 1 for name, values in shown.items()}
    generated = ["generated" if "generated" in subject.facts["data"] else "" for subject in subjects]
    names = sorted(shown, key=lambda name: not differs[name])
    rows = []
    for name in names:
        notes = generated if name in ("dataset", "data") else [""] * len(subjects)
        cells = [Cell(value, value, note) for value, note in zip(shown[name], notes, strict=True)]
        rows.append([Cell(f"{name} ≠" if differs[name] else name, name), *cells])
    settings = table(
        _headers("field", *(subject.name for subject in subjects)), rows, marked=[differs[name] for name in names]
    )
    if len(subjects) == 1:
        return settings
    different = [name for name in names if differs[name]]
    note = f"The runs differ in {', '.join(different)}." if different else "The runs do not differ."
    return join([element("p", note), settings])


def _commands(subjects: Sequence[Subject], command: str) -> Html:
    parts = []
    for subject in subjects:
        lines = f"{subject.run.command()}\n{_evaluate_command(subject)}"
        parts += [element("h3", subject.name), element("pre", lines)]
    return join([*parts, element("h3", "this page"), element("pre", command)])


def _evaluate_command(subject: Subject) -> str:
    """What evaluates the run, as it was evaluated if it was; options that have their defaults are left out."""
    words = ["pyro-sri", "evaluate", subject.given]
    metrics = subject.metrics or {}
    data, own = metrics.get("data"), subject.run.config.data
    if isinstance(data, str) and own is not None and data.removeprefix("generated: ") != own.name:
        words += ["--data", data.removeprefix("generated: ")]
    for name, parameter in inspect.signature(evaluate_runs).parameters.items():
        if name != "data" and metrics.get(name) not in (None, parameter.default):
            words += [flag(name), str(metrics[name])]
    if str(metrics.get("frechet_features")).startswith("inception"):
        words.append("--download-inception")
    return shlex.join(words)


def _union(mappings: Iterable[dict[str, Any]]) -> list[str]:
    """All keys, in the order in which they come."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(report, "pyro-sri report", args)
