"""How well the slots' codes describe the objects that they hold."""

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pyro_sri.evaluation.measures.base import Facts, Meaning, Meanings, Measure, Metrics, Truth, missing, slot_arrays
from pyro_sri.inference import Explanation
from pyro_sri.metrics import active_dimensions, activeness, dci, matched_codes, object_factors

MOST_IMAGES = 1000  # limits the time for fitting the estimators

NO_CODES = "the system has no slots with their own codes"


class CodeQuality(Measure):
    """Disentanglement of the slots' codes, and how many of their dimensions are used, from the first 1,000 images.

    Args:
        names: The names of the factors' columns.
        no_factors: Why the factors of the data cannot be used, or None.
    """

    meanings: ClassVar[Meanings] = {
        "order and codes": {
            "dci_disentanglement": Meaning(
                "1 if each dimension of a slot represents only one factor", "higher", detail=True
            ),
            "dci_completeness": Meaning("1 if each factor is in only one dimension", "higher", detail=True),
            "dci_informativeness": Meaning(
                "how well factors can be predicted from slots (1 is perfect)", "higher", detail=True
            ),
            "active_dimensions": Meaning("dimensions of a slot whose posterior mean varies (variance above 0.01)"),
            "activeness": Meaning(
                "spread of the posterior means divided by the posterior's width, averaged over a slot's dimensions",
                detail=True,
            ),
        }
    }

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

    @classmethod
    def of(cls, facts: Facts) -> Self:
        """Creates a measure for a dataset file."""
        return cls(facts.factor_names, facts.no_factors)

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Adds a batch."""
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
        """Returns the three DCI scores, `active_dimensions` and `activeness`."""
        return self._dci() | self._activeness()

    def _activeness(self) -> Metrics:
        if not self.means:
            return missing(NO_CODES, "active_dimensions", "activeness")
        means, scales = np.concatenate(self.means), np.concatenate(self.scales)
        if len(means) < 2:
            return missing("a single slot of a single image is not enough", "active_dimensions", "activeness")
        result: Metrics = {"active_dimensions": int(active_dimensions(means))}
        if not scales.all():
            return result | missing("the slots are deterministic", "activeness")
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
