"""Whether the scenes of the data stand."""

from typing import ClassVar, Self

import numpy as np

from pyro_sri.evaluation.measures.base import (
    NO_MASKS,
    NO_RULE,
    Facts,
    Meaning,
    Meanings,
    Measure,
    Metrics,
    Truth,
    missing,
)
from pyro_sri.inference import Explanation
from pyro_sri.metrics.structure import Rule, check_structure


class TrueStructure(Measure):
    """Applies the structural rule to the true masks, to show how often it accepts real scenes."""

    meanings: ClassVar[Meanings] = {
        "generated scenes": {
            "structure_accuracy_data": Meaning(
                "the same share for the data's own scenes, with true masks: the value to expect"
            )
        }
    }

    def __init__(self, rule: Rule | None) -> None:
        self.rule = rule
        self.stands: list[bool] = []

    @classmethod
    def of(cls, facts: Facts) -> Self:
        """Creates a measure for a dataset file."""
        return cls(facts.rule)

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Adds a batch."""
        if self.rule is not None and truth.masks is not None:
            nobodys = np.where(truth.masks.any(1, keepdims=True), 0, 255).astype(np.uint8)
            masks = np.concatenate([truth.masks, nobodys], axis=1)  # pixels of no entity are also background
            background = (*truth.background, truth.masks.shape[1])
            verdicts = check_structure(masks, rule=self.rule, background=background)
            self.stands += [verdict.stands for verdict in verdicts]

    def result(self) -> Metrics:
        """Returns `structure_accuracy_data`."""
        if self.rule is None:
            return missing(NO_RULE, "structure_accuracy_data")
        if not self.stands:
            return missing(NO_MASKS, "structure_accuracy_data")
        return {"structure_accuracy_data": float(np.mean(self.stands))}
