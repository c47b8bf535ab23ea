"""Maps in which each value or colour is an entity: which one is the background, and how the others are numbered."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.masks import mixtures
from pyro_sri.data.readers.entities import NO_ENTITY

MOST_CODES = 4096  # of all maps, to keep track of
WHITE = 255  # in maps of numbers: the background, or if that is 0, a border or region of no entity, as in VOC and COCO
# Of the pixels at borders, by the channels of a map: if more are mixtures of their neighbours, the edges are soft. Of
# greys and numbers, one is often between two others where an object is narrow.
MIXED = {1: 0.2, 3: 0.1}


class Numbering(NamedTuple):
    """How the codes of maps are numbered as entities.

    Attributes:
        background: The code of entity 0.
        table: The entity of each code; None numbers the codes of each map by their rank.
        num_entities: O, background included.
        notes: What is unusual, as parts of a sentence.
    """

    background: int
    table: Mapping[int, int] | None
    num_entities: int
    notes: Sequence[str]

    def entities(self, codes: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The entity of each pixel of a map [H, W], or NO_ENTITY."""
        values, places = np.unique(codes, return_inverse=True)
        if self.table is None:
            objects = iter(range(1, NO_ENTITY))
            numbers = [0 if value == self.background else next(objects) for value in values.tolist()]
        else:
            numbers = [self.table[value] for value in values.tolist()]
        return np.array(numbers, dtype=np.uint8)[places.reshape(codes.shape)]


def code_counts(codes: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The codes >= 0 of a map in ascending order, and how many pixels have each."""
    if codes.max() <= 0xFFFF:  # ten times as fast
        counts = np.bincount(codes.ravel())
        values = np.flatnonzero(counts)
        return values, counts[values]
    values, counts = np.unique(codes, return_counts=True)
    return values, counts


class MapCodes:
    """Counts the codes of maps. A code is a value, or a colour as one number.

    Args:
        numbered: The largest code that counts as the number of an entity.
    """

    def __init__(self, numbered: int):
        self.numbered = numbered
        self.maps = self.most = 0
        self.presence: Counter[int] = Counter()
        self.pixels: Counter[int] = Counter()

    def add(self, codes: NDArray[np.integer], counts: NDArray[np.integer]) -> None:
        """Counts the codes of another map, each with its number of pixels."""
        self.maps += 1
        self.most = max(self.most, len(codes))
        self.presence.update(codes.tolist())
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            self.pixels[code] += count
        if len(self.presence) > MOST_CODES:
            self.presence = Counter({0: self.presence[0]}) + Counter(dict(self.presence.most_common(MOST_CODES // 2)))

    def numbering(self) -> Numbering:
        """Numbers the codes.

        Code 0, or black, is the background if most maps have it, or if any has it and all codes are numbers of
        entities. Otherwise it is 255, if all others are numbers and most maps have it, or else the code that most maps
        have. Numbers of entities stay as they are.
        """
        background, numbers = self._background(), set(self.presence) - {WHITE}
        has_void = WHITE in self.presence and background == 0 and len(numbers) > 1 and self._count_up(numbers)
        codes = numbers if has_void else set(self.presence)
        table: dict[int, int] | None = None
        if background == 0 and max(codes) <= self.numbered:
            table = {code: code for code in range(max(codes) + 1)}
        elif len(codes) <= self.numbered + 1:
            table = {code: place for place, code in enumerate([background, *sorted(codes - {background})])}
        num_entities = self.most + 1 if table is None else len(table)
        notes = []
        if 2 * self.presence[background] <= self.maps:
            notes.append(f"though only {self.presence[background]} of {self.maps} maps have it")
        if table is not None and has_void:
            table[WHITE] = NO_ENTITY
            notes.append(f"value {WHITE} is no entity")
        return Numbering(background, table, num_entities, notes)

    def _background(self) -> int:
        numbers = max(self.presence.keys() - {WHITE}, default=WHITE) <= self.numbered
        if 2 * self.presence[0] > self.maps or (numbers and self.presence[0] and WHITE not in self.presence):
            return 0
        if numbers and 2 * self.presence[WHITE] > self.maps:
            return WHITE
        return max(self.presence, key=lambda code: (self.presence[code], self.pixels[code]))

    def _count_up(self, codes: set[int]) -> bool:
        return len(codes) <= self.numbered + 1 and codes == set(range(len(codes)))


class SoftEdges:
    """Tells whether maps were smoothed, so that mixtures of two entities would count as others."""

    def __init__(self) -> None:
        self._mixed = self._borders = 0
        self._allowed = 0.0

    def add(self, codes: NDArray[Any], shown: NDArray[Any]) -> None:
        """Looks at more maps: their codes [..., H, W], and what pixels show, [..., H, W, C]."""
        found = mixtures(codes, shown)
        borders = int(found.borders.sum())
        self._mixed, self._borders = self._mixed + int(found.mixed.sum()), self._borders + borders
        self._allowed += MIXED[shown.shape[-1]] * borders

    def fault(self) -> str | None:
        """What is wrong, as words to follow "maps"; None if nothing is."""
        if self._mixed <= self._allowed:
            return None
        return (
            f"have soft edges: {100 * self._mixed / self._borders:.0f} % of the pixels at borders are mixtures of "
            "their neighbours, which would count as entities; draw and resize them without smoothing"
        )
