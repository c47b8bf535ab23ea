"""Towers: flat blocks on top of each other, on a floor under a sky; and towers_broken, which do not stand.

Lengths are in units. A picture is 32 units wide, so at the published size they are pixels. Heights start at the floor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.generators.family import Drawn, Generator, choose, draw_until
from pyro_sri.system.errors import UserError

Variant = Literal["different_colours", "any_colours"]
Shape = Literal["box", "dome", "wedge", "barrel"]
Kind = Literal["gap", "air", "beside", "unsupported"]
Floats = NDArray[np.float64]
Places = NDArray[np.intp]
Flags = NDArray[np.bool_]

SHAPES: tuple[Shape, ...] = get_args(Shape)
KINDS: tuple[Kind, ...] = get_args(Kind)

PUBLISHED_SIZE = 32
SAMPLES = 4  # per pixel along each side
SKY, FLOOR, FIRST_BLOCK = range(3)
SKY_COLOUR, FLOOR_COLOUR = (150, 180, 210), (110, 100, 90)
COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)])

FLOOR_HEIGHT = 4.0
MARGIN = 1.0  # between blocks and the border of the picture: a block that touches it may be mistaken for background
WIDEST = PUBLISHED_SIZE - 2 * MARGIN  # of a tower
TALLEST = PUBLISHED_SIZE - FLOOR_HEIGHT - MARGIN
WIDTHS, HEIGHTS = (6.0, 11.0), (4.5, 6.5)
SHIFT = 0.3  # at most, of the width of the block below
MIN_BLOCKS, MAX_BLOCKS = 2, 6

GAP = (3.0, 5.0)  # at least two whole rows of sky pixels, since there may be part of a pixel on both sides
APART = (2.0, 4.0)
OVERLAP = (0.12, 0.25)  # of the narrower block
OFF_BALANCE = 1.5  # at least, so that it is visible

# Half the width of each shape at a share of its height, as a share of half its full width.
PROFILES: tuple[Callable[[Floats], Floats], ...] = (
    np.ones_like,
    lambda height: np.sqrt(1 - height**2),
    lambda height: 1 - height,
    lambda height: 1 - 0.15 * (2 * height - 1) ** 2,
)
FULLNESS = np.array([1, np.pi / 4, 0.5, 0.95])  # area, as a share of the rectangle around it
FACE = np.array([1, 1, 1, 0.85])  # width of the foot, and of the top where it is flat, as a share of the width
FLAT: tuple[Shape, ...] = ("box", "barrel")  # those that can carry a block

FACTOR_NAMES = ("visible", "place", "shape", "red", "green", "blue", "x", "y", "width", "height")


@dataclass(frozen=True)
class TowersOptions:
    """How many blocks (uniform between the two, 2 to 6), their shapes, and their colours.

    The top block has any of the shapes. The others have one that is flat on top: box or barrel. The colours are
    different, or drawn for each block independently (any_colours).
    """

    variant: Variant = "different_colours"
    """Variant: whether the blocks of a tower all differ in colour, or may share one."""
    min_objects: int = MIN_BLOCKS
    """Fewest blocks per tower."""
    max_objects: int = 4
    """Most blocks per tower."""
    shapes: tuple[Shape, ...] = ("box", "dome")
    """Shapes of blocks to draw from; domes and wedges occur only at the top."""

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise UserError(f"towers have no variant {self.variant!r}; use one of {', '.join(get_args(Variant))}")
        if not MIN_BLOCKS <= self.min_objects <= self.max_objects <= MAX_BLOCKS:
            raise UserError(
                f"a tower cannot have {self.min_objects} to {self.max_objects} blocks; "
                f"use min_objects and max_objects from {MIN_BLOCKS} to {MAX_BLOCKS}, in order"
            )
        if not self.shapes or any(shape not in SHAPES for shape in self.shapes):
            raise UserError(f"invalid shapes '{', '.join(self.shapes)}'; choose one or more of {', '.join(SHAPES)}")
        if not any(shape in FLAT for shape in self.shapes):
            raise UserError(f"nothing can rest on the shapes {', '.join(self.shapes)}; add {' or '.join(FLAT)}")


@dataclass(frozen=True)
class BrokenTowersOptions(TowersOptions):
    """Options of towers, and the kinds of damage, which are drawn uniformly.

    gap: a part hovers above the rest. air: a part hovers beside the rest. beside: the top block stands on the floor
    beside the rest. unsupported: a part rests on the block below with its middle beyond the edge.
    """

    kinds: tuple[Kind, ...] = KINDS
    """Kinds of damage to draw from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kinds or any(kind not in KINDS for kind in self.kinds):
            raise UserError(f"invalid kinds '{', '.join(self.kinds)}'; choose one or more of {', '.join(KINDS)}")


