"""TFRecords of encoded pictures: each record has an image as PNG or JPEG, and perhaps masks as PNG.

A single mask is an index map, or the mask of one object if it has only one value besides 0. Several masks have one
entity each. The first of them is the background if they cover the whole image.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pyro_sri.data.readers.account import Account, describe_cut
from pyro_sri.data.readers.entities import NO_ENTITY, entity_map
from pyro_sri.data.readers.example import feature_strings, first_string, parse_example
from pyro_sri.data.readers.geometry import (
    CLEVR_SHAPE,
    CLEVR_SIZE,
    CLEVR_WINDOW,
    Window,
    centre,
    resize_image,
    window_attribute,
)
from pyro_sri.data.readers.pictures import decode_picture
from pyro_sri.data.readers.reader import Conversion, Options
from pyro_sri.data.readers.splits import divide
from pyro_sri.data.readers.stacking import Scene, stack
from pyro_sri.system.errors import UserError

IMAGES = ("image", "image/encoded", "image_raw", "rgb", "png")
MASKS = ("mask", "masks", "mask/encoded", "segmentation", "segmentations", "segmentation/encoded", "instances")
CODED = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # PNG, JPEG
MAX_OBJECTS = 10
SIZE = 64

Features = Mapping[str, memoryview]


def holds_pictures(features: Features) -> bool:
    """Whether a record has an encoded image.

    Raises:
        ValueError: If it is damaged.
    """
    return _name(features, IMAGES) is not None


def read_picture_records(path: Path, records: Iterable[bytes], options: Options) -> Conversion:
    """Read records of encoded pictures.

    Pictures of 240 x 320 pixels are cut and resized to 96 pixels like CLEVR's. Others are cut to their central square
    and resized to 64. Scenes with more than 10 objects are an error. If the user sets another number, scenes with more
    are left out. Factors are not read.

    Raises:
        UserError: While scenes are taken, for a record that is damaged or not like the first.
    """
    account, most = Account(), options.max_objects or MAX_OBJECTS
    records = iter(records)
    first = next(records)
    layout = _described(first, path)
    shape = layout.shape
    window = CLEVR_WINDOW if shape == CLEVR_SHAPE else centre(*shape, min(shape))
    size = options.size or (CLEVR_SIZE if shape == CLEVR_SHAPE else SIZE)
    account.say(describe_cut(shape, window, size))
    account.say("records of encoded pictures: their factors, if there are any, were left out")

    def scenes() -> Iterator[Scene]:
        for index, record in enumerate(chain([first], records)):
            try:
                scene = _scene(record, layout, window, size, account)
            except ValueError as error:
                raise UserError(f"{path}: record {index} is not like the first: {error}") from None
            number = 0 if scene.entities is None else int(scene.entities[scene.entities != NO_ENTITY].max(initial=0))
            if number > most and options.max_objects is None:
                raise UserError(f"{path}: record {index} has {number} objects; use --max-objects {number} or more")
            if number <= most:
                yield scene

    attributes: dict[str, object] = {
        "source": "picture_records",
        "files": [path.name],
        "size": size,
        "crop": window_attribute(window),
    }
    what = f"scenes of {path.name}" + ("" if options.max_objects is None else f" with at most {most} objects")
    num_entities = 1 + most if layout.has_masks else None
    splits = {split: stack(some, num_entities) for split, some in divide(scenes(), options, what).items()}
    return Conversion(splits, attributes, account.sentences)


def _name(features: Features, names: Iterable[str]) -> str | None:
    """The first of these features that is an encoded picture."""
    return next((name for name in names if name in features and first_string(features[name]).startswith(CODED)), None)


class _Layout(NamedTuple):
    """What the first record tells about all of them."""

    shape: tuple[int, int]  # of the image
    has_masks: bool
    has_background: bool  # whether the first of several masks is the background


def _described(record: bytes, path: Path) -> _Layout:
    try:
        features = parse_example(record)
        height, width, _ = _image(features).shape
        masks = _masks(features)
        covered = len(masks) > 1 and not (entity_map(np.stack(masks)) == NO_ENTITY).any()
        return _Layout((height, width), bool(masks), covered)
    except ValueError as error:
        raise UserError(f"{path}: record 0 cannot be read: {error}") from None


def _scene(record: bytes, layout: _Layout, window: Window, size: int, account: Account) -> Scene:
    features = parse_example(record)
    image = _image(features)
    if image.shape[:2] != layout.shape:
        raise ValueError(f"its image has {image.shape[0]} x {image.shape[1]} pixels")
    if not layout.has_masks:
        return Scene(resize_image(image[window], size))
    masks = _masks(features)
    if not masks:
        raise ValueError("it has no masks")
    entities = _entities(masks, layout.has_background)
    if entities.shape != layout.shape:
        raise ValueError(f"its masks have {entities.shape[0]} x {entities.shape[1]} pixels")
    return Scene(resize_image(image[window], size), account.cut(entities, window, size))


def _image(features: Features) -> NDArray[np.uint8]:
    name = _name(features, IMAGES)
    if name is None:
        raise ValueError("it has no PNG or JPEG image")
    image = _decoded(first_string(features[name]))
    if image.mode.startswith(("I", "F")):
        raise ValueError("its image has more than 8 bits per channel")
    return np.asarray(image.convert("RGB"))


def _masks(features: Features) -> list[NDArray[Any]]:
    """The masks of a record, each [H, W]."""
    name = _name(features, MASKS)
    masks = [] if name is None else [np.asarray(_decoded(coded)) for coded in feature_strings(features[name])]
    if any(mask.ndim != 2 for mask in masks) or len({mask.shape for mask in masks}) > 1:
        raise ValueError("its masks are coloured, or of different sizes")
    return masks


def _entities(masks: list[NDArray[Any]], has_background: bool) -> NDArray[np.uint8]:
    """The entity of each pixel of a scene, [H, W]: 0 is the background."""
    if len(masks) == 1 and masks[0].max() <= NO_ENTITY - 1:  # an index map
        return masks[0].astype(np.uint8)
    if len(masks) == 1:
        if len(np.unique(masks[0])) > 2:
            raise ValueError("its mask is blurred, or has values above 254")
        return (masks[0] != 0).astype(np.uint8)
    found = entity_map(np.stack(masks))
    return found if has_background else (found + np.uint8(1)).astype(np.uint8)  # NO_ENTITY becomes 0


def _decoded(coded: bytes) -> Image.Image:
    image = decode_picture(io.BytesIO(coded))
    if image is None:
        raise ValueError("it has a picture that cannot be decoded")
    return image
