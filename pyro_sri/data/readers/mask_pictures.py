"""Masks as pictures: maps of values or colours, and masks of single objects."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pyro_sri.data.masks import FULL

WHITE, GREY = 0xFFFFFF, 0x010101  # colours as numbers; shades of grey are multiples of the second


class CodedMap(NamedTuple):
    """A map, as a picture codes it.

    Attributes:
        kind: Whether the values are greys (or numbers), bits, places in a palette, or colours.
        values: [H, W]; colours are numbers, 0xRRGGBB.
        shown: What pixels show, [H, W, C].
        palette: The colour of each value; None without a palette.
    """

    kind: Literal["grey", "bit", "palette", "colour"]
    values: NDArray[np.int64]
    shown: NDArray[Any]
    palette: NDArray[np.int64] | None = None

    def colours_of(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """The colours of values as numbers, 0xRRGGBB. Greys of more than 8 bits have other numbers, none twice."""
        if self.palette is not None:
            return self.palette[values]
        return values if self.kind == "colour" else values * (WHITE if self.kind == "bit" else GREY)

    def is_black_and_white(self, values: NDArray[np.int64]) -> bool:
        """Whether the picture has a palette, and these values are its black and white."""
        if self.palette is None:
            return False
        colours = self.palette[values].tolist()
        return len(set(colours)) == len(colours) and set(colours) <= {0, WHITE}


def coded_map(image: Image.Image) -> CodedMap:
    """The values of a map.

    Raises:
        ValueError: If they are not whole numbers >= 0 or colours.
    """
    if image.mode.startswith("F"):
        raise ValueError("has fractions; a map must have whole numbers or colours")
    if image.mode == "1":
        bits = np.asarray(image)
        return CodedMap("bit", bits.astype(np.int64), bits[..., None])
    if image.mode in ("L", "LA") or image.mode.startswith("I"):
        greys = np.atleast_3d(np.asarray(image))[..., :1]
        if greys.min() < 0:
            raise ValueError("has negative values; a map must have whole numbers >= 0 or colours")
        return CodedMap("grey", greys[..., 0].astype(np.int64), greys)
    shown = np.asarray(image.convert("RGB"))
    if image.mode != "P":
        return CodedMap("colour", _colour_numbers(shown), shown)
    table = np.zeros((FULL + 1, 3), dtype=np.uint8)
    known = np.asarray(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    table[: len(known)] = known
    return CodedMap("palette", np.asarray(image).astype(np.int64), shown, _colour_numbers(table))


def _colour_numbers(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Colours [.., 3] as numbers, 0xRRGGBB."""
    wide = colours.astype(np.int64)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


class Coding:
    """Finds out whether the values of maps mean the same in all of them.

    Attributes:
        kinds: Those of the maps.
        alike: Whether the same value of a palette was always the same colour.
    """

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self.alike = True
        self._palette: dict[int, int] = {}

    def add(self, coded: CodedMap, values: NDArray[np.int64]) -> None:
        """Looks at another map, with these values."""
        self.kinds.add(coded.kind)
        colours = [] if coded.palette is None else coded.palette[values].tolist()
        for value, colour in zip(values.tolist(), colours, strict=False):
            self.alike = self.alike and self._palette.setdefault(value, colour) == colour

    @property
    def by_colour(self) -> bool:
        """Whether maps must be read by colour: kinds or palettes differ, or palettes are black and white."""
        black_and_white = len(self._palette) == 2 and set(self._palette.values()) == {0, WHITE}
        return len(self.kinds) > 1 or not self.alike or black_and_white


def mask_shares(image: Image.Image) -> NDArray[np.uint8]:
    """How much of each pixel is in the mask of one object, [H, W]: 0 to 255.

    This is alpha if that varies. Otherwise black is outside, and white, or the only other value or colour, is inside.

    Raises:
        ValueError: If it has values that are negative or not a number.
    """
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("RGBA", "LA", "PA"):
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() < alpha.max():
            return alpha
    plain = image.mode in ("1", "L") or image.mode.startswith(("I", "F"))
    values = np.asarray(image) if plain else np.asarray(image.convert("RGB")).max(axis=2)
    if not (values >= 0).all():
        raise ValueError("has values that are negative or not a number")
    levels = np.unique(values)
    largest = levels[-1]
    full = FULL if 1 < largest <= FULL else largest
    if largest <= 1 or (len(levels) == 2 and levels[0] == 0):
        full = max(1, largest)
    return np.rint(values.astype(np.float64) / full * FULL).astype(np.uint8)
