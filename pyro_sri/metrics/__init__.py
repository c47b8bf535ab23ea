"""Metrics as plain functions on NumPy arrays: one value per image wherever a value per image exists."""

from pyro_sri.metrics.counts import count_accuracy, count_confusion
from pyro_sri.metrics.reconstruction import bits_per_dimension, mean_squared_error
from pyro_sri.metrics.segmentation import (
    SegmentationCovering,
    adjusted_rand_index,
    ari_from_labels,
    covering_from_labels,
    entity_labels,
    match_objects_to_slots,
    segmentation_covering,
    slot_labels,
)

__all__ = [
    "SegmentationCovering",
    "adjusted_rand_index",
    "ari_from_labels",
    "bits_per_dimension",
    "count_accuracy",
    "count_confusion",
    "covering_from_labels",
    "entity_labels",
    "match_objects_to_slots",
    "mean_squared_error",
    "segmentation_covering",
    "slot_labels",
]
