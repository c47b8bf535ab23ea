"""Multi-digits: a few real handwritten digits on black, or none, for learning to count."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.generators.family import Drawn, Generator, choose, draw_until, windows
from pyro_sri.system.errors import UserError

Floats = NDArray[np.floating[Any]]

PUBLISHED_SIZE = 50
SCAN_SIDE = 8
NUM_CLASSES = 10

# The scans of a split are those whose index leaves one of these remainders when divided by 5.
REMAINDERS = {"train": (0, 1, 2), "val": (3,), "test": (4,)}

SCALES = (2.2, 3.0)  # pixels of a 50 x 50 picture per pixel of the scan: digits 18 to 24 pixels high
WARP = 0.12  # standard deviation of the rotation (radians) and of the shear
MAX_WARP = 3 * WARP  # they are sums of three uniform draws: near normal, and never larger than this

# Contrast: values of the scan, in [0, 1], that are below the first become black, those above the second white.
BLACK, WHITE = 0.3, 0.65
REACH = 4.5  # from the middle of a scan, in its pixels; beyond, the resampled scan is black
INK = 128  # half of white: a pixel belongs to a digit that is at least this bright there

MAX_OVERLAP = 0.05  # pixels of ink that two digits share, as a share of the ink of the smaller one
MAX_OBJECTS = 3  # four would be redrawn about twenty times before they fit

FACTOR_NAMES = ("visible", "digit", "x", "y", "scale", "rotation", "shear", "scan")


@dataclass(frozen=True)
class MultiDigitsOptions:
    """How many digits a scene has: uniform between the two, 0 to 3; some scenes must have one."""

    min_objects: int = 0
    """Fewest digits per scene."""
    max_objects: int = 2
    """Most digits per scene."""

    def __post_init__(self) -> None:
        if not (0 <= self.min_objects <= self.max_objects <= MAX_OBJECTS and self.max_objects > 0):
            raise UserError(
                f"multi_digits cannot place {self.min_objects} to {self.max_objects} objects; use min_objects from 0 "
                f"and max_objects from 1 to {MAX_OBJECTS}, in order"
            )


class Look(NamedTuple):
    """How D digits look; every array is [D]."""

    scan: NDArray[np.intp]  # index of the scan in scikit-learn's load_digits
    scale: NDArray[np.float64]  # pixels of a 50 x 50 picture per pixel of the scan
    rotation: NDArray[np.float64]  # radians, clockwise
    shear: NDArray[np.float64]  # shift to the right per distance upwards


def make(rngs: Sequence[np.random.Generator], size: int, options: MultiDigitsOptions, split: str) -> Drawn:
    """Draw scenes with uniform number, class, scan of the class, scale and position, near-normal rotation and shear.

    Digits are fully inside the picture. Where two meet, the brighter one is visible. The number of digits is drawn
    once. Everything else in a scene is redrawn while two digits share more than 5 % of the smaller one's ink.

    Args:
        rngs: n random generators, one per scene.
        size: Side of the images.
        options: The smallest and the largest number of digits; the largest is M.
        split: "train", "val" or "test"; no two splits share a scan.

    Returns:
        Images [n, size, size, 3], grey; entities [n, size, size], where pixels darker than 128 are background;
        factors [n, 1 + M, 8] as in FACTOR_NAMES: digit is 0 for the background or none, 1 + c for class c; x and y are
        the middle of the digit's bounding box in [0, 1]; scale, rotation, shear and scan are as in `Look`; everything
        is 0 where `visible` is.
    """
    most, num_scenes = options.max_objects, len(rngs)
    _, classes = load_scans()
    counts = options.min_objects + choose(np.array([rng.random() for rng in rngs]), most - options.min_objects + 1)
    exists = np.arange(most) < counts[:, None]  # [n, M]
    # Written at every attempt, so that the accepted one remains.
    pictures = np.zeros((num_scenes, most, size, size), dtype=np.uint8)
    middles = np.zeros((num_scenes, most, 2))  # y and x, in pixels

    def apart(draws: NDArray[np.float64], scenes: NDArray[np.intp]) -> NDArray[np.bool_]:
        here = exists[scenes]
        placed = np.zeros((len(scenes), most, size, size), dtype=np.uint8)
        box_middles = np.zeros((len(scenes), most, 2))
        placed[here], box_middles[here] = place(render(look(draws[here], split), size), draws[here, -2:], size)
        pictures[scenes], middles[scenes] = placed, box_middles
        return overlaps(placed).max(1, initial=0) <= MAX_OVERLAP

    # For each digit: class, scan, scale, three for the rotation, three for the shear, top, left.
    draws = draw_until(rngs, (most, 11), apart)
    brightest = pictures.max(1)
    entities = np.zeros((num_scenes, size, size), dtype=np.uint8)
    for digit in range(most):
        entities[pictures[:, digit] >= np.maximum(brightest, INK)] = digit + 1

    looks = look(draws[exists], split)
    factors = np.zeros((num_scenes, 1 + most, len(FACTOR_NAMES)), dtype=np.float32)
    factors[:, 0, 0] = 1
    factors[:, 1:][exists] = np.column_stack(
        [
            np.ones(len(looks.scan)),
            1 + classes[looks.scan],
            middles[exists][:, ::-1] / size,
            looks.scale,
            looks.rotation,
            looks.shear,
            looks.scan,
        ]
    )
    return Drawn(np.repeat(brightest[..., None], 3, axis=-1), entities, factors)


def look(draws: NDArray[np.float64], split: str) -> Look:
    """The looks from uniform draws [D, 9 or more]."""
    _, classes = load_scans()
    stock = np.flatnonzero(np.isin(np.arange(len(classes)) % 5, REMAINDERS[split]))
    stock = stock[np.argsort(classes[stock], kind="stable")]
    sizes = np.bincount(classes[stock], minlength=NUM_CLASSES)
    kind = choose(draws[:, 0], NUM_CLASSES)
    scan = stock[(np.cumsum(sizes) - sizes)[kind] + choose(draws[:, 1], sizes[kind])]
    rotation, shear = ((draws[:, at] + draws[:, at + 1] + draws[:, at + 2] - 1.5) * 2 * WARP for at in (3, 6))
    return Look(scan, SCALES[0] + draws[:, 2] * (SCALES[1] - SCALES[0]), rotation, shear)


def render(looks: Look, size: int) -> NDArray[np.uint8]:
    """Draw digits, each in the middle of a patch that has room for any of them.

    Args:
        looks: How D digits look.
        size: Side of the images that they are for.

    Returns:
        uint8 [D, side, side]; side is even, and the middle lies between pixels.
    """
    scans, _ = load_scans()
    unit = size / PUBLISHED_SIZE
    half = int(np.ceil(unit * SCALES[1] * REACH * (1 + 2 * MAX_WARP)))  # the corner of a sheared, turned square
    right = np.arange(-half, half, dtype=np.float32) + 0.5
    down = right[:, None]
    cosine, sine = cosine_and_sine(looks.rotation)
    scale = looks.scale * unit
    c, s, shear = (values.astype(np.float32)[:, None, None] for values in (cosine / scale, sine / scale, looks.shear))
    y = c * down - s * right  # [D, side, side], in pixels of the scan
    x = c * right + s * down + shear * y
    digit, row, column = np.nonzero((np.abs(y) < REACH) & (np.abs(x) < REACH))
    middle = (SCAN_SIDE - 1) / 2
    value = bicubic(scans, looks.scan[digit], y[digit, row, column] + middle, x[digit, row, column] + middle)
    patches = np.zeros(y.shape, dtype=np.uint8)
    patches[digit, row, column] = np.round(255 * np.clip((value - BLACK) / (WHITE - BLACK), 0, 1))
    return patches


def place(
    patches: NDArray[np.uint8], draws: NDArray[np.float64], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Put each patch into its own picture, at any place where all its ink is inside.

    Args:
        patches: uint8 [D, side, side].
        draws: Uniform draws for top and left, [D, 2].
        size: Side of the pictures.

    Returns:
        The pictures, uint8 [D, size, size], and the middles (y and x, in pixels) of the bounding boxes, [D, 2].
    """
    side, profiles = patches.shape[-1], np.stack([patches.any(2), patches.any(1)], axis=1)  # [D, 2, side]
    first, behind = profiles.argmax(2), side - profiles[..., ::-1].argmax(2)  # [D, 2]
    corners = choose(draws, size - (behind - first) + 1)  # of the boxes
    canvas = np.zeros((len(patches), size + 2 * side, size + 2 * side), dtype=np.uint8)
    top, left = (side + corners - first).T
    windows(canvas, side)[np.arange(len(patches)), top, left] = patches
    return canvas[:, side:-side, side:-side], corners + (behind - first) / 2


