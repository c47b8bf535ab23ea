"""The names that people give to train, val and test."""

import re

NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "devel", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
# Words that may follow: train_images, val2017, test-set.
FILLERS = frozenset({"set", "split", "data", "image", "images", "img", "imgs", "pictures", "frames", "rgb"})


def split_of(name: str) -> str | None:
    """The split that a folder or group is named for, in any of these spellings and any case, or None."""
    words = re.findall(r"[a-z]+", name.lower())
    if not words or any(word not in FILLERS for word in words[1:]):
        return None
    return NAMES.get(words[0]) or NAMES.get(words[0].removesuffix("set"))
