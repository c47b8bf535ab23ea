"""Sheets of picture tiles: one palette, one layout, and PNG files, for every picture of slots."""

import io
import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]  # [h, w, 3]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Slot k is PALETTE[k], everywhere. The first seven are Okabe and Ito's, which colour-blind people tell apart, then a
# dark grey; the rest were added one at a time, each the farthest from those before it in CIELAB as seen with normal,
# protanopic and deuteranopic vision. No two are closer than Okabe and Ito's orange and yellow are.
PALETTE: Picture = np.array(
    [
        (230, 159, 0),  # orange
        (86, 180, 233),  # sky blue
        (0, 158, 115),  # green
        (240, 228, 66),  # yellow
        (0, 114, 178),  # blue
        (213, 94, 0),  # vermilion
        (204, 121, 167),  # pink
        (74, 74, 74),  # dark grey
        (187, 238, 153),  # pale green
        (85, 51, 0),  # brown
        (153, 238, 255),  # pale cyan
        (0, 119, 238),  # azure
        (0, 51, 153),  # navy
        (170, 238, 204),  # mint
        (68, 51, 102),  # plum
        (187, 170, 85),  # sand
    ],
    dtype=np.uint8,
)

PAPER, INK, FAINT = (255, 255, 255), (32, 32, 36), (112, 112, 120)
TILE_SIDE = 96  # pixels at least; smaller images are enlarged by a whole number, so that no pixel is blurred
GAP, BREAK = 3, 14  # between tiles, and where a new group of them begins
MARGIN, LABEL_GAP = 10, 7
FONT_SIZE, CHIP = 12, 9


class Drawing(np.ndarray):
    """A picture that knows its source, so that it can be drawn as PDF or SVG. Its copies and parts do not know it.

    Attributes:
        source: A `Layout`, or a figure of Matplotlib.
    """

    source: Any = None

    def __new__(cls, pixels: Picture, source: Any) -> "Drawing":
        """The pixels, uint8 [h, w, 3], with what they were drawn from."""
        drawing = np.asarray(pixels).view(cls)
        drawing.source = source
        return drawing


class Header(NamedTuple):
    """The header of a column: a label, and the colour of its slot."""

    text: str
    slot: int | None = None


def slot_colour(slot: int) -> tuple[int, int, int]:
    """The colour of a slot, 0 to 255 each. The palette repeats after sixteen slots."""
    red, green, blue = PALETTE[slot % len(PALETTE)].tolist()
    return red, green, blue


