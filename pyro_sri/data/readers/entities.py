"""Finds the entity of each pixel, and leaves entities out.

Masks are handled as an entity map, one byte per pixel. It has the same content in a fraction of the space, and always
stays an exact partition.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_sri.metrics.segmentation import entity_labels

NO_ENTITY = 255  # in an entity map: a pixel outside of every mask


def entity_maps(masks: NDArray[Any]) -> NDArray[np.uint8]:
    """The entity of each pixel, or NO_ENTITY.

    Args:
        masks: [n, O, H, W, 1], O <= 255, as `entity_labels` takes them: where they overlap, the higher entity is in
            front.

    Returns:
        uint8 [n, H, W].
    """
    return entity_labels(masks).astype(np.uint8)  # -1 becomes 255


def entity_map(masks: NDArray[Any]) -> NDArray[np.uint8]:
    """The same for one scene: [O, H, W] -> uint8 [H, W]."""
    return entity_maps(masks[None, ..., None])[0]


def as_labels(entities: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Entity maps as labels, of the same shape: -1 in place of NO_ENTITY."""
    return np.where(entities == NO_ENTITY, -1, entities.astype(np.int64))


def kept_entities(
    visible: NDArray[np.bool_], background: Sequence[int], max_objects: int | None
) -> NDArray[np.intp] | None:
    """Which entities of a scene to keep, so that it has room for `max_objects` objects and no more.

    Args:
        visible: [O], which entities the scene has.
        background: The background entities, which are always kept.
        max_objects: Most objects in a scene; None keeps all entities of all scenes, in their order.

    Returns:
        The entities to keep: the background, then visible objects in their order, then the rest; None if there are too
        many objects.
    """
    if max_objects is None:
        return np.arange(len(visible))
    objects = np.setdiff1d(np.arange(len(visible)), background)
    if visible[objects].sum() > max_objects:
        return None
    objects = objects[(~visible[objects]).argsort(kind="stable")]
    return np.concatenate([np.asarray(background, dtype=np.intp), objects[:max_objects]])


def keep_entities(entities: NDArray[np.uint8], kept: NDArray[np.intp]) -> NDArray[np.uint8]:
    """An entity map in which the entity kept[k] is number k, and all others are NO_ENTITY."""
    numbers = np.full(256, NO_ENTITY, dtype=np.uint8)
    numbers[kept] = np.arange(len(kept), dtype=np.uint8)
    return numbers[entities]
