"""Windows of pictures, and resizing: smooth for images, while entity maps stay a partition."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Window = tuple[slice, slice]  # rows and columns

ALL: Window = (slice(None), slice(None))

# CLEVR as the object-centric papers use it: a square without the empty margins, at 96 pixels.
CLEVR_SHAPE = (240, 320)
CLEVR_WINDOW: Window = (slice(29, 221), slice(64, 256))
CLEVR_SIZE = 96


def centre(height: int, width: int, side: int) -> Window:
    """The square window of this side in the middle of a picture; of two middles, the upper left one."""
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def window_attribute(window: Window) -> list[int]:
    """A window as dataset files store it: first row, last row + 1, first column, last column + 1."""
    rows, columns = window
    return [rows.start, rows.stop, columns.start, columns.stop]


def resize_image(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The image [H, W, 3] with a side of `size` pixels by Pillow's bilinear filter; unchanged if it has that."""
    return _resize(image, size, Image.Resampling.BILINEAR)


def resize_map(entities: NDArray[Any], size: int) -> NDArray[Any]:
    """The entity map [H, W] with a side of `size` pixels by Pillow's nearest neighbour; unchanged if it has that."""
    return _resize(entities, size, Image.Resampling.NEAREST)


def _resize(array: NDArray[Any], size: int, resampling: Image.Resampling) -> NDArray[Any]:
    array = np.ascontiguousarray(array)
    if array.shape[:2] == (size, size):
        return array
    return np.asarray(Image.fromarray(array).resize((size, size), resampling))
