"""The families of generated scenes, and a few tools that the flat families share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pyro_sri.data.format import SceneArrays
from pyro_sri.data.masks import one_hot_masks
from pyro_sri.system.errors import UserError
from pyro_sri.system.seeds import check_seed


class Drawn(NamedTuple):
    """Scenes as a family draws them. Every pixel belongs to one entity, so a map of entities replaces the masks."""

    images: NDArray[np.uint8]  # [n, H, W, 3], in 0..255
    entities: NDArray[np.uint8]  # [n, H, W], the number of the entity that each pixel belongs to
    factors: NDArray[np.float32]  # [n, O, F]; O is the number of entities, background included

    def scenes(self) -> SceneArrays:
        """The same with one mask per entity."""
        return SceneArrays(self.images, one_hot_masks(self.entities, self.factors.shape[1]), self.factors)


@dataclass(frozen=True)
class Generator:
    """A family of generated scenes.

    Attributes:
        name: Its name in the commands.
        description: One line for users.
        version: Increased whenever the same seed gives different arrays than before.
        default_size: The published image size.
        sizes: The smallest and the largest image size that it makes.
        max_entities: Largest number of entities in a scene, background included, with the default options.
        factor_names: The columns of the factors.
        options: A frozen dataclass of its options, which raises UserError for values out of range.
        make: make(rngs, size, options, split) draws one scene from each random generator. A scene depends only on its
            own random generator. The split ("train", "val" or "test") matters to families that draw from a stock
            of real pictures, so that those in test are unseen.
        background_entities: The entities that are not objects.
        scenes_per_task: Scenes drawn in one go: enough for NumPy to be fast, few enough to show progress.
    """

    name: str
    description: str
    version: int
    default_size: int
    sizes: tuple[int, int]
    max_entities: int
    factor_names: tuple[str, ...]
    options: type[Any]
    make: Callable[[Sequence[np.random.Generator], int, Any, str], Drawn]
    background_entities: tuple[int, ...] = (0,)
    scenes_per_task: int = 256

    def check_request(self, size: int, counts: Mapping[str, int], seed: int) -> None:
        """Raises UserError for a size, numbers of images by split, or a seed with which no data set can be made."""
        smallest, largest = self.sizes
        if not smallest <= size <= largest:
            raise UserError(f"{self.name} cannot be made at size {size}; use a size from {smallest} to {largest}")
        if min(counts.values()) < 0 or not any(counts.values()):
            told = ", ".join(f"{split} {count}" for split, count in counts.items())
            raise UserError(f"cannot make {told} images; numbers must be 0 or more, and at least one of them positive")
        check_seed(seed)

    def parse_options(self, values: Mapping[str, object]) -> Any:
        """The options object with these values in place of the defaults.

        Raises:
            UserError: For an unknown option (names the nearest), or a value out of range.
        """
        known = [field.name for field in fields(self.options)]
        for name in values:
            if name not in known:
                nearest = get_close_matches(name, known, n=1)
                hint = f"did you mean {nearest[0]}?" if nearest else f"it has {', '.join(known) or 'no options'}"
                raise UserError(f"{self.name} has no option {name}; {hint}")
        return self.options(**values)


def draw_until(
    rngs: Sequence[np.random.Generator],
    shape: tuple[int, ...],
    accept: Callable[[NDArray[np.float64], NDArray[np.intp]], NDArray[np.bool_]],
) -> NDArray[np.float64]:
    """Uniform draws from each random generator, redrawn until each is accepted (rejection sampling).

    Args:
        rngs: n random generators, one per scene.
        shape: The shape of one scene's draws.
        accept: Takes draws `[m, *shape]` and the indices of their scenes; says which of them to accept.

    Returns:
        The accepted draws, in [0, 1), `[n, *shape]`.
    """
    draws = np.empty((len(rngs), *shape))
    pending = np.arange(len(rngs))
    while len(pending):
        draws[pending] = [rngs[int(scene)].random(shape) for scene in pending]
        pending = pending[~accept(draws[pending], pending)]
    return draws


def choose(draws: NDArray[np.float64], count: int | NDArray[np.integer]) -> NDArray[np.intp]:
    """Whole numbers from 0 to count - 1, uniform where the draws are uniform in [0, 1)."""
    return (draws * count).astype(np.intp)


def windows(canvas: NDArray[Any], side: int) -> NDArray[Any]:
    """A writable view of every square window of a stack of canvases.

    Args:
        canvas: [n, H, W].
        side: Side of the windows.

    Returns:
        [n, H - side + 1, W - side + 1, side, side]: index it by (scene, top, left).
    """
    return sliding_window_view(canvas, (side, side), axis=(1, 2), writeable=True)
