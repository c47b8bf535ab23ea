"""The dataset file: one HDF5 layout for published, converted and generated scenes.

Groups `train`, `val`, `test` (at least one of them), each with::

    imgs     uint8 [n, H, W, 3], H == W
    masks    uint8 [n, O, H, W, 1], 255 inside an entity, 0 outside; where they overlap the higher entity is in front;
             entity 0 is the background unless the file's attribute `background_entities` lists others, or none
             (optional)
    factors  [n, O, F] numbers, or a structured array, with the names in the attribute `factor_names` (optional)

Groups of other usual names (training, validation, Test) are taken for these splits.

The arrays are in the file itself, all of them: links, arrays kept in other files and arrays of which a part was never
written (HDF5 would read zeros there) are refused. So are sizes that no scene has, before anything is allocated.

Generated files have the attributes source="generated", generator, generator_version, seed and every parameter.
"""

import contextlib
import hashlib
import importlib
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.heaps import check_heaps
from pyro_sri.data.masks import MaskTally, mask_fault, one_hot_masks, visible_masks
from pyro_sri.data.split_names import split_of
from pyro_sri.system.allocation import require_memory_for_hdf5
from pyro_sri.system.errors import UserError, one_line, printable
from pyro_sri.system.files import from_home

__all__ = ["ARRAYS", "SPLITS", "DatasetFile", "Report", "SceneArrays", "check_dataset", "one_hot_masks", "pieces"]

SPLITS = ("train", "val", "test")
ARRAYS = ("imgs", "masks", "factors")

# HDF5 reads whole blocks of a checksummed array: small blocks keep shuffled reads from disk quick, large ones keep the
# index small. 16 images of 64 x 64 are 196 kB.
IMAGES_PER_BLOCK = 16
# Scenes held in memory at once when a whole file is read from end to end: so many, or fewer if they are large.
SCENES_PER_READ = 256
BYTES_PER_READ = 64 * 1024**2

# What a damaged or hostile file may declare, and no scene has.
LARGEST_SIDE = 1024  # pixels of an image
MOST_ENTITIES = 255
LARGEST_ITEM_BYTES = 256 * 1024**2  # the masks or factors of one scene
LARGEST_BLOCK_BYTES = 1024**3  # HDF5 unpacks a block as a whole
LARGEST_READ_BYTES = 1024**3  # asked for in one call
LARGEST_ATTRIBUTE_BYTES = 1024**2

# Filters that are often used, by their registered numbers: files need not name them.
FILTERS = {
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32015: "zstd",
    32026: "blosc2",
}

DARKEST = 32  # images of which no value reaches it are worth a word

# What h5py raises for damaged content, depending on which part is damaged.
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)

# Told how far a long task is: report(what, items done, items in all).
Report = Callable[[str, int, int], None]


