"""Tetrominoes: three bevelled pieces on black, never overlapping, fully inside the picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.generators.family import Drawn, Generator, choose, draw_until, windows
from pyro_sri.system.errors import UserError

# The pieces in their first orientation, and their numbers of quarter turns (counter-clockwise): 17 kinds. The published
# set has 17 of the 19 one-sided orientations. We assume that the two missing ones are those of Z.
PIECES = (
    (("####",), 2),  # I
    (("##", "##"), 1),  # O
    ((".##", "##."), 2),  # S
    (("###", ".#."), 4),  # T
    (("#..", "###"), 4),  # J
    (("..#", "###"), 4),  # L
)
COLOURS = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)], dtype=np.uint8)

# Brightness of a cell, taken from the published pictures: a face with four bevelled edges, lit from the upper right.
FACE, TOP, RIGHT, BOTTOM, LEFT = 159, 250, 190, 62, 128
TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT, BOTTOM_RIGHT = 190, 222, 96, 127

CELLS_PER_SIDE = 7  # a picture is 7 cells wide: cells of 5 pixels at the published 35
PIXELS_PER_BEVEL = 5  # one pixel of bevel for every 5 of the cell
MAX_PIECES = 5  # six would be redrawn hundreds of times before they fit

FACTOR_NAMES = ("visible", "shape", "red", "green", "blue", "x", "y", "quarter_turns")


@dataclass(frozen=True)
class TetrominoesOptions:
    """How many pieces a scene has, 1 to 5 (the published scenes have 3)."""

    num_pieces: int = 3
    """Pieces per scene."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_pieces <= MAX_PIECES:
            raise UserError(f"tetrominoes cannot place {self.num_pieces} pieces; use num_pieces from 1 to {MAX_PIECES}")


def make(rngs: Sequence[np.random.Generator], size: int, options: TetrominoesOptions, split: str) -> Drawn:
    """Draw scenes with uniform kind, colour and position of each piece, redrawn as a whole while pieces overlap.

    Args:
        rngs: n random generators, one per scene.
        size: Side of the images.
        options: The number of pieces, P.
        split: Not used here.

    Returns:
        Images [n, size, size, 3], entities [n, size, size], factors [n, 1 + P, 8] as in FACTOR_NAMES: shape 0
        is the background, 1..6 are I O S T J L; x and y are the middle of the piece in [0, 1].
    """
    shapes, turns, bank = piece_bank(round(size / CELLS_PER_SIDE))
    inside = (bank > 0).astype(np.uint8)
    extents = np.stack([inside.any(2).sum(1), inside.any(1).sum(1)], axis=-1)  # [17, 2]: height, width in pixels

    def place(draws: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        kinds = choose(draws[..., 0], len(bank))  # [m, P]
        return kinds, choose(draws[..., 1:3], size - extents[kinds] + 1)  # top and left, [m, P, 2]

    def apart(draws: NDArray[np.float64], _: NDArray[np.intp]) -> NDArray[np.bool_]:
        kinds, corners = place(draws)
        return np.all(paint(inside[kinds], corners, size) <= 1, axis=(1, 2))

    draws = draw_until(rngs, (options.num_pieces, 4), apart)  # kind, top, left, colour
    kinds, corners = place(draws)
    numbers = np.arange(1, 1 + options.num_pieces, dtype=np.uint8)[:, None, None]
    entities = paint(inside[kinds] * numbers, corners, size)  # [n, size, size]
    brightness = paint(bank[kinds], corners, size)  # [n, size, size]
    palette = np.zeros((len(rngs), 1 + options.num_pieces, 3), dtype=np.uint8)
    palette[:, 1:] = COLOURS[choose(draws[..., 3], len(COLOURS))]
    images = palette[np.arange(len(rngs))[:, None, None], entities] * brightness[..., None]

    factors = np.zeros((len(rngs), 1 + options.num_pieces, len(FACTOR_NAMES)), dtype=np.float32)
    factors[..., 0] = 1
    factors[:, 1:, 1] = 1 + shapes[kinds]
    factors[..., 2:5] = palette
    factors[:, 1:, 5:7] = (corners + extents[kinds] / 2)[..., ::-1] / size
    factors[:, 1:, 7] = turns[kinds]
    return Drawn(images, entities, factors)


def paint(patches: NDArray[np.uint8], corners: NDArray[np.intp], size: int) -> NDArray[np.uint8]:
    """Add patches to empty pictures.

    Args:
        patches: P patches for each of m pictures, [m, P, side, side]; parts outside the picture are dropped.
        corners: Top and left of each, [m, P, 2].
        size: Side of the pictures.

    Returns:
        uint8 [m, size, size].
    """
    side = patches.shape[-1]
    canvas = np.zeros((len(patches), size + side, size + side), dtype=np.uint8)
    view, pictures = windows(canvas, side), np.arange(len(patches))
    for piece in range(patches.shape[1]):
        view[pictures, corners[:, piece, 0], corners[:, piece, 1]] += patches[:, piece]
    return canvas[:, :size, :size]


def piece_bank(cell: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.uint8]]:
    """Pictures of every kind of piece.

    Args:
        cell: Pixels per cell.

    Returns:
        The piece (index into PIECES) and the quarter turns of each of the 17 kinds, and their brightness
        [17, 4 cell, 4 cell] in the upper left corner, 0 where there is no piece.
    """
    shapes, turns, bank = [], [], []
    for shape, (rows, num_turns) in enumerate(PIECES):
        cells = np.array([[letter == "#" for letter in row] for row in rows], dtype=np.uint8)
        for turn in range(num_turns):
            drawn = np.kron(np.rot90(cells, turn), cell_brightness(cell))
            patch = np.zeros((4 * cell, 4 * cell), dtype=np.uint8)
            patch[: drawn.shape[0], : drawn.shape[1]] = drawn
            shapes.append(shape)
            turns.append(turn)
            bank.append(patch)
    return np.array(shapes), np.array(turns), np.stack(bank)


def cell_brightness(cell: int) -> NDArray[np.uint8]:
    """One bevelled cell, uint8 [cell, cell]; its edges meet in mitred corners."""
    bevel = max(1, round(cell / PIXELS_PER_BEVEL))
    pixels = np.full((cell, cell), FACE, dtype=np.uint8)
    for ring in reversed(range(bevel)):
        last = cell - 1 - ring
        pixels[ring, ring : last + 1] = TOP
        pixels[last, ring : last + 1] = BOTTOM
        pixels[ring : last + 1, ring] = LEFT
        pixels[ring : last + 1, last] = RIGHT
        pixels[ring, ring], pixels[ring, last] = TOP_LEFT, TOP_RIGHT
        pixels[last, ring], pixels[last, last] = BOTTOM_LEFT, BOTTOM_RIGHT
    return pixels


TETROMINOES = Generator(
    name="tetrominoes",
    description="three bevelled, coloured pieces of four cells on black, without overlap",
    version=1,
    default_size=35,
    sizes=(32, 128),
    max_entities=4,
    factor_names=FACTOR_NAMES,
    options=TetrominoesOptions,
    make=make,
)
