"""Sheets as PDF or SVG. Texts stay texts, and the tiles' pixels stay square at any size."""

import io
from typing import Any, Literal, get_args

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pyro_sri.viz.sheets import CHIP, FONT_SIZE, Layout, Picture

Vector = Literal["pdf", "svg"]
VECTORS: tuple[Vector, ...] = get_args(Vector)

POINTS = 0.75  # per pixel of a sheet: 96 to an inch
# Texts stay texts, in fonts that a journal can print, and the same figure gives the same bytes.
STYLE = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "pyro-sri"}
METADATA: dict[Vector, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
ALIGNMENTS: dict[str, dict[str, Any]] = {
    "la": {"horizontalalignment": "left", "verticalalignment": "top"},
    "rm": {"horizontalalignment": "right", "verticalalignment": "center"},
}


def save_figure(figure: Figure, kind: Vector) -> bytes:
    """The bytes of a figure's PDF or SVG file."""
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format=kind, metadata=METADATA[kind])
    return file.getvalue()


def draw_layout(layout: Layout, kind: Vector) -> bytes:
    """The bytes of a sheet's PDF or SVG file."""
    width, height = layout.size
    figure = Figure(figsize=(width * POINTS / 72, height * POINTS / 72), dpi=96)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    for tile, x, y in layout.tiles:
        box = (x, x + tile.shape[1], y + tile.shape[0], y)
        axes.imshow(tile, extent=box, interpolation="none", aspect="auto")
    axes.set_xlim(0, width)  # imshow changes the limits
    axes.set_ylim(height, 0)
    for colour, x, y in layout.chips:
        axes.add_patch(Rectangle((x, y), CHIP, CHIP, facecolor=_share(colour)))
    for word in layout.words:
        style: dict[str, Any] = {"fontsize": FONT_SIZE * POINTS, "color": _share(word.colour)}
        axes.text(word.x, word.y, word.text, **ALIGNMENTS[word.anchor], **style, parse_math=False)
    return save_figure(figure, kind)


def draw_vector(picture: Picture, kind: Vector) -> bytes:
    """The bytes of a picture's PDF or SVG file.

    Raises:
        ValueError: If the picture does not know its source.
    """
    source = getattr(picture, "source", None)
    if isinstance(source, Layout):
        return draw_layout(source, kind)
    if isinstance(source, Figure):
        return save_figure(source, kind)
    raise ValueError("only sheets and figures can be drawn as PDF or SVG")


def _share(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = (value / 255 for value in colour)
    return red, green, blue
