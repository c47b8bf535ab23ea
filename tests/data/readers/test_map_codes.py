"""How the codes of maps are numbered, and how pictures code them."""

import numpy as np
import pytest
from PIL import Image

from pyro_sri.data.readers.entities import NO_ENTITY
from pyro_sri.data.readers.map_codes import MapCodes, code_counts
from pyro_sri.data.readers.mask_pictures import coded_map, mask_shares


def numbering(*maps):
    codes = MapCodes(numbered=31)
    for values in maps:
        codes.add(*code_counts(np.array(values)))
    return codes.numbering()


@pytest.mark.parametrize(
    ("maps", "background", "expected", "note"),
    [
        ([[0, 1, 3], [0, 1, 1]], 0, {0: 0, 1: 1, 3: 3}, ""),  # numbers stay
        ([[1, 2], [1, 3], [0, 1]], 0, {1: 1, 2: 2}, "only 1 of 3 maps have it"),
        ([[1, 2, 255], [2, 2, 255], [0, 1, 255]], 255, {255: 0, 0: 1, 1: 2, 2: 3}, ""),
        ([[0, 1, 255], [0, 2, 255]], 0, {1: 1, 2: 2, 255: NO_ENTITY}, "255 is no entity"),
        ([[0, 10, 255], [0, 10, 255]], 0, {10: 1, 255: 2}, ""),  # greys
        ([[0, 255], [0, 255]], 0, {255: 1}, ""),
        ([[0x808080, 500], [0x808080, 0], [0x808080, 600]], 0x808080, {0x808080: 0, 0: 1, 500: 2, 600: 3}, ""),
        ([[0, 500], [600, 500], [0, 500]], 0, {0: 0, 500: 1, 600: 2}, ""),  # black, in most maps
        ([[1000 + i, 2000 + i, 0] for i in range(99)], 0, {1005: 1, 0: 0, 2005: 2}, ""),  # by rank
    ],
)
def test_numbers_of_codes(maps, background, expected, note):
    found = numbering(*maps)
    assert found.background == background
    assert dict(zip(expected, found.entities(np.array(list(expected))).tolist(), strict=True)) == expected
    assert note in ", ".join(found.notes)


def picture(places, palette, **info):
    made = Image.fromarray(np.array(places, np.uint8))
    made.putpalette(palette)
    made.info |= info
    return made


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.array([[0, 40]], np.uint8)), [0, 255]),  # the only other value
        (Image.fromarray(np.array([[40, 255]], np.uint8)), [40, 255]),
        (Image.fromarray(np.array([[[0, 0, 0], [128, 0, 0]]], np.uint8)), [0, 255]),
        (picture([[0, 1]], [0, 0, 0, 0, 0, 128]), [0, 255]),
        (picture([[0, 1]], [255, 255, 255, 0, 0, 0]), [255, 0]),
        (picture([[0, 1]], [9, 9, 9, 9, 9, 9], transparency=bytes([0, 255])), [0, 255]),
        (Image.fromarray(np.array([[0, 0.25, 1]], np.float32)), [0, 64, 255]),
    ],
)
def test_what_is_inside_a_mask(image, expected):
    assert mask_shares(image)[0].tolist() == expected


@pytest.mark.parametrize("value", [-1, np.nan])
def test_values_that_no_mask_has_are_refused(value):
    image = Image.fromarray(np.full((2, 2), value, np.int32 if value == -1 else np.float32))
    for read in (coded_map, mask_shares):
        with pytest.raises(ValueError, match=r"negative|fractions"):
            read(image)
