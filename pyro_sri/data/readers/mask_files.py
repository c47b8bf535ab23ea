"""Masks in picture files next to images: index maps, a colour for each object, or a file for each object."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pyro_sri.data.format import Report
from pyro_sri.data.masks import FULL, MaskTally, look_inverted
from pyro_sri.data.readers.entities import NO_ENTITY, as_labels
from pyro_sri.data.readers.finding import Picture
from pyro_sri.data.readers.map_codes import MapCodes, SoftEdges, code_counts
from pyro_sri.data.readers.mask_pictures import CodedMap, Coding, coded_map, mask_shares
from pyro_sri.data.readers.pictures import is_turned, read_picture
from pyro_sri.data.readers.reader import reported
from pyro_sri.metrics.segmentation import entity_labels
from pyro_sri.system.errors import UserError

NUMBERED = 31  # the largest value of index maps whose values count as the numbers of entities
MOST_VALUES = 64  # of a map: with more, it is blurred or not a map
BACKGROUND_WORDS = frozenset({"background", "bg"})

Words = tuple[str, ...]


class MaskFiles(NamedTuple):
    """The mask files of each image, by the image's path."""

    files: Mapping[str, Sequence[str]]
    per_object: bool  # whether a file is for one object or for all


def pair_masks(images: Sequence[Picture], masks: Sequence[Picture], folder: Path) -> tuple[MaskFiles, str]:
    """Finds the mask files of each image, by the words and numbers in their names.

    A mask belongs to an image if its words begin with those of the image. Further words tell the objects of an image
    apart. The names of folders count, unless only the names of files fit. Where the names of images differ only by
    letter case, signs or dots, a mask belongs to the image whose exact name is in its own.

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
    by_words: dict[Words, list[Picture]] = {}
    for image in images:
        by_words.setdefault(image.name_words if name_only else image.words, []).append(image)
    found: dict[str, dict[Words, str]] = {}
    strays = 0
    for mask in masks:
        words = mask.name_words if name_only else mask.words
        length = next((n for n in range(len(words), -1, -1) if words[:n] in by_words), None)
        if length is None:
            strays += 1
            continue
        alike = by_words[words[:length]]
        image_path = _closest(alike, mask)
        if image_path is None and name_only:
            return {}, 0
        if image_path is None:
            both = f"{alike[0].path} and {alike[1].path}"
            raise UserError(f"{both} have names that do not tell which of them {mask.path} belongs to; rename one")
        others = found.setdefault(image_path, {})
        if words[length:] in others:
            raise UserError(f"{others[words[length:]]} and {mask.path} both seem to be the same mask of {image_path}")
        others[words[length:]] = mask.path
    return found, strays


def _closest(images: Sequence[Picture], mask: Picture) -> str | None:
    """Of images whose names have the same words, the path of the one whose exact name is in the mask's name.

    Names may differ by letter case, signs, dots or leading zeros. None if it is unclear.
    """
    if len(images) == 1:
        return images[0].path
    whole, stem = _letters(mask)
    fits: dict[tuple[int, int], list[str]] = {}
    for image in images:
        its_whole, its_stem = _letters(image)
        fit = (len(its_whole) * (its_whole in whole), len(its_stem) * (its_stem in stem))
        fits.setdefault(fit, []).append(image.path)
    best = max(fits)
    return fits[best][0] if any(best) and len(fits[best]) == 1 else None


def _letters(picture: Picture) -> tuple[str, str]:
    """The path of a picture below the folder and the stem of its name, with a mark around each word and number."""
    stem = unicodedata.normalize("NFC", Path(picture.path).stem)
    whole = unicodedata.normalize("NFC", f"{picture.split or ''}/{picture.area}/{stem}")
    return _marked(whole), _marked(stem)


def _marked(text: str) -> str:
    return "\0".join(["", *re.findall(r"\d+|[^\W\d_]+|.", text), ""])


def _in_order(files: Mapping[Words, str]) -> list[str]:
    """The files of the objects of an image in the order of their numbers, without the background."""
    objects = [words for words in files if not BACKGROUND_WORDS & set(words)]
    return [files[words] for words in sorted(objects, key=_natural)]


def _natural(words: Words) -> list[tuple[bool, int, str]]:
    return [(not word.isdecimal(), int(word) if word.isdecimal() else 0, word) for word in words]


class Maps:
    """Maps in which each value or colour is an entity.

    Reads all of them once to find the number of entities and the background. Palettes that differ between maps, or are
    black and white, are read by colour, other palettes by value.

    Args:
        files: The files, one for each image.
        progress: Called with the progress of this.

    Raises:
        UserError: If a file cannot be read or is not a map, or the maps have soft edges.
    """

    def __init__(self, files: MaskFiles, progress: Report):
        self.files = files.files
        self.tally = MaskTally((0,), declared=True)
        maps = [file for some in self.files.values() for file in some]
        coding, edges = Coding(), SoftEdges()
        by_value, by_colour = MapCodes(NUMBERED), MapCodes(NUMBERED)
        for file in reported(maps, "masks", len(maps), progress):
            coded = _coded(file)
            values, counts = code_counts(coded.values)
            if len(values) > MOST_VALUES:
                raise UserError(f"{file} has {len(values)} values or colours: it is blurred, as in JPEG, or not a map")
            coding.add(coded, values)
            edges.add(coded.values, coded.shown)
            by_value.add(values, counts)
            by_colour.add(coded.colours_of(values), counts)
        if fault := edges.fault():
            raise UserError(f"masks such as {maps[0]} {fault}")
        self.by_colour = coding.by_colour
        self.numbering = (by_colour if self.by_colour else by_value).numbering()
        self.num_entities = self.numbering.num_entities

    def entities(self, image: str) -> NDArray[np.uint8]:
        """The entity of each pixel of an image, [H, W]."""
        coded = _coded(self.files[image][0])
        entities = self.numbering.entities(coded.colours_of(coded.values) if self.by_colour else coded.values)
        self.tally.update_labels(as_labels(entities)[None])
        return entities

    def check(self) -> None:
        """Does nothing: maps cannot overlap."""

    def sentences(self) -> list[str]:
        """How the maps were read."""
        code = self.numbering.background
        what = f"value {code}" if code <= FULL else f"colour #{code:06x}"
        background = ", ".join([f"{what} is the background", *self.numbering.notes])
        numbered = "by rank in each image" if self.numbering.table is None else "the same in all images"
        told = f"masks: one map for each image, {background}, entities are numbered {numbered}"
        return [told, *(f"the masks {note}" for note in self.tally.notes())]


class ObjectMasks:
    """A mask file for each object of an image. Entity 0 is what is in none of them.

    Args:
        files: The files of each image, from the object at the back to the one in front.
    """

    def __init__(self, files: MaskFiles):
        self.files = files.files
        self.num_entities = 1 + max(map(len, self.files.values()))
        self.tally = MaskTally((), declared=True)
        if self.num_entities > NO_ENTITY:
            raise UserError(f"an image has {self.num_entities - 1} masks; there may be at most {NO_ENTITY - 1}")

    def entities(self, image: str) -> NDArray[np.uint8]:
        """The entity of each pixel of an image, [H, W]."""
        files = self.files[image]
        if not files:
            raise UserError(f"{image} has no mask of an object; leave it out, or add one that is black")
        shares = [_shares(file) for file in files]
        if len({share.shape for share in shares}) > 1:
            raise UserError(f"the masks of {image} are of different sizes; they must be as large as the image")
        masks = np.stack(shares)
        if look_inverted(masks[None, ..., None]):
            raise UserError(
                f"the masks of {image} are inverted: every pixel is in all of them but one; 0 must be outside"
            )
        self.tally.update(masks[None, ..., None])
        return (entity_labels(masks[None, ..., None])[0] + 1).astype(np.uint8)

    def check(self) -> None:
        """Raises UserError if masks of the whole image hid the others in most scenes so far."""
        if fault := self.tally.fault():
            raise UserError(f"masks {fault}; put the word background into the name of its file")

    def sentences(self) -> list[str]:
        """How the masks were read."""
        told = ["masks: one file for each object; entity 0 is what is in none of them"]
        notes = [*self.tally.notes(), *self.tally.background_note("put the word background into its name")]
        return [*told, *(f"the masks {note}" for note in notes)]


def _coded(file: str) -> CodedMap:
    try:
        return coded_map(read_picture(Path(file)))
    except ValueError as error:
        raise UserError(f"{file} {error}") from None


def _shares(file: str) -> NDArray[np.uint8]:
    try:
        return mask_shares(read_picture(Path(file)))
    except ValueError as error:
        raise UserError(f"{file} {error}") from None


def check_fit(entities: NDArray[np.uint8], image: Image.Image, path: str, masks: Sequence[str]) -> None:
    """Checks that the masks of an image lie on it.

    Args:
        entities: The entity of each pixel, [H, W].
        image: The decoded image.
        path: Its file.
        masks: The files of its masks.

    Raises:
        UserError: If they are of another size, or the image was turned by its EXIF orientation and the masks were not.
    """
    size = image.height, image.width
    if entities.shape != size:
        ours, its = (f"{height} x {width}" for height, width in (entities.shape, size))
        raise UserError(f"the mask of {path} has {ours} pixels, and the image has {its}; they must be the same size")
    if is_turned(image) and not all(is_turned(read_picture(Path(mask))) for mask in masks):
        raise UserError(
            f"{path} is turned by its EXIF orientation, but its mask {masks[0]} is not; turn the pixels of the image "
            "(for example with exiftran or jpegtran), or remove the orientation if the mask was made without it"
        )
