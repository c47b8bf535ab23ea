"""Which entity each pixel belongs to, and leaving entities out.

Masks travel as an entity map, one byte per pixel: it says the same in a fraction of the space, and stays an exact
partition whatever is done to it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_ENTITY = 255  # in an entity map: a pixel outside of every mask


def entity_map(masks: NDArray[Any]) -> NDArray[np.uint8]:
    """The entity of each pixel: that with the largest value, NO_ENTITY where all are 0.

    Args:
        masks: [O, H, W], O <= 255; 0 outside and above 0 inside, in any unit.

    Returns:
        uint8 [H, W].
    """
    return np.where(masks.any(0), masks.argmax(0).astype(np.uint8), np.uint8(NO_ENTITY))


def kept_entities(visible: NDArray[np.bool_], num_background: int, max_objects: int | None) -> NDArray[np.intp] | None:
    """Which entities of a scene to keep so that it has room for `max_objects` objects and no more.

    Args:
        visible: [O], which entities the scene has; the first `num_background`, the background, are kept in any case.
        num_background: How many entities are background.
        max_objects: The most objects of a scene; None keeps all entities of all scenes.

    Returns:
        The entities to keep, visible ones first and otherwise in their order; None if there are too many objects.
    """
    if max_objects is None:
        return np.arange(len(visible))
    if visible[num_background:].sum() > max_objects:
        return None
    hidden = ~visible
    hidden[:num_background] = False
    return hidden.argsort(kind="stable")[: num_background + max_objects]


def keep_entities(entities: NDArray[np.uint8], kept: NDArray[np.intp]) -> NDArray[np.uint8]:
    """An entity map in which the entity kept[k] is number k, and all others are NO_ENTITY."""
    numbers = np.full(256, NO_ENTITY, dtype=np.uint8)
    numbers[kept] = np.arange(len(kept), dtype=np.uint8)
    return numbers[entities]
