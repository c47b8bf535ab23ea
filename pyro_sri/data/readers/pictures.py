"""Finds and reads image files of any kind."""

import os
import warnings
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from pyro_sri.system.errors import UserError

# The formats that are read, whatever a file's name. Pillow starts another program for some of the others.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
ANIMATED = frozenset({"GIF", "PNG", "WEBP", "TIFF"})  # MPO, a JPEG with previews, is a single picture
TURNED = "pyro_sri_turned"  # in a decoded picture's info
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
        UserError: If it is missing, damaged, or not a single image.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; put it back")
    try:
        return decode_picture(path)
    except ValueError as error:
        raise UserError(f"{path} {error}; replace or remove it") from None


def decode_picture(source: Path | BinaryIO) -> Image.Image:
    """An encoded picture, decoded, the right way up.

    Raises:
        ValueError: If it is damaged, or not a single picture. The message follows the name of the picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about details that are ignored
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with _opened(source) as image:
                image.verify()  # a PNG's checksums, which decoding ignores
            with _opened(source) as image:
                frames = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
                upright = ImageOps.exif_transpose(image)
                upright.info[TURNED] = image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
    except Exception:  # damage can make Pillow raise anything
        raise ValueError("is not a valid image, or cannot be read") from None
    if frames > 1:
        raise ValueError(f"has {frames} frames or pages instead of one")
    return upright


def is_turned(image: Image.Image) -> bool:
    """Whether a decoded picture was turned or mirrored because its EXIF orientation asks for it."""
    return bool(image.info[TURNED])


def _opened(source: Path | BinaryIO) -> Image.Image:
    if not isinstance(source, Path):
        source.seek(0)
    return Image.open(source, formats=FORMATS)


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An image file as uint8 [H, W, 3]; transparency is dropped.

    Raises:
        UserError: If it cannot be read, or has more than 8 bits per channel.
    """
    return rgb(read_picture(path), path)


def rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """A decoded image file likewise."""
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
