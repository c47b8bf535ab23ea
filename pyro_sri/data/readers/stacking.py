"""Groups single scenes into the pieces in which a dataset file is written."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.format import SceneArrays
from pyro_sri.data.hdf5 import SCENES_PER_READ
from pyro_sri.data.masks import one_hot_masks

BYTES_PER_PIECE = 64 * 1024**2


class Scene(NamedTuple):
    """One scene with O entities."""

    image: NDArray[np.uint8]  # [H, W, 3], in 0..255
    entities: NDArray[np.uint8] | None = None  # [H, W]: the entity of each pixel, or NO_ENTITY
    factors: Any | None = None  # [O, F], or whatever else the source has for a scene


def scenes_per_piece(bytes_per_scene: int) -> int:
    """How many scenes to hold in memory at once: 256, or fewer if they would take more than 64 MiB."""
    return max(1, min(SCENES_PER_READ, BYTES_PER_PIECE // bytes_per_scene))


def stack(scenes: Iterable[Scene], num_entities: int | None = None) -> Iterator[SceneArrays]:
    """The scenes in pieces, with masks in place of entity maps.

    Args:
        scenes: Scenes of one size, all with an entity map or none, and all with factors or none.
        num_entities: O, or None if there are no entity maps.
    """
    held: list[Scene] = []
    for scene in scenes:
        held.append(scene)
        num_pixels = scene.image.size // 3
        if len(held) == scenes_per_piece(num_pixels * (3 + (num_entities or 0))):
            yield _stacked(held, num_entities)
            held = []
    if held:
        yield _stacked(held, num_entities)


def _stacked(scenes: Sequence[Scene], num_entities: int | None) -> SceneArrays:
    maps = [scene.entities for scene in scenes if scene.entities is not None]
    factors = [scene.factors for scene in scenes if scene.factors is not None]
    return SceneArrays(
        np.stack([scene.image for scene in scenes]),
        None if num_entities is None else one_hot_masks(np.stack(maps), num_entities),
        np.stack(factors) if factors else None,
    )
