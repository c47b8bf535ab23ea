"""Masks in picture files next to images: index maps, a colour for each object, or a file for each object."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.format import Report
from pyro_sri.data.masks import MaskTally, look_inverted
from pyro_sri.data.readers.entities import NO_ENTITY
from pyro_sri.data.readers.finding import Picture
from pyro_sri.data.readers.pictures import read_picture
from pyro_sri.data.readers.reader import reported
from pyro_sri.metrics.segmentation import entity_labels
from pyro_sri.system.errors import UserError

NUMBERED = 31  # the largest value of index maps whose values count as the numbers of entities
MOST_VALUES = 64  # of a map: with more, it is blurred or not a map
MOST_CODES = 4096  # of all maps, to keep track of
BACKGROUND_WORDS = frozenset({"background", "bg"})

Words = tuple[str, ...]


class MaskFiles(NamedTuple):
    """The mask files of each image, by the image's path."""

    files: Mapping[str, Sequence[str]]
    per_object: bool  # whether a file is for one object or for all


def pair_masks(images: Sequence[Picture], masks: Sequence[Picture], folder: Path) -> tuple[MaskFiles, str]:
    """Finds the mask files of each image, by the words and numbers in their names.

    A mask belongs to an image if its words begin with those of the image. Further words tell the objects of an image
    apart. The names of folders count, unless only the names of files fit.

    Args:
        images: All images.
        masks: All pictures that may be masks.
        folder: The folder of the masks, for error messages.

    Returns:
        The files, and a sentence if some masks belong to no image.

    Raises:
        UserError: If an image has no mask, or it is not clear which.
    """
    if not masks:
        raise UserError(f"{folder} has no masks: no pictures but the images themselves")
    for name_only in (False, True):
        found, strays = _paired(images, masks, name_only)
        if len(found) == len(images):
            break
    else:
        without = next(picture.path for picture in images if picture.path not in found)
        raise UserError(
            f"{len(images) - len(found)} of {len(images)} images have no mask in {folder}, the first is {without}; "
            "masks must have the names of their images, with a number for each object where each has a file of its own"
        )
    whole = [path for path, some in found.items() if () in some]
    parts = [path for path, some in found.items() if some.keys() - {()}]
    if whole and parts:
        raise UserError(
            f"{folder} is unclear: it has one mask for {whole[0]}, and masks of single objects for {parts[0]}"
        )
    files = {path: _in_order(some) for path, some in found.items()}
    sentence = f"{strays} masks in {folder} belong to no image" if strays else ""
    return MaskFiles(files, bool(parts)), sentence


def _paired(
    images: Sequence[Picture], masks: Sequence[Picture], name_only: bool
) -> tuple[dict[str, dict[Words, str]], int]:
    """The mask files of each image by the words that they add to its own, and how many belong to no image."""
    by_words: dict[Words, str] = {}
    for image in images:
        words = image.name_words if name_only else image.words
        if words in by_words and name_only:
            return {}, 0
        if words in by_words:
            raise UserError(f"{by_words[words]} and {image.path} have names that no masks can tell apart; rename one")
        by_words[words] = image.path
    found: dict[str, dict[Words, str]] = {}
    strays = 0
    for mask in masks:
        words = mask.name_words if name_only else mask.words
        length = next((n for n in range(len(words), -1, -1) if words[:n] in by_words), None)
        if length is None:
            strays += 1
            continue
        image_path = by_words[words[:length]]
        others = found.setdefault(image_path, {})
        if words[length:] in others:
            raise UserError(f"{others[words[length:]]} and {mask.path} both seem to be the same mask of {image_path}")
        others[words[length:]] = mask.path
    return found, strays


def _in_order(files: Mapping[Words, str]) -> list[str]:
    """The files of the objects of an image in the order of their numbers, without the background."""
    objects = [words for words in files if not BACKGROUND_WORDS & set(words)]
    return [files[words] for words in sorted(objects, key=_natural)]


def _natural(words: Words) -> list[tuple[bool, int, str]]:
    return [(not word.isdecimal(), int(word) if word.isdecimal() else 0, word) for word in words]