class Plan(NamedTuple):
    """What is drawn once for each of m scenes."""

    counts: Places  # [m], of blocks
    kinds: Places  # [m], 0 if it stands, otherwise 1 + the index in KINDS


class Blocks(NamedTuple):
    """The blocks of m scenes, with M places each. Unused places have no height. All are [m, M]."""

    exists: Flags
    shapes: Places  # indices in SHAPES
    middles: Floats  # from the left border
    widths: Floats
    bottoms: Floats
    tops: Floats


def make(rngs: Sequence[np.random.Generator], size: int, options: TowersOptions, split: str) -> Drawn:
    """Draw towers with uniform number, shapes, sizes, shifts, colours and place, again until they stand.

    A tower stands by exact statics: above every contact lies the centre of everything it carries, weighted by area.
    Towers that are too high for the picture are made lower. The kind of a broken tower is drawn once. The tower is
    drawn again until the rest of it stands and it fits the picture.

    Args:
        rngs: n random generators, one per scene.
        size: Side of the images.
        options: Options of either family.
        split: Not used here.

    Returns:
        Images [n, size, size, 3], each pixel the mean of 16 samples; entities [n, size, size], those with the most
        samples, the first on ties; factors [n, 2 + most blocks, 10 or 11] as in FACTOR_NAMES: place is 1 for the
        lowest block (before it was broken); shape is 0 for none, otherwise 1 + the index in SHAPES; x and y (the
        centre), width and height are shares of the picture in [0, 1]. Broken towers also have the column `kind`: 1 +
        the index in KINDS, the same for all blocks.
    """
    most, num_scenes = options.max_objects, len(rngs)
    once = np.array([rng.random(2) for rng in rngs])
    kinds = np.zeros(num_scenes, dtype=np.intp)
    if isinstance(options, BrokenTowersOptions):
        kinds = np.array([1 + KINDS.index(kind) for kind in options.kinds])[choose(once[:, 1], len(options.kinds))]
    plan = Plan(options.min_objects + choose(once[:, 0], most - options.min_objects + 1), kinds)

    def good(draws: Floats, scenes: Places) -> Flags:
        return build(draws, Plan(*(values[scenes] for values in plan)), options)[1]

    draws = draw_until(rngs, (1 + MAX_BLOCKS, 5), good)
    blocks, _ = build(draws, plan, options)
    palette = np.zeros((num_scenes, FIRST_BLOCK + most, 3), dtype=np.float32)
    palette[:, [SKY, FLOOR]] = SKY_COLOUR, FLOOR_COLOUR
    hues = draws[:, 1:, 4]  # [n, 6]: their order is a permutation of all six colours
    colours = choose(hues, len(COLOURS)) if options.variant == "any_colours" else hues.argsort(1)
    palette[:, FIRST_BLOCK:] = COLOURS[colours[:, :most]]
    covered = coverage(blocks, size)
    pixels = covered.reshape(num_scenes, -1, size**2).transpose(0, 2, 1).astype(np.float32)
    images = np.round(pixels @ palette / SAMPLES**2).reshape(num_scenes, size, size, 3)

    factors = _factors(blocks, palette)
    if isinstance(options, BrokenTowersOptions):
        factors = np.concatenate([factors, factors[..., :1] * kinds[:, None, None]], axis=-1, dtype=np.float32)
        factors[:, :FIRST_BLOCK, -1] = 0
    return Drawn(images.astype(np.uint8), covered.argmax(1).astype(np.uint8), factors)


