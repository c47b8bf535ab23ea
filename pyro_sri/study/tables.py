"""The tables of a study: Markdown, CSV and LaTeX, with mean, standard deviation and every seed."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pyro_sri.study.cells import NOTHING, latex
from pyro_sri.study.plan import Plan
from pyro_sri.study.results import EXTRA, PUBLISHED, Record, RowResult, describe_data, frechet_features


class Table(NamedTuple):
    """A table of texts.

    Attributes:
        title: What it shows.
        header: One text per column.
        rows: One text per column in each row.
        words: Number of columns on the left that hold words. The others hold numbers.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int


def summary_table(plan: Plan, results: Sequence[RowResult]) -> Table:
    """A line for each row: mean and standard deviation of every measure, and published values."""
    names, published = (*plan.study.measures, *EXTRA), any(result.row.published for result in results)
    remarks = any(result.remark for result in results)
    header = ["", *names, *([PUBLISHED] if published else []), *(["remarks"] if remarks else [])]
    rows = []
    for result in results:
        cells = [_mean(result, name) for name in names]
        cells += [_published(result)] if published else []
        rows.append([result.row.title, *cells, *([result.remark] if remarks else [])])
    return Table(f"{plan.study.title}: mean ± standard deviation over seeds", header, rows, 1)


def seeds_table(plan: Plan, results: Sequence[RowResult]) -> Table:
    """A line for each run."""
    names = (*plan.study.measures, *EXTRA)
    rows = [
        [result.row.title, str(record["seed"]), record["status"], *(_value(record, name) for name in names)]
        for result in results
        for record in result.records
    ]
    return Table(f"{plan.study.title}: every seed", ["", "seed", "status", *names], rows, 3)


def notes(plan: Plan, results: Sequence[RowResult]) -> list[str]:
    """Notes that a reader of the tables needs."""
    study = plan.study
    lines = [study.note] if study.note else []
    for name in dict.fromkeys(result.row.data for result in results):
        lines.append(f"Data: {describe_data(plan, name)}.")
    lines.append("Standard deviations use n - 1. Minutes are training time only, computed from the log.")
    if features := frechet_features(results):
        lines.append(f"Features of the Fréchet distances: {', '.join(features)}.")
    if any(result.row.published for result in results):
        lines.append(
            f'"{PUBLISHED}": published by others, on the published data sets, and not measured here. The Fréchet '
            "distances among them are FIDs. Do not compare these values with those on generated data."
        )
    lines += [f"{result.row.title}: {result.row.note}" for result in results if result.row.note]
    return lines


def to_markdown(plan: Plan, results: Sequence[RowResult]) -> str:
    """tables.md."""
    parts = [f"# {_markdown(plan.study.title)}", *(_markdown(line) for line in notes(plan, results))]
    for table in (summary_table(plan, results), seeds_table(plan, results)):
        align = [":--" if i < table.words else "--:" for i in range(len(table.header))]
        lines = [list(table.header), align, *table.rows]
        shown = [[cell if row is align else _markdown(cell) for cell in row] for row in lines]
        parts += [f"## {_markdown(table.title)}", "\n".join(f"| {' | '.join(row)} |" for row in shown)]
    return "\n\n".join(parts) + "\n"


def to_csv(plan: Plan, results: Sequence[RowResult]) -> str:
    """tables.csv: a line for each row and measure, with numbers at full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    seeds = [f"seed {seed}" for seed in plan.study.seeds]
    writer.writerow(["row", "title", "data", "measure", "mean", "standard deviation", *seeds, PUBLISHED, "remarks"])
    for result in results:
        for name in (*plan.study.measures, *EXTRA):
            spread = result.spreads.get(name)
            mean, std = ("", "") if spread is None else (spread.mean, "" if spread.std is None else spread.std)
            values = ["" if record.get(name) is None else record[name] for record in result.records]
            published = result.row.published.get(name, "")
            data = describe_data(plan, result.row.data)
            title = [result.row.key, result.row.title, data, name]
            writer.writerow([*title, mean, std, *values, published, result.remark])
    return file.getvalue()


def to_latex(plan: Plan, results: Sequence[RowResult]) -> str:
    """tables.tex: two tables, for use with \\input. They need the package booktabs."""
    parts = ["% \\usepackage{booktabs} in the preamble; \\input{tables.tex} where you want the tables."]
    for table in (summary_table(plan, results), seeds_table(plan, results)):
        columns = "l" * table.words + "r" * (len(table.header) - table.words)
        lines = [" & ".join(map(latex, row)) + r" \\" for row in table.rows]
        head = " & ".join(map(latex, table.header)) + r" \\"
        body = [r"\toprule", head, r"\midrule", *lines, r"\bottomrule"]
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{latex(table.title)}. {latex(_origin(plan, results))}}}",
                    rf"\begin{{tabular}}{{{columns}}}",
                    *body,
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def _origin(plan: Plan, results: Sequence[RowResult]) -> str:
    """The data sets in one line. Every table says which of them are generated."""
    names = dict.fromkeys(result.row.data for result in results)
    return f"Data: {'; '.join(describe_data(plan, name) for name in names)}."


def _published(result: RowResult) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in result.row.published.items()) or NOTHING


def _mean(result: RowResult, name: str) -> str:
    spread = result.spreads.get(name)
    if spread is None:
        return NOTHING
    return f"{spread.mean:.0f}" if name == "steps" and not spread.std else str(spread)


def _value(record: Record, name: str) -> str:
    value = record.get(name)
    return NOTHING if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _markdown(text: str) -> str:
    """Escapes characters that Markdown or HTML would interpret."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.split()))


WRITERS: dict[str, Callable[[Plan, Sequence[RowResult]], str]] = {
    "tables.md": to_markdown,
    "tables.csv": to_csv,
    "tables.tex": to_latex,
}
