"""Reads HDF5 files of unknown origin: links are not followed, and declared sizes are not trusted."""

import contextlib
import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pyro_sri.data.heaps import check_heaps
from pyro_sri.system.errors import UserError, one_line

# Scenes in memory at once when a whole file is read; fewer if they are large.
SCENES_PER_READ = 256
BYTES_PER_READ = 64 * 1024**2

# Limits that no scene exceeds, but a damaged or hostile file may.
LARGEST_ITEM_BYTES = 256 * 1024**2  # the masks or factors of one scene
LARGEST_BLOCK_BYTES = 1024**3  # HDF5 unpacks whole blocks
LARGEST_READ_BYTES = 1024**3  # asked for in one call
LARGEST_ATTRIBUTE_BYTES = 1024**2

# Common filters by their registered numbers. Files need not name them.
FILTERS = {
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32015: "zstd",
    32026: "blosc2",
}

# What h5py raises for damaged content, depending on which part is damaged.
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)


def open_file(path: Path) -> h5py.File:
    """An HDF5 file, opened read-only. Raises UserError if it cannot be read."""
    if not path.exists():
        raise UserError(f"there is no file {path}; `pyro-sri data make` makes one")
    if path.is_dir():
        if files := sorted(path.glob("*.h5")):
            raise UserError(f"{path} is a folder; name a file in it, such as {files[0]}")
        raise UserError(f"{path} is a folder; if it holds images, `pyro-sri data convert` makes a file of them")
    if not path.is_file():  # reading a pipe or a device might never end
        raise UserError(f"{path} is not a readable file; name a .h5 file")
    try:
        # No file locks: several processes read, nobody writes (files appear complete), and some disks cannot lock.
        return h5py.File(path, "r", locking=False)
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied; change its permissions") from None
    except OSError as error:
        if not h5py.is_hdf5(path):
            raise UserError(
                f"{path} is not an HDF5 file; `pyro-sri data convert` makes one of published data"
            ) from None
        raise UserError(
            f"{path} is not an HDF5 file, or is truncated ({one_line(error)}); make or download it again"
        ) from None


def stored(group: Any, name: str, where: str) -> Any | None:
    """A group or dataset in an HDF5 group, or None if there is none of that name.

    Args:
        group: The group or file.
        name: A name in it.
        where: The group's name for the error message.

    Raises:
        UserError: If it is a link, which is not followed because it may lead anywhere.
    """
    if not group.id.links.exists(name.encode()):
        return None
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise UserError(f"{where}: {name} is a link to another place; copy its data into this file")
    return group[name]


def read_attributes(item: Any, where: str) -> dict[str, Any]:
    """The attributes of a file, group or dataset as plain Python values, or None where that is impossible.

    Raises:
        UserError: If one is too large.
    """
    for name in item.attrs:
        attribute = item.attrs.get_id(name)
        size = attribute.get_space().get_simple_extent_npoints() * attribute.get_type().get_size()
        if size > LARGEST_ATTRIBUTE_BYTES:
            raise UserError(f"{where} has an attribute that is too large; make or download it again")
    check_heaps(item)
    return {_plain(name): _plain(item.attrs[name]) for name in item.attrs}


def check_stored(array: Any, where: str) -> None:
    """Raises UserError unless a dataset is complete in its file, with items and blocks small enough to read."""
    properties = array.id.get_create_plist()
    if _missing_filters(array):
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")  # which registers its filters
    if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
        raise UserError(f"{where} is stored in other files; copy its data into this file")
    if item_bytes(array) > LARGEST_ITEM_BYTES:
        raise UserError(f"{where} has shape {array.shape}, which is too large for one scene; make or download it again")
    if array.chunks is None:
        size = math.prod(array.shape) * array.dtype.itemsize
        complete = array.id.get_storage_size() >= size
    else:
        if math.prod(array.chunks) * array.dtype.itemsize > LARGEST_BLOCK_BYTES:
            raise UserError(
                f"{where} has chunks of {array.chunks}, which are too large to read; write it with smaller chunks"
            )
        blocks = math.prod(-(-length // side) for length, side in zip(array.shape, array.chunks, strict=True))
        complete = array.id.get_num_chunks() == blocks
    if not complete:
        raise UserError(f"{where} has shape {array.shape}, but not all of it was written; make or download it again")


def item_bytes(array: Any) -> int:
    """The size of one item of an HDF5 dataset in memory."""
    return math.prod(array.shape[1:]) * int(array.dtype.itemsize)


def check_filters(array: Any, where: str) -> None:
    """Raises UserError if an HDF5 dataset is packed with filters that are not installed, and names them."""
    if missing := _missing_filters(array):
        raise UserError(
            f"{where} is packed with the HDF5 filter {', '.join(missing)}, which is not installed here: "
            "install the package hdf5plugin, or unpack the file elsewhere with h5repack -f NONE"
        )


def _missing_filters(array: Any) -> list[str]:
    """The filters of an HDF5 dataset that are not installed, by name and number."""
    properties = array.id.get_create_plist()
    filters = [properties.get_filter(number) for number in range(properties.get_nfilters())]
    missing = [(code, one_line(_plain(name))) for code, *_, name in filters if not h5py.h5z.filter_avail(code)]
    return [f"{name or FILTERS.get(code, 'of unknown name')} ({code})" for code, name in missing]


def pieces(array: Any, stop: int | None = None) -> Iterator[slice]:
    """Slices that together cover an array: 256 items each, or fewer if those would take more than 64 MiB.

    Args:
        array: An HDF5 dataset with n items.
        stop: How many items to cover, from the first; None for all.
    """
    stop = len(array) if stop is None else stop
    step = max(1, min(SCENES_PER_READ, BYTES_PER_READ // max(1, item_bytes(array))))
    return (slice(start, min(start + step, stop)) for start in range(0, stop, step))


def _plain(value: Any) -> Any:
    """An attribute's value as a plain Python value, or None where that is impossible."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, str):  # h5py marks bytes that are not text, and they could not be printed
        return value.encode(errors="surrogateescape").decode(errors="replace")
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value] if value.ndim else _plain(value.item())
    if isinstance(value, np.generic):
        return _plain(value.item())
    return value if isinstance(value, bool | int | float | complex | tuple) else None