def build(draws: Floats, plan: Plan, options: TowersOptions) -> tuple[Blocks, Flags]:
    """Towers from uniform draws [m, 7, 5], and which of them are good, [m]: see make."""
    levels, counts = np.arange(options.max_objects), plan.counts[:, None]
    exists = levels < counts
    # The first row of draws is for the scene, the others are for blocks.
    at, which, side, amount = (draws[:, :1, column] for column in range(4))  # [m, 1]
    wide, high, shift, shape = draws[:, 1 : 1 + options.max_objects, :4].transpose(2, 0, 1)  # [m, M]
    gap, air, beside, unsupported = (plan.kinds[:, None] == 1 + place for place in range(len(KINDS)))
    first = np.where(beside, counts - 1, 1 + choose(which, counts - 1))  # of the blocks that are moved
    side = np.where(side < 0.5, -1, 1)

    any_shape = np.array([SHAPES.index(shape) for shape in options.shapes])
    flat = np.array([SHAPES.index(shape) for shape in options.shapes if shape in FLAT])
    at_top = any_shape[choose(shape, len(any_shape))]
    shapes = np.where(levels == counts - 1, at_top, flat[choose(shape, len(flat))])
    widths = _between(WIDTHS, wide)
    faces = widths * FACE[shapes]
    lift = gap * _between(GAP, amount)
    heights = exists * _between(HEIGHTS, high)
    heights *= np.minimum(1, (TALLEST - lift) / heights.sum(1, keepdims=True))
    tops = heights.cumsum(1)
    bottoms = np.pad(tops[:, :-1], ((0, 0), (1, 0)))

    steps = np.pad(SHIFT * (2 * shift[:, 1:] - 1) * widths[:, :-1], ((0, 0), (1, 0)))  # from the middle below
    lower = np.roll(faces, 1, axis=1)
    hanging = side * ((faces + lower) / 2 - _between(OVERLAP, amount) * np.minimum(faces, lower))
    wrong = unsupported & (levels == first)
    middles = np.where(wrong, hanging, steps).cumsum(1)
    balance = _balance(middles, faces, widths * heights * FULLNESS[shapes])
    good = np.where(wrong, balance < -OFF_BALANCE, balance > 0) | ~exists

    moved = levels >= first
    rest, part = _ends(middles, widths, exists & ~moved), _ends(middles, widths, exists & moved)
    away = np.where(side > 0, rest[1] - part[0], rest[0] - part[1]) + side * _between(APART, amount)
    middles += moved * (air | beside) * away
    rise = moved * (lift - beside * bottoms)
    start, end = _ends(middles, widths, exists)
    middles += MARGIN + at * (WIDEST - (end - start)) - start
    blocks = Blocks(exists, shapes, middles, widths, bottoms + rise, tops + rise)
    return blocks, good.all(1) & (end - start <= WIDEST)[:, 0]


def _between(limits: tuple[float, float], draws: Floats) -> Floats:
    return limits[0] + draws * (limits[1] - limits[0])


def _ends(middles: Floats, widths: Floats, among: Flags) -> tuple[Floats, Floats]:
    """Where some blocks of each scene start and end, both [m, 1]."""
    start = np.where(among, middles - widths / 2, np.inf).min(1, keepdims=True)
    return start, np.where(among, middles + widths / 2, -np.inf).max(1, keepdims=True)


def _balance(middles: Floats, faces: Floats, areas: Floats) -> Floats:
    """How far the centre of a block and all above it lies inside the contact below it; all [m, M]."""
    carried, moments = (values[:, ::-1].cumsum(1)[:, ::-1] for values in (areas, areas * middles))
    weight = moments / np.where(carried > 0, carried, 1)
    inside = faces / 2 - np.abs(weight - middles)
    inside[:, 1:] = np.minimum(inside[:, 1:], faces[:, :-1] / 2 - np.abs(weight[:, 1:] - middles[:, :-1]))
    return inside


