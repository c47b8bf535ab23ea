"""Features of real images, cached between evaluations by the content of the images."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.format import DatasetFile
from pyro_sri.data.hdf5 import pieces
from pyro_sri.features.extraction import FeatureExtractor
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import from_home, write_atomically

Features = NDArray[np.float32]


def cache_folder() -> Path:
    """The folder for files that can be made or downloaded again, and may be deleted at any time.

    It is `$PYRO_SRI_CACHE`, or else `$XDG_CACHE_HOME/pyro-sri`, or else `~/.cache/pyro-sri`. It need not exist.

    Raises:
        UserError: If neither is set and the user has no home folder.
    """
    if own := os.environ.get("PYRO_SRI_CACHE"):
        return from_home(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return from_home(shared) / "pyro-sri"
    try:
        return Path.home() / ".cache" / "pyro-sri"
    except RuntimeError:
        raise UserError("there is no home folder for cached files: set PYRO_SRI_CACHE to a folder") from None


def images_hash(path: Path | str, split: str, num_images: int | None = None) -> str:
    """The sha256 of the first images of a split and of their shape, read in pieces.

    The hash depends only on the pixels, so a copy of a file has the same hash, and a file with edited pixels another.

    Args:
        path: A dataset file.
        split: The split.
        num_images: Largest number of images; None means all.

    Raises:
        UserError: If the file cannot be read or has no such split.
    """
    digest = hashlib.sha256()
    with DatasetFile(path) as file:
        images = file.images(split)
        stop = len(images) if num_images is None else min(num_images, len(images))
        digest.update(f"{stop} {images.shape[1:]}\n".encode())
        for piece in pieces(images, stop):
            digest.update(file.read(images, piece).tobytes())
    return digest.hexdigest()


def cached_features(
    extractor: FeatureExtractor, images: str, num_images: int, compute: Callable[[], Features]
) -> Features:
    """Features from the cache, or else computed and kept there.

    If a cached file is damaged or does not fit, the features are computed again. If no cache can be written, nothing is
    kept.

    Args:
        extractor: The extractor, whose name is part of the key.
        images: The `images_hash` of the images.
        num_images: n, the number of images.
        compute: Computes the features, float32 [n, F].

    Returns:
        float32 [n, F].
    """
    key = hashlib.sha256(f"{extractor.name} {images}".encode()).hexdigest()
    name = f"{key}.npz"
    features = _read(name, (num_images, extractor.size))
    if features is None:
        features = compute()
        with contextlib.suppress(UserError):  # a full or read-only disk, or no home: not cached
            write_atomically(_folder() / name, lambda file: np.savez(file, features=features))
    return features


def _folder() -> Path:
    return cache_folder() / "features"


def _read(name: str, shape: tuple[int, int]) -> Features | None:
    try:
        with (_folder() / name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            features: Features = arrays["features"]
    except Exception:  # no home folder, or a missing or damaged file, which fails in many ways
        return None
    fits = features.shape == shape and features.dtype == np.float32 and np.isfinite(features).all()
    return features if fits else None
