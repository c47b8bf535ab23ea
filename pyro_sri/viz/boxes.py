"""Objects as boxes: the window of each object that was found, outlined over its image."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from pyro_sri.viz.masks import to_uint8
from pyro_sri.viz.sheets import TILE_SIDE, enlarge, slot_colour

OUTLINE = 2  # pixels


def box_corners(where: Tensor, size: int) -> Tensor:
    """Borders of the windows placed by (s, x, y), in pixels from the image's left and upper border.

    Args:
        where: [.., 3].
        size: Side of the image in pixels.

    Returns:
        Left, top, right, bottom [.., 4]. They are outside 0..size if a window extends beyond the border.
    """
    scale, middle = where[..., :1].abs(), -where[..., 1:] / where[..., :1]  # [.., 1], [.., 2]
    return (1 + torch.cat([middle - 1 / scale, middle + 1 / scale], -1)) * size / 2


def boxes(images: Tensor, where: Tensor, presence: Tensor, *, side: int = TILE_SIDE) -> NDArray[np.uint8]:
    """Images with the window of each object that is present outlined, in the colour of its slot.

    Args:
        images: [B, 3, H, W] in [0, 1], square.
        where: Places (s, x, y) of the objects [B, T, 3], as AIR infers them.
        presence: Which objects there are [B, T].
        side: Smallest side of a picture in pixels. Smaller images are enlarged by a whole number.

    Returns:
        uint8 [B, h, w, 3].
    """
    pictures = []
    for picture, places, present in zip(to_uint8(images), where.detach().cpu(), presence.cpu(), strict=True):
        canvas = Image.fromarray(enlarge(picture, side))
        pen = ImageDraw.Draw(canvas)
        for slot in present.nonzero()[:, 0].tolist():
            left, top, right, bottom = box_corners(places[slot], canvas.width).round().int().tolist()
            pen.rectangle((left, top, right - 1, bottom - 1), outline=slot_colour(slot), width=OUTLINE)
        pictures.append(np.asarray(canvas))
    return np.stack(pictures)