def coverage(blocks: Blocks, size: int) -> NDArray[np.uint8]:
    """How many of the 16 samples of each pixel each entity covers.

    Args:
        blocks: The M blocks of n scenes.
        size: Side of the pictures.

    Returns:
        uint8 [n, 2 + M, size, size], for sky, floor and blocks; their sum is 16.
    """
    per_unit = SAMPLES * size / PUBLISHED_SIZE
    heights = PUBLISHED_SIZE - FLOOR_HEIGHT - (np.arange(SAMPLES * size) + 0.5) / per_unit  # of each row of samples
    bottoms, tops = blocks.bottoms[..., None], blocks.tops[..., None]
    inside = (bottoms <= heights) & (heights < tops)  # [n, M, SAMPLES * size]
    share = np.where(inside, heights - bottoms, 0) / np.where(inside, tops - bottoms, 1)
    half = blocks.widths[..., None] / 2 * np.choose(blocks.shapes[..., None], [profile(share) for profile in PROFILES])
    ends = np.stack([blocks.middles[..., None] - half, blocks.middles[..., None] + half])
    # A sample lies between two ends if its number is at least the first of these and below the second.
    ends = np.where(inside, np.ceil(ends * per_unit - 0.5), 0).astype(np.int16)
    covered = np.zeros((len(bottoms), FIRST_BLOCK + bottoms.shape[1], size, size), dtype=np.uint8)
    first_samples = SAMPLES * np.arange(size, dtype=np.int16)
    for row in range(SAMPLES):
        start, end = np.clip(ends[:, :, :, row::SAMPLES, None] - first_samples, 0, SAMPLES).astype(np.uint8)
        covered[:, FIRST_BLOCK:] += end - start
    covered[:, FLOOR] = SAMPLES * (heights < 0).reshape(size, SAMPLES).sum(1, dtype=np.uint8)[:, None]
    covered[:, SKY] = SAMPLES**2 - covered[:, FLOOR:].sum(1, dtype=np.uint8)
    return covered


def _factors(blocks: Blocks, palette: NDArray[np.float32]) -> NDArray[np.float32]:
    """The columns FACTOR_NAMES of all entities, [n, 2 + M, 10]; their colours [n, 2 + M, 3] are in 0..255."""
    exists = np.pad(blocks.exists, ((0, 0), (FIRST_BLOCK, 0)), constant_values=True)
    columns = (
        1 + np.broadcast_to(np.arange(blocks.exists.shape[1]), blocks.exists.shape),
        1 + blocks.shapes,
        blocks.middles / PUBLISHED_SIZE,
        1 - (FLOOR_HEIGHT + (blocks.bottoms + blocks.tops) / 2) / PUBLISHED_SIZE,
        blocks.widths / PUBLISHED_SIZE,
        (blocks.tops - blocks.bottoms) / PUBLISHED_SIZE,
    )
    factors = np.zeros((*exists.shape, len(FACTOR_NAMES)), dtype=np.float32)
    factors[..., 0] = 1
    factors[..., 3:6] = palette / 255
    factors[:, FIRST_BLOCK:, [1, 2, 6, 7, 8, 9]] = np.stack(columns, axis=-1)
    factors[~exists] = 0
    return factors


TOWERS = Generator(
    name="towers",
    description="flat towers of two to four blocks that stand, on a floor under a sky",
    version=1,
    default_size=PUBLISHED_SIZE,
    sizes=(32, 128),
    max_entities=FIRST_BLOCK + TowersOptions.max_objects,
    factor_names=FACTOR_NAMES,
    options=TowersOptions,
    make=make,
    background_entities=(SKY, FLOOR),
    scenes_per_task=128,
)

TOWERS_BROKEN = Generator(
    name="towers_broken",
    description="blocks as in towers, but not standing: hovering, side by side or off balance",
    version=1,
    default_size=PUBLISHED_SIZE,
    sizes=(32, 128),
    max_entities=FIRST_BLOCK + TowersOptions.max_objects,
    factor_names=(*FACTOR_NAMES, "kind"),
    options=BrokenTowersOptions,
    make=make,
    background_entities=(SKY, FLOOR),
    scenes_per_task=128,
)