def overlaps(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The share of the smaller digit's ink that two digits have in common, for each pair.

    Args:
        pictures: One of each digit alone, uint8 [m, M, H, W]; black where there is none.

    Returns:
        float64 [m, pairs].
    """
    ink = pictures >= INK
    pixels = ink.sum((2, 3))  # [m, M]
    one, other = np.triu_indices(pictures.shape[1], 1)
    shared = (ink[:, one] & ink[:, other]).sum((2, 3))
    return shared / np.maximum(np.minimum(pixels[:, one], pixels[:, other]), 1)


def bicubic(stack: Floats, which: NDArray[np.intp], y: Floats, x: Floats) -> Floats:
    """Resample pictures by Catmull-Rom splines; outside their borders they are zero.

    Args:
        stack: Pictures [S, H, W].
        which: The picture that each of P points lies in, [P].
        y: In pixels from the middle of the first row, between -1 and H, [P].
        x: In pixels from the middle of the first column, between -1 and W, [P].

    Returns:
        [P], in the precision of y.
    """
    padded = np.pad(stack, ((0, 0), (2, 2), (2, 2)))
    width = padded.shape[2]
    top, left = np.floor(y), np.floor(x)
    first = (which * padded.shape[1] + top.astype(np.intp) + 1) * width + left.astype(np.intp) + 1
    rows, columns = catmull_rom(y - top), catmull_rom(x - left)
    value = np.zeros_like(y)
    for down, row in enumerate(rows):  # added one by one: the order of other sums depends on the machine
        for right, column in enumerate(columns):
            value += row * column * padded.ravel()[first + (width * down + right)]
    return value


def catmull_rom(t: Floats) -> tuple[Floats, ...]:
    """Weights of the samples at -1, 0, 1 and 2 for points t in [0, 1)."""
    return (
        ((2 - t) * t - 1) * t / 2,
        (3 * t - 5) * t * t / 2 + 1,
        ((4 - 3 * t) * t + 1) * t / 2,
        (t - 1) * t * t / 2,
    )


def cosine_and_sine(angle: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For angles up to MAX_WARP, to 1e-7, by plain arithmetic, which rounds alike on every machine."""
    square = angle * angle
    return 1 - square / 2 * (1 - square / 12 * (1 - square / 30)), angle * (1 - square / 6 * (1 - square / 20))


@lru_cache
def load_scans() -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The 1797 scans of digits that come with scikit-learn, in [0, 1], [1797, 8, 8], and their classes, [1797]."""
    from sklearn.datasets import load_digits  # takes a second; no other family needs it

    digits = load_digits()
    return (digits.images / 16).astype(np.float32), digits.target


MULTI_DIGITS = Generator(
    name="multi_digits",
    description="zero to two real handwritten digits on black that hardly touch, for learning to count",
    version=1,
    default_size=PUBLISHED_SIZE,
    sizes=(32, 128),
    max_entities=3,
    factor_names=FACTOR_NAMES,
    options=MultiDigitsOptions,
    make=make,
)
