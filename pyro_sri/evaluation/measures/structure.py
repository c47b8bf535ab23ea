"""Whether the data's own scenes stand."""

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
    """The structural rule on the data's own masks: how often it holds where every scene is as it should be."""

    meanings: ClassVar[Meanings] = {
        "generated scenes": {
            "structure_accuracy_data": Meaning(
                "share of the data's scenes that stand by that rule, on true masks: the value to expect"
            )
        }
    }

    def __init__(self, rule: Rule | None) -> None:
        self.rule = rule
        self.stands: list[bool] = []

    @classmethod
    def of(cls, facts: Facts) -> Self:
        """A new one for a dataset file."""
        return cls(facts.rule)

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Sees a batch."""
        if self.rule is not None and truth.masks is not None:
            nobodys = np.where(truth.masks.any(1, keepdims=True), 0, 255).astype(np.uint8)
            masks = np.concatenate([truth.masks, nobodys], axis=1)  # what is in no entity is background too
            background = (*truth.background, truth.masks.shape[1])
            verdicts = check_structure(masks, rule=self.rule, background=background)
            self.stands += [verdict.stands for verdict in verdicts]

    def result(self) -> Metrics:
        """`structure_accuracy_data`."""
        if self.rule is None:
            return missing(NO_RULE, "structure_accuracy_data")
        if not self.stands:
            return missing(NO_MASKS, "structure_accuracy_data")
        return {"structure_accuracy_data": float(np.mean(self.stands))}