def enlarge(picture: Picture, side: int = TILE_SIDE) -> Picture:
    """Enlarges [h, w, 3] by repeating pixels, until the shorter side has at least `side` pixels."""
    factor = math.ceil(side / min(picture.shape[:2]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def grid(pictures: Picture, columns: int | None = None, side: int = TILE_SIDE) -> Picture:
    """Pictures in rows and columns, and nothing else.

    Args:
        pictures: uint8 [N, H, W, 3].
        columns: Pictures in a row; None makes the grid as square as it can be.
        side: Smallest side of a picture in pixels. Smaller ones are enlarged.

    Returns:
        uint8 [h, w, 3].
    """
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    tiles = [enlarge(picture, side) for picture in pictures]
    return sheet([tiles[i : i + columns] for i in range(0, len(tiles), columns)], margin=GAP)


def sheet(
    rows: Sequence[Sequence[Picture]],
    columns: Sequence[Header] = (),
    labels: Sequence[str] = (),
    *,
    column_breaks: Collection[int] = (),
    row_breaks: Collection[int] = (),
    caption: str = "",
    margin: int = MARGIN,
) -> Picture:
    """Tiles of one size in rows, with headers above, labels on the left and a caption below.

    Args:
        rows: Tiles uint8 [H, W, 3]; rows may differ in length.
        columns: A header for each column, or none at all.
        labels: A label for each row, of one line or more, or none at all.
        column_breaks: Columns with a wider gap before them.
        row_breaks: Rows with a wider gap before them.
        caption: One line below everything, cut off if the sheet is too narrow.
        margin: Width of the border in pixels.

    Returns:
        uint8 [h, w, 3].
    """
    layout = lay_out(rows, columns, labels, column_breaks, row_breaks, caption, margin)
    return Drawing(paint(layout), layout)


class Word(NamedTuple):
    """A text on a sheet: its place, the corner that is anchored there (as named by Pillow), and its colour."""

    text: str
    x: int
    y: int
    anchor: str
    colour: tuple[int, int, int]


class Layout(NamedTuple):
    """The layout of a sheet, in pixels from the top left.

    Attributes:
        size: Width and height.
        tiles: Pictures with their left and top.
        chips: Squares of `CHIP` pixels in a slot's colour, with their left and top.
        words: Texts, of `FONT_SIZE`.
    """

    size: tuple[int, int]
    tiles: Sequence[tuple[Picture, int, int]]
    chips: Sequence[tuple[tuple[int, int, int], int, int]]
    words: Sequence[Word]


def lay_out(
    rows: Sequence[Sequence[Picture]],
    columns: Sequence[Header] = (),
    labels: Sequence[str] = (),
    column_breaks: Collection[int] = (),
    row_breaks: Collection[int] = (),
    caption: str = "",
    margin: int = MARGIN,
) -> Layout:
    """The layout of a sheet. Takes the arguments of `sheet`."""
    font = ImageFont.load_default(FONT_SIZE)
    height, width = rows[0][0].shape[:2]
    text_height = FONT_SIZE + LABEL_GAP
    lines = [line for label in labels for line in label.splitlines()]
    left = margin + (max(math.ceil(font.getlength(line)) for line in lines) + LABEL_GAP if lines else 0)
    top = margin + (text_height if columns else 0)
    lefts = [left + offset for offset in _offsets(max(map(len, rows)), width, column_breaks)]
    tops = [top + offset for offset in _offsets(len(rows), height, row_breaks)]
    bottom = tops[-1] + height
    size = (lefts[-1] + width + margin, bottom + margin + (text_height if caption else 0))
    tiles = [(tile, x, y) for row, y in zip(rows, tops, strict=True) for tile, x in zip(row, lefts, strict=False)]
    chips, words = [], []
    for header, x in zip(columns, lefts, strict=False):
        if header.slot is not None:
            chips.append((slot_colour(header.slot), x, margin + 2))
            x += CHIP + LABEL_GAP - 1
        words.append(Word(header.text, x, margin, "la", INK))
    words += [Word(label, left - LABEL_GAP, y + height // 2, "rm", INK) for label, y in zip(labels, tops, strict=False)]
    if caption:
        words.append(Word(_fit(caption, size[0] - left - margin, font), left, bottom + LABEL_GAP, "la", FAINT))
    return Layout(size, tiles, chips, words)


def paint(layout: Layout) -> Picture:
    """A sheet as pixels, uint8 [h, w, 3]."""
    font = ImageFont.load_default(FONT_SIZE)
    paper = Image.new("RGB", layout.size, PAPER)
    pen = ImageDraw.Draw(paper)
    for tile, x, y in layout.tiles:
        paper.paste(Image.fromarray(tile), (x, y))
    for colour, x, y in layout.chips:
        pen.rectangle((x, y, x + CHIP, y + CHIP), fill=colour)
    for word in layout.words:
        pen.text((word.x, word.y), word.text, fill=word.colour, font=font, anchor=word.anchor, align="right")
    return np.asarray(paper)


def png(picture: Picture) -> bytes:
    """The bytes of a PNG file; the same picture gives the same bytes."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def _offsets(count: int, size: int, breaks: Collection[int]) -> list[int]:
    return [i * (size + GAP) + BREAK * sum(b <= i for b in breaks) for i in range(count)]


def _fit(text: str, width: int, font: Font) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."
