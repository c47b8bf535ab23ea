"""The report's tables of metrics, for runs and for the seeds of a configuration."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pyro_sri.evaluation import MEANINGS, METRICS
from pyro_sri.evaluation.measures.counting import CONFUSION
from pyro_sri.evaluation.summary import (
    CONDITIONS,
    Spread,
    below_zero,
    differing_conditions,
    flagged,
    summaries,
)
from pyro_sri.report.html import NO_BREAK, Cell, Html, element, facts, hint, join, matrix, table
from pyro_sri.report.subjects import Subject

OTHER = "other metrics"
WHAT_IT_IS = Cell("what it is", kind="long soft")  # the header of the explanations


class Column(NamedTuple):
    """A column of the table of metrics: a run, or the seeds of a configuration.

    Attributes:
        name: The header.
        note: A small line below the name.
        metrics: The result of `evaluate` for each seed.
        spreads: Mean and standard deviation of each metric.
    """

    name: str
    note: str
    metrics: list[dict[str, Any]]
    spreads: dict[str, Spread]


def metrics_section(subjects: Sequence[Subject]) -> Html:
    """All metrics, how they were computed, and what they mean."""
    evaluated = [subject for subject in subjects if subject.metrics is not None]
    parts = [not_evaluated(subject) for subject in subjects if subject.metrics is None]
    if not evaluated:
        return join(parts)
    every = [subject.metrics or {} for subject in evaluated]
    columns, notes = _columns(evaluated)
    parts += [element("p", note) for note in notes]
    if len(columns) > 1:
        compare = not differing_conditions(every)
        different = "These runs were evaluated on different images, so their values cannot be compared."
        best = element("p", "The best value in each row is bold.", class_="soft")
        parts.append(best if compare else element("p", different))
    if any(name.endswith("_stderr") for column in columns for name in column.metrics[0] if len(column.metrics) == 1):
        parts.append(element("p", "s.e.: standard error over images.", class_="soft"))
    parts += [element("p", remark, class_="soft") for remark in dict.fromkeys(map(below_zero, every)) if remark]
    if any(len(column.metrics) > 1 for column in columns):
        meaning = "Mean ± standard deviation over seeds (n - 1). The values of the seeds are below."
        parts.append(element("p", meaning, class_="soft"))
    names = [name for name in union(every) if not name.endswith(("_reason", "_stderr"))]
    found = [name for name in names if name not in CONDITIONS and not CONFUSION.fullmatch(name)]
    parts += [_metrics_table(found, columns, every), _confusions(evaluated), element("h3", "How they were computed")]
    conditions = [name for name in CONDITIONS if name in names]
    rows = [
        [Cell(name, name), *(metric_cell(name, metrics) for metrics in every), _explanation(name)]
        for name in conditions
    ]
    parts.append(table([*headers("condition", *(subject.name for subject in evaluated)), WHAT_IT_IS], rows))
    glossary = facts((name, _explain(name)) for name in [*found, *conditions] if _explain(name))
    parts.append(element("details", element("summary", "What these mean"), glossary, class_="narrow"))
    return join(parts)


def headers(*names: str) -> list[Cell]:
    """Headers of columns that sort by their names."""
    return [Cell(name, name) for name in names]


def not_evaluated(subject: Subject) -> Html:
    """A note that a run has no metrics yet, and the command that computes them."""
    command = subject.run.evaluation_command(subject.given)
    return join([element("p", f"{subject.name} has not been evaluated yet. To evaluate it:"), element("pre", command)])


def _columns(subjects: Sequence[Subject]) -> tuple[list[Column], list[str]]:
    """Columns of the table of metrics, and the reasons why seeds were not combined."""
    runs, names = [subject.run for subject in subjects], [subject.name for subject in subjects]
    columns: list[Column] = []
    problems: dict[str, list[str]] = {}
    for summary in summaries(runs, names, [subject.metrics or {} for subject in subjects]):
        metrics = [dict(found) for found in summary.metrics]
        if summary.problem:
            problems.setdefault(summary.problem, []).append(summary.name)
        if len(metrics) == 1:
            columns.append(Column(summary.name, "", metrics, {}))
        else:
            seeds = ", ".join(
                str(run.config.seed) for run, name in zip(runs, names, strict=True) if name in summary.runs
            )
            note = f"{len(metrics)} seeds: {seeds} ({', '.join(summary.runs)})"
            columns.append(Column(summary.name, note, metrics, summary.spreads))
    notes = [f"No mean over {', '.join(names)}: {problem}." for problem, names in problems.items()]
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
            label = element("span", hint(with_arrow(name), _explain(name)))
            rows.append([Cell(label, name), *cells, _explanation(name)])
    headers = [Cell("metric", "metric"), *(Cell(column.name, column.name, column.note) for column in columns)]
    return table([*headers, WHAT_IT_IS], rows, headings=headings)


def _metric_of(name: str) -> str | None:
    """The metric that a name equals or starts with (ppc_contrast for ppc_contrast_surprising), or None."""
    return max((metric for metric in MEANINGS if f"{name}_".startswith(f"{metric}_")), key=len, default=None)


def _better(name: str) -> str | None:
    return MEANINGS[name].better if name in MEANINGS else None


def with_arrow(name: str) -> str:
    """A metric's name, with an arrow towards better values."""
    better = _better(name)
    return name if better is None else f"{name}{NO_BREAK}{'↑' if better == 'higher' else '↓'}"


