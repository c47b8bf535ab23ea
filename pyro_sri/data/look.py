"""Statistics of the images of a dataset file that a configuration depends on."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pyro_sri.data.checking import dark_images
from pyro_sri.data.format import DatasetFile
from pyro_sri.system.errors import UserError

LOOKED_AT = 256  # training images, at random
COUNTED = 1_024  # training images whose entities are counted
COVERED = 0.95  # of an image, by the colours that are counted
SHADES = 16  # per channel, to tell colours apart
SMALLEST_REGION = 0.01  # of an image
ALIKE = 0.1  # distance of two mean colours in [0, 1]^3 below which objects look alike


class Look(NamedTuple):
    """What the training images of a file are like.

    Attributes:
        image_size: Their side in pixels.
        num_images: How many there are.
        variance: The squared error, per pixel and channel in [0, 1], of a model that knows no objects: it draws either
            the mean image or each image in its mean colour, whichever is better.
        colours: How many colours, with 16 shades per channel, cover 95 % of an image; median over images.
        regions: Number of connected regions of one colour with at least 1 % of an image; 95th percentile.
        entities: Most entities in an image, background included; None without masks.
        background_share: Share of pixels that are in no object; None without masks.
        num_backgrounds: Number of background entities. Pixels in no mask count as one. None without masks.
        alike: Share of images in which two objects have nearly the same mean colour; None without masks.
        dark: What is wrong if the images are dark; None if they are not.
    """

    image_size: int
    num_images: int
    variance: float
    colours: int
    regions: int
    entities: int | None
    background_share: float | None
    num_backgrounds: int | None
    alike: float | None
    dark: str | None


def look_at(path: Path | str) -> Look:
    """Examines up to 256 training images of a file, and their masks.

    Raises:
        UserError: If the file cannot be read or has no training images.
    """
    with DatasetFile(path) as file:
        if "train" not in file.splits:
            raise UserError(f"{path} has no split train, which runs are trained on; add one")
        total = file.num_images("train")
        items = np.sort(np.random.default_rng(0).permutation(total)[:LOOKED_AT]).tolist()
        images, masks = file.read(file.images("train"), items), file.visible_masks("train", items)
        codes = _colour_codes(images)
        size = file.image_size
        plain = Look(
            image_size=size,
            num_images=total,
            variance=float(min((images / 255).var(axis=0).mean(), (images / 255).var(axis=(1, 2)).mean())),
            colours=int(np.median([_num_colours(image) for image in codes])),
            regions=int(np.percentile([_num_regions(image) for image in codes], 95)),
            entities=None,
            background_share=None,
            num_backgrounds=None,
            alike=None,
            dark=dark_images(int(images.max())),
        )
        return plain if masks is None else _with_masks(plain, images, masks, file.background_entities)


def most_entities(file: DatasetFile) -> int | None:
    """Most entities in one of up to 1,024 random training images, background included; None without masks."""
    items = np.sort(np.random.default_rng(0).permutation(file.num_images("train"))[:COUNTED]).tolist()
    masks = file.visible_masks("train", items)
    return None if masks is None else int(masks.any((2, 3, 4)).sum(1).max(initial=0))


def _with_masks(look: Look, images: NDArray[np.uint8], masks: NDArray[np.uint8], background: tuple[int, ...]) -> Look:
    objects = [entity for entity in range(masks.shape[1]) if entity not in background]
    nobodys = ~masks.any(1)  # [n, H, W, 1]
    some_nobodys = bool(nobodys.mean() > SMALLEST_REGION)
    return look._replace(
        entities=int(masks.any((2, 3, 4)).sum(1).max()) + some_nobodys,
        background_share=float(1 - masks[:, objects].any(1).mean()),
        num_backgrounds=len(background) + some_nobodys,
        alike=float(np.mean([_has_alike(*scene) for scene in zip(images, masks[:, objects], strict=True)])),
    )


def _colour_codes(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """[n, H, W, 3] -> the colour of each pixel as a number, [n, H, W]."""
    shades = (images // (256 // SHADES)).astype(np.int64)
    return (shades[..., 0] * SHADES + shades[..., 1]) * SHADES + shades[..., 2]


def _num_colours(codes: NDArray[np.int64]) -> int:
    counts = np.sort(np.unique(codes, return_counts=True)[1])[::-1]
    return int(np.searchsorted(counts.cumsum(), COVERED * counts.sum())) + 1


def _num_regions(codes: NDArray[np.int64]) -> int:
    least = SMALLEST_REGION * codes.size
    values, counts = np.unique(codes, return_counts=True)
    sizes = [np.bincount(ndimage.label(codes == value)[0].ravel())[1:] for value in values[counts >= least]]
    return sum(int((some >= least).sum()) for some in sizes)


def _has_alike(image: NDArray[np.uint8], masks: NDArray[np.uint8]) -> bool:
    """Whether two of the objects [O, H, W, 1] of an image [H, W, 3] have nearly the same mean colour."""
    means = np.array([image[mask[..., 0] > 0].mean(0) / 255 for mask in masks if mask.any()]).reshape(-1, 3)
    distances = np.linalg.norm(means[:, None] - means, axis=-1) + np.eye(len(means))
    return bool((distances < ALIKE).any())
