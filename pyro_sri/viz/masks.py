"""Pictures of masks: slots as colours, outlined and numbered, so that they can also be read in grey."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor

from pyro_sri.viz.sheets import INK, PALETTE, PAPER, TILE_SIDE, Picture, enlarge

UNSURE = 224  # a grey that stands out from the paper
# Where a slot is transparent, a checkerboard shows: plain grey would look like something it painted. It is neither so
# light that white strokes vanish on it, nor so dark that black ones do.
CHECKER_LIGHT, CHECKER_DARK = 176, 152
CHECKERS_PER_SIDE = 16

NO_REGION = -1
SMALLEST_REGION = 0.02  # share of the picture; specks are neither outlined nor numbered
NUMBER_SIZE, NUMBER_HALO, ROOM = 12, 2, 8  # pixels; ROOM: from the middle of a number to the border


def to_uint8(pictures: Tensor) -> NDArray[np.uint8]:
    """Pictures [..., 3, H, W] in [0, 1], clipped, -> uint8 [..., H, W, 3]."""
    return (pictures.detach().clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()


def mask_pictures(masks: Tensor) -> NDArray[np.uint8]:
    """Masks as colours: the colour of the slot with the largest mask, which is paler if the mask is less certain.

    Args:
        masks: Probabilities [..., K, 1, H, W].

    Returns:
        uint8 [..., H, W, 3]: the pure colour where one slot has everything, UNSURE where all slots have equal shares.
    """
    num_slots = masks.shape[-4]
    largest, winner = masks.squeeze(-3).max(-3)  # [..., H, W]
    fair_share = 1 / num_slots
    sure = ((largest - fair_share) / (1 - fair_share)).clamp(0, 1) if num_slots > 1 else torch.ones_like(largest)
    colours = torch.from_numpy(PALETTE).to(masks)[winner % len(PALETTE)] / 255  # [..., H, W, 3]
    pale = torch.full_like(colours, UNSURE / 255)
    return to_uint8(torch.lerp(pale, colours, sure[..., None]).movedim(-1, -3))


def mask_tiles(masks: Tensor, side: int = TILE_SIDE) -> NDArray[np.uint8]:
    """Masks as colours, enlarged. Regions are outlined and numbered with their slot, so that no colour is needed.

    Args:
        masks: Probabilities [N, K, 1, H, W].
        side: Smallest side of a picture in pixels. Smaller ones are enlarged by a whole number.

    Returns:
        uint8 [N, h, w, 3].
    """
    pictures, owners = mask_pictures(masks), owner_maps(masks)
    return np.stack([_label(enlarge(picture, side), owner) for picture, owner in zip(pictures, owners, strict=True)])


def owner_maps(masks: Tensor) -> NDArray[np.int64]:
    """The slot with more than half of each pixel, [N, H, W]. NO_REGION if there is none, and in specks.

    Args:
        masks: Probabilities [N, K, 1, H, W].
    """
    largest, winner = masks.detach().squeeze(-3).max(-3)  # [N, H, W]
    owners = torch.where(largest > 0.5, winner, NO_REGION).cpu().numpy()
    for owner in owners:
        for slot in np.unique(owner[owner != NO_REGION]):
            parts, _ = ndimage.label(owner == slot)
            specks = np.bincount(parts.ravel()) < SMALLEST_REGION * owner.size
            specks[0] = False  # pixels outside every part
            owner[specks[parts]] = NO_REGION
    return owners


def slot_pictures(rgb: Tensor, masks: Tensor) -> NDArray[np.uint8]:
    """What each slot paints, over a checkerboard.

    Args:
        rgb: Colours [..., K, 3, H, W] in [0, 1].
        masks: Probabilities [..., K, 1, H, W].

    Returns:
        uint8 [..., K, H, W, 3].
    """
    board = checkerboard(rgb.shape[-2], rgb.shape[-1]).to(rgb)
    return to_uint8(masks * rgb.clamp(0, 1) + (1 - masks) * board)


def canvases(rgb: Tensor, masks: Tensor) -> NDArray[np.uint8]:
    """What the slots paint together as they are added one after another, over a checkerboard.

    Args:
        rgb: Colours [..., K, 3, H, W] in [0, 1].
        masks: Probabilities [..., K, 1, H, W].

    Returns:
        uint8 [..., K, H, W, 3]: slots 0 to k at place k.
    """
    board = checkerboard(rgb.shape[-2], rgb.shape[-1]).to(rgb)
    painted = (masks * rgb.clamp(0, 1)).cumsum(-4)
    return to_uint8(painted + (1 - masks.cumsum(-4)) * board)


def checkerboard(height: int, width: int) -> Tensor:
    """A grey checkerboard [H, W] in [0, 1]."""
    cell = max(1, min(height, width) // CHECKERS_PER_SIDE)
    odd = (torch.arange(height)[:, None] // cell + torch.arange(width) // cell) % 2
    return torch.where(odd == 1, CHECKER_DARK / 255, CHECKER_LIGHT / 255)


def _label(picture: Picture, owner: NDArray[np.int64]) -> Picture:
    """Outlines the regions of a map [H, W] in its enlarged picture, and numbers those with enough room."""
    factor = len(picture) // len(owner)
    enlarged = owner.repeat(factor, 0).repeat(factor, 1)
    border = np.zeros(enlarged.shape, dtype=bool)
    border[1:] |= enlarged[1:] != enlarged[:-1]
    border[:, 1:] |= enlarged[:, 1:] != enlarged[:, :-1]
    paper = Image.fromarray(np.where(border[..., None], np.array(INK, np.uint8), picture))
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(NUMBER_SIZE)
    for slot in np.unique(owner[owner != NO_REGION]):
        parts, count = ndimage.label(owner == slot)
        for part in range(1, count + 1):
            depth = ndimage.distance_transform_cdt(np.pad(parts == part, 1), "chessboard")  # the border is outside
            deepest = np.argwhere(depth == depth.max()) - 1
            if depth.max() * factor < ROOM:
                continue
            row, column = deepest[np.square(deepest - deepest.mean(0)).sum(1).argmin()]  # amid the deepest
            middle = ((column + 0.5) * factor, (row + 0.5) * factor)
            pen.text(middle, str(slot), INK, font, anchor="mm", stroke_width=NUMBER_HALO, stroke_fill=PAPER)
    return np.asarray(paper)