class Maps:
    """Maps in which each value or colour is an entity.

    Reads all of them once to find the number of entities and the value of the background: black or 0, or, if no map has
    that, the value that most maps have.

    Args:
        files: The files, one for each image.
        progress: Called with the progress of this.

    Raises:
        UserError: If a file cannot be read or is not a map.
    """

    def __init__(self, files: MaskFiles, progress: Report):
        self.files = files.files
        maps = [file for some in self.files.values() for file in some]
        presence: Counter[int] = Counter()
        pixels: Counter[int] = Counter()
        most, coloured = 0, False
        for file in reported(maps, "masks", len(maps), progress):
            codes = _codes(Path(file))
            values, counts = np.unique(codes, return_counts=True)
            if len(values) > MOST_VALUES:
                raise UserError(f"{file} has {len(values)} values or colours: it is blurred, as in JPEG, or not a map")
            most = max(most, len(values))
            coloured = coloured or int(values[-1]) > NUMBERED
            presence.update(values.tolist())
            pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
            if len(presence) > MOST_CODES:
                presence = Counter({0: presence[0]}) + Counter(dict(presence.most_common(MOST_CODES // 2)))
        self.background = 0 if presence[0] else max(presence, key=lambda code: (presence[code], pixels[code]))
        self.table: dict[int, int] | None = None
        if not coloured and self.background == 0:
            self.table = {code: code for code in range(max(presence) + 1)}
        elif len(presence) <= NUMBERED + 1:
            others = sorted(presence.keys() - {self.background})
            self.table = {code: place for place, code in enumerate([self.background, *others])}
        self.num_entities = most + 1 if self.table is None else len(self.table)

    def entities(self, image: str) -> NDArray[np.uint8]:
        """The entity of each pixel of an image, [H, W]."""
        codes = _codes(Path(self.files[image][0]))
        values, places = np.unique(codes, return_inverse=True)
        if self.table is None:  # by their rank in this image
            objects = iter(range(1, NO_ENTITY))
            numbers = [0 if value == self.background else next(objects) for value in values.tolist()]
        else:
            numbers = [self.table[value] for value in values.tolist()]
        return np.array(numbers, dtype=np.uint8)[places.reshape(codes.shape)]

    def check(self) -> None:
        """Does nothing: maps cannot overlap."""

    def sentences(self) -> list[str]:
        """How the maps were read."""
        colour = f"value {self.background}" if self.background < 256 else f"colour #{self.background:06x}"
        numbered = "by rank in each image" if self.table is None else "the same in all images"
        return [f"masks: one map for each image, {colour} is the background, entities are numbered {numbered}"]


class ObjectMasks:
    """A mask file for each object of an image. Entity 0 is what is in none of them.

    Args:
        files: The files of each image, from the object at the back to the one in front.
    """

    def __init__(self, files: MaskFiles):
        self.files = files.files
        self.num_entities = 1 + max(map(len, self.files.values()))
        self.tally = MaskTally((), declared=True)
        self._background, self._pixels = 0, 0
        if self.num_entities > NO_ENTITY:
            raise UserError(f"an image has {self.num_entities - 1} masks; there may be at most {NO_ENTITY - 1}")

    def entities(self, image: str) -> NDArray[np.uint8]:
        """The entity of each pixel of an image, [H, W]."""
        files = self.files[image]
        if not files:
            raise UserError(f"{image} has no mask of an object; leave it out, or add one that is black")
        shares = [_shares(Path(file)) for file in files]
        if len({share.shape for share in shares}) > 1:
            raise UserError(f"the masks of {image} are of different sizes; they must be as large as the image")
        masks = np.stack(shares)
        if look_inverted(masks[None, ..., None]):
            raise UserError(
                f"the masks of {image} are inverted: every pixel is in all of them but one; 0 must be outside"
            )
        self.tally.update(masks[None, ..., None])
        entities = (entity_labels(masks[None, ..., None])[0] + 1).astype(np.uint8)
        self._background, self._pixels = self._background + int((entities == 0).sum()), self._pixels + entities.size
        return entities

    def check(self) -> None:
        """Raises UserError if masks of the whole image hid the others in most scenes so far."""
        if fault := self.tally.fault():
            raise UserError(f"masks {fault}; put the word background into the name of its file")

    def sentences(self) -> list[str]:
        """How the masks were read."""
        told = ["masks: one file for each object; entity 0 is what is in none of them"]
        told += [f"the masks {note}" for note in self.tally.notes()]
        share = self._background / max(1, self._pixels)
        if share < 0.2:
            told.append(
                f"the masks leave {100 * share:.0f} % of the pixels to the background: is it one of them (put the word "
                "background into its name), or are they inverted?"
            )
        return told


def _codes(path: Path) -> NDArray[np.int64]:
    """The value of each pixel, or its colour as one number; [H, W]."""
    image = read_picture(path)
    if image.mode.startswith("F"):
        raise UserError(f"{path} has fractions; a map must have whole numbers or colours")
    if image.mode in ("1", "L", "P", "LA", "PA") or image.mode.startswith("I"):
        values = np.asarray(image)
        return (values if values.ndim == 2 else values[..., 0]).astype(np.int64)
    colours = np.asarray(image.convert("RGB")).astype(np.int64)
    return (colours[..., 0] << 16) | (colours[..., 1] << 8) | colours[..., 2]


def _shares(path: Path) -> NDArray[np.uint8]:
    """How much of each pixel is in the mask of one object, [H, W]: 0 to 255, from alpha if that varies."""
    image = read_picture(path)
    if image.mode in ("RGBA", "LA", "PA"):
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() < alpha.max():
            return alpha
    if image.mode == "P":
        return (np.asarray(image) != 0).astype(np.uint8) * np.uint8(255)
    values = np.asarray(image if image.mode in ("1", "L") or image.mode.startswith(("I", "F")) else image.convert("L"))
    largest = values.max()
    full = 1 if largest <= 1 else 255 if largest <= 255 else largest
    return np.rint(values / full * 255).astype(np.uint8)


def check_size(entities: NDArray[np.uint8], image: NDArray[np.uint8], path: str) -> None:
    """Raises UserError unless a map is as large as its image."""
    if entities.shape != image.shape[:2]:
        ours, its = (f"{array.shape[0]} x {array.shape[1]}" for array in (entities, image))
        raise UserError(f"the mask of {path} has {ours} pixels, and the image has {its}; they must be the same size")
