"""The number of objects found."""

import re
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pyro_sri.evaluation.measures.base import NO_MASKS, Meaning, Meanings, Measure, Metrics, Truth, missing
from pyro_sri.inference import Explanation
from pyro_sri.metrics import count_accuracy, count_confusion

CONFUSION = re.compile(r"count_(\d+)_found_(\d+)")  # images by their number of objects and by the number found


class Counting(Measure):
    """Accuracy of the number of objects, for guides that count objects; nothing for other guides."""

    meanings: ClassVar[Meanings] = {
        "segmentation": {"count_accuracy": Meaning("share of images with the correct number of objects", "higher")}
    }

    def __init__(self) -> None:
        self.pairs: list[NDArray[np.integer]] = []  # true and found [B, 2]
        self.counts = False

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Adds a batch."""
        if explanation.counts is None:
            return
        self.counts = True
        if truth.masks is not None:
            objects = [entity for entity in range(truth.masks.shape[1]) if entity not in truth.background]
            there = truth.masks[:, objects].any((2, 3, 4)).sum(1)
            self.pairs.append(np.stack([there, explanation.counts.cpu().numpy()], axis=1))

    def result(self) -> Metrics:
        """Returns `count_accuracy`, and the confusion matrix as `count_i_found_j`."""
        if not self.counts:
            return {}
        if not self.pairs:
            return missing(NO_MASKS, "count_accuracy")
        pairs = np.concatenate(self.pairs)
        confusion = count_confusion(pairs[:, 0], pairs[:, 1])
        cells = {
            f"count_{there}_found_{found}": int(number)
            for (there, found), number in np.ndenumerate(confusion)
            if confusion[there].any()  # numbers that do not occur need no row
        }
        return {"count_accuracy": count_accuracy(pairs[:, 0], pairs[:, 1]), **cells}
