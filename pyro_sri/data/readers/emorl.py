"""HDF5 files with EfficientMORL's layout: groups train, val, test with `imgs`, and perhaps `masks` and `factors`.

Images are uint8 [n, H, W, 3], 240 x 320 pixels for CLEVR. Masks are [n, O, H, W, 1] in any coding that is 0 outside
(0 and 255, 0 and 1, bool, fractions), or index maps [n, 1, H, W, 1]. Factors are any array with one row per scene.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.attributes import said_attributes
from pyro_sri.data.checking import finite_rows
from pyro_sri.data.format import (
    ARRAYS,
    DatasetFile,
    Report,
    SceneArrays,
    describe_unused,
    no_splits,
    split_groups,
    unused_groups,
)
from pyro_sri.data.hdf5 import HDF5_ERRORS, check_filters, check_stored, pieces, stored
from pyro_sri.data.masks import MaskTally, is_index_map, mask_fault
from pyro_sri.data.readers.account import Account, describe_cut
from pyro_sri.data.readers.entities import NO_ENTITY, as_labels, entity_maps, keep_entities, kept_entities
from pyro_sri.data.readers.geometry import (
    ALL,
    CLEVR_SHAPE,
    CLEVR_SIZE,
    CLEVR_WINDOW,
    Window,
    centre,
    resize_image,
    window_attribute,
)
from pyro_sri.data.readers.map_codes import MapCodes, Numbering, SoftEdges, code_counts
from pyro_sri.data.readers.reader import Conversion, Options
from pyro_sri.data.readers.splits import at_most, wanted_splits
from pyro_sri.data.readers.stacking import Scene, scenes_per_piece, stack
from pyro_sri.system.errors import UserError

LARGEST_INDEX = 63  # of an entity in an index map


def is_hdf5_file(path: Path) -> bool:
    """Whether a file is HDF5."""
    return path.is_file() and bool(h5py.is_hdf5(path))


def read_emorl(path: Path, options: Options, progress: Report) -> Conversion:
    """Read an EfficientMORL file, another HDF5 file with that layout, or a dataset file to be changed.

    Images of CLEVR's published size are cut and resized to 96 pixels. Others are cut to their central square and keep
    its size unless the user says otherwise. Objects are counted by the factor `visibility` if there is one, otherwise
    by the masks. A single mask with several values is an index map: its values are the entities. What the file says is
    kept, also on splits and their arrays.

    Raises:
        UserError: If the file cannot be read or has another layout.
    """
    account = Account()
    try:
        with _opened(path) as file:
            arrays = _wanted_arrays(file, path, options)
            shapes = {some["imgs"].shape[1:3] for some in arrays.values()}
            entities = {split: some["masks"].shape[1] for split, some in arrays.items() if "masks" in some}
            said = _said(file, path, arrays)
            own = said.pop("factor_names", None)
            if names := _kept_names(arrays, own, account):
                said["factor_names"] = names
            if unused := unused_groups(file):
                account.say(describe_unused(unused))
            dropped = [split for split in arrays if "factors" in file[_name_of(file, split, path)]]
            dropped = [split for split in dropped if "factors" not in arrays[split]]
    except HDF5_ERRORS:
        raise UserError(f"{path} is damaged; download it again") from None
    if dropped:
        account.say(f"the factors of {', '.join(dropped)} were left out: they are not a plain array of numbers")
    if len(shapes) > 1:
        raise UserError(f"{path} has images of different sizes {sorted(shapes)} in its splits; convert them one by one")
    numbering = _index_numbering(path, entities) if _holds_index_maps(path, entities) else None
    if numbering is not None:
        entities = dict.fromkeys(entities, numbering.num_entities)
        account.say(_described(numbering))
    height, width = shapes.pop()
    window = _window(height, width)
    size = options.size or (CLEVR_SIZE if (height, width) == CLEVR_SHAPE else min(height, width))
    account.say(describe_cut((height, width), window, size))
    background = _background(said, options, entities, path)
    source = _Source(path, window, size, options.max_objects, background, entities, numbering, own)
    attributes: dict[str, object] = said | {"source": said.get("source", "emorl"), "files": [path.name], "size": size}
    fitting = ""
    if options.max_objects is not None:
        attributes["max_objects"] = options.max_objects
        fitting = f" with at most {options.max_objects} objects"
        room = len(source.background) + options.max_objects
        entities = {split: min(number, room) for split, number in entities.items()}
    if "source" in said and size != height:
        attributes["resized_from"] = height
    if window != ALL:
        attributes["crop"] = window_attribute(window)
    declared = "background_entities" in said or options.background_entities is not None
    if declared:
        first = range(len(source.background))
        attributes["background_entities"] = list(source.background if options.max_objects is None else first)
    tallies = {split: MaskTally(source.background, declared) for split in entities}

    def converted(split: str) -> Iterator[SceneArrays]:
        scenes = _scenes(source, split, account, tallies, progress)
        what = f"scenes in {split} of {path}{fitting}"
        yield from stack(at_most(scenes, options.counts[split], what), entities.get(split))
        if split in tallies and (fault := tallies[split].fault()):
            raise UserError(f"{path}: {split}: masks {fault}")

    def sentences() -> list[str]:
        notes = [f"the masks of {split} {note}" for split, tally in tallies.items() for note in tally.notes()]
        return [*account.sentences(), *notes]

    return Conversion({split: converted(split) for split in arrays}, attributes, sentences)


class _Source(NamedTuple):
    """A file, and how to convert it."""

    path: Path
    window: Window
    size: int
    max_objects: int | None
    background: Sequence[int]
    entities: Mapping[str, int]  # their number by split; index maps have more of them than masks
    numbering: Numbering | None  # of index maps
    factor_names: Any  # what the file says about them


def _window(height: int, width: int) -> Window:
    if (height, width) == CLEVR_SHAPE:
        return CLEVR_WINDOW
    return ALL if height == width else centre(height, width, min(height, width))


def _said(file: h5py.File, path: Path, arrays: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The attributes of a file that the new file can have too."""
    said = said_attributes(file, {split: some["imgs"].parent for split, some in arrays.items()}, str(path))
    return {name: value for name, value in said.items() if _can_be_said(value)}


