"""Reading image files of any kind, and finding them."""

import os
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pyro_sri.system.errors import UserError

# What is read, whatever a file is called. Pillow knows others, and starts another program for some.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})


def files_below(folder: Path) -> list[str]:
    """The paths of all files in a folder and its folders, sorted.

    Raises:
        UserError: If a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}); check the folder and its permissions")

    return sorted(os.path.join(where, name) for where, _, names in os.walk(folder, onerror=refuse) for name in names)


def read_picture(path: Path) -> Image.Image:
    """An image file, decoded, the right way up.

    Raises:
        UserError: If it is missing, no image, or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about details that are passed over
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                image.verify()  # a PNG's checksums, which are not looked at when it is decoded
            with Image.open(path, formats=FORMATS) as image:
                return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; put it back") from None
    except Exception:  # Pillow raises whatever the damage leads to
        raise UserError(f"{path} is not a valid image, or cannot be read; replace or remove it") from None


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An image file as uint8 [H, W, 3]; transparency is dropped.

    Raises:
        UserError: If it cannot be read, or has more than 8 bits per channel.
    """
    image = read_picture(path)
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{path} has more than 8 bits per channel; convert it to 8 bits")
    return np.asarray(image.convert("RGB"))
