"""Mean, standard deviation and every seed of evaluated runs, for other programs: CSV, LaTeX and JSON."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from pyro_sri.evaluation.summary import Summary
from pyro_sri.study.cells import NOTHING, latex


def to_csv(summaries: Sequence[Summary], names: Sequence[str] | None = None) -> str:
    """A line for each configuration and metric, numbers in full, a column for each training seed.

    Args:
        summaries: The configurations.
        names: The metrics; all if None.
    """
    seeds = sorted({seed for summary in summaries for seed in _seeds(summary)}, key=str)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = ["metric", "mean", "standard deviation", "standard error over images", "missing"]
    writer.writerow(["configuration", *columns, *(f"seed {seed}" for seed in seeds), "runs"])
    for summary in summaries:
        for name in _chosen(summary, names):
            spread = summary.spreads[name]
            values = dict(zip(spread.seeds, spread.values, strict=True))
            error = summary.metrics[0].get(f"{name}_stderr") if len(summary.metrics) == 1 else None
            numbers = [spread.mean, _or_empty(spread.std), _or_empty(error), spread.missing]
            by_seed = [_or_empty(values.get(seed)) for seed in seeds]
            writer.writerow([summary.name, name, *numbers, *by_seed, " ".join(summary.runs)])
    return file.getvalue()


def to_latex(summaries: Sequence[Summary], names: Sequence[str]) -> str:
    """A table to be read by \\input, with a line for each metric and a column for each configuration.

    Args:
        summaries: The configurations.
        names: The metrics; those that no configuration has are left out.
    """
    rows = []
    for name in names:
        if any(name in summary.spreads for summary in summaries):
            cells = [str(summary.spreads[name]) if name in summary.spreads else NOTHING for summary in summaries]
            rows.append([name, *cells])
    seeds = sorted({len(summary.metrics) for summary in summaries})
    told = f"{' or '.join(map(str, seeds))} {'seed' if seeds == [1] else 'seeds'}"
    head = ["", *(summary.name for summary in summaries)]
    lines = [" & ".join(map(latex, row)) + r" \\" for row in rows]
    return "\n".join(
        [
            "% \\usepackage{booktabs} in the preamble; \\input this file where the table shall stand.",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{Mean and standard deviation (n - 1) of {told}.}}",
            rf"\begin{{tabular}}{{l{'r' * len(summaries)}}}",
            r"\toprule",
            " & ".join(map(latex, head)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_plain(summaries: Sequence[Summary], names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The same as plain values for JSON: configurations with their runs, and each metric's mean, deviation and seeds.

    Args:
        summaries: The configurations.
        names: The metrics; all if None.
    """
    return [
        {
            "configuration": summary.name,
            "runs": list(summary.runs),
            "seeds": _seeds(summary),
            "metrics": {
                name: {
                    "mean": summary.spreads[name].mean,
                    "standard_deviation": summary.spreads[name].std,
                    "values": list(summary.spreads[name].values),
                    "seeds": list(summary.spreads[name].seeds),
                    "missing": summary.spreads[name].missing,
                }
                for name in _chosen(summary, names)
            },
            **({"no_mean": summary.problem} if summary.problem else {}),
        }
        for summary in summaries
    ]


def _chosen(summary: Summary, names: Sequence[str] | None) -> list[str]:
    chosen = summary.spreads if names is None else names
    return [name for name in chosen if name in summary.spreads and not name.endswith("_stderr")]


def _seeds(summary: Summary) -> list[Any]:
    return [metrics.get("training_seed") for metrics in summary.metrics]


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value
