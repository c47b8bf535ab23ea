"""Multi-dSprites: two to five flat sprites that may cover each other, on a plain background."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.generators.family import Drawn, Generator, choose, draw_until, windows
from pyro_sri.errors import UserError

Background = Literal["grayscale", "black", "rgb"]

# Measures in pixels of a 64 x 64 picture at scale 1. They are estimates, read off the published pictures.
PUBLISHED_SIZE = 64
SQUARE_SIDE = 20
ELLIPSE_SEMI_AXES = (12.5, 7)
HEART_WIDTH = 20
MIN_VISIBLE_PIXELS = 8  # a scene with a sprite that shows less is redrawn

SCALES = np.linspace(0.5, 1, 6)
ANGLES = np.arange(40) * (2 * np.pi / 40)

# Sprites are larger by this share: a pixel exactly on an edge is inside, however sines are rounded on this machine.
EDGE_TOLERANCE = 1e-6

MAX_OBJECTS = 8  # more would hide one another, and be redrawn, most of the time

FACTOR_NAMES = ("visible", "shape", "red", "green", "blue", "x", "y", "scale", "angle")


@dataclass(frozen=True)
class MultiDSpritesOptions:
    """How many sprites a scene has (uniform between the two, 1 to 8), and what lies behind them.

    The background is one colour: grey of any brightness, black, or any colour.
    """

    min_objects: int = 2
    max_objects: int = 5
    background: Background = "grayscale"

    def __post_init__(self) -> None:
        if not 1 <= self.min_objects <= self.max_objects <= MAX_OBJECTS:
            raise UserError(
                f"multi_dsprites cannot place {self.min_objects} to {self.max_objects} objects; "
                f"use min_objects and max_objects from 1 to {MAX_OBJECTS}, in order"
            )
        if self.background not in get_args(Background):
            raise UserError(f"no background {self.background!r}; use one of {', '.join(get_args(Background))}")


def make(rngs: Sequence[np.random.Generator], size: int, options: MultiDSpritesOptions, split: str) -> Drawn:
    """Draw scenes: number, shape, scale, angle, position and colour uniform; later sprites lie on top.

    The number of sprites is drawn once; everything else of a scene is redrawn while a sprite is hidden.

    Args:
        rngs: n random generators, one per scene.
        size: Side of the images.
        options: The largest number of sprites, M, and others.
        split: Of no matter here.

    Returns:
        Images [n, size, size, 3], entities [n, size, size], factors [n, 1 + M, 9] as in FACTOR_NAMES: shape 0 is
        the background or none, then square, ellipse, heart; x and y the centre in [0, 1]; the angle in radians;
        everything zero where `visible` is.
    """
    bank = sprite_bank(size)  # [3, 6, 40, side, side]
    side, most, num_scenes = bank.shape[-1], options.max_objects, len(rngs)
    min_visible = max(1, round(MIN_VISIBLE_PIXELS * (size / PUBLISHED_SIZE) ** 2))
    counts = options.min_objects + choose(np.array([rng.random() for rng in rngs]), most - options.min_objects + 1)
    exists = np.arange(most) < counts[:, None]  # [n, M]

    def place(draws: NDArray[np.float64]) -> tuple[tuple[NDArray[np.intp], ...], NDArray[np.intp]]:
        kinds = tuple(choose(draws[:, 1:, column], length) for column, length in enumerate(bank.shape[:3]))
        return kinds, size // 4 + choose(draws[:, 1:, 3:5], size // 2)  # shape, scale, angle [m, M]; y, x [m, M, 2]

    def stack(draws: NDArray[np.float64], scenes: NDArray[np.intp]) -> NDArray[np.uint8]:
        kinds, centres = place(draws)
        entities = np.zeros((len(scenes), size, size), dtype=np.uint8)
        view, rows, corners = windows(entities, side), np.arange(len(scenes)), centres - side // 2
        for sprite in range(most):
            at = rows, corners[:, sprite, 0], corners[:, sprite, 1]
            inside = bank[tuple(kind[:, sprite] for kind in kinds)] & exists[scenes, sprite, None, None]
            view[at] = np.where(inside, np.uint8(sprite + 1), view[at])
        return entities

    def all_visible(draws: NDArray[np.float64], scenes: NDArray[np.intp]) -> NDArray[np.bool_]:
        entities = stack(draws, scenes)
        pixels = np.stack([(entities == sprite + 1).sum((1, 2)) for sprite in range(most)], axis=1)  # [m, M]
        return np.all((pixels >= min_visible) | ~exists[scenes], axis=1)

    # Of the background, entity 0: a colour. Of each sprite: shape, scale, angle, y, x, hue, saturation, value.
    draws = draw_until(rngs, (1 + most, 8), all_visible)
    entities = stack(draws, np.arange(num_scenes))
    kinds, centres = place(draws)
    palette = np.zeros((num_scenes, 1 + most, 3), dtype=np.uint8)
    if options.background != "black":
        palette[:, 0] = np.round(255 * (draws[:, 0, :1] if options.background == "grayscale" else draws[:, 0, :3]))
    palette[:, 1:] = np.round(255 * rgb(draws[:, 1:, 5], 0.5 + draws[:, 1:, 6] / 2, 0.5 + draws[:, 1:, 7] / 2))
    images = palette[np.arange(num_scenes)[:, None, None], entities]

    factors = np.zeros((num_scenes, 1 + most, len(FACTOR_NAMES)), dtype=np.float32)
    factors[..., 0] = 1
    factors[:, 1:, 1] = 1 + kinds[0]
    factors[..., 2:5] = palette / 255
    factors[:, 1:, 5:7] = centres[..., ::-1] / size
    factors[:, 1:, 7] = SCALES[kinds[1]]
    factors[:, 1:, 8] = ANGLES[kinds[2]]
    factors[:, 1:][~exists] = 0
    return Drawn(images, entities, factors)


def sprite_bank(size: int) -> NDArray[np.bool_]:
    """Every sprite that there is, without soft edges, in the middle of a patch.

    Args:
        size: Side of the images.

    Returns:
        bool [3 shapes, 6 scales, 40 angles, side, side]; side is even, and the middle lies between pixels.
    """
    unit = size / PUBLISHED_SIZE
    half = int(np.ceil(SQUARE_SIDE / np.sqrt(2) * unit))  # the diagonal of a square reaches farthest
    y, x = np.meshgrid(*[np.arange(-half, half) + 0.5] * 2, indexing="ij")
    scale, angle = SCALES[:, None, None, None] * unit * (1 + EDGE_TOLERANCE), ANGLES[:, None, None]
    across = (np.cos(angle) * x + np.sin(angle) * y) / scale  # [6, 40, side, side]
    up = (np.sin(angle) * x - np.cos(angle) * y) / scale
    square = np.maximum(np.abs(across), np.abs(up)) <= SQUARE_SIDE / 2
    ellipse = (across / ELLIPSE_SEMI_AXES[0]) ** 2 + (up / ELLIPSE_SEMI_AXES[1]) ** 2 <= 1
    return np.stack([square, ellipse, heart(across / HEART_WIDTH, up / HEART_WIDTH)])


def heart(across: NDArray[np.float64], up: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Inside a heart of width 1, its middle at the origin: a square on its corner, half discs on its upper sides."""
    x, y = np.abs(across) * (1 + np.sqrt(2)), up * (1 + np.sqrt(2)) + (np.sqrt(2) - 1) / 4  # corners at (1, 0), (0, -1)
    return (x + np.abs(y) <= 1) | ((x - 0.5) ** 2 + (y - 0.5) ** 2 <= 0.5)


def rgb(hue: NDArray[np.float64], saturation: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours from hue, saturation and value, all in [0, 1]; a new last axis holds red, green and blue in [0, 1]."""
    sector = (hue[..., None] * 6 + np.array([5, 3, 1])) % 6
    return value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(sector, 4 - sector), 0, 1))


MULTI_DSPRITES = Generator(
    name="multi_dsprites",
    description="two to five flat squares, ellipses and hearts that may cover each other, on plain grey",
    version=1,
    default_size=PUBLISHED_SIZE,
    sizes=(32, 128),
    max_entities=6,
    factor_names=FACTOR_NAMES,
    options=MultiDSpritesOptions,
    make=make,
)
