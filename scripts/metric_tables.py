"""The tables of `evaluate`: metrics of a run and of several seeds, either the most important ones or all."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pyro_sri.config import nearest
from pyro_sri.evaluation import MEANINGS, METRICS, Metrics
from pyro_sri.evaluation.measures.counting import CONFUSION
from pyro_sri.evaluation.summary import CONDITIONS, Summary, below_zero, flagged
from pyro_sri.scripts.cli import note
from pyro_sri.scripts.tables import print_table
from pyro_sri.system.errors import UserError

OTHER = "other metrics"


def check_names(only: Iterable[str]) -> None:
    """Raises UserError for a name that is not a metric, and suggests the closest one."""
    for name in only:
        if name not in MEANINGS:
            raise UserError(f"there is no metric '{name}': {nearest(name, MEANINGS)}")


def chosen(found: Iterable[str], only: Sequence[str], every: bool) -> dict[str, list[str]]:
    """Selects the metrics to show, grouped by heading.

    Args:
        found: The names of the entries that were computed.
        only: If not empty, show only these metrics.
        every: Whether to show all metrics instead of only the most important ones.
    """
    there = [name for name in dict.fromkeys(found) if is_metric(name)]
    groups = {heading: [name for name in meanings if name in there] for heading, meanings in METRICS.items()}
    groups[OTHER] = [name for name in there if name not in MEANINGS]

    def is_shown(name: str) -> bool:
        if only:
            return name in only
        return every or name not in MEANINGS or not MEANINGS[name].detail

    return {heading: shown for heading, names in groups.items() if (shown := [n for n in names if is_shown(n)])}


def is_metric(name: str) -> bool:
    """Whether an entry of metrics.json is a metric, and not a condition, a reason, a standard error or a count."""
    return not (name in CONDITIONS or name.endswith(("_reason", "_stderr")) or CONFUSION.fullmatch(name))


def print_metrics(name: str, metrics: Metrics, only: Sequence[str], every: bool) -> None:
    """Prints the metrics of a run as a table.

    Args:
        name: The name of the run.
        metrics: The result of `evaluate`.
        only: If not empty, print only these metrics.
        every: Whether to print all metrics.
    """
    groups = chosen(metrics, only, every)
    rows: list[list[str]] = []
    for heading, names in groups.items():
        rows += [[""], [heading.upper()]]
        for metric in names:
            error = metrics.get(f"{metric}_stderr")
            rows.append(
                [metric, number(metrics[metric]), number(error) if error else "", _explanation(metric, metrics)]
            )
    title = f"{name}: {metrics['num_images']} images of {metrics['data']}"
    print_table(["metric", "value", "s.e.", "what it is"], rows, title=title, text_last=True)
    print()
    for line in _remarks(metrics, [metric for names in groups.values() for metric in names]):
        print(line)
    if every or "count_accuracy" in only:
        _print_confusion(metrics)
    left_out = sum(map(is_metric, metrics)) - sum(map(len, groups.values()))
    if left_out and not only:
        print(f"s.e.: standard error over images. {left_out} more metrics are in metrics.json; --all prints them.")


def _explanation(metric: str, metrics: Metrics) -> str:
    """What a metric is, or why it has no value, with warnings about the run."""
    if metrics[metric] is None:
        return str(metrics.get(f"{metric}_reason"))
    words = MEANINGS[metric].text if metric in MEANINGS else ""
    return "; ".join(filter(None, (words, flagged(metric, metrics))))


def _remarks(metrics: Metrics, shown: Sequence[str]) -> Iterator[str]:
    if remark := below_zero({name: metrics[name] for name in shown}):
        yield remark
    if "frechet" in shown and metrics.get("frechet_features"):
        yield (
            f"frechet: {metrics['frechet_images']} real and {metrics['num_samples']} generated images, "
            f"features {metrics['frechet_features']}"
        )


def print_seeds(summary: Summary, only: Sequence[str], every: bool) -> None:
    """Prints the mean, the standard deviation and every seed of a configuration.

    Args:
        summary: The configuration.
        only: If not empty, print only these metrics.
        every: Whether to print all metrics.
    """
    seeds = [f"seed {metrics.get('training_seed')}" for metrics in summary.metrics]
    rows: list[list[str]] = []
    for names in chosen(summary.spreads, only, every).values():
        for name in names:
            spread = summary.spreads[name]
            values = [number(metrics.get(name)) for metrics in summary.metrics]
            rows.append([name, number(spread.mean), number(spread.std), *values])
    title = f"{summary.name}: {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}"
    print_table(["metric", "mean", "s.d.", *seeds], rows, title=title)
    for metrics in summary.metrics:
        if flag := flagged("bpd", metrics):
            note(f"bits per dimension of seed {metrics['training_seed']}: {flag}")


def number(value: Any) -> str:
    """Formats a number with four digits, or a missing one as a dash."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_confusion(metrics: Metrics) -> None:
    """Prints the confusion matrix: rows are true numbers of objects, columns are numbers found."""
    cells = {name: value for name, value in metrics.items() if CONFUSION.fullmatch(name)}
    pairs = {tuple(map(int, re.findall(r"\d+", name))): value for name, value in cells.items()}
    if not pairs:
        return
    found = sorted({pair[1] for pair in pairs})
    there = sorted({pair[0] for pair in pairs})
    rows = [[str(count), *(str(pairs.get((count, other), 0)) for other in found)] for count in there]
    print_table(["objects", *(f"{count} found" for count in found)], rows, title="images by their number of objects")
