"""The dataset file: one HDF5 layout for published, converted and generated scenes.

Groups `train`, `val`, `test` (at least one of them), each with

    imgs     uint8 [n, H, W, 3], H == W
    masks    uint8 [n, O, H, W, 1], 255 inside an entity, 0 outside; entity 0 is the background unless the file's
             attribute `background_entities` lists others (optional)
    factors  [n, O, F] numbers, or a structured array, with the names in the attribute `factor_names` (optional)

Generated files carry the attributes source="generated", generator, generator_version, seed and every parameter.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from pyro_sri.errors import UserError

SPLITS = ("train", "val", "test")
ARRAYS = ("imgs", "masks", "factors")

# HDF5 reads whole blocks of a checksummed array: small blocks keep shuffled reads from disk quick, large ones keep the
# index small. 16 images of 64 x 64 are 196 kB.
IMAGES_PER_BLOCK = 16
# Scenes held in memory at once when a whole file is read from end to end.
SCENES_PER_READ = 256

# What h5py raises for damaged content, depending on which part is damaged.
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError)

# Told how far a long task is: report(what, items done, items in all).
Report = Callable[[str, int, int], None]


class Scenes(NamedTuple):
    """A run of scenes on its way into a file: n of them, with O entities (background included) and F factors."""

    images: NDArray[np.uint8]  # [n, H, W, 3], in 0..255
    masks: NDArray[np.uint8] | None = None  # [n, O, H, W, 1], 255 inside, 0 outside
    factors: NDArray[Any] | None = None  # [n, O, F]


class DatasetFile:
    """A dataset file, opened read-only and checked against the layout; use it as a context manager.

    Opening reads the shapes and types, not the content: `check_dataset` does that.

    Args:
        path: The HDF5 file.
        content: What is in it, where it has no name yet.

    Attributes:
        path: The file.
        splits: The splits it has, in the order train, val, test.
        image_size: Height and width of its images, in pixels.
        attributes: The file's attributes as plain Python values.

    Raises:
        UserError: If the file is missing, cannot be read, is no HDF5 file, or breaks the layout.
    """

    def __init__(self, path: Path | str, content: BinaryIO | None = None):
        self.path = Path(path)
        self._file = _open(self.path) if content is None else h5py.File(content, "r")
        try:
            self._check_layout()
        except UserError:
            self.close()
            raise
        except HDF5_ERRORS as error:
            self.close()
            raise UserError(f"{self.path} is damaged ({_one_line(error)}); make or download it again") from None

    def _check_layout(self) -> None:
        self.splits = tuple(name for name in SPLITS if isinstance(self._file.get(name), h5py.Group))
        if not self.splits:
            raise UserError(f"{self.path} has none of the groups {', '.join(SPLITS)}; is it a dataset file?")
        for split in self.splits:
            _check_split(self._file[split], f"{self.path}: {split}")
        sizes = {split: self._file[split]["imgs"].shape[1] for split in self.splits}
        if len(set(sizes.values())) > 1:
            raise UserError(f"{self.path}: the splits have images of different sizes {sizes}; make them equal")
        self.image_size: int = sizes[self.splits[0]]
        self.attributes = {name: _plain(value) for name, value in self._file.attrs.items()}
        self._check_background()

    def _check_background(self) -> None:
        entities = np.atleast_1d(np.asarray(self.attributes.get("background_entities", 0)))
        counts = [count for split in self.splits if (count := self.num_entities(split)) is not None]
        limit = min(counts, default=256)
        if entities.dtype.kind not in "iu" or not all(0 <= entity < limit for entity in entities.flat):
            raise UserError(f"{self.path}: background_entities must be numbers of entities that the masks have")

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
            raise UserError(f"{self.path} has no split {split!r}; it has {', '.join(self.splits)}")
        return self._file[split]["imgs"]

    def masks(self, split: str) -> Any | None:
        """The instance masks of a split: an HDF5 dataset, uint8 [n, O, H, W, 1], or None where there are none."""
        return self._optional(split, "masks")

    def factors(self, split: str) -> Any | None:
        """The factors of a split: an HDF5 dataset with n and O first, or None where there are none."""
        return self._optional(split, "factors")

    def _optional(self, split: str, name: str) -> Any | None:
        return self.images(split).parent.get(name)

    def num_images(self, split: str) -> int:
        """How many images a split has."""
        return int(self.images(split).shape[0])

    def num_entities(self, split: str) -> int | None:
        """How many entities the masks of a split can hold, background included; None without masks."""
        masks = self.masks(split)
        return None if masks is None else int(masks.shape[1])

    @property
    def background_entities(self) -> tuple[int, ...]:
        """The entities that are no objects: entity 0 unless the file says otherwise."""
        return tuple(int(entity) for entity in np.atleast_1d(self.attributes.get("background_entities", 0)))

    @property
    def generated(self) -> bool:
        """Whether the scenes were generated here, as opposed to read from a published data set."""
        return self.attributes.get("source") == "generated"

    def arrays(self) -> Iterator[tuple[str, Any]]:
        """Every array of the layout that is there, as ("train/imgs", HDF5 dataset), in a fixed order."""
        for split in self.splits:
            for name in ARRAYS:
                array = self._optional(split, name)
                if array is not None:
                    yield f"{split}/{name}", array

    def content_hash(self) -> str:
        """The sha256 of every array with its name, type and shape, read in pieces; attributes do not count.

        Raises:
            UserError: If a piece cannot be read.
        """
        digest = hashlib.sha256()
        for name, array in self.arrays():
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            for start in range(0, len(array), SCENES_PER_READ):
                digest.update(self.read(array, slice(start, start + SCENES_PER_READ)).tobytes())
        return digest.hexdigest()

    def read(self, array: Any, items: slice | Sequence[int]) -> NDArray[Any]:
        """Read items of one of the file's arrays into memory.

        Args:
            array: A dataset of this file.
            items: A slice, or indices in any order.

        Raises:
            UserError: If the content is damaged.
        """
        try:
            if isinstance(items, slice):
                return np.asarray(array[items])
            return np.stack([array[item] for item in items])  # ten times as fast as h5py's own list of indices
        except HDF5_ERRORS as error:
            raise UserError(
                f"{self.path}: {array.name[1:]} cannot be read ({_one_line(error)}); "
                "`pyro-sri data check` says which item is damaged"
            ) from None


def one_hot_masks(entities: NDArray[np.integer], num_entities: int) -> NDArray[np.uint8]:
    """Masks, 255 inside and 0 outside, from a map of entities.

    Args:
        entities: The entity that each pixel belongs to, [n, H, W].
        num_entities: O.

    Returns:
        uint8 [n, O, H, W, 1].
    """
    inside = entities[:, None] == np.arange(num_entities, dtype=entities.dtype)[:, None, None]  # [n, O, H, W]
    return (inside.view(np.uint8) * np.uint8(255))[..., None]


def check_dataset(path: Path | str, progress: Report | None = None) -> None:
    """Read a dataset file from end to end.

    Checksums of the file are verified where it has them (files written here do). Masks must be 0 or 255 with no pixel
    in two entities, and in generated files no pixel in none; factors must be finite.

    Args:
        path: The file.
        progress: Called as progress("train/imgs", items done, items in all) after every piece.

    Raises:
        UserError: Naming the array and the index of the first damaged item.
    """
    with DatasetFile(path) as file:
        for name, array in file.arrays():
            for start in range(0, len(array), SCENES_PER_READ):
                stop = min(start + SCENES_PER_READ, len(array))
                _check_items(file, name, array, start, stop)
                if progress is not None:
                    progress(name, stop, len(array))


def _check_items(file: DatasetFile, name: str, array: Any, start: int, stop: int) -> None:
    try:
        items = np.asarray(array[start:stop])
    except HDF5_ERRORS:
        first = next((i for i in range(start, stop) if not _readable(array, i)), start)
        raise UserError(f"{file.path}: {name}: item {first} cannot be read; make or download the file again") from None
    if name.endswith("masks"):
        fault = _mask_faults(items, exact=file.generated)
        says = "has masks that are not a partition into 0 and 255"
    elif np.issubdtype(items.dtype, np.floating):
        fault = ~np.isfinite(items).reshape(len(items), -1).all(1)
        says = "has factors that are not finite"
    else:
        return
    if fault.any():
        raise UserError(f"{file.path}: {name}: item {start + int(fault.argmax())} {says}; make the file again")


def _readable(array: Any, index: int) -> bool:
    try:
        array[index]
    except HDF5_ERRORS:
        return False
    return True


def _mask_faults(masks: NDArray[np.uint8], exact: bool) -> NDArray[np.bool_]:
    inside = masks == 255
    entities = inside.sum(1, dtype=np.uint8)  # [n, H, W, 1]: how many entities claim each pixel
    wrong_count = entities != 1 if exact else entities > 1
    wrong_value = (masks != 0) & ~inside
    return wrong_count.any((1, 2, 3)) | wrong_value.any((1, 2, 3, 4))


def _open(path: Path) -> h5py.File:
    if not path.exists():
        raise UserError(f"there is no file {path}; `pyro-sri data make` makes one")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the .h5 file in it")
    try:
        # No file locks: several processes read, nobody writes (files appear complete), and some disks cannot lock.
        return h5py.File(path, "r", locking=False)
    except PermissionError:
        raise UserError(f"{path} may not be read; change its permissions") from None
    except OSError as error:
        raise UserError(
            f"{path} is not an HDF5 file, or is cut short ({_one_line(error)}); make or download it again"
        ) from None


def _check_split(group: Any, where: str) -> None:
    imgs = group.get("imgs")
    if not isinstance(imgs, h5py.Dataset):
        raise UserError(f"{where} has no array imgs; a split needs imgs, uint8 [n,H,W,3]")
    if imgs.dtype != np.uint8:
        raise UserError(f"{where}/imgs is {imgs.dtype}; images must be uint8 in 0..255: convert them")
    if imgs.ndim != 4 or imgs.shape[3] != 3 or imgs.shape[1] != imgs.shape[2] or 0 in imgs.shape:
        raise UserError(f"{where}/imgs has shape {imgs.shape}; images must be [n,H,W,3], n >= 1, H == W: convert them")
    masks = group.get("masks")
    if masks is not None:
        if not isinstance(masks, h5py.Dataset) or masks.dtype != np.uint8:
            raise UserError(f"{where}/masks is {_kind(masks)}; masks must be a uint8 array, 255 inside: convert them")
        n, height, width, _ = imgs.shape
        if masks.ndim != 5 or masks.shape[1] < 1 or (masks.shape[0], *masks.shape[2:]) != (n, height, width, 1):
            expected = f"[{n},O,{height},{width},1]"
            raise UserError(f"{where}/masks has shape {masks.shape}; it must be {expected} like imgs: convert them")
    factors = group.get("factors")
    if factors is not None and (not isinstance(factors, h5py.Dataset) or factors.shape[:1] != imgs.shape[:1]):
        raise UserError(f"{where}/factors is {_kind(factors)}; it must be an array with one row per image: convert it")


def _kind(item: Any) -> str:
    return f"{item.dtype} {item.shape}" if isinstance(item, h5py.Dataset) else "no array"


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
