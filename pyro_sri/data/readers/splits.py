"""Which scenes of a source go into which split."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from pyro_sri.data.format import SPLITS
from pyro_sri.data.readers.reader import Options
from pyro_sri.data.readers.stacking import Scene
from pyro_sri.system.errors import UserError

# Scenes in val, and as many in test, if a source has no splits and the user does not set them.
HELD_OUT = 1_000


def wanted_splits(available: Iterable[str], options: Options, source: Path) -> list[str]:
    """The splits to convert if a source has its own: those that the user does not leave out.

    Raises:
        UserError: If scenes are asked for in a split that the source does not have, or no split is left.
    """
    available = list(available)
    for split, count in options.counts.items():
        if count and split not in available:
            raise UserError(f"{source} has no split {split}, only {', '.join(available)}; leave --{split} out")
    wanted = [split for split in SPLITS if split in available and options.counts[split] != 0]
    if not wanted:
        raise UserError(
            f"{source} has only {', '.join(available)}, all set to 0; set at least one of them to 1 or more"
        )
    return wanted


def at_most(scenes: Iterable[Scene], most: int | None, what: str) -> Iterator[Scene]:
    """The first `most` scenes of a split, or all of them for None.

    Raises:
        UserError: If there are none. Says what is missing.
    """
    return _taken(scenes, most, 1, lambda _: f"there are no {what}; choose other options or another source")


def divide(scenes: Iterator[Scene], options: Options, what: str) -> dict[str, Iterator[Scene]]:
    """Splits for a source that has none: the first scenes are val, the next ones test, the rest train.

    Args:
        scenes: All usable scenes, in order. The splits share this iterator: use up one before the next.
        options: With the numbers of scenes. By default, val and test have 1000 each, and train has the rest.
        what: What the scenes are, for messages.

    Returns:
        The splits that are not left out, in the order in which to take them. Taking them raises UserError if there
        are too few scenes for val and test, or none for train.
    """
    val = HELD_OUT if options.val is None else options.val
    test = HELD_OUT if options.test is None else options.test
    asked = f"--val {val} and --test {test}" + ("" if options.train == 0 else ", with at least one left for train")

    def complaint(count: int) -> str:
        return f"{count} {what} are too few for {asked}; choose smaller numbers"

    splits = {
        "val": (val, _taken(scenes, val, val, complaint)),
        "test": (test, _taken(scenes, test, test, lambda count: complaint(val + count))),
        "train": (options.train, _taken(scenes, options.train, 1, lambda count: complaint(val + test + count))),
    }
    return {split: some for split, (count, some) in splits.items() if count != 0}


def _taken(scenes: Iterable[Scene], most: int | None, least: int, complaint: Callable[[int], str]) -> Iterator[Scene]:
    count = 0
    for scene in islice(scenes, most):
        yield scene
        count += 1
    if count < least:
        raise UserError(complaint(count))
