"""The most important numbers of a run, in plain words, each with its best value."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pyro_sri.evaluation.summary import Summary, differing_conditions, flagged, summaries
from pyro_sri.report.html import NO_BREAK, Cell, Html, element, join, table
from pyro_sri.report.subjects import Subject
from pyro_sri.report.tables import metric_cell

MOST = 5  # that are shown


class Headline(NamedTuple):
    """A metric in plain words.

    Attributes:
        title: A plain name.
        good: Which values are good.
    """

    title: str
    good: str


# The first five that a run has are shown.
HEADLINES = {
    "ari_fg": Headline("Objects separated", "1 is perfect, above 0.9 is good, 0 is chance level"),
    "count_accuracy": Headline("Objects counted correctly", "share of the images; 1 is perfect"),
    "mse": Headline("Reconstruction error", "0 is perfect; at 0.001, colours are off by about 3 %"),
    "structure_accuracy": Headline("Generated scenes that stand", "share that passes a fixed rule; 1 is perfect"),
    "frechet": Headline(
        "Distance between generated and real images",
        "0 is perfect; compare only values with the same features, data and number of images",
    ),
    "order_consistency": Headline(
        "Order of the slots", "1: the place of an object determines its position in the sequence; 0: random"
    ),
    "iwae_bpd": Headline("Bits per dimension", "lower is better; values below 0 are normal"),
    "active_dimensions": Headline("Slot dimensions in use", "0 means that the slots hold nothing"),
    "bpd": Headline("Bits per dimension, simple bound", "lower is better; values below 0 are normal"),
}


def headlines(evaluated: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics to show for these evaluations: at most five, and only those that can be compared."""
    there = [name for name in HEADLINES if any(isinstance(found.get(name), int | float) for found in evaluated)]
    return [name for name in there if not differing_conditions(evaluated, name)][:MOST]


def cards(metrics: Mapping[str, Any]) -> Html:
    """A card for each number of a run."""
    shown = []
    for name in headlines([metrics]):
        title, good = HEADLINES[name]
        if name == "structure_accuracy" and (expected := metrics.get("structure_accuracy_data")) is not None:
            good = f"{good}; for scenes from the data it is {_short(expected)}"
        error = metrics.get(f"{name}_stderr")
        spread = [" ", element("small", f"±{NO_BREAK}{error:.2g}")] if error else []
        number = element("strong", element("span", _short(metrics[name]), class_="whole"), *spread)
        notes = "; ".join(filter(None, (good, flagged(name, metrics))))
        shown.append(element("div", element("span", title), number, element("p", f"{notes} ({name})"), class_="number"))
    return element("div", join(shown), class_="numbers")


def comparison(subjects: Sequence[Subject]) -> Html:
    """A table of the numbers of several runs, with the mean over the seeds of each configuration at the top.

    Empty if no number can be compared.
    """
    evaluated = [subject for subject in subjects if subject.metrics is not None]
    names = headlines([subject.metrics or {} for subject in evaluated])
    if not names:
        return Html("")
    means = summaries(
        [subject.run for subject in evaluated],
        [subject.name for subject in evaluated],
        [subject.metrics or {} for subject in evaluated],
    )
    rows = [_mean(summary, names) for summary in means if len(summary.runs) > 1]
    for subject in subjects:
        cells = [metric_cell(name, subject.metrics or {})._replace(note="") for name in names]
        rows.append([Cell(subject.name, subject.name), *cells])
    heads = [Cell(HEADLINES[name].title, name, f"{HEADLINES[name].good} ({name})") for name in names]
    return table([Cell("run", "run"), *heads], rows)


def _mean(summary: Summary, names: Sequence[str]) -> list[Cell]:
    cells = []
    for name in names:
        spread = summary.spreads.get(name)
        shown = Cell("–") if spread is None else Cell(str(spread).replace(" ", NO_BREAK), spread.mean)
        cells.append(shown._replace(content=element("strong", shown.content)))
    title = f"{summary.name}, mean of {len(summary.runs)} seeds"
    return [Cell(element("strong", title), title), *cells]


def _short(value: float) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
