"""Measures of inferred images.

To add a measure, add a file with a `Measure` to this package. It is then part of every evaluation, table and page.
"""

from pyro_sri.evaluation.measures.base import (
    NO_RULE,
    Facts,
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
from pyro_sri.system.discovery import definitions


def _is_measure(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Measure) and value is not Measure


MEASURES: dict[str, type[Measure]] = {
    value.__name__: value for value in definitions(__name__, __path__) if _is_measure(value)
}

__all__ = [
    "MEASURES",
    "NO_RULE",
    "Facts",
    "Meaning",
    "Meanings",
    "Measure",
    "Metrics",
    "Truth",
    "as_arrays",
    "mean_and_error",
    "missing",
    "slot_arrays",
]
