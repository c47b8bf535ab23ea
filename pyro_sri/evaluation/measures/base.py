"""The base class of measures, which see every batch of inferred images once and return metrics."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyro_sri.inference import Explanation
from pyro_sri.metrics import with_background
from pyro_sri.metrics.structure import Rule

Metrics = dict[str, float | int | str | None]

NO_MASKS = "the data has no masks"
NO_RULE = "the structural rules are only for towers, stacks, rooms and CLEVR"


class Meaning(NamedTuple):
    """A description of a metric.

    Attributes:
        text: A description in one line.
        better: Which values are better, or None if neither.
        detail: Whether tables leave the metric out unless all metrics are requested.
    """

    text: str
    better: Literal["higher", "lower"] | None = None
    detail: bool = False


Meanings = Mapping[str, Mapping[str, Meaning]]  # group -> metric -> meaning


class Facts(NamedTuple):
    """Properties of a whole dataset file.

    Attributes:
        rule: The structural rule for its scenes, or None.
        factor_names: The names of the columns of the factors.
        no_factors: Why the factors of the file cannot be used, or None.
    """

    rule: Rule | None = None
    factor_names: tuple[str, ...] = ()
    no_factors: str | None = None


class Truth(NamedTuple):
    """The ground truth for a batch of images.

    Attributes:
        masks: The visible part of each entity, uint8 [B, O, H, W, 1], or None. Each pixel is in at most one entity.
        background: Which entities are background.
        factors: Floats [B, O, F], or None.
    """

    masks: NDArray[np.uint8] | None
    background: tuple[int, ...]
    factors: NDArray[np.floating] | None = None


class Measure(ABC):
    """Takes inferred batches one after the other, then returns metrics.

    A subclass in a module of this package is part of every evaluation.

    Attributes:
        meanings: Group -> metric -> description, for tables and pages.
    """

    meanings: ClassVar[Meanings] = {}

    @classmethod
    def of(cls, facts: Facts) -> Self:
        """Creates a measure for a dataset file."""
        return cls()

    @abstractmethod
    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Adds a batch."""

    @abstractmethod
    def result(self) -> Metrics:
        """Returns the metrics: numbers, or None with `<name>_reason`."""


def missing(reason: str, *names: str) -> Metrics:
    """Metrics that are not available, with the reason."""
    return {key: value for name in names for key, value in ((name, None), (f"{name}_reason", reason))}


def mean_and_error(name: str, values: NDArray[np.floating]) -> Metrics:
    """The mean over images, and its standard error if there are at least two."""
    result: Metrics = {name: float(values.mean())}
    if len(values) > 1:
        result[f"{name}_stderr"] = float(values.std(ddof=1) / math.sqrt(len(values)))
    return result


def slot_arrays(masks: Tensor) -> NDArray[np.floating]:
    """Masks [B, K, 1, H, W] -> [B, K, H, W, 1]: only the masks of the slots, without a background mask."""
    return masks.movedim(2, -1).cpu().numpy()


def as_arrays(masks: Tensor) -> NDArray[np.floating]:
    """Masks [B, K, 1, H, W] -> [B, K, H, W, 1]; with a last mask for the background if slots leave it out."""
    return with_background(slot_arrays(masks)).astype(np.float32, copy=False)
