"""What a conversion did that a user should know."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.readers.geometry import Window, resize_map


class Account:
    """Sentences about a conversion. Some are known only when all scenes have been read."""

    def __init__(self) -> None:
        self._sentences: list[str] = []
        self._scenes = self._losing = 0

    def say(self, sentence: str) -> None:
        """Adds a sentence, unless it is empty."""
        if sentence:
            self._sentences.append(sentence)

    def cut(self, entities: NDArray[np.uint8], window: Window, size: int) -> NDArray[Any]:
        """The window of an entity map [H, W], with a side of `size` pixels. Counts scenes that lose an entity."""
        small = resize_map(entities[window], size)
        self._scenes += 1
        self._losing += len(np.unique(small)) < len(np.unique(entities))
        return small

    def sentences(self) -> list[str]:
        """All sentences."""
        if not self._losing:
            return self._sentences
        lost = f"in {self._losing} of {self._scenes} scenes an entity was lost by cutting and resizing"
        return [*self._sentences, lost]


def describe_cut(shape: tuple[int, int], window: Window, size: int) -> str:
    """What is done to pictures of H x W pixels, in a sentence; empty if nothing is."""
    height, width = shape
    rows, columns = (range(length)[part] for length, part in zip(shape, window, strict=True))
    words = []
    if (len(rows), len(columns)) != (height, width):
        rows_kept, columns_kept = f"{rows[0]} to {rows[-1]}", f"{columns[0]} to {columns[-1]}"
        words.append(f"cut to rows {rows_kept} and columns {columns_kept} of {height} x {width} pixels")
    if len(rows) != size:
        how = "enlarged" if len(rows) < size else "made smaller,"
        words.append(f"{how} from {len(rows)} to {size} pixels (images bilinearly, masks by nearest neighbour)")
    return f"images were {' and '.join(words)}" if words else ""
