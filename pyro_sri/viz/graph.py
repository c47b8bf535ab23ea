"""The generative story as a graph, made from the model's sites."""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer.inspect import get_model_relations

from pyro_sri.programs import Model, device_of
from pyro_sri.viz.sheets import Drawing, Picture

NUMBERED = re.compile(r"(.+)_(\d+)")

# In inches.
HEIGHT, GAP, LETTER = 0.62, 0.6, 0.085  # of nodes; LETTER is the width per letter
PLATE, MARGIN = 0.22, 0.12  # from a node to its plate, and from there to the next plate
LOOP, ARC = 0.42, 0.3  # height of loops, and depth of arrows per node that they pass
DPI = 110
INK, SOFT, OBSERVED = "#202024", "#707078", "#d4d4da"


class Node(NamedTuple):
    """One site, or all sites that differ only in their number.

    Attributes:
        name: Without the number.
        kind: Its distribution's name.
        sites: How many numbered sites it represents; 0 for a site without a number.
        observed: Whether it is observed.
        loop: Which of these sites site k depends on: "" for none, "k - 1", or "< k".
    """

    name: str
    kind: str
    sites: int
    observed: bool
    loop: str


class Story(NamedTuple):
    """A generative story.

    Attributes:
        nodes: In the order in which they are drawn.
        edges: Pairs of indices of `nodes`. The second node depends on the first.
        plates: The plates around everything.
    """

    nodes: list[Node]
    edges: list[tuple[int, int]]
    plates: list[str]


def without_followers(model: Model) -> Any:
    """The model without deterministic sites. What depends on them depends on their inputs instead."""
    return poutine.block(
        model, hide_fn=lambda site: site["infer"].get("_deterministic", False) or isinstance(site["fn"], Delta)
    )


def _black(model: Model, image_size: int) -> torch.Tensor:
    """An image [1, 3, H, W] for the model to observe, where it is."""
    return torch.zeros(1, 3, image_size, image_size, device=device_of(model))


def graphviz(model: Model, image_size: int) -> Any:
    """The graph of all sites, as an object of the package graphviz."""
    return pyro.render_model(without_followers(model), model_args=(_black(model, image_size),))


def read_story(model: Model, image_size: int) -> Story:
    """The story, with sites that differ only in their number combined."""
    relations = get_model_relations(without_followers(model), (_black(model, image_size),))
    parents: Mapping[str, Collection[str]] = relations["sample_sample"]
    families: dict[str, list[str]] = {}
    for site in parents:
        families.setdefault(_family(site), []).append(site)
    places = {name: place for place, name in enumerate(families)}
    nodes = [
        Node(
            name,
            relations["sample_dist"][sites[0]],
            len(sites) if sites[0] != name else 0,
            sites[0] in relations["observed"],
            _loop(sites, parents),
        )
        for name, sites in families.items()
    ]
    edges = {(places[_family(parent)], places[_family(site)]) for site in parents for parent in parents[site]}
    return Story(nodes, sorted(edge for edge in edges if edge[0] != edge[1]), list(relations["plate_sample"]))


def plate_diagram(model: Model, image_size: int) -> Picture:
    """The story in plate notation: uint8 [h, w, 3]."""
    story = read_story(model, image_size)
    width = LETTER * max(len(text) for node in story.nodes for text in (_text(node), node.kind)) + 0.3
    middles = [place * (width + GAP) for place in range(len(story.nodes))]
    deepest = max((b - a - 1 for a, b in story.edges), default=0) * ARC
    loop = LOOP if any(node.loop for node in story.nodes) else 0.0
    outer = PLATE + MARGIN + GAP / 4
    left, right = -width / 2 - outer, middles[-1] + width / 2 + outer
    bottom, top = -HEIGHT / 2 - deepest - outer, HEIGHT / 2 + loop + outer
    figure = Figure(figsize=(right - left + 2 * MARGIN, top - bottom + 2 * MARGIN), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left - MARGIN, right + MARGIN), ylim=(bottom - MARGIN, top + MARGIN))
    axes.axis("off")

    _draw_plate(axes, left, bottom, right, top, ", ".join(story.plates))
    numbered = [place for place, node in enumerate(story.nodes) if node.sites]
    if numbered:
        first, last = middles[numbered[0]] - width / 2 - PLATE, middles[numbered[-1]] + width / 2 + PLATE
        count = max(node.sites for node in story.nodes)
        _draw_plate(axes, first, bottom + GAP / 4, last, top - GAP / 4, f"k = 0 .. {count - 1}")
    shapes = [_draw_node(axes, node, middle, width) for node, middle in zip(story.nodes, middles, strict=True)]
    for a, b in story.edges:
        _draw_edge(axes, shapes[a], shapes[b], b - a - 1)
    for node, middle in zip(story.nodes, middles, strict=True):
        if node.loop:
            _draw_loop(axes, middle, node.loop)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Drawing(np.asarray(canvas.buffer_rgba())[..., :3].copy(), figure)


def _family(site: str) -> str:
    match = NUMBERED.fullmatch(site)
    return match[1] if match else site


def _loop(sites: list[str], parents: Mapping[str, Collection[str]]) -> str:
    """Which sites of the same family a numbered site depends on."""
    distances = {
        sites.index(site) - sites.index(parent) for site in sites for parent in parents[site] if parent in sites
    }
    return "" if not distances else "k - 1" if distances == {1} else "< k"


def _text(node: Node) -> str:
    return f"{node.name}_k" if node.sites else node.name


def _draw_plate(axes: Axes, left: float, bottom: float, right: float, top: float, label: str) -> None:
    size = (right - left, top - bottom)
    box = FancyBboxPatch(
        (left, bottom), *size, "round,pad=0,rounding_size=0.1", fill=False, edgecolor=SOFT, linewidth=1
    )
    axes.add_patch(box)
    axes.text(right - 0.08, bottom + 0.06, label, ha="right", va="bottom", fontsize=8, color=SOFT)


def _draw_node(axes: Axes, node: Node, middle: float, width: float) -> Ellipse:
    colour = OBSERVED if node.observed else "white"
    shape = Ellipse((middle, 0), width, HEIGHT, facecolor=colour, edgecolor=INK, linewidth=1.2, zorder=2)
    axes.add_patch(shape)
    axes.text(middle, 0.07, _text(node), ha="center", va="center", fontsize=9, color=INK, zorder=3)
    axes.text(middle, -0.13, node.kind, ha="center", va="center", fontsize=7, color=SOFT, zorder=3)
    return shape


def _draw_edge(axes: Axes, start: Ellipse, end: Ellipse, passed: int) -> None:
    """An arrow, straight to a neighbour, or below the nodes that it passes."""
    length = end.center[0] - start.center[0]
    bend = 2 * (HEIGHT / 2 + passed * ARC) / length if passed else 0.0
    _draw_arrow(axes, start.center, end.center, bend, patchA=start, patchB=end)


def _draw_loop(axes: Axes, middle: float, label: str) -> None:
    _draw_arrow(axes, (middle + 0.22, HEIGHT / 2 - 0.03), (middle - 0.22, HEIGHT / 2 - 0.03), 2 * LOOP / 0.44)
    axes.text(middle + 0.24, HEIGHT / 2 + 0.75 * LOOP, label, ha="left", va="center", fontsize=8, color=SOFT)


def _draw_arrow(axes: Axes, start: Any, end: Any, bend: float, **ends: Any) -> None:
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 11, "color": INK, "linewidth": 1.1}
    arrow = FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0, **style, **ends)
    axes.add_patch(arrow)
