"""The input and output of a reader of a published format."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from pyro_sri.data.format import Report, SceneArrays
from pyro_sri.system.errors import UserError
from pyro_sri.system.seeds import check_seed

SIZES = (8, 1024)
MAX_OBJECTS = (1, 200)
ITEMS_PER_REPORT = 16

Item = TypeVar("Item")


@dataclass(frozen=True)
class Options:
    """What the user wants from a conversion; None leaves the choice to the format.

    Attributes:
        size: Side of the images in the file to make, in pixels, 8 to 1024.
        max_objects: Most objects in a scene, without the background, 1 to 200.
        train: Scenes in train, at most; 0 leaves the split out.
        val: Scenes in val, likewise.
        test: Scenes in test, likewise.
        seed: Seed of scenes or splits that are drawn here.
        split_name: Which way to split, if a source has several.
        cameras: Numbers of the cameras to keep.
        masks: The folder of the masks of a folder of images.
        background_entities: The background entities; empty if all are objects.

    Raises:
        UserError: For a value out of range.
    """

    size: int | None = None
    max_objects: int | None = None
    train: int | None = None
    val: int | None = None
    test: int | None = None
    seed: int | None = None
    split_name: str | None = None
    cameras: Sequence[int] | None = None
    masks: Path | None = None
    background_entities: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name, value, (low, high) in (
            ("--size", self.size, SIZES),
            ("--max-objects", self.max_objects, MAX_OBJECTS),
        ):
            if value is not None and not low <= value <= high:
                raise UserError(f"{name} {value} is out of range; use {low} to {high}")
        counts = self.counts
        for split, count in counts.items():
            if count is not None and count < 0:
                raise UserError(f"--{split} {count} is out of range; use 1 or more, or 0 to leave the split out")
        if all(count == 0 for count in counts.values()):
            raise UserError("--train 0, --val 0 and --test 0 leave nothing to convert; ask for scenes in one of them")
        if self.seed is not None:
            check_seed(self.seed)

    @property
    def counts(self) -> dict[str, int | None]:
        """The number of scenes asked for in each split."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def given(self) -> set[str]:
        """The names of the options that are not left to the format."""
        return {name for name, value in asdict(self).items() if value is not None}


class Conversion(NamedTuple):
    """An opened source, ready for `write_dataset`. Its scenes are read as they are taken.

    Attributes:
        splits: The scenes of each split, in pieces.
        attributes: The attributes of the file to make.
        account: What was done, in sentences; complete when all scenes have been taken.
    """

    splits: Mapping[str, Iterable[SceneArrays]]
    attributes: Mapping[str, object]
    account: Callable[[], Sequence[str]] = tuple


class Reader(NamedTuple):
    """A published format.

    Attributes:
        recognises: Whether an existing path looks like it.
        read: Opens a source. Raises UserError if it is not in the format, at once or as scenes are taken.
        options: The options that it uses, besides the size and the counts of the splits.
    """

    recognises: Callable[[Path], bool]
    read: Callable[[Path, Options, Report], Conversion]
    options: frozenset[str] = frozenset()


def reported(items: Iterable[Item], what: str, total: int, progress: Report) -> Iterator[Item]:
    """The items, with a report of their number every now and then."""
    for done, item in enumerate(items, 1):
        if done % ITEMS_PER_REPORT == 0 or done == total:
            progress(what, done, total)
        yield item
