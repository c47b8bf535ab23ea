"""Whether the roles of objects explain the order of the slots."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pyro_sri.evaluation.measures.base import (
    NO_MASKS,
    Meaning,
    Meanings,
    Measure,
    Metrics,
    Truth,
    as_arrays,
    mean_and_error,
    missing,
    slot_arrays,
)
from pyro_sri.inference import Explanation
from pyro_sri.metrics import commonest_position, object_roles, order_consistency, slot_positions


class Order(Measure):
    """Whether objects have a consistent order in the slot sequence, and separately whether the background does."""

    meanings: ClassVar[Meanings] = {
        "order and codes": {
            "order_consistency": Meaning(
                "how well an object's role determines its slot's position, without background (0: random, 1: fully)",
                "higher",
            ),
            "order_information": Meaning(
                "mutual information of an object's role and its slot's position, bits", "higher", detail=True
            ),
            "order_background": Meaning(
                "share of images with the background at its most common position in the sequence", detail=True
            ),
        }
    }

    NAMES = ("order_consistency", "order_information")
    BACKGROUND = "order_background"

    def __init__(self) -> None:
        self.positions: list[NDArray[np.integer]] = []
        self.roles: list[NDArray[np.integer]] = []  # -1 for the background
        self.background: tuple[int, ...] = ()
        self.fills = True  # whether the slots fill the image, with a slot for the background

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Adds a batch."""
        if truth.masks is None:
            return
        masks = slot_arrays(explanation.slot_masks)
        self.fills &= as_arrays(explanation.slot_masks).shape[1] == masks.shape[1]
        self.positions.append(slot_positions(truth.masks, masks, background_entities=truth.background))
        roles = object_roles(truth.masks, background_entities=truth.background)
        self.background = truth.background
        roles[:, list(self.background)] = -1
        self.roles.append(roles)

    def result(self) -> Metrics:
        """Returns `order_consistency` with its standard error, `order_information` in bits, and `order_background`."""
        if not self.roles:
            return missing(NO_MASKS, *self.NAMES, self.BACKGROUND)
        positions = np.concatenate(self.positions)
        result = self._of_background(positions)
        order = order_consistency(positions, np.concatenate(self.roles))
        if not np.isfinite(order.score):
            return result | missing("no image has two objects in separate slots, so there is no order", *self.NAMES)
        error: Metrics = {"order_consistency_stderr": order.stderr} if np.isfinite(order.stderr) else {}
        return result | {"order_consistency": order.score, **error, "order_information": order.information}

    def _of_background(self, positions: NDArray[np.integer]) -> Metrics:
        """`order_background`. If there are several background entities, the one whose position varies most counts."""
        if not self.fills:
            return missing("the slots hold objects only, so the background has no position", self.BACKGROUND)
        places = [commonest_position(positions[:, entity]) for entity in self.background]
        found = [place[~np.isnan(place)] for place in places]
        found = [place for place in found if len(place) > 1]
        if not found:
            return missing("fewer than two images have a background in a slot", self.BACKGROUND)
        return mean_and_error(self.BACKGROUND, min(found, key=lambda place: float(place.mean())))
