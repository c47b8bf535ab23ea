"""Metrics as plain functions on NumPy arrays: one value per image wherever a value per image exists."""

from pyro_sri.metrics.counts import count_accuracy, count_confusion
from pyro_sri.metrics.disentanglement import (
    DCI,
    active_dimensions,
    activeness,
    dci,
    dci_scores,
    matched_codes,
    object_factors,
)
from pyro_sri.metrics.frechet import FeatureMoments, frechet_distance
from pyro_sri.metrics.manifold import density_coverage, precision_recall
from pyro_sri.metrics.order import (
    OrderConsistency,
    commonest_position,
    object_roles,
    order_consistency,
    slot_positions,
    slot_roles,
)
from pyro_sri.metrics.predictive import image_statistics, predictive_p_values
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
    with_background,
)
from pyro_sri.metrics.structure import Verdict, check_structure, structure_accuracy

__all__ = [
    "DCI",
    "FeatureMoments",
    "OrderConsistency",
    "SegmentationCovering",
    "Verdict",
    "active_dimensions",
    "activeness",
    "adjusted_rand_index",
    "ari_from_labels",
    "bits_per_dimension",
    "check_structure",
    "commonest_position",
    "count_accuracy",
    "count_confusion",
    "covering_from_labels",
    "dci",
    "dci_scores",
    "density_coverage",
    "entity_labels",
    "frechet_distance",
    "image_statistics",
    "match_objects_to_slots",
    "matched_codes",
    "mean_squared_error",
    "object_factors",
    "object_roles",
    "order_consistency",
    "precision_recall",
    "predictive_p_values",
    "segmentation_covering",
    "slot_labels",
    "slot_positions",
    "slot_roles",
    "structure_accuracy",
    "with_background",
]