def _explain(name: str) -> str:
    if name in MEANINGS:
        return MEANINGS[name].text
    return CONDITIONS.get(name, "")


def _explanation(name: str) -> Cell:
    return Cell(_explain(name), kind="long soft")


def _column_cell(name: str, column: Column) -> Cell:
    cells = [metric_cell(name, metrics) for metrics in column.metrics]
    if len(cells) == 1:
        error = column.metrics[0].get(f"{name}_stderr")
        notes = [] if error is None else [f"s.e. {error:.2g}"]
        if cells[0].key is not None and (flag := flagged(name, column.metrics[0])):
            notes.append(flag)
        return cells[0]._replace(note="; ".join(notes)) if notes else cells[0]
    spread = column.spreads.get(name)
    values = ", ".join(cell.content for cell in cells)
    if spread is not None:
        left_out = f" (mean of {len(spread.values)})" if spread.missing else ""
        flags = "".join(f"; {flag}" for flag in dict.fromkeys(flagged(name, found) for found in column.metrics) if flag)
        return Cell(str(spread).replace(" ", NO_BREAK), spread.mean, values + left_out + flags)
    if all(cell.key is None for cell in cells):
        return cells[0]
    different = differing_conditions(column.metrics, name)
    return Cell("–", note=f"{values} (no mean: different {', '.join(different)})" if different else values)


def metric_cell(name: str, metrics: dict[str, Any]) -> Cell:
    """A metric's value, or why there is none."""
    value = metrics.get(name)
    if value is None:
        return Cell("–", note=str(metrics.get(f"{name}_reason", "not computed")))
    return Cell(f"{value:.4g}" if isinstance(value, float) else str(value), value)


def _mark_best(name: str, cells: Sequence[Cell]) -> list[Cell]:
    """Makes the best value bold, and all values equal to it."""
    numbers = [cell.key for cell in cells if isinstance(cell.key, int | float)]
    better = _better(name)
    if len(numbers) < 2 or better is None:
        return list(cells)
    best = max(numbers) if better == "higher" else min(numbers)
    return [cell._replace(content=element("strong", cell.content)) if cell.key == best else cell for cell in cells]


def _confusions(subjects: Sequence[Subject]) -> Html:
    """Confusion matrices of the number of objects, for the runs that count objects."""
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


def union(mappings: Iterable[dict[str, Any]]) -> list[str]:
    """All keys, in the order of their first occurrence."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))
