"""EfficientMORL's HDF5 files: groups train, val, test with `imgs`, and perhaps `masks` and `factors`.

Images are uint8 [n, H, W, 3], of 240 x 320 pixels for CLEVR; masks [n, O, H, W, 1] in any coding that is 0 outside
(0 and 255, 0 and 1, bool, fractions); factors any array with one row per scene.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.format import ARRAYS, HDF5_ERRORS, SPLITS, Report, SceneArrays, check_stored, finite_rows, stored
from pyro_sri.data.readers.entities import NO_ENTITY, entity_map, keep_entities, kept_entities
from pyro_sri.data.readers.geometry import (
    ALL,
    CLEVR_SHAPE,
    CLEVR_SIZE,
    CLEVR_WINDOW,
    Window,
    resize_image,
    resize_map,
    window_attribute,
)
from pyro_sri.data.readers.reader import Conversion, Options
from pyro_sri.data.readers.splits import at_most, wanted_splits
from pyro_sri.data.readers.stacking import Scene, scenes_per_piece, stack
from pyro_sri.system.errors import UserError


def is_hdf5_file(path: Path) -> bool:
    """Whether a file is HDF5."""
    return path.is_file() and bool(h5py.is_hdf5(path))


def read_emorl(path: Path, options: Options, progress: Report) -> Conversion:
    """Read an EfficientMORL file.

    Images of CLEVR's published size are cropped and made 96 pixels wide; square ones keep their size unless the user
    says otherwise. Objects are counted by the factor `visibility` where there is one, otherwise by the masks. Factors
    with text of variable length are left out.

    Raises:
        UserError: If the file cannot be read or has another layout.
    """
    try:
        with _opened(path) as file:
            arrays = _wanted_arrays(file, path, options)
            shapes = {some["imgs"].shape[1:3] for some in arrays.values()}
            entities = {split: some["masks"].shape[1] for split, some in arrays.items() if "masks" in some}
            names = [_factor_names(some["factors"]) for some in arrays.values() if "factors" in some]
    except HDF5_ERRORS:
        raise UserError(f"{path} is damaged; download it again") from None
    if len(shapes) > 1:
        raise UserError(f"{path} has images of different sizes {sorted(shapes)} in its splits; convert them one by one")
    height, width = shapes.pop()
    window = CLEVR_WINDOW if (height, width) == CLEVR_SHAPE else ALL
    size = options.size or (height if window == ALL else CLEVR_SIZE)
    max_objects = options.max_objects
    attributes: dict[str, object] = {"source": "emorl", "files": [path.name], "size": size}
    fitting = ""
    if max_objects is not None:
        attributes["max_objects"] = max_objects
        fitting = f" with at most {max_objects} objects"
        entities = {split: min(number, 1 + max_objects) for split, number in entities.items()}
    if window != ALL:
        attributes["crop"] = window_attribute(window)
    if names and names[0]:
        attributes["factor_names"] = names[0]

    def pieces(split: str) -> Iterator[SceneArrays]:
        scenes = _scenes(path, split, window, size, max_objects, progress)
        what = f"scenes in {split} of {path}{fitting}"
        return stack(at_most(scenes, options.counts[split], what), entities.get(split))

    return Conversion({split: pieces(split) for split in arrays}, attributes)


def _wanted_arrays(file: h5py.File, path: Path, options: Options) -> dict[str, dict[str, Any]]:
    """The arrays of each split to convert."""
    if "source" in file.attrs:
        raise UserError(f"{path} is already a dataset file of this library; use it as it is with --data")
    available = [split for split in SPLITS if isinstance(stored(file, split, str(path)), h5py.Group)]
    if not available:
        raise UserError(f"{path} has none of the groups {', '.join(SPLITS)}; is it an EfficientMORL file?")
    return {
        split: _checked_arrays(file[split], f"{path}: {split}") for split in wanted_splits(available, options, path)
    }


def _checked_arrays(group: h5py.Group, where: str) -> dict[str, Any]:
    """The arrays of a split that are of use, HDF5 datasets by name: imgs, and where known masks and factors."""
    imgs, masks, factors = (stored(group, name, where) for name in ARRAYS)
    if not isinstance(imgs, h5py.Dataset) or imgs.dtype != np.uint8 or imgs.ndim != 4 or imgs.shape[3] != 3:
        raise UserError(f"{where} has no array imgs, uint8 [n,H,W,3], but {_kind(imgs)}; is it an EfficientMORL file?")
    check_stored(imgs, f"{where}/imgs")
    num, height, width, _ = imgs.shape
    if height != width and (height, width) != CLEVR_SHAPE:
        raise UserError(f"{where}/imgs has {_kind(imgs)}; images must be square, or of CLEVR's 240 x 320 pixels")
    arrays = {"imgs": imgs}
    if masks is not None:
        sound = isinstance(masks, h5py.Dataset) and masks.dtype.kind in "buif" and masks.ndim == 5
        if not sound or masks.shape != (num, masks.shape[1], height, width, 1) or masks.shape[1] > NO_ENTITY:
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


def _factor_names(factors: Any) -> list[str]:
    """The columns of factors; none where they are not known."""
    if factors.dtype.names:
        return list(factors.dtype.names)
    names = np.atleast_1d(factors.attrs.get("factor_names", [])).astype(str).tolist()
    return names if factors.shape[-1] == len(names) else []


def _scenes(
    path: Path, split: str, window: Window, size: int, max_objects: int | None, progress: Report
) -> Iterator[Scene]:
    with _opened(path) as file:
        arrays = _checked_arrays(file[split], f"{path}: {split}")
        names = _factor_names(arrays["factors"]) if "factors" in arrays else []
        total, height, width, _ = arrays["imgs"].shape
        mask_bytes = arrays["masks"].shape[1] * arrays["masks"].dtype.itemsize if "masks" in arrays else 0
        step = scenes_per_piece(height * width * (3 + mask_bytes))
        for start in range(0, total, step):
            piece = {name: _read(path, array, slice(start, start + step)) for name, array in arrays.items()}
            _check_values(piece, f"{path}: {split}", start)
            visible = _visible(piece, names, max_objects)
            if visible is None:
                raise UserError(
                    f"{path}: {split} has neither masks nor visibility to count objects by; leave --max-objects out"
                )
            progress(split, min(start + step, total), total)
            for index, image in enumerate(piece["imgs"]):
                kept = kept_entities(visible[index], 1, max_objects)
                if kept is None:
                    continue
                entities, factors = None, piece["factors"][index] if "factors" in piece else None
                if "masks" in piece:
                    entities = entity_map(piece["masks"][index, :, *window, 0])
                    entities = resize_map(keep_entities(entities, kept), size)
                if factors is not None and factors.shape[:1] == visible.shape[1:]:
                    factors = factors[kept]
                yield Scene(resize_image(image[window], size), entities, factors)


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
    piece: Mapping[str, NDArray[Any]], names: Sequence[str], max_objects: int | None
) -> NDArray[np.bool_] | None:
    """Which entities the scenes have, [n, O], by their factors or else by their masks; None where nothing says it."""
    masks, factors = piece.get("masks"), piece.get("factors")
    if max_objects is None:  # all are kept anyway
        return np.ones((len(piece["imgs"]), 0 if masks is None else masks.shape[1]), dtype=bool)
    if factors is not None and "visibility" in names:
        values = factors["visibility"] if factors.dtype.names else factors[..., names.index("visibility")]
        if values.ndim == 2 and (masks is None or values.shape == masks.shape[:2]):
            return values > 0
    return None if masks is None else np.asarray(masks.any((2, 3, 4)))


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
        where = f"{array.name[1:]}, items {items.start} to {min(items.stop, len(array)) - 1}"
        raise UserError(f"{path}: {where} cannot be read; download the file again") from None