class SceneArrays(NamedTuple):
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
        UserError: If the file is missing, cannot be read, is not an HDF5 file, or does not have the layout.
    """

    def __init__(self, path: Path | str, content: BinaryIO | None = None):
        self.path = from_home(path)
        require_memory_for_hdf5()
        self._file = _open(self.path) if content is None else h5py.File(content, "r")
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
        if not self.splits:
            raise UserError(f"{self.path} has none of the groups {', '.join(SPLITS)}; is it a dataset file?")
        for split in self.splits:
            _check_split(self._groups[split], f"{self.path}: {split}")
        sizes = {split: self._groups[split]["imgs"].shape[1] for split in self.splits}
        if len(set(sizes.values())) > 1:
            raise UserError(f"{self.path}: the splits have images of different sizes {sizes}; make them equal")
        self.image_size: int = sizes[self.splits[0]]
        self.attributes = read_attributes(self._file, str(self.path))
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
            raise UserError(f"{self.path} has no split {split!r}; it has {', '.join(self.splits)}")
        return self._groups[split]["imgs"]

    def masks(self, split: str) -> Any | None:
        """The instance masks of a split: an HDF5 dataset, uint8 [n, O, H, W, 1], or None where there are none.

        They may overlap; `visible_masks` reads what is seen of each entity.
        """
        return self._optional(split, "masks")

    def visible_masks(self, split: str, items: slice | Sequence[int]) -> NDArray[np.uint8] | None:
        """The visible part of each entity of some scenes: uint8 [n, O, H, W, 1], or None where there are no masks.

        Each pixel belongs to the entity in front, or to none.

        Raises:
            UserError: If the masks are damaged, or would be read wrong.
        """
        array = self.masks(split)
        if array is None:
            return None
        masks = self.read(array, items)
        if fault := mask_fault(masks):
            raise UserError(f"{self.path}: {split}/masks {fault}; {convert_advice(self.path)}")
        return visible_masks(masks)

    def factor_fault(self, split: str) -> str | None:
        """Why the factors of a split say nothing of single objects; None if they do, or if there are none."""
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
        """How many entities the masks of a split can hold, background included; None without masks."""
        masks = self.masks(split)
        return None if masks is None else int(masks.shape[1])

    @property
    def background_entities(self) -> tuple[int, ...]:
        """The entities that are no objects: entity 0 unless the file says otherwise; empty if all are objects."""
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
        if count * _item_bytes(array) > LARGEST_READ_BYTES:
            size = f"{count} items of {array.shape[1:]} are {count * _item_bytes(array) / 1024**3:.1f} GiB"
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


def pieces(array: Any, stop: int | None = None) -> Iterator[slice]:
    """Runs of items that together are all of an array: 256 items each, or fewer if they would take more than 64 MiB.

    Args:
        array: An HDF5 dataset with n items.
        stop: Only the first so many items; None for all.
    """
    stop = len(array) if stop is None else stop
    step = max(1, min(SCENES_PER_READ, BYTES_PER_READ // max(1, _item_bytes(array))))
    return (slice(start, min(start + step, stop)) for start in range(0, stop, step))


def split_groups(file: h5py.File, where: str) -> dict[str, h5py.Group]:
    """The groups of a file that are splits, in the order train, val, test, whatever the spelling of their names.

    Args:
        file: An HDF5 file.
        where: What it is called, for the error message.

    Raises:
        UserError: If two groups would be the same split, or one is a link.
    """
    names: dict[str, str] = {}
    for name in file:
        split = split_of(name)
        if split is None or not isinstance(stored(file, name, where), h5py.Group):
            continue
        if split in names:
            both = f"{printable(names[split])} and {printable(name)}"
            raise UserError(f"{where} has the groups {both}, which both seem to be {split}; rename one of them")
        names[split] = name
    return {split: file[names[split]] for split in SPLITS if split in names}


def read_attributes(item: Any, where: str) -> dict[str, Any]:
    """The attributes of a file, group or dataset as plain Python values; None for what is none.

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


def convert_advice(path: Path, size: int | None = None) -> str:
    """What makes a file of this one that can be used."""
    name = f"{path.stem}-{size or 'converted'}.h5"
    words = ["pyro-sri", "data", "convert", str(path), "--out", name, *([] if size is None else ["--size", str(size)])]
    return f"this makes one that fits: {shlex.join(words)}"


def check_filters(array: Any, where: str) -> None:
    """Raises UserError if an HDF5 dataset is packed with filters that are not installed, naming them."""
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


