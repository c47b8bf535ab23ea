"""The dataset file: one HDF5 layout for published, converted and generated scenes.

Groups `train`, `val`, `test` (at least one of them), each with::

    imgs     uint8 [n, H, W, 3], H == W
    masks    uint8 [n, O, H, W, 1], 255 inside an entity, 0 outside; where they overlap the higher entity is in front;
             entity 0 is the background unless the file's attribute `background_entities` lists others, or none
             (optional)
    factors  [n, O, F] numbers, or a structured array, with the names in the attribute `factor_names` (optional)

The two attributes may also stand on a group, or on its `masks` or `factors`.
Groups with other common names (training, validation, images_test) count as these splits. Others are not used.

All arrays must be in the file itself. Links, arrays in other files and arrays that were only partly written (HDF5 would
read zeros there) are refused. So are sizes that no scene has, before anything is allocated.

Generated files have the attributes source="generated", generator, generator_version, seed and every parameter.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.attributes import said_attributes
from pyro_sri.data.hdf5 import (
    HDF5_ERRORS,
    LARGEST_READ_BYTES,
    check_filters,
    check_stored,
    item_bytes,
    open_file,
    pieces,
    stored,
)
from pyro_sri.data.masks import mask_fault, visible_masks
from pyro_sri.data.split_names import split_names
from pyro_sri.system.allocation import require_memory_for_hdf5
from pyro_sri.system.errors import UserError, one_line, printable
from pyro_sri.system.files import from_home, unused
from pyro_sri.system.shell import command_line

SPLITS = ("train", "val", "test")
ARRAYS = ("imgs", "masks", "factors")

# HDF5 reads whole blocks of a checksummed array: small blocks keep shuffled reads from disk fast, large ones keep the
# index small. 16 images of 64 x 64 are 196 kB.
IMAGES_PER_BLOCK = 16

# Limits that no scene exceeds, but a damaged or hostile file may.
LARGEST_SIDE = 1024  # pixels of an image
MOST_ENTITIES = 255

# Called with the progress of a long task: report(what, items done, items in total).
Report = Callable[[str, int, int], None]


class SceneArrays(NamedTuple):
    """Arrays of n scenes to write to a file, with O entities (background included) and F factors."""

    images: NDArray[np.uint8]  # [n, H, W, 3], in 0..255
    masks: NDArray[np.uint8] | None = None  # [n, O, H, W, 1], 255 inside, 0 outside
    factors: NDArray[Any] | None = None  # [n, O, F]


class DatasetFile:
    """A dataset file, opened read-only and checked against the layout; use it as a context manager.

    Opening reads the shapes and types, but not the content; `check_dataset` reads that.

    Args:
        path: The HDF5 file.
        content: The open file, if it has no name yet.

    Attributes:
        path: The file.
        splits: The splits it has, in the order train, val, test.
        unused: Groups that have images, but are not named for a split.
        image_size: Height and width of its images, in pixels.
        attributes: The file's attributes as plain Python values.

    Raises:
        UserError: If the file is missing, cannot be read, is not an HDF5 file, or does not have the layout.
    """

    def __init__(self, path: Path | str, content: BinaryIO | None = None):
        self.path = from_home(path)
        require_memory_for_hdf5()
        self._file = open_file(self.path) if content is None else h5py.File(content, "r")
        try:
            self._check_layout()
        except UserError:
            self.close()
            raise
        except HDF5_ERRORS as error:
            self.close()
            raise UserError(f"{self.path} is damaged ({one_line(error)}); make or download it again") from None

    def _check_layout(self) -> None:
        self._groups = split_groups(self._file, str(self.path))
        self.splits = tuple(self._groups)
        self.unused = unused_groups(self._file)
        if not self.splits:
            raise no_splits(self._file, str(self.path), "is it a dataset file?")
        for split in self.splits:
            _check_split(self._groups[split], f"{self.path}: {split}")
        sizes = {split: self._groups[split]["imgs"].shape[1] for split in self.splits}
        if len(set(sizes.values())) > 1:
            raise UserError(f"{self.path}: the splits have images of different sizes {sizes}; make them equal")
        self.image_size: int = sizes[self.splits[0]]
        self.attributes = said_attributes(self._file, self._groups, str(self.path))
        self._check_background()
        names = self.attributes.get("factor_names", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{self.path}: factor_names must be a list of names; correct the attribute")

    def _check_background(self) -> None:
        entities = np.atleast_1d(np.asarray(self.attributes.get("background_entities", 0)))
        counts = [count for split in self.splits if (count := self.num_entities(split)) is not None]
        limit = min(counts, default=MOST_ENTITIES + 1)
        numbers = (entities.dtype.kind in "iu" or not entities.size) and entities.ndim == 1
        if not numbers or not all(0 <= entity < limit for entity in entities):
            raise UserError(
                f"{self.path}: background_entities must be indices of entities in the masks; correct the attribute"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; arrays read from it stay valid, HDF5 datasets do not."""
        self._file.close()

    def images(self, split: str) -> Any:
        """The images of a split: an HDF5 dataset, uint8 [n, H, W, 3].

        Raises:
            UserError: If the file has no such split.
        """
        if split not in self.splits:
            raise UserError(
                f"{self.path} has no split {split!r}, only {', '.join(self.splits)}: choose another split or file"
            )
        return self._groups[split]["imgs"]

    def masks(self, split: str) -> Any | None:
        """The instance masks of a split: an HDF5 dataset, uint8 [n, O, H, W, 1], or None where there are none.

        They may overlap; `visible_masks` reads the visible part of each entity.
        """
        return self._optional(split, "masks")

    def visible_masks(self, split: str, items: slice | Sequence[int]) -> NDArray[np.uint8] | None:
        """The visible part of each entity of some scenes: uint8 [n, O, H, W, 1], or None where there are no masks.

        Each pixel belongs to the entity in front, or to none.

        Raises:
            UserError: If the masks are damaged, or would be misread.
        """
        array = self.masks(split)
        if array is None:
            return None
        masks = self.read(array, items)
        if fault := mask_fault(masks):
            raise UserError(f"{self.path}: {split}/masks {fault}; {self.conversion}")
        return visible_masks(masks)

    def factor_fault(self, split: str) -> str | None:
        """Why the factors of a split do not describe single objects; None if they do, or if there are none."""
        factors, num_entities = self.factors(split), self.num_entities(split)
        if factors is None:
            return None
        columns = factors.dtype.names
        if factors.ndim != (2 if columns else 3) or (num_entities is not None and factors.shape[1] != num_entities):
            shape = f"[n,{'O' if num_entities is None else num_entities}{'' if columns else ',F'}]"
            return f"factors have the shape {factors.shape}, not a row for each entity, {shape}"
        if not all(_is_plain(factors.dtype[name], "biufSU") for name in columns or ()):
            return "factors have columns that are neither numbers nor texts"
        if not columns and not _is_plain(factors.dtype, "biuf"):
            return f"factors are {factors.dtype}, not numbers"
        names = self.attributes.get("factor_names")
        if names is not None and not columns and len(names) != factors.shape[2]:
            return f"factors have {factors.shape[2]} columns, and factor_names has {len(names)} names"
        return None

    def factors(self, split: str) -> Any | None:
        """The factors of a split: an HDF5 dataset with n and O first, or None where there are none."""
        return self._optional(split, "factors")

    def _optional(self, split: str, name: str) -> Any | None:
        return self.images(split).parent.get(name)

    def require_size(self, image_size: int) -> None:
        """Raises UserError unless the images are of this size."""
        if self.image_size != image_size:
            ours, wanted = f"{self.image_size}x{self.image_size}", f"{image_size}x{image_size}"
            raise UserError(
                f"{self.path} holds {ours} images; the run needs {wanted}: name another file with --data, or "
                f"{convert_advice(self.path, image_size)}"
            )

    def num_images(self, split: str) -> int:
        """How many images a split has."""
        return int(self.images(split).shape[0])

    def num_entities(self, split: str) -> int | None:
        """How many entities the masks of a split have room for, background included; None without masks."""
        masks = self.masks(split)
        return None if masks is None else int(masks.shape[1])

    @property
    def background_entities(self) -> tuple[int, ...]:
        """The entities that are not objects: entity 0 unless the file says otherwise; empty if all are objects."""
        return tuple(int(entity) for entity in np.atleast_1d(self.attributes.get("background_entities", 0)))

    @property
    def conversion(self) -> str:
        """Advice on how to make a usable file from this one. Files that say their source need something to change."""
        return convert_advice(self.path, self.image_size if "source" in self.attributes else None)

    @property
    def generated(self) -> bool:
        """Whether the scenes were generated here, rather than read from a published data set."""
        return self.attributes.get("source") == "generated"

    def arrays(self) -> Iterator[tuple[str, Any]]:
        """Every array of the layout that the file has, as ("train/imgs", HDF5 dataset), in a fixed order."""
        for split in self.splits:
            for name in ARRAYS:
                array = self._optional(split, name)
                if array is not None:
                    yield f"{split}/{name}", array

    def content_hash(self) -> str:
        """The sha256 of every array with its name, type and shape, read in pieces; attributes are not included.

        Raises:
            UserError: If a piece cannot be read.
        """
        digest = hashlib.sha256()
        for name, array in self.arrays():
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            for piece in pieces(array):
                digest.update(self.read(array, piece).tobytes())
        return digest.hexdigest()

    def read(self, array: Any, items: slice | Sequence[int]) -> NDArray[Any]:
        """Read items of one of the file's arrays into memory.

        Args:
            array: A dataset of this file.
            items: A slice, or indices in any order.

        Raises:
            UserError: If the content is damaged, or too large to be read in one call (1 GiB).
        """
        count = len(range(len(array))[items]) if isinstance(items, slice) else len(items)
        if count * item_bytes(array) > LARGEST_READ_BYTES:
            size = f"{count} items of {array.shape[1:]} are {count * item_bytes(array) / 1024**3:.1f} GiB"
            raise UserError(f"{self.path}: {array.name[1:]}: {size}, more than can be read at once; read fewer")
        try:
            if isinstance(items, slice):
                return np.asarray(array[items])
            return np.stack([array[item] for item in items])  # ten times as fast as h5py's own list of indices
        except HDF5_ERRORS as error:
            where = f"{self.path}: {array.name[1:]}"
            check_filters(array, where)
            raise UserError(
                f"{where} cannot be read ({one_line(error)}); `pyro-sri data check` says which item is damaged"
            ) from None


