"""Instance masks, read in the same way by converters, the check, the preview and evaluation.

`pyro_sri.metrics.entity_labels` decides which entity a pixel belongs to. Masks that it would misread are refused: index
maps, inverted masks, and values that are not shares of a pixel.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_sri.metrics.segmentation import entity_labels

SOFT = 0.9  # of the pixels that are neither inside nor outside: at soft edges, at least so many are mixtures
LITTLE = 0.2  # of the pixels: masks that leave less to the background may be inverted
FULL = 255
OPPOSITE = ((0, 1), (1, 0), (1, 1), (1, -1))  # a neighbour of a pixel, in rows and columns; the other is across from it


def visible_masks(masks: NDArray[Any]) -> NDArray[np.uint8]:
    """The visible part of each entity: each pixel belongs to the entity in front, or to none.

    Args:
        masks: [n, O, H, W, 1], as `entity_labels` takes them.

    Returns:
        uint8 [n, O, H, W, 1], 255 inside and 0 outside.
    """
    return one_hot_masks(entity_labels(masks), masks.shape[1])


def one_hot_masks(entities: NDArray[np.integer], num_entities: int) -> NDArray[np.uint8]:
    """Masks, 255 inside and 0 outside, from a map of entities.

    Args:
        entities: The entity of each pixel, [n, H, W]. Other numbers mean no entity.
        num_entities: O.

    Returns:
        uint8 [n, O, H, W, 1].
    """
    inside = entities[:, None] == np.arange(num_entities, dtype=entities.dtype)[:, None, None]  # [n, O, H, W]
    return (inside.view(np.uint8) * np.uint8(FULL))[..., None]


def mask_fault(masks: NDArray[Any]) -> str | None:
    """Why masks would be misread, as words to follow "masks"; None if they would not be.

    Args:
        masks: Numbers >= 0, [n, O, H, W, 1].
    """
    if is_index_map(masks):
        return f"have several values ({_some_values(masks)}) in one mask, like an index map"
    largest = masks.max(initial=0)
    if 1 < largest < FULL / 2 and not _all_hard(masks):
        return f"have the values {_some_values(masks)}, which are neither 0 and 255 nor shares of a pixel"
    if look_inverted(masks):
        return "are inverted: every pixel is in all entities but one; 0 must be outside"
    return None


def is_index_map(masks: NDArray[Any]) -> bool:
    """Whether a single mask contains numbers of entities: several values besides 0, and not only at soft edges.

    At a soft edge, a pixel is a mixture of two opposite neighbours. Most pixels of an entity are not.
    """
    if masks.shape[1] != 1 or _all_hard(masks):
        return False
    largest = masks.max()
    if 1 < largest < FULL / 2:  # neither shares nor bytes
        return True
    lowest = 0 if largest > 1 else masks.min()
    between = (masks > lowest) & (masks < largest)
    return bool(between.any() and mixtures(masks[..., 0], masks).mixed[..., None][between].mean() < SOFT)


class Mixtures(NamedTuple):
    """Pixels of pictures or maps at borders, bool [..., H, W].

    Attributes:
        mixed: Pixels that are a mixture of two opposite neighbours: unlike both, and between them in each channel.
        borders: Pixels that are unlike one of their neighbours.
    """

    mixed: NDArray[np.bool_]
    borders: NDArray[np.bool_]


def mixtures(codes: NDArray[Any], shown: NDArray[Any]) -> Mixtures:
    """Which pixels are at borders, and which of them are mixtures of their neighbours.

    Args:
        codes: [..., H, W], equal where the pixels are.
        shown: What pixels show, [..., H, W, C].
    """
    height, width = codes.shape[-2:]
    wide = [*[(0, 0)] * (codes.ndim - 2), (1, 1), (1, 1)]
    codes_around, shown_around = np.pad(codes, wide, mode="edge"), np.pad(shown, [*wide, (0, 0)], mode="edge")
    mixed, borders = np.zeros(codes.shape, dtype=bool), np.zeros(codes.shape, dtype=bool)
    for down, right in OPPOSITE:
        ways = [
            (..., slice(1 + y, 1 + y + height), slice(1 + x, 1 + x + width))
            for y, x in ((down, right), (-down, -right))
        ]
        unlike_one, unlike_other = (codes_around[way] != codes for way in ways)
        borders |= unlike_one | unlike_other
        places = np.nonzero(unlike_one & unlike_other)
        one, here, other = shown_around[*ways[0], :][places], shown[places], shown_around[*ways[1], :][places]
        between = ((one <= here) & (here <= other)) | ((other <= here) & (here <= one))
        mixed[places] |= between.all(-1)
    return Mixtures(mixed, borders)


def look_inverted(masks: NDArray[Any]) -> bool:
    """Whether, in most scenes, every pixel is in all entities or all but one, of at least three.

    A first entity that fills the image is a background behind the others. Inverted, it would be empty.
    """
    num_entities = masks.shape[1]
    if num_entities < 3 or not len(masks):
        return False
    inside = _inside(masks)
    inverted = (inside.sum(1) >= num_entities - 1).all((1, 2, 3)) & ~inside[:, 0].all((1, 2, 3))
    return bool(inverted.mean() > 0.5)


def _all_hard(masks: NDArray[Any]) -> bool:
    """Whether each entity has only one value besides 0."""
    return bool(((masks == 0) | (masks == masks.max(axis=(0, 2, 3, 4), keepdims=True, initial=0))).all())


def _inside(masks: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a mask has more than half of its largest value."""
    return np.asarray(2.0 * masks > masks.max(axis=(0, 2, 3, 4), keepdims=True, initial=0))


