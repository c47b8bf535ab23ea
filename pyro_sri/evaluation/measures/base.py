"""What a measure is: it sees every batch of inferred images once, keeps a few numbers, and gives metrics."""

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
NO_BOUND = "an auto-encoder has no prior: there is no bound on log p(x)"
NO_RULE = "there are rules only for towers, stacks, rooms and CLEVR"


class Meaning(NamedTuple):
    """What a metric is.

    Attributes:
        text: One line for people.
        better: Which way is better; None where neither is.
        detail: Whether tables leave it out until all metrics are asked for.
    """

    text: str
    better: Literal["higher", "lower"] | None = None
    detail: bool = False


Meanings = Mapping[str, Mapping[str, Meaning]]  # group -> metric -> meaning


class Facts(NamedTuple):
    """What a dataset file says of all its images.

    Attributes:
        rule: The rule by which its scenes stand or fall; None if there is none.
        factor_names: The columns of the factors.
        no_factors: Why its factors are of no use, where it has some; or None.
    """

    rule: Rule | None = None
    factor_names: tuple[str, ...] = ()
    no_factors: str | None = None


class Truth(NamedTuple):
    """What a dataset file knows of a batch of images.

    Attributes:
        masks: What is seen of each entity: uint8 [B, O, H, W, 1], each pixel in one entity or none; or None.
        background: Which entities are background.
        factors: Floats [B, O, F], or None.
    """

    masks: NDArray[np.uint8] | None
    background: tuple[int, ...]
    factors: NDArray[np.floating] | None = None


class Measure(ABC):
    """Takes inferred batches one after the other, then gives metrics.

    A subclass in a module of this package is part of every evaluation.

    Attributes:
        meanings: Group -> metric -> what it means, for tables, pages and readers.
    """

    meanings: ClassVar[Meanings] = {}

    @classmethod
    def of(cls, facts: Facts) -> Self:
        """A new one for a dataset file."""
        return cls()

    @abstractmethod
    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Sees a batch."""

    @abstractmethod
    def result(self) -> Metrics:
        """What was found: numbers, or None with `<name>_reason`."""


def missing(reason: str, *names: str) -> Metrics:
    """Metrics that cannot be had, and why."""
    return {key: value for name in names for key, value in ((name, None), (f"{name}_reason", reason))}


def mean_and_error(name: str, values: NDArray[np.floating]) -> Metrics:
    """The mean over images, and its standard error where there are at least two."""
    result: Metrics = {name: float(values.mean())}
    if len(values) > 1:
        result[f"{name}_stderr"] = float(values.std(ddof=1) / math.sqrt(len(values)))
    return result


def slot_arrays(masks: Tensor) -> NDArray[np.floating]:
    """Masks [B, K, 1, H, W] -> [B, K, H, W, 1]: of the slots alone, which share the foreground among themselves."""
    return masks.movedim(2, -1).cpu().numpy()


def as_arrays(masks: Tensor) -> NDArray[np.floating]:
    """Masks [B, K, 1, H, W] -> [B, K, H, W, 1]; with a last one for the background where slots leave it out."""
    return with_background(slot_arrays(masks)).astype(np.float32, copy=False)
