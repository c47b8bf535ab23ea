"""Checks the content of a dataset file: ``pyro-sri data check``."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.format import DatasetFile, Report, describe_unused
from pyro_sri.data.hdf5 import HDF5_ERRORS, check_filters, pieces
from pyro_sri.data.masks import MaskTally, mask_fault
from pyro_sri.system.errors import UserError

DARKEST = 32  # images whose values are all below this are reported


def check_dataset(path: Path | str, progress: Report | None = None) -> list[str]:
    """Read a dataset file from end to end, and check it.

    Checksums are verified if the file has them (files written here do). Masks must be 0 or 255, and in generated files
    an exact partition. Factors must be finite.

    Args:
        path: The file.
        progress: Called as progress("train/imgs", items done, items in total) after every piece.

    Returns:
        Remarks on a sound file, one sentence each: groups that are not used, masks that overlap, entities that are
        never visible, factors that evaluation leaves out, images that are nearly black.

    Raises:
        UserError: If an item is damaged. Names the array and the index of the first one.
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
        notes = [describe_unused(file.unused)] if file.unused else []
        notes += [f"{split}/imgs {fault}" for split in file.splits if (fault := dark_images(brightest[split]))]
        notes += [f"{name} {note}" for name, tally in tallies.items() for note in tally.notes()]
        faults = {split: file.factor_fault(split) for split in file.splits}
        return notes + [f"{split}: {fault}; evaluation leaves out DCI" for split, fault in faults.items() if fault]


def mask_tally(file: DatasetFile) -> MaskTally:
    """An empty tally for the masks of a file."""
    return MaskTally(file.background_entities, "background_entities" in file.attributes)


def dark_images(brightest: int) -> str | None:
    """What is wrong if no value of images is larger than this, as words to follow "imgs"; None if nothing is."""
    if brightest == 0:
        return "are all black"
    if brightest <= 1:
        return "have no value above 1 of 255: were they in [0, 1], and not multiplied by 255?"
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
            raise UserError(f"{file.path}: {name} {wrong}; {file.conversion}")
        fault, says = _wrong_values(items), "has masks with values other than 0 and 255"
        advice = file.conversion
        if file.generated and not fault.any():
            fault, says, advice = _no_partition(items), "has masks that are not a partition", "make the file again"
    elif name.endswith("factors"):
        fault, says = ~finite_rows(items), "has factors that are not finite"
    if fault.any():
        raise UserError(f"{file.path}: {name}: item {start + int(fault.argmax())} {says}; {advice}")
    return items


def finite_rows(factors: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of an array of numbers, or of a structured array, have only finite values; [n]."""
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