def check_dataset(path: Path | str, progress: Report | None = None) -> list[str]:
    """Read a dataset file from end to end.

    Checksums of the file are verified where it has them (files written here do). Masks must be 0 or 255, and in
    generated files an exact partition; factors must be finite.

    Args:
        path: The file.
        progress: Called as progress("train/imgs", items done, items in all) after every piece.

    Returns:
        What is sound and still worth knowing, a sentence each: masks that overlap, entities that are never seen,
        factors that evaluation leaves out, images that are nearly black.

    Raises:
        UserError: Naming the array and the index of the first damaged item.
    """
    with DatasetFile(path) as file:
        tallies = {f"{split}/masks": mask_tally(file) for split in file.splits}
        brightest = dict.fromkeys(file.splits, 0)
        for name, array in file.arrays():
            split = name.split("/")[0]
            for piece in pieces(array):
                items = _checked_items(file, name, array, piece.start, piece.stop)
                if name.endswith("masks"):
                    tallies[name].update(items)
                elif name.endswith("imgs"):
                    brightest[split] = max(brightest[split], int(items.max()))
                if progress is not None:
                    progress(name, piece.stop, len(array))
            if name.endswith("masks") and (fault := tallies[name].fault()):
                raise UserError(f"{file.path}: {name} {fault}; make the file again")
        notes = [f"{split}/imgs {fault}" for split in file.splits if (fault := dark_images(brightest[split]))]
        notes += [f"{name} {note}" for name, tally in tallies.items() if tally.scenes for note in tally.notes()]
        faults = {split: file.factor_fault(split) for split in file.splits}
        return notes + [f"{split}: {fault}; evaluation leaves out DCI" for split, fault in faults.items() if fault]


def mask_tally(file: DatasetFile) -> MaskTally:
    """A tally of the masks of a file, which counts nothing yet."""
    return MaskTally(file.background_entities, "background_entities" in file.attributes)


def dark_images(brightest: int) -> str | None:
    """What is odd about images of which no value is larger, in words that follow "imgs"; None if nothing is."""
    if brightest == 0:
        return "are all black"
    if brightest <= 1:
        return "hold nothing above 1 of 255: were they in [0, 1], and not multiplied by 255?"
    if brightest < DARKEST:
        return f"are all dark: no value is above {brightest} of 255"
    return None


def _checked_items(file: DatasetFile, name: str, array: Any, start: int, stop: int) -> NDArray[Any]:
    try:
        items = np.asarray(array[start:stop])
    except HDF5_ERRORS:
        check_filters(array, f"{file.path}: {name}")
        first = next((i for i in range(start, stop) if not _readable(array, i)), start)
        raise UserError(f"{file.path}: {name}: item {first} cannot be read; make or download the file again") from None
    fault, says, advice = np.zeros(stop - start, dtype=bool), "", "make the file again"
    if name.endswith("masks"):
        if wrong := mask_fault(items):
            raise UserError(f"{file.path}: {name} {wrong}; {convert_advice(file.path)}")
        fault, says = _wrong_values(items), "has masks with values other than 0 and 255"
        advice = convert_advice(file.path)
        if file.generated and not fault.any():
            fault, says, advice = _no_partition(items), "has masks that are not a partition", "make the file again"
    elif name.endswith("factors"):
        fault, says = ~finite_rows(items), "has factors that are not finite"
    if fault.any():
        raise UserError(f"{file.path}: {name}: item {start + int(fault.argmax())} {says}; {advice}")
    return items


