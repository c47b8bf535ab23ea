"""Multi-MNIST: MNIST's digits on a canvas, by the procedure published with Attend, Infer, Repeat.

As in Pyro's example: a uniform number of digits, each with uniform index and place and normal scale. All are drawn
again while the sum at a pixel is more than white.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pyro_sri.data.format import SPLITS, Report
from pyro_sri.data.readers.geometry import resize_image, resize_map
from pyro_sri.data.readers.idx import read_idx
from pyro_sri.data.readers.reader import Conversion, Options, reported
from pyro_sri.data.readers.splits import wanted_splits
from pyro_sri.data.readers.stacking import Scene, stack
from pyro_sri.system.errors import UserError

DIGIT, CANVAS = 28, 50  # sides in pixels
SCALE_MEAN, SCALE_DEVIATION = 1.3, 0.1  # a digit has a side of 28 / scale pixels
MAX_OBJECTS, MOST_OBJECTS = 2, 3  # more hardly ever fit
COUNTS = {"train": 60_000, "val": 1_000, "test": 10_000}
STOCKS = {"train": "train", "val": "train", "test": "t10k"}  # which of MNIST's digits a split is made of
FACTOR_NAMES = ("visible", "digit", "x", "y", "size")

# A pixel belongs to the digit with more than half of white there. No sum is more than white, so there is only one.
HALF_WHITE = 127


class Digits(NamedTuple):
    """MNIST's training or test digits."""

    images: NDArray[np.uint8]  # [n, 28, 28]
    labels: NDArray[np.uint8]  # [n]


def is_mnist_folder(path: Path) -> bool:
    """Whether a folder has MNIST's idx files."""
    return any(_find(path, stock, "images", 3) for stock in STOCKS.values())


def read_multi_mnist(path: Path, options: Options, progress: Report) -> Conversion:
    """Make multi-MNIST from a folder with MNIST's idx files.

    Train and val are made of the training digits, test of the test digits. Scene i of a split is drawn from
    `np.random.default_rng([seed, number of the split, i])`, whatever the number of scenes.

    Factors are (visible, digit, x, y, size), and (1, 0, 0, 0, 0) for the background. x and y are the centre of the
    digit's square and size is its side, all as fractions of the canvas.

    Raises:
        UserError: If a file is missing or damaged, or if more than 3 objects are asked for.
    """
    max_objects, seed, size = options.max_objects or MAX_OBJECTS, options.seed or 0, options.size or CANVAS
    if max_objects > MOST_OBJECTS:
        raise UserError(f"--max-objects {max_objects} digits do not fit on the canvas; use 1 to {MOST_OBJECTS}")
    available = [split for split, stock in STOCKS.items() if _find(path, stock, "images", 3)]
    if not available:
        raise UserError(f"{path} has no train-images-idx3-ubyte or t10k-images-idx3-ubyte; name MNIST's folder")
    wanted = wanted_splits(available, options, path)
    files = {stock: _files(path, stock) for stock in dict.fromkeys(STOCKS[split] for split in wanted)}
    digits = {stock: _digits(*pair) for stock, pair in files.items()}

    def scenes(split: str) -> Iterator[Scene]:
        count = options.counts[split] or COUNTS[split]
        for scene in reported(range(count), split, count, progress):
            rng = np.random.default_rng([seed, SPLITS.index(split), scene])
            image, entities, factors = draw_scene(rng, digits[STOCKS[split]], max_objects)
            yield Scene(resize_image(np.stack([image] * 3, axis=2), size), resize_map(entities, size), factors)

    attributes = {
        "source": "multi_mnist",
        "dataset": "multi_mnist",
        "files": [file.name for pair in files.values() for file in pair],
        "seed": seed,
        "canvas": CANVAS,
        "size": size,
        "max_objects": max_objects,
        "factor_names": list(FACTOR_NAMES),
    }
    return Conversion({split: stack(scenes(split), 1 + max_objects) for split in wanted}, attributes)


def draw_scene(
    rng: np.random.Generator, digits: Digits, max_objects: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """One canvas with up to `max_objects` digits.

    Returns:
        The canvas, uint8 [50, 50]; the entity of each pixel, [50, 50], 0 for the background; the factors,
        [1 + max_objects, 5].
    """
    num = int(rng.integers(max_objects + 1))
    while True:
        canvas = np.zeros((CANVAS, CANVAS), dtype=np.int64)
        entities = np.zeros((CANVAS, CANVAS), dtype=np.uint8)
        factors = np.zeros((1 + max_objects, len(FACTOR_NAMES)), dtype=np.float32)
        factors[0, 0] = 1
        for entity in range(1, 1 + num):
            index = rng.integers(len(digits.labels))
            side = int(DIGIT / rng.normal(SCALE_MEAN, SCALE_DEVIATION))
            top, left = rng.integers(0, CANVAS - side, 2)
            window = slice(top, top + side), slice(left, left + side)
            digit = np.asarray(Image.fromarray(digits.images[index]).resize((side, side)))
            canvas[window] += digit
            entities[window][digit > HALF_WHITE] = entity
            centre_x, centre_y = (left + side / 2) / CANVAS, (top + side / 2) / CANVAS
            factors[entity] = (1, digits.labels[index], centre_x, centre_y, side / CANVAS)
        if canvas.max() <= 255:
            return canvas.astype(np.uint8), entities, factors


def _digits(images_file: Path, labels_file: Path) -> Digits:
    digits = Digits(read_idx(images_file, 3), read_idx(labels_file, 1))
    if digits.images.shape[1:] != (DIGIT, DIGIT) or not 0 < len(digits.images) == len(digits.labels):
        shapes = f"{digits.images.shape} and {digits.labels.shape}"
        raise UserError(f"{images_file} and {labels_file.name} have the shapes {shapes}, not (n, 28, 28) and (n,)")
    if digits.labels.max() > 9:
        raise UserError(f"{labels_file} has the label {digits.labels.max()}, which is not a digit; download it again")
    return digits


def _files(folder: Path, stock: str) -> tuple[Path, Path]:
    images, labels = _find(folder, stock, "images", 3), _find(folder, stock, "labels", 1)
    if images is None or labels is None:
        raise UserError(f"{folder} has no {stock}-labels-idx1-ubyte, with or without .gz; download it too")
    return images, labels


def _find(folder: Path, stock: str, what: str, axes: int) -> Path | None:
    """The file as published or with the dot that some copies have, compressed or not."""
    names = (f"{stock}-{what}{mark}idx{axes}-ubyte{gz}" for mark in "-." for gz in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)
