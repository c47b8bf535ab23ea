"""Training curves, drawn from the lines of a log."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pyro_sri.viz.sheets import PALETTE, Picture

Log = Sequence[Mapping[str, Any]]

WIDTH, HEIGHT, DPI = 12.0, 3.6, 100
LATE = 0.05  # the share of the first steps that does not stretch the axes: losses fall from very high
MOST_MARKERS = 60  # validation points that are still told apart


class Panel(NamedTuple):
    """One pair of axes: a title, the names of its lines in the log, and whether it is logarithmic."""

    title: str
    names: tuple[str, ...]
    logarithmic: bool = False


KLS = (
    *("kl_scene", "kl_slots", "kl_cross", "segregation_kl"),
    *("kl_masks", "kl_components", "mask_kl", "kl_pres", "kl_where", "kl_what"),
)
PANELS = (
    Panel("negative log-likelihood (nats per image)", ("nll", "segregation_nll")),
    Panel("KL divergences (nats per image)", KLS, True),
    Panel("weight of the KL (GECO)", ("beta", "beta_segregation"), True),
)

# The slots' colours that are dark enough for thin lines on white, in an order that keeps neighbours apart.
LINE_COLOURS = [tuple(PALETTE[slot] / 255) for slot in (4, 5, 2, 6)]
LABEL_COLOUR, RULE_COLOUR = "#303036", "#e4e4e8"


def curves(log: Log) -> Picture:
    """Likelihoods, KL terms and GECO's weights over the steps; validation as points.

    Args:
        log: Lines with `step` and, where known, the terms of the objective; `val_nll` and so on for validation.

    Returns:
        uint8 [360, 1200, 3].
    """
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.13, top=0.91, wspace=0.2)
    canvas = FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        _draw(axes, panel, log)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def series(log: Log, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one name of the log, both [n]."""
    points = [(line["step"], line[name]) for line in log if _finite(line.get(name))]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps, dtype=float), np.asarray(values, dtype=float)


def _draw(axes: Axes, panel: Panel, log: Log) -> None:
    drawn = []
    validated = False
    there = [name for name in panel.names if len(series(log, name)[0]) or len(series(log, f"val_{name}")[0])]
    for name, colour in zip(there, LINE_COLOURS, strict=False):
        steps, values = series(log, name)
        if len(steps):
            axes.plot(steps, values, color=colour, linewidth=1.4, label=name)
            drawn.append((steps, values))
        steps, values = series(log, f"val_{name}")
        if len(steps):
            shown = slice(None, None, math.ceil(len(steps) / MOST_MARKERS))
            axes.plot(steps[shown], values[shown], "o", color=colour, markersize=3.2, markerfacecolor="white")
            validated = True
    if validated:
        axes.plot([], [], "o", color=LABEL_COLOUR, markersize=3.2, markerfacecolor="white", label="validation")
    _style(axes, panel, drawn)


def _style(axes: Axes, panel: Panel, drawn: list[tuple[np.ndarray, np.ndarray]]) -> None:
    axes.set_title(panel.title, loc="left", fontsize=10, color=LABEL_COLOUR)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE_COLOUR)
    axes.grid(color=RULE_COLOUR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=LABEL_COLOUR, length=0)
    axes.set_xlabel("step", fontsize=8, color=LABEL_COLOUR)
    if not drawn:
        axes.text(0.5, 0.5, "not in the log", transform=axes.transAxes, ha="center", color=LABEL_COLOUR, fontsize=9)
        axes.set(xticks=[], yticks=[])
        return
    axes.legend(fontsize=8, frameon=False, labelcolor=LABEL_COLOUR)
    last = max(steps[-1] for steps, _ in drawn)
    late = np.concatenate([values[steps >= LATE * last] for steps, values in drawn])
    if panel.logarithmic:
        if (late > 0).any():
            axes.set_yscale("log", nonpositive="mask")
    elif len(late):
        margin = 0.05 * (late.max() - late.min()) or 1.0
        axes.set_ylim(late.min() - margin, late.max() + margin)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
