"""TFRecords of encoded pictures: each record has an image as PNG or JPEG, and perhaps masks as PNG.

A single mask is an index map, or the mask of one object if it is white on black. Several masks have one entity each; if
those of the first record cover the whole image, the first of them is the background.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pyro_sri.data.format import SceneArrays
from pyro_sri.data.masks import MaskTally, mask_fault
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
from pyro_sri.data.readers.map_codes import SoftEdges, code_counts
from pyro_sri.data.readers.mask_pictures import Coding, coded_map, mask_shares
from pyro_sri.data.readers.pictures import decode_picture, is_turned
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
    masks = _Masks(layout)
    shape = layout.shape
    window = CLEVR_WINDOW if shape == CLEVR_SHAPE else centre(*shape, min(shape))
    size = options.size or (CLEVR_SIZE if shape == CLEVR_SHAPE else SIZE)
    account.say(describe_cut(shape, window, size))
    account.say("records of encoded pictures: their factors, if there are any, were left out")

    def scenes() -> Iterator[Scene]:
        for index, record in enumerate(chain([first], records)):
            try:
                scene = _scene(record, layout, masks, window, size, account)
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

    def pieces(some: Iterator[Scene]) -> Iterator[SceneArrays]:
        yield from stack(some, num_entities)
        if fault := masks.fault():
            raise UserError(f"{path}: masks {fault}")

    splits = {split: pieces(some) for split, some in divide(scenes(), options, what).items()}
    return Conversion(splits, attributes, lambda: [*account.sentences(), *masks.sentences()])


def _name(features: Features, names: Iterable[str]) -> str | None:
    """The first of these features that is an encoded picture."""
    return next((name for name in names if name in features and first_string(features[name]).startswith(CODED)), None)


class _Layout(NamedTuple):
    """What the first record tells about all of them."""

    shape: tuple[int, int]  # of the image
    has_masks: bool
    has_several: bool
    has_background: bool  # whether the first of several masks is the background


class _Masks:
    """Reads the masks of one record after another."""

    def __init__(self, layout: _Layout):
        self._layout = layout
        self._tally = MaskTally((0,) if layout.has_background else (), declared=not layout.has_background)
        self._coding, self._edges = Coding(), SoftEdges()

    def entities(self, pictures: Sequence[Image.Image]) -> NDArray[np.uint8]:
        """The entity of each pixel of a scene, [H, W]: 0 is the background.

        Raises:
            ValueError: If the masks would be misread.
        """
        several = self._layout.has_several or len(pictures) > 1
        return self._objects(_shares(pictures)) if several else self._index_map(pictures[0])

    def _index_map(self, picture: Image.Image) -> NDArray[np.uint8]:
        coded = coded_map(picture)
        values, _ = code_counts(coded.values)
        if values[-1] > NO_ENTITY - 1 or coded.is_black_and_white(values):
            if len(values) > 2:
                raise ValueError("its mask is blurred, or has values above 254")
            return self._objects(mask_shares(picture)[None])
        self._coding.add(coded, values)
        if not self._coding.alike:
            raise ValueError("its mask has another palette; index maps must have the same one in all records")
        self._edges.add(coded.values, coded.shown)
        entities = coded.values.astype(np.uint8)
        self._tally.update_labels(entities.astype(np.int64)[None] - 1)  # the background is no object's
        return entities

    def _objects(self, shares: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if fault := mask_fault(shares[None, ..., None]):
            raise ValueError(f"its masks {fault}")
        self._tally.update(shares[None, ..., None])
        found = entity_map(shares)
        return found if self._layout.has_background else (found + np.uint8(1)).astype(np.uint8)  # NO_ENTITY becomes 0

    def fault(self) -> str | None:
        """Why the masks of most scenes would be misread, as words to follow "masks"; None if they would not be."""
        return self._edges.fault() or self._tally.fault()

    def sentences(self) -> list[str]:
        """What a user should know."""
        notes = self._tally.notes()
        if not self._layout.has_background:
            notes += self._tally.background_note("its mask must come first")
        return [f"the masks {note}" for note in notes]


def _described(record: bytes, path: Path) -> _Layout:
    try:
        features = parse_example(record)
        height, width, _ = _image(features)[0].shape
        pictures = _mask_pictures(features)
        covered = len(pictures) > 1 and not (entity_map(_shares(pictures)) == NO_ENTITY).any()
        return _Layout((height, width), bool(pictures), len(pictures) > 1, covered)
    except ValueError as error:
        raise UserError(f"{path}: record 0 cannot be read: {error}") from None


def _scene(record: bytes, layout: _Layout, masks: _Masks, window: Window, size: int, account: Account) -> Scene:
    features = parse_example(record)
    image, turned = _image(features)
    if image.shape[:2] != layout.shape:
        raise ValueError(f"its image has {image.shape[0]} x {image.shape[1]} pixels")
    if not layout.has_masks:
        return Scene(resize_image(image[window], size))
    pictures = _mask_pictures(features)
    if not pictures:
        raise ValueError("it has no masks")
    if turned and not all(is_turned(picture) for picture in pictures):
        raise ValueError("its image is turned by its EXIF orientation, but not its masks; turn the pixels themselves")
    entities = masks.entities(pictures)
    if entities.shape != layout.shape:
        raise ValueError(f"its masks have {entities.shape[0]} x {entities.shape[1]} pixels")
    return Scene(resize_image(image[window], size), account.cut(entities, window, size))


def _image(features: Features) -> tuple[NDArray[np.uint8], bool]:
    """The image of a record, [H, W, 3], and whether it was turned the right way up."""
    name = _name(features, IMAGES)
    if name is None:
        raise ValueError("it has no PNG or JPEG image")
    image = _decoded(first_string(features[name]))
    if image.mode.startswith(("I", "F")):
        raise ValueError("its image has more than 8 bits per channel")
    return np.asarray(image.convert("RGB")), is_turned(image)


def _mask_pictures(features: Features) -> list[Image.Image]:
    """The masks of a record."""
    name = _name(features, MASKS)
    masks = [] if name is None else [_decoded(coded) for coded in feature_strings(features[name])]
    if any(mask.mode in ("RGB", "RGBA", "CMYK", "YCbCr") for mask in masks) or len({mask.size for mask in masks}) > 1:
        raise ValueError("its masks are coloured, or of different sizes")
    return masks


def _shares(pictures: Sequence[Image.Image]) -> NDArray[np.uint8]:
    """The masks of single objects, [O, H, W]."""
    return np.stack([mask_shares(picture) for picture in pictures])


def _decoded(coded: bytes) -> Image.Image:
    try:
        return decode_picture(io.BytesIO(coded))
    except ValueError as error:
        raise ValueError(f"it has a picture that {error}") from None
