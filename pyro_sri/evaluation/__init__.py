"""Evaluation of a model and guide on a split of a dataset file: every metric, streamed over batches."""

from pyro_sri.evaluation.evaluate import evaluate
from pyro_sri.evaluation.likelihood import (
    bound_of_log_weights,
    effective_sample_size,
    importance_bound,
    importance_log_weights,
)
from pyro_sri.evaluation.meanings import MEANINGS, METRICS
from pyro_sri.evaluation.measures import Meaning, Metrics

__all__ = [
    "MEANINGS",
    "METRICS",
    "Meaning",
    "Metrics",
    "bound_of_log_weights",
    "effective_sample_size",
    "evaluate",
    "importance_bound",
    "importance_log_weights",
]