def _some_values(masks: NDArray[Any]) -> str:
    values = np.unique(masks)
    shown = ", ".join(f"{value:.4g}" for value in values[:4])
    return shown if len(values) <= 4 else f"{shown} .. {values[-1]:.4g}"


class MaskTally:
    """Counts what to report about the masks of a split: overlaps, hidden entities, pixels in no entity.

    Args:
        background: The background entities.
        declared: Whether the file itself names them.
    """

    def __init__(self, background: Sequence[int], declared: bool):
        self.background, self.declared = list(background), declared
        self.scenes = self.overlapping = self.hiding = self.covered_by_one = self.framed = 0
        self.pixels = self.nobodys = self.backgrounds = 0

    def update(self, masks: NDArray[Any]) -> None:
        """Counts more scenes, [n, O, H, W, 1]."""
        inside: NDArray[np.bool_] = _inside(masks)[..., 0]  # [n, O, H, W]
        labels = entity_labels(masks)  # [n, H, W]
        self.update_labels(labels)
        there, whole = np.asarray(inside.any((2, 3))), np.asarray(inside.all((2, 3)))  # [n, O]
        visible = [np.asarray(labels == entity).any((1, 2)) for entity in range(masks.shape[1])]
        hidden = there & ~np.stack(visible, axis=1)
        in_front = np.where(whole.any(1), whole.shape[1] - 1 - whole[:, ::-1].argmax(1), -1)
        self.overlapping += int((inside.sum(1) > 1).any((1, 2)).sum())
        self.hiding += int(hidden.any(1).sum())
        self.covered_by_one += int((there & (np.arange(whole.shape[1]) < in_front[:, None])).any(1).sum())

    def update_labels(self, labels: NDArray[np.integer]) -> None:
        """Counts more scenes, given as the entity of each pixel, [n, H, W]; -1 is none."""
        self.scenes += len(labels)
        self.pixels += labels.size
        self.nobodys += int((labels < 0).sum())
        self.backgrounds += int(np.isin(labels, self.background).sum())
        edge = np.concatenate([labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]], axis=1)
        objects = np.setdiff1d(edge, [-1, *self.background])
        largest = np.max([(edge == entity).sum(1) for entity in objects], axis=0, initial=0)
        self.framed += int((largest > 2 * np.isin(edge, [-1, *self.background]).sum(1)).sum())

    @property
    def nobodys_share(self) -> float:
        """The share of the pixels that are in no entity."""
        return self.nobodys / max(1, self.pixels)

    def fault(self) -> str | None:
        """Why nearly all ground truth would be lost, as words to follow "masks"; None if it would not be."""
        if self.scenes and 2 * self.covered_by_one >= self.scenes:
            return (
                f"cover the whole image with an entity in front of others, in {self.covered_by_one} of {self.scenes} "
                "scenes: the higher entity is in front, so a background must come first"
            )
        return None

    def background_note(self, advice: str) -> list[str]:
        """What a user should know if what is in no mask is the background, likewise.

        Args:
            advice: What to do if a mask is the background.
        """
        if not self.scenes or self.nobodys_share >= LITTLE:
            return []
        share = f"{100 * self.nobodys_share:.0f} %"
        return [f"leave {share} of the pixels to the background: is it one of them ({advice}), or are they inverted?"]

    def notes(self) -> list[str]:
        """What a user should know, as words to follow "masks"."""
        if not self.scenes:
            return []
        notes, total = [], f"of {self.scenes} scenes"
        if self.overlapping:
            notes.append(f"overlap in {self.overlapping} {total}: the higher entity is in front")
        if self.hiding:
            notes.append(f"have an entity that others hide completely in {self.hiding} {total}")
        if self.nobodys == self.pixels:
            return [*notes, "are all empty"]
        share = self.nobodys_share
        if self.background and not self.backgrounds:
            notes.append(
                f"show no pixel of the background, entity {', '.join(map(str, self.background))}: they may be inverted,"
                " or no mask is background (attribute background_entities=[])"
            )
        elif self.background and not self.declared and share > 0.01:
            notes.append(
                f"leave {100 * share:.0f} % of the pixels to no entity, though entity 0 counts as the background: if "
                "it is an object, set the attribute background_entities=[] (`data convert F.h5 --background-entities`)"
            )
        elif self.background and not self.declared and 2 * self.framed > self.scenes:
            notes.append(
                f"have an object along most of the image's edge in {self.framed} {total}: is it the background, which "
                "must be entity 0, or named by the attribute background_entities?"
            )
        elif self.nobodys + self.backgrounds == self.pixels:
            notes.append("show no object: all pixels are background")
        return notes