def finite_rows(factors: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of an array of numbers, or of a structured array, have no NaN and nothing infinite; [n]."""
    if factors.dtype.names:
        return np.logical_and.reduce([finite_rows(factors[name]) for name in factors.dtype.names])
    if factors.dtype.kind not in "fc":
        return np.ones(len(factors), dtype=bool)
    return np.asarray(np.isfinite(factors).all(axis=tuple(range(1, factors.ndim))))


def _readable(array: Any, index: int) -> bool:
    try:
        array[index]
    except HDF5_ERRORS:
        return False
    return True


def _wrong_values(masks: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray(((masks != 0) & (masks != 255)).any((1, 2, 3, 4)))


def _no_partition(masks: NDArray[np.uint8]) -> NDArray[np.bool_]:
    entities = (masks == 255).sum(1, dtype=np.uint8)  # [n, H, W, 1]: how many entities claim each pixel
    return np.asarray((entities != 1).any((1, 2, 3)))


def _is_plain(dtype: np.dtype[Any], kinds: str) -> bool:
    """Whether a column has values of these kinds, alone or in vectors."""
    return dtype.base.kind in kinds


def _open(path: Path) -> h5py.File:
    if not path.exists():
        raise UserError(f"there is no file {path}; `pyro-sri data make` makes one")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the .h5 file in it")
    if not path.is_file():  # reading a pipe or a device might never end
        raise UserError(f"{path} is not a readable file; name a .h5 file")
    try:
        # No file locks: several processes read, nobody writes (files appear complete), and some disks cannot lock.
        return h5py.File(path, "r", locking=False)
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied; change its permissions") from None
    except OSError as error:
        raise UserError(
            f"{path} is not an HDF5 file, or is truncated ({one_line(error)}); make or download it again"
        ) from None


def stored(group: Any, name: str, where: str) -> Any | None:
    """A group or dataset in an HDF5 group, or None where there is none of that name.

    Args:
        group: The group or file.
        name: A name in it.
        where: What the group is called, for the error message.

    Raises:
        UserError: If it is a link instead, which may lead anywhere: it is not followed.
    """
    if not group.id.links.exists(name.encode()):
        return None
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise UserError(f"{where}: {name} is a link to another place; copy its data into this file")
    return group[name]


def check_stored(array: Any, where: str) -> None:
    """Raises UserError unless a dataset is all in its file, in items and blocks of a size that can be read."""
    properties = array.id.get_create_plist()
    if _missing_filters(array):
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")  # which makes its filters known
    if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
        raise UserError(f"{where} is stored in other files; copy its data into this file")
    if _item_bytes(array) > LARGEST_ITEM_BYTES:
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


def _item_bytes(array: Any) -> int:
    return math.prod(array.shape[1:]) * int(array.dtype.itemsize)


def _check_split(group: Any, where: str) -> None:
    imgs, masks, factors = (stored(group, name, where) for name in ARRAYS)
    if not isinstance(imgs, h5py.Dataset):
        raise UserError(f"{where} has no array imgs; a split needs imgs, uint8 [n,H,W,3]")
    if imgs.dtype != np.uint8:
        raise UserError(f"{where}/imgs is {_kind(imgs)}; images must be uint8 in 0..255: write them anew as such")
    if imgs.ndim != 4 or imgs.shape[3] != 3 or imgs.shape[1] != imgs.shape[2] or 0 in imgs.shape:
        advice = "write them anew"
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
            advice = "write them anew"
            if isinstance(masks, h5py.Dataset) and masks.dtype.kind in "buif" and masks.ndim == 5:
                advice = "`pyro-sri data convert` makes them so"
            raise UserError(f"{where}/masks is {_kind(masks)}; masks must be a uint8 array, 255 inside: {advice}")
        n, height, width, _ = imgs.shape
        if masks.ndim != 5 or masks.shape[1] < 1 or (masks.shape[0], *masks.shape[2:]) != (n, height, width, 1):
            expected = f"[{n},O,{height},{width},1]"
            raise UserError(f"{where}/masks has shape {masks.shape}; it must be {expected} like imgs: write them anew")
        if masks.shape[1] > MOST_ENTITIES:
            raise UserError(
                f"{where}/masks has {masks.shape[1]} entities; it may have at most {MOST_ENTITIES}: write them anew"
            )
        check_stored(masks, f"{where}/masks")
    if factors is not None:
        rows = isinstance(factors, h5py.Dataset) and factors.shape is not None and factors.shape[:1] == imgs.shape[:1]
        if not rows or factors.dtype.hasobject:
            raise UserError(
                f"{where}/factors is {_kind(factors)}; it must be an array of numbers, one row per image: write it anew"
            )
        check_stored(factors, f"{where}/factors")


def _kind(item: Any) -> str:
    return one_line(f"{item.dtype} {item.shape}") if isinstance(item, h5py.Dataset) else "no array"


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, str):  # h5py marks bytes that are not text, and nothing could print them
        return value.encode(errors="surrogateescape").decode(errors="replace")
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value] if value.ndim else _plain(value.item())
    if isinstance(value, np.generic):
        return _plain(value.item())
    return value if isinstance(value, bool | int | float | complex | tuple) else None
