"""The names that people give to train, val and test."""

import re
from collections.abc import Iterable

NAMES = {
    **dict.fromkeys(("train", "training", "trn", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "devel", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "ts"), "test"),
}
# Words that may stand beside: train_images, images_train, val2017, test-set.
FILLERS = frozenset({"set", "split", "data", "image", "images", "img", "imgs", "pictures", "frames", "rgb"})
# Words for images that are held out, but for what?
UNCLEAR = frozenset({"eval", "evaluation", "holdout", "heldout", "trainval", "minival"})

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def split_names(names: Iterable[str]) -> dict[str, str]:
    """Which of the folders or groups side by side are named for splits, and for which, in the order of the names.

    Names may be spelt in any usual way and case, with words for images in front or behind: Train, validation, test-set,
    images_train. Other words may be there if two names differ in nothing but the split: my_train and my_test.
    """
    read = {name: _read(name) for name in names}
    found = {name: (splits[0], others) for name, (splits, others) in read.items() if len(splits) == 1}
    of_others: dict[tuple[str, ...], set[str]] = {}
    for split, others in found.values():
        of_others.setdefault(others, set()).add(split)
    return {name: split for name, (split, others) in found.items() if not others or len(of_others[others]) > 1}


def is_held_out(name: str) -> bool:
    """Whether a name says that images are held out, but not for which split: eval, held_out, trainval."""
    splits, others = _read(name)
    return len(splits) > 1 or (not splits and "".join(others) in UNCLEAR)


def may_be_split(name: str) -> bool:
    """Whether a name that is none of `split_names` may be meant for a split: holdout, or my_train without a my_test."""
    return bool(_read(name)[0]) or is_held_out(name)


def _read(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The splits that a name has, and its other words but those for images."""
    words = [word.lower() for word in _WORDS.findall(name)]
    splits = tuple(found for word in words if (found := _split_of(word)))
    return splits, tuple(word for word in words if not _split_of(word) and word not in FILLERS)


def _split_of(word: str) -> str | None:
    return NAMES.get(word) or NAMES.get(word.removesuffix("set"))
