"""Evaluation of a model and guide on a split of a dataset file: every metric, streamed over batches."""

from pyro_sri.evaluation.evaluate import evaluate
from pyro_sri.evaluation.meanings import MEANINGS, METRICS, Meaning
from pyro_sri.evaluation.measures import Metrics

__all__ = ["MEANINGS", "METRICS", "Meaning", "Metrics", "evaluate"]
