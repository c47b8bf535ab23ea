"""Multi-dSprites: a few flat sprites that may cover each other, on a plain background."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.generators.colours import rgb
from pyro_sri.data.generators.family import Drawn, Generator, choose, draw_until, windows
from pyro_sri.system.errors import UserError

Variant = Literal["colored_on_grayscale", "binarized", "colored_on_colored"]

# The fewest and the most sprites of a scene, as published.
NUM_OBJECTS: dict[Variant, tuple[int, int]] = {
    "colored_on_grayscale": (2, 5),
    "binarized": (2, 3),
    "colored_on_colored": (1, 4),
}

# Lengths in pixels of a 64 x 64 picture at scale 1, estimated from the published pictures.
PUBLISHED_SIZE = 64
SQUARE_SIDE = 20
ELLIPSE_SEMI_AXES = (12.5, 7)
HEART_WIDTH = 20
MIN_VISIBLE_PIXELS = 8  # a scene with a sprite that shows fewer is redrawn

SCALES = np.linspace(0.5, 1, 6)
ANGLES = np.arange(40) * (2 * np.pi / 40)

# Sprites are larger by this share. So a pixel exactly on an edge is inside, however a machine rounds sines.
EDGE_TOLERANCE = 1e-6

MAX_OBJECTS = 8  # more would hide each other, and be redrawn, most of the time

FACTOR_NAMES = ("visible", "shape", "red", "green", "blue", "x", "y", "scale", "angle")


@dataclass(frozen=True)
class MultiDSpritesOptions:
    """Which of the published variants, and how many sprites a scene has (uniform between the two, 1 to 8)."""

    variant: Variant = "colored_on_grayscale"
    """colored_on_grayscale: 2 to 5 sprites of any hue on grey; binarized: 2 or 3 white sprites on black;
    colored_on_colored: 1 to 4 sprites, sprites and background of any colour."""
    min_objects: int | None = None
    """Fewest sprites per scene (if not given: as in the variant)."""
    max_objects: int | None = None
    """Most sprites per scene (if not given: as in the variant)."""

    def __post_init__(self) -> None:
        if self.variant not in NUM_OBJECTS:
            raise UserError(f"multi_dsprites has no variant {self.variant!r}; use one of {', '.join(NUM_OBJECTS)}")
        least, most = self.num_objects
        if not 1 <= least <= most <= MAX_OBJECTS:
            raise UserError(
                f"multi_dsprites cannot place {least} to {most} objects; "
                f"use min_objects and max_objects from 1 to {MAX_OBJECTS}, in order"
            )
        for name, value in (("min_objects", least), ("max_objects", most)):
            object.__setattr__(self, name, value)  # data files store these values; the class is frozen

    @property
    def num_objects(self) -> tuple[int, int]:
        """Fewest and most sprites per scene."""
        least, most = NUM_OBJECTS[self.variant]
        return (
            least if self.min_objects is None else self.min_objects,
            most if self.max_objects is None else self.max_objects,
        )


def make(rngs: Sequence[np.random.Generator], size: int, options: MultiDSpritesOptions, split: str) -> Drawn:
    """Draw scenes with uniform number, shape, scale, angle, position and colour; later sprites are on top.

    A sprite may have the same colour as what it covers; in `binarized`, all sprites do. The number of sprites is drawn
    once. Everything else in a scene is redrawn while a sprite is hidden.

    Args:
        rngs: n random generators, one per scene.
        size: Side of the images.
        options: The variant, and the smallest and the largest number of sprites; the largest is M.
        split: Not used here.

    Returns:
        Images [n, size, size, 3], entities [n, size, size], factors [n, 1 + M, 9] as in FACTOR_NAMES: shape is 0
        for the background or none, then square, ellipse, heart; x and y are the centre in [0, 1]; angle is in radians;
        everything is 0 where `visible` is.
    """
    bank = sprite_bank(size)  # [3, 6, 40, side, side]
    side, num_scenes, (least, most) = bank.shape[-1], len(rngs), options.num_objects
    min_visible = max(1, round(MIN_VISIBLE_PIXELS * (size / PUBLISHED_SIZE) ** 2))
    counts = least + choose(np.array([rng.random() for rng in rngs]), most - least + 1)
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

    # For each entity: shape, scale, angle, y, x (for the background, the first is its grey), and three for the colour.
    draws = draw_until(rngs, (1 + most, 8), all_visible)
    entities = stack(draws, np.arange(num_scenes))
    kinds, centres = place(draws)
    palette = np.zeros((num_scenes, 1 + most, 3), dtype=np.uint8)
    if options.variant == "binarized":
        palette[:, 1:] = 255
    elif options.variant == "colored_on_colored":
        palette[:] = choose(draws[..., 5:], 256)
    else:
        palette[:, 0] = np.round(255 * draws[:, 0, :1])
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
    """Every possible sprite, without soft edges, in the middle of a patch.

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
    """Which points are in a heart of width 1 around the origin: a square on a corner, half discs on its upper sides."""
    x, y = np.abs(across) * (1 + np.sqrt(2)), up * (1 + np.sqrt(2)) + (np.sqrt(2) - 1) / 4  # corners at (1, 0), (0, -1)
    return (x + np.abs(y) <= 1) | ((x - 0.5) ** 2 + (y - 0.5) ** 2 <= 0.5)


MULTI_DSPRITES = Generator(
    name="multi_dsprites",
    description="two to five flat squares, ellipses and hearts on grey, which may overlap; with two variants",
    version=1,
    default_size=PUBLISHED_SIZE,
    sizes=(32, 128),
    max_entities=6,
    factor_names=FACTOR_NAMES,
    options=MultiDSpritesOptions,
    make=make,
)
