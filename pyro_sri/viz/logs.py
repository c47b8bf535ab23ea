"""Training curves, drawn from the lines of a log."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pyro_sri.viz.sheets import PALETTE, Drawing, Picture

Log = Sequence[Mapping[str, Any]]

WIDTH, HEIGHT, DPI = 12.0, 3.6, 100
COMPARED_WIDTH = 7.5  # of a figure with several rows
LATE = 0.05  # share of the first steps that the axes may cut off, because losses start very high
MOST_MARKERS = 60  # validation points that can still be distinguished
LINEAR_BELOW = 1.0  # a logarithmic axis is linear around 0 if terms vanish or are negative


class Panel(NamedTuple):
    """One pair of axes: a title, a pattern of the lines' names in the log, and whether it is logarithmic."""

    title: str
    names: str
    logarithmic: bool = False


PANELS = (
    Panel("negative log-likelihood (nats per image)", r"(segregation_)?nll(_\d+)?"),
    Panel("KL divergences (nats per image)", r"kl_\w+|\w+_kl", True),
    Panel("weight of the KLs, beta", r"beta(_\w+)?", True),
)
VALIDATION = "val_"

# The slots' colours that are dark enough for thin lines on white, in an order that keeps neighbours apart; dashes and
# markers tell the lines apart without them.
LINE_COLOURS = [tuple(PALETTE[slot] / 255) for slot in (4, 5, 2, 6, 7, 9, 11)]
DASHES = ["-", (0, (4, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 3))]
MARKERS = "osD^v<>P"
LABEL_COLOUR, RULE_COLOUR, GOAL_COLOUR = "#303036", "#e4e4e8", "#707078"


def curves(log: Log, goal: float | None = None) -> Picture:
    """Likelihoods, KL terms and their weights over the steps, if the log has them. Validation is drawn as points.

    Args:
        log: Lines with `step` and, if known, the terms of the objective; `val_nll` and so on for validation.
        goal: GECO's goal for the negative log-likelihood, in nats per image, or None.

    Returns:
        uint8 [360, 1200, 3].
    """
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.13, top=0.91, wspace=0.2)
    canvas = FigureCanvasAgg(figure)
    panels = [panel for panel in PANELS if drawn_names(log, panel)]
    for place, panel in enumerate(panels, 1):
        _draw(figure.add_subplot(1, len(panels), place), panel, log, None if panel.logarithmic else goal)
    if not panels:
        figure.text(0.5, 0.5, "nothing in the log", ha="center", color=LABEL_COLOUR, fontsize=9)
    canvas.draw()
    return Drawing(np.asarray(canvas.buffer_rgba())[..., :3].copy(), figure)


def compare_curves(logs: Mapping[str, Sequence[Log]], name: str) -> Figure:
    """One value of the log by step, for several rows: each seed as a thin line, their mean as a thick one.

    Args:
        logs: The logs of every row's seeds, by the name of the row. Rows without the value are left out.
        name: The name of the value in the log.

    Returns:
        A figure. The mean is drawn at the steps that all seeds of a row have.
    """
    figure = Figure(figsize=(COMPARED_WIDTH, HEIGHT), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn = []
    for i, (title, of_row) in enumerate(logs.items()):
        seeds = [dict(zip(*series(log, name), strict=True)) for log in of_row]
        seeds = [values for values in seeds if values]
        if not seeds:
            continue
        colour, dashes = LINE_COLOURS[i % len(LINE_COLOURS)], DASHES[i // len(LINE_COLOURS) % len(DASHES)]
        for values in seeds:
            axes.plot(list(values), list(values.values()), color=colour, linestyle=dashes, linewidth=0.5, alpha=0.6)
            drawn.append(np.array([list(values), list(values.values())]))
        shared = sorted(set.intersection(*map(set, seeds)))
        means = [np.mean([values[step] for values in seeds]) for step in shared]
        axes.plot(shared, means, color=colour, linestyle=dashes, linewidth=1.6, label=_plain(title))
    if drawn:
        _style(axes, Panel(name, ""), np.concatenate(drawn, 1), None)
        axes.legend(fontsize=8, frameon=False, labelcolor=LABEL_COLOUR, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.subplots_adjust(left=0.1, right=0.68, bottom=0.13, top=0.91)
    return figure


def _plain(text: str) -> str:
    """A text without what Matplotlib reads as a formula, and without a leading underscore, which would hide it."""
    return text.replace("$", r"\$").lstrip("_")


def drawn_names(log: Log, panel: Panel) -> list[str]:
    """The terms of the log that a panel shows, in the order of the log."""
    found = dict.fromkeys(name.removeprefix(VALIDATION) for line in log for name in line if _finite(line[name]))
    return [name for name in found if re.fullmatch(panel.names, name)]


def series(log: Log, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one name of the log, both [n]."""
    points = [(line["step"], line[name]) for line in log if _finite(line.get(name))]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps, dtype=float), np.asarray(values, dtype=float)


def _draw(axes: Axes, panel: Panel, log: Log, goal: float | None) -> None:
    drawn = []
    for i, name in enumerate(drawn_names(log, panel)):
        colour, dashes, marker = (styles[i % len(styles)] for styles in (LINE_COLOURS, DASHES, MARKERS))
        steps, values = series(log, name)
        axes.plot(steps, values, color=colour, linestyle=dashes, linewidth=1.4, label=name)
        drawn.append((steps, values))
        steps, values = series(log, VALIDATION + name)
        shown = slice(None, None, max(1, math.ceil(len(steps) / MOST_MARKERS)))
        axes.plot(steps[shown], values[shown], marker, color=colour, markersize=3.6, markerfacecolor="white")
        drawn.append((steps, values))
    if any(len(steps) for steps, _ in drawn[1::2]):
        axes.plot([], [], "o", color=LABEL_COLOUR, markersize=3.6, markerfacecolor="white", label="validation")
    if goal is not None:
        axes.axhline(goal, color=GOAL_COLOUR, linewidth=1.0, linestyle=(0, (1, 3)), label="GECO's goal")
    _style(axes, panel, np.concatenate(drawn, 1), goal)


def _style(axes: Axes, panel: Panel, drawn: np.ndarray, goal: float | None) -> None:
    axes.set_title(panel.title, loc="left", fontsize=10, color=LABEL_COLOUR)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE_COLOUR)
    axes.grid(color=RULE_COLOUR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=8, colors=LABEL_COLOUR, length=0)
    axes.set_xlabel("step", fontsize=8, color=LABEL_COLOUR)
    axes.legend(fontsize=8, frameon=False, labelcolor=LABEL_COLOUR, handlelength=2.6)
    steps, values = drawn
    late = values[steps >= LATE * steps.max()]
    lowest, highest = late.min(), late.max()
    if panel.logarithmic and lowest > 0:
        axes.set_yscale("log")
        axes.set_ylim(lowest / 1.3, highest * 1.3)
    elif panel.logarithmic:
        axes.set_yscale("symlog", linthresh=LINEAR_BELOW)
        axes.set_ylim(1.3 * min(lowest, -LINEAR_BELOW / 2), 1.3 * max(highest, LINEAR_BELOW))
    else:
        lowest = lowest if goal is None else min(lowest, goal)
        margin = 0.05 * (highest - lowest) or 1.0
        axes.set_ylim(lowest - margin, max(highest, lowest) + margin)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