def split_groups(file: h5py.File, where: str) -> dict[str, h5py.Group]:
    """The groups of a file that are splits, in the order train, val, test. Names may be spelt as in `split_names`.

    Args:
        file: An HDF5 file.
        where: Its name for the error message.

    Raises:
        UserError: If two groups would be the same split, or one is a link.
    """
    names: dict[str, str] = {}
    for name, split in split_names(file).items():
        if not isinstance(stored(file, name, where), h5py.Group):
            continue
        if split in names:
            both = f"{printable(names[split])} and {printable(name)}"
            raise UserError(f"{where} has the groups {both}, which both seem to be {split}; rename one of them")
        names[split] = name
    return {split: file[names[split]] for split in SPLITS if split in names}


def unused_groups(file: h5py.File) -> list[str]:
    """The names of a file's groups that have images, but are not named for a split; links are passed over."""
    splits = split_names(file)
    others = [name for name in file if name not in splits]
    groups = [name for name in others if file.get(name, getclass=True, getlink=True) is h5py.HardLink]
    found = [name for name in groups if isinstance(file[name], h5py.Group) and ARRAYS[0] in file[name]]
    return [printable(name) for name in found]


def describe_unused(groups: Sequence[str]) -> str:
    """That these groups of a file are not used, as a sentence."""
    return f"not used: {', '.join(groups)}, not named for train, val or test"