def _can_be_said(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    plain = all(isinstance(item, bool | int | float | str) for item in items)
    return plain and len({type(item) for item in items}) <= 1


def _background(said: Mapping[str, Any], options: Options, entities: Mapping[str, int], path: Path) -> tuple[int, ...]:
    given = options.background_entities
    found = np.atleast_1d(np.asarray(said.get("background_entities", 0) if given is None else given))
    whole = found.ndim == 1 and (found.dtype.kind in "iu" or not found.size)
    if not whole or not all(0 <= entity < min(entities.values(), default=NO_ENTITY) for entity in found):
        where = f"{path}: background_entities" if given is None else "--background-entities"
        raise UserError(f"{where} must be numbers of entities that the masks have; there are {entities or 'none'}")
    return tuple(int(entity) for entity in found)


def _holds_index_maps(path: Path, entities: Mapping[str, int]) -> bool:
    lone = [split for split, number in entities.items() if number == 1]
    return any(is_index_map(masks) for split in lone for masks in _masks(path, split))


def _index_numbering(path: Path, entities: Mapping[str, int]) -> Numbering:
    """How the values of the index maps of a file are numbered as entities."""
    codes, edges = MapCodes(LARGEST_INDEX), SoftEdges()
    for split in entities:
        for masks in _masks(path, split):
            if masks.shape[1] != 1 or (masks != np.round(masks)).any():
                raise UserError(
                    f"{path}: {split}/masks have several values in one mask, but are not index maps: values must be "
                    "whole numbers; number the entities 0, 1, 2 and so on, or write a mask for each"
                )
            maps = masks[:, 0, ..., 0].astype(np.int64)
            for scene in maps:
                codes.add(*code_counts(scene))
            edges.add(maps, maps[..., None])
    numbering = codes.numbering()
    if numbering.table is None:
        raise UserError(
            f"{path}: the masks have several values in one mask, but more than the {1 + LARGEST_INDEX} of index maps; "
            "number the entities 0, 1, 2 and so on, or write a mask for each"
        )
    if fault := edges.fault():
        raise UserError(f"{path}: the index maps {fault}")
    return numbering


def _described(numbering: Numbering) -> str:
    last = numbering.num_entities - 1
    numbers = numbering.table is not None and all(numbering.table.get(code) == code for code in range(1 + last))
    others = "and so on" if numbers else "the others follow in ascending order"
    told = f"the masks are index maps: value {numbering.background} is entity 0, {others} up to {last}"
    return ", ".join([told, *numbering.notes])


def _masks(path: Path, split: str) -> Iterator[NDArray[Any]]:
    """The masks of a split, piece by piece."""
    with _opened(path) as file:
        array = _checked_arrays(file[_name_of(file, split, path)], f"{path}: {split}")["masks"]
        for piece in pieces(array):
            yield _read(path, array, piece)


def _name_of(file: h5py.File, split: str, path: Path) -> str:
    return str(split_groups(file, str(path))[split].name)


def _wanted_arrays(file: h5py.File, path: Path, options: Options) -> dict[str, dict[str, Any]]:
    """The arrays of each split to convert."""
    if "source" in file.attrs and not options.given and _is_usable(path):
        raise UserError(
            f"{path} is already a dataset file: use it with --data as it is, or say what to change, e.g. with --size"
        )
    groups = split_groups(file, str(path))
    if not groups:
        raise no_splits(file, str(path), "is it an EfficientMORL file?")
    return {split: _checked_arrays(groups[split], f"{path}: {split}") for split in wanted_splits(groups, options, path)}


def _is_usable(path: Path) -> bool:
    """Whether a file can be trained on as it is."""
    try:
        with DatasetFile(path) as file:
            masks = [array for name, array in file.arrays() if name.endswith("masks")]
            every = (file.read(array, piece) for array in masks for piece in pieces(array))
            return not any(((values != 0) & (values != 255)).any() for values in every)
    except UserError:
        return False


def _checked_arrays(group: h5py.Group, where: str) -> dict[str, Any]:
    """The usable arrays of a split, HDF5 datasets by name: imgs, and masks and factors if there are any."""
    imgs, masks, factors = (stored(group, name, where) for name in ARRAYS)
    if not isinstance(imgs, h5py.Dataset) or imgs.dtype != np.uint8 or imgs.ndim != 4 or imgs.shape[3] != 3:
        raise UserError(
            f"{where} has no array imgs, uint8 [n,H,W,3] in 0..255 (found: {_kind(imgs)}); rewrite the images as such"
        )
    check_stored(imgs, f"{where}/imgs")
    num, height, width, _ = imgs.shape
    arrays = {"imgs": imgs}
    if masks is not None:
        sound = isinstance(masks, h5py.Dataset) and masks.dtype.kind in "buif" and masks.ndim == 5
        if not sound or masks.shape != (num, masks.shape[1], height, width, 1) or not 0 < masks.shape[1] <= NO_ENTITY:
            raise UserError(f"{where}/masks has {_kind(masks)}; it must have numbers [{num},O,{height},{width},1]")
        check_stored(masks, f"{where}/masks")
        arrays["masks"] = masks
    if isinstance(factors, h5py.Dataset) and not factors.dtype.hasobject:
        if factors.shape[:1] != (num,):
            raise UserError(f"{where}/factors has {_kind(factors)}; it must have one row per image, {num}")
        check_stored(factors, f"{where}/factors")
        arrays["factors"] = factors
    return arrays


def _kind(array: Any) -> str:
    return f"{array.dtype} {array.shape}" if isinstance(array, h5py.Dataset) else "none"


def _factor_names(factors: Any, said: Any) -> list[str]:
    """The names of the columns of factors, their own or those that the file says; empty if these do not fit."""
    if factors.dtype.names:
        return list(factors.dtype.names)
    fits = isinstance(said, list) and factors.ndim > 1 and len(said) == factors.shape[-1]
    return [str(name) for name in said] if fits else []


def _kept_names(arrays: Mapping[str, Mapping[str, Any]], said: Any, account: Account) -> list[str]:
    """The names of the columns of all factors. Says where those of the file do not fit."""
    names = {split: _factor_names(some["factors"], said) for split, some in arrays.items() if "factors" in some}
    kept = next((found for found in names.values() if found), [])
    misfits = [split for split, found in names.items() if not found]
    if misfits and said is not None:
        left_out = "" if kept else ", and were left out"
        account.say(
            f"the names in factor_names do not fit the columns of the factors of {', '.join(misfits)}{left_out}"
        )
    return kept


def _scenes(
    source: _Source, split: str, account: Account, tallies: Mapping[str, MaskTally], progress: Report
) -> Iterator[Scene]:
    path = source.path
    with _opened(path) as file:
        arrays = _checked_arrays(file[_name_of(file, split, path)], f"{path}: {split}")
        names = _factor_names(arrays["factors"], source.factor_names) if "factors" in arrays else []
        total, height, width, _ = arrays["imgs"].shape
        mask_bytes = arrays["masks"].shape[1] * arrays["masks"].dtype.itemsize if "masks" in arrays else 0
        step = scenes_per_piece(height * width * (3 + mask_bytes))
        for start in range(0, total, step):
            piece = {name: _read(path, array, slice(start, start + step)) for name, array in arrays.items()}
            _check_values(piece, f"{path}: {split}", start)
            maps = _entity_maps(piece.get("masks"), source, split, tallies)
            visible = _visible(piece, maps, names, source, split)
            if visible is None:
                raise UserError(
                    f"{path}: {split} has neither masks nor visibility to count objects by; leave --max-objects out"
                )
            progress(split, min(start + step, total), total)
            for index, image in enumerate(piece["imgs"]):
                kept = kept_entities(visible[index], source.background, source.max_objects)
                if kept is None:
                    continue
                entities, factors = None, piece["factors"][index] if "factors" in piece else None
                if maps is not None:
                    entities = account.cut(keep_entities(maps[index], kept), source.window, source.size)
                if factors is not None and factors.shape[:1] == visible.shape[1:]:
                    factors = factors[kept]
                yield Scene(resize_image(image[source.window], source.size), entities, factors)


def _entity_maps(
    masks: NDArray[Any] | None, source: _Source, split: str, tallies: Mapping[str, MaskTally]
) -> NDArray[np.uint8] | None:
    """The entity of each pixel, [n, H, W]; None if there are no masks."""
    if masks is None:
        return None
    if source.numbering is not None:
        maps = np.stack([source.numbering.entities(scene) for scene in masks[:, 0, ..., 0]])
        tallies[split].update_labels(as_labels(maps))
        return maps
    if fault := mask_fault(masks):
        raise UserError(f"{source.path}: {split}/masks {fault}; rewrite them")
    tallies[split].update(masks)
    return entity_maps(masks)


def _check_values(piece: Mapping[str, NDArray[Any]], where: str, start: int) -> None:
    """Raises UserError for the first scene with factors that are not finite, or masks that are not shares."""
    faults = {}
    if "factors" in piece:
        faults["factors that are not finite"] = ~finite_rows(piece["factors"])
    if "masks" in piece:
        sound = finite_rows(piece["masks"]) & (piece["masks"] >= 0).all((1, 2, 3, 4))
        faults["masks that are negative or not finite"] = ~sound
    for what, fault in faults.items():
        if fault.any():
            raise UserError(f"{where}: scene {start + int(fault.argmax())} has {what}; download the file again")


def _visible(
    piece: Mapping[str, NDArray[Any]],
    maps: NDArray[np.uint8] | None,
    names: Sequence[str],
    source: _Source,
    split: str,
) -> NDArray[np.bool_] | None:
    """Which entities the scenes have, [n, O], by their factors or else their masks; None if neither says it."""
    factors, num_entities = piece.get("factors"), source.entities.get(split, 0)
    if source.max_objects is None:  # all are kept anyway
        return np.ones((len(piece["imgs"]), num_entities), dtype=bool)
    if factors is not None and "visibility" in names:
        values = factors["visibility"] if factors.dtype.names else factors[..., names.index("visibility")]
        if values.ndim == 2 and (maps is None or values.shape[1] == num_entities):
            return values > 0
    if maps is None:
        return None
    return np.stack([(maps == entity).any((1, 2)) for entity in range(num_entities)], axis=1)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r", locking=False)  # nobody writes, and some disks cannot lock
    except OSError:
        raise UserError(f"{path} is not an HDF5 file, is truncated or cannot be read; download it again") from None
    with file:
        yield file


def _read(path: Path, array: Any, items: slice) -> NDArray[Any]:
    try:
        return np.asarray(array[items])
    except HDF5_ERRORS:
        check_filters(array, f"{path}: {array.name[1:]}")
        where = f"{array.name[1:]}, items {items.start} to {min(items.stop, len(array)) - 1}"
        raise UserError(f"{path}: {where} cannot be read; download the file again") from None
