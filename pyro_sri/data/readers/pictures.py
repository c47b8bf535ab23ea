"""Finds and reads image files of any kind."""

import os
import warnings
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pyro_sri.system.errors import UserError

# The formats that are read, whatever a file's name. Pillow starts another program for some of the others.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
FEW_VALUES = 64  # of a map: a grey photograph has more
# Folders that systems and programs make, with copies and thumbnails of pictures.
DROPPINGS = frozenset({"__MACOSX", "@eaDir"})


def files_below(folder: Path) -> list[str]:
    """The paths of all files in a folder and its folders, sorted. Links are followed, and each folder is read once.

    Hidden files and folders are skipped, like those that macOS leaves next to each picture (._x.png).

    Raises:
        UserError: If a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}); check the folder and its permissions")

    files, seen = [], set()
    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        place = os.path.realpath(where)
        if place in seen:  # a link back, or to a folder that was already read
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not is_dropping(name))
        files += [os.path.join(where, name) for name in names if not is_dropping(name)]
    return sorted(files)


def is_dropping(name: str) -> bool:
    """Whether a file or folder is hidden, or made by a system or program."""
    return name.startswith(".") or name in DROPPINGS


def read_picture(path: Path) -> Image.Image:
    """An image file, decoded, the right way up.

    Raises:
        UserError: If it is missing, damaged, or not an image.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; put it back")
    image = decode_picture(path)
    if image is None:
        raise UserError(f"{path} is not a valid image, or cannot be read; replace or remove it")
    return image


def decode_picture(source: Path | BinaryIO) -> Image.Image | None:
    """An encoded picture, decoded, the right way up; None if it is damaged or not a picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about details that are ignored
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with _opened(source) as image:
                image.verify()  # a PNG's checksums, which decoding ignores
            with _opened(source) as image:
                return ImageOps.exif_transpose(image)
    except Exception:  # damage can make Pillow raise anything
        return None


def _opened(source: Path | BinaryIO) -> Image.Image:
    if not isinstance(source, Path):
        source.seek(0)
    return Image.open(source, formats=FORMATS)


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An image file as uint8 [H, W, 3]; transparency is dropped.

    Raises:
        UserError: If it cannot be read, or has more than 8 bits per channel.
    """
    image = read_picture(path)
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{path} has more than 8 bits per channel; convert it to 8 bits")
    return np.asarray(image.convert("RGB"))


def kind_of_picture(image: Image.Image) -> Literal["photograph", "drawing", "map"]:
    """What a picture looks like: many colours, few colours, or few values of one channel, as maps have."""
    if image.mode == "1" or image.mode.startswith(("I", "F")):
        return "map"
    if image.getcolors(FEW_VALUES) is None:
        return "photograph"
    return "map" if image.mode in ("P", "L", "LA") else "drawing"