def no_splits(file: h5py.File, where: str, question: str) -> UserError:
    """The error of a file in which no group is a split; ends with a question if no group could be meant."""
    advice = question
    if others := unused_groups(file):
        advice = f"{', '.join(others)} {'has' if len(others) == 1 else 'have'} images: rename a group to one of these"
    return UserError(f"{where} has none of the groups {', '.join(SPLITS)}; {advice}")


def convert_advice(path: Path, size: int | None = None) -> str:
    """Advice on how to make a usable file from this one, in the current folder."""
    name = unused(Path(f"{path.stem}-{size or 'converted'}.h5"))
    resized = [] if size is None else ["--size", str(size)]
    return f"convert it with: {command_line(['pyro-sri', 'data', 'convert', path, '--out', name, *resized])}"


def _is_plain(dtype: np.dtype[Any], kinds: str) -> bool:
    """Whether a column has values of these kinds, alone or in vectors."""
    return dtype.base.kind in kinds


def _check_split(group: Any, where: str) -> None:
    imgs, masks, factors = (stored(group, name, where) for name in ARRAYS)
    if not isinstance(imgs, h5py.Dataset):
        raise UserError(f"{where} has no array imgs; a split needs imgs, uint8 [n,H,W,3]")
    if imgs.dtype != np.uint8:
        raise UserError(f"{where}/imgs is {_kind(imgs)}; images must be uint8 in 0..255: rewrite them as such")
    if imgs.ndim != 4 or imgs.shape[3] != 3 or imgs.shape[1] != imgs.shape[2] or 0 in imgs.shape:
        advice = "rewrite them"
        if imgs.ndim == 4 and imgs.shape[3] == 3 and 0 not in imgs.shape:
            advice = "`pyro-sri data convert` cuts them to squares"
        raise UserError(f"{where}/imgs has shape {imgs.shape}; images must be [n,H,W,3], n >= 1, H == W: {advice}")
    if imgs.shape[1] > LARGEST_SIDE:
        raise UserError(
            f"{where}/imgs has shape {imgs.shape}; a side may have at most {LARGEST_SIDE} pixels: write smaller ones"
        )
    check_stored(imgs, f"{where}/imgs")
    if masks is not None:
        if not isinstance(masks, h5py.Dataset) or masks.dtype != np.uint8:
            advice = "rewrite them"
            if isinstance(masks, h5py.Dataset) and masks.dtype.kind in "buif" and masks.ndim == 5:
                advice = "`pyro-sri data convert` does that"
            raise UserError(f"{where}/masks is {_kind(masks)}; masks must be a uint8 array, 255 inside: {advice}")
        n, height, width, _ = imgs.shape
        if masks.ndim != 5 or masks.shape[1] < 1 or (masks.shape[0], *masks.shape[2:]) != (n, height, width, 1):
            expected = f"[{n},O,{height},{width},1]"
            raise UserError(f"{where}/masks has shape {masks.shape}; it must be {expected} like imgs: rewrite them")
        if masks.shape[1] > MOST_ENTITIES:
            raise UserError(
                f"{where}/masks has {masks.shape[1]} entities; it may have at most {MOST_ENTITIES}: rewrite them"
            )
        check_stored(masks, f"{where}/masks")
    if factors is not None:
        rows = isinstance(factors, h5py.Dataset) and factors.shape is not None and factors.shape[:1] == imgs.shape[:1]
        if not rows or factors.dtype.hasobject:
            raise UserError(
                f"{where}/factors is {_kind(factors)}; it must be an array of numbers, one row per image: rewrite it"
            )
        check_stored(factors, f"{where}/factors")


def _kind(item: Any) -> str:
    return one_line(f"{item.dtype} {item.shape}") if isinstance(item, h5py.Dataset) else "not an array"
