"""What is measured on objects and the slots that hold them: the slots' order, and what their codes say."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pyro_sri.evaluation.measures import NO_MASKS, Metrics, Truth, as_arrays, mean_and_error, missing, slot_arrays
from pyro_sri.inference import Explanation
from pyro_sri.metrics import (
    active_dimensions,
    activeness,
    commonest_position,
    dci,
    matched_codes,
    object_factors,
    object_roles,
    order_consistency,
    slot_positions,
)

MOST_IMAGES = 1000  # for the codes: estimators are fitted to them

NO_CODES = "the system has no slots with codes of their own"


class Order:
    """Whether objects have a consistent order in the slot sequence; and the background a place of its own, apart."""

    NAMES = ("order_consistency", "order_information")
    BACKGROUND = "order_background"

    def __init__(self) -> None:
        self.positions: list[NDArray[np.integer]] = []
        self.roles: list[NDArray[np.integer]] = []  # -1 for the background
        self.background: tuple[int, ...] = ()

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Sees a batch."""
        if truth.masks is None:
            return
        masks = as_arrays(explanation.slot_masks)
        self.positions.append(slot_positions(truth.masks, masks, background_entities=truth.background))
        roles = object_roles(truth.masks, background_entities=truth.background)
        self.background = truth.background
        roles[:, list(self.background)] = -1
        self.roles.append(roles)

    def result(self) -> Metrics:
        """`order_consistency` with its standard error, `order_information` in bits, and `order_background`."""
        if not self.roles:
            return missing(NO_MASKS, *self.NAMES, self.BACKGROUND)
        positions = np.concatenate(self.positions)
        result = self._of_background(positions)
        order = order_consistency(positions, np.concatenate(self.roles))
        if not np.isfinite(order.score):
            return result | missing("no image shows an order: none has two objects in separate slots", *self.NAMES)
        error: Metrics = {"order_consistency_stderr": order.stderr} if np.isfinite(order.stderr) else {}
        return result | {"order_consistency": order.score, **error, "order_information": order.information}

    def _of_background(self, positions: NDArray[np.integer]) -> Metrics:
        """That of the background entity with the fewest images in one place, if there are several."""
        places = [commonest_position(positions[:, entity]) for entity in self.background]
        found = [place[~np.isnan(place)] for place in places]
        found = [place for place in found if len(place)]
        if not found:
            return missing("no slot holds a background", self.BACKGROUND)
        return mean_and_error(self.BACKGROUND, min(found, key=lambda place: float(place.mean())))


class CodeQuality:
    """Disentanglement of the slots' codes, and how many of their dimensions are in use; from the first 1,000 images.

    Args:
        names: What the columns of the factors are.
        no_factors: Why the data's factors are of no use, where it has some.
    """

    DCI_NAMES = ("dci_disentanglement", "dci_completeness", "dci_informativeness")

    def __init__(self, names: Sequence[str], no_factors: str | None = None) -> None:
        self.names = names
        self.no_factors = no_factors
        self.kept: Sequence[str] = ()
        self.num_images = 0
        self.means: list[NDArray[np.floating]] = []  # of all slots [B K, D]
        self.scales: list[NDArray[np.floating]] = []
        self.codes: list[NDArray[np.floating]] = []  # of slots that hold an object [m, D]
        self.factors: list[NDArray[np.floating]] = []  # of those objects [m, F]
        self.images: list[NDArray[np.integer]] = []  # in which they are [m]

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Sees a batch."""
        if explanation.codes is None or self.num_images >= MOST_IMAGES:
            return
        means, scales = (values.cpu().numpy() for values in explanation.codes)
        self.means.append(means.reshape(-1, means.shape[-1]))
        self.scales.append(scales.reshape(-1, scales.shape[-1]))
        if truth.masks is not None and truth.factors is not None:
            factors, self.kept = object_factors(truth.factors, self.names, truth.masks)
            masks = slot_arrays(explanation.slot_masks)
            matched = matched_codes(means, truth.masks, masks, factors, background_entities=truth.background)
            self.codes.append(matched.codes)
            self.factors.append(matched.factors)
            self.images.append(matched.images + self.num_images)
        self.num_images += len(means)

    def result(self) -> Metrics:
        """`dci_disentanglement`, `dci_completeness`, `dci_informativeness`, `active_dimensions`, `activeness`."""
        return self._dci() | self._activeness()

    def _activeness(self) -> Metrics:
        if not self.means:
            return missing(NO_CODES, "active_dimensions", "activeness")
        means, scales = np.concatenate(self.means), np.concatenate(self.scales)
        if len(means) < 2:
            return missing("one slot of one image is too little", "active_dimensions", "activeness")
        result: Metrics = {"active_dimensions": int(active_dimensions(means))}
        if not scales.all():
            return result | missing("slots are computed, not drawn", "activeness")
        return result | {"activeness": float(activeness(means, scales).mean())}

    def _dci(self) -> Metrics:
        if not self.means:
            return missing(NO_CODES, *self.DCI_NAMES)
        if not self.codes:
            reason = f"the data's {self.no_factors}" if self.no_factors else "the data has no masks or no factors"
            return missing(reason, *self.DCI_NAMES)
        if not any(map(len, self.codes)):
            return missing("no slot holds an object", *self.DCI_NAMES)
        try:
            scores = dci(
                np.concatenate(self.codes),
                np.concatenate(self.factors),
                names=self.kept,
                groups=np.concatenate(self.images),
            )
        except ValueError as error:  # too few objects, or factors that are all the same
            return missing(str(error), *self.DCI_NAMES)
        return {
            "dci_disentanglement": scores.disentanglement,
            "dci_completeness": scores.completeness,
            "dci_informativeness": scores.informativeness,
            "dci_images": self.num_images,
        }
