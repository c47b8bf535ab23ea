"""How well predicted masks agree with true ones: adjusted Rand index, segmentation covering, object-slot matching.

Every score is computed from integer labels, and the labels give one contingency table per image:

    true masks      [n,O,H,W,1]  ->  label of a pixel = the entity in front there (`entity_labels`)
    predicted masks [n,K,H,W,1]  ->  label of a pixel = slot with the largest mask, the first of them on ties
    table           [n,T,Q + 1]  ->  n_ij = pixels of the image with true label i and predicted label j

True masks may overlap: the entity with the higher index is in front. A pixel without any entity has true label -1;
pixels with a negative true label have no known ground truth and are left out of every score, on both sides. A pixel
where every predicted mask is 0 has predicted label -1: it is in no slot, and together with no other pixel. The last
column of the table counts these pixels.

`ari_from_labels` and `covering_from_labels` take labels; `adjusted_rand_index`, `segmentation_covering` and
`match_objects_to_slots` take masks. All return one value per image, and the caller averages them.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

FULL = 1e-3  # share of a pixel that rounding may leave uncovered by masks that fill it

Labels = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]


class SegmentationCovering(NamedTuple):
    """Segmentation covering of each image, float64 [n] in [0,1]; NaN if there is no true region to cover."""

    mean: npt.NDArray[np.float64]
    """Every true region has the same weight."""
    scaled: npt.NDArray[np.float64]
    """Every true region is weighted by its number of pixels."""


def adjusted_rand_index(
    true_masks: npt.ArrayLike,
    predicted_masks: npt.ArrayLike,
    *,
    foreground_only: bool,
    background_entities: Iterable[int] = (0,),
) -> npt.NDArray[np.float64]:
    """Adjusted Rand index of each image. `ari_from_labels` has the formula and its edge cases.

    Args:
        true_masks: uint8 [n,O,H,W,1], 255 inside and 0 outside, or as `entity_labels` reads them; may overlap.
        predicted_masks: probabilities or uint8 [n,K,H,W,1].
        foreground_only: leave out the pixels of the background entities (ARI-FG).
        background_entities: the entities that are background; only used with `foreground_only`.

    Returns:
        float64 [n], at most 1. With `foreground_only`, an image without foreground is NaN: leave it out of the mean and
        report how many there were. (The authors' code counts such an image as 0, scikit-learn as 1.)

    Raises:
        ValueError: wrong ranks, shapes that do not agree, masks that are not finite, entities that do not exist.
    """
    true_labels, predicted_labels, background = _labels(true_masks, predicted_masks, background_entities)
    return ari_from_labels(true_labels, predicted_labels, ignore=background if foreground_only else ())


def ari_from_labels(
    true_labels: npt.ArrayLike, predicted_labels: npt.ArrayLike, *, ignore: Iterable[int] = ()
) -> npt.NDArray[np.float64]:
    """Adjusted Rand index (Hubert & Arabie 1985, Comparing partitions, eq. 5) of each image.

    With n_ij the pixels of true label i and predicted label j, a_i and b_j the sums of its rows and columns, n the sum
    of all, and C(m) = m (m - 1) / 2 the pairs among m pixels:

        index    = sum_ij C(n_ij)                       pairs that are together in both labelings
        expected = sum_i C(a_i) sum_j C(b_j) / C(n)     the same for random labelings of these sizes
        maximum  = (sum_i C(a_i) + sum_j C(b_j)) / 2
        ARI      = (index - expected) / (maximum - expected)

    It is 1 for equal partitions, whatever the names of their labels, 0 on average for random ones, and may be negative.
    One object in one slot gives 1. One object split among slots gives 0, and so do several in one slot. The quotient is
    0/0 only if the two partitions are equal and trivial (both constant, or both with one pixel per label): that is 1.

    Args:
        true_labels: small integers [n, ...]; pixels with a negative label are left out.
        predicted_labels: small integers, same shape; -1 for pixels in no slot, each of which is a part of its own.
        ignore: true labels whose pixels are also left out, for example those of the background.

    Returns:
        float64 [n]; NaN for images with no pixel left.
    """
    true_labels, predicted_labels = _check_labels(true_labels, predicted_labels)
    true_labels = np.where(np.isin(true_labels, list(ignore)), -1, true_labels)
    table = _contingency(true_labels, predicted_labels)
    pixels = table.sum((1, 2))
    # Ordered pairs m (m - 1): the factor 2 cancels, and integers make the comparisons below exact.
    all_pairs = pixels * (pixels - 1)
    index = _ordered_pairs(table[..., :-1]).sum((1, 2))
    true_pairs = _ordered_pairs(table.sum(2)).sum(1)
    predicted_pairs = _ordered_pairs(table[..., :-1].sum(1)).sum(1)
    expected = true_pairs * (predicted_pairs / np.maximum(all_pairs, 1))
    maximum = (true_pairs + predicted_pairs) / 2
    trivial = (true_pairs == predicted_pairs) & ((true_pairs == 0) | (true_pairs == all_pairs))
    ari = np.where(pixels > 0, 1.0, np.nan)
    np.divide(index - expected, maximum - expected, out=ari, where=~trivial)
    return ari


def segmentation_covering(
    true_masks: npt.ArrayLike,
    predicted_masks: npt.ArrayLike,
    *,
    foreground_only: bool,
    background_entities: Iterable[int] = (0,),
) -> SegmentationCovering:
    """Segmentation covering of each image, mean and scaled. `covering_from_labels` has the formula.

    Args:
        true_masks: uint8 [n,O,H,W,1], 255 inside and 0 outside, or as `entity_labels` reads them; may overlap.
        predicted_masks: probabilities or uint8 [n,K,H,W,1].
        foreground_only: leave the background entities out of the averages. Unlike in ARI-FG, their pixels still count:
            a slot that extends into the background covers its object less well.
        background_entities: the entities that are background; only used with `foreground_only`.

    Raises:
        ValueError: as in `adjusted_rand_index`.
    """
    true_labels, predicted_labels, background = _labels(true_masks, predicted_masks, background_entities)
    return covering_from_labels(true_labels, predicted_labels, skip=background if foreground_only else ())


def covering_from_labels(
    true_labels: npt.ArrayLike, predicted_labels: npt.ArrayLike, *, skip: Iterable[int] = ()
) -> SegmentationCovering:
    """Segmentation covering (Engelcke et al. 2021, GENESIS-V2) of each image.

    With R_i the pixels of true label i and S_j those of predicted label j::

        cover_i = max_j |R_i and S_j| / |R_i or S_j|
        mean    = average of cover_i over the true labels that occur in the image
        scaled  = sum_i |R_i| cover_i / sum_i |R_i|

    Args:
        true_labels: small integers [n, ...]; pixels with a negative label are left out of both R_i and S_j.
        predicted_labels: small integers, same shape; -1 for pixels in no slot, which are in R_i and in no S_j.
        skip: true labels that are left out of the averages; their pixels still count in S_j.
    """
    true_labels, predicted_labels = _check_labels(true_labels, predicted_labels)
    table = _contingency(true_labels, predicted_labels)
    cover = _intersection_over_union(table).max(axis=2, initial=0.0)  # [n,T]
    sizes = np.where(np.isin(np.arange(table.shape[1]), list(skip)), 0, table.sum(2))  # [n,T]
    return SegmentationCovering(
        mean=_weighted_mean(cover, (sizes > 0).astype(np.int64)), scaled=_weighted_mean(cover, sizes)
    )


def match_objects_to_slots(
    true_masks: npt.ArrayLike,
    predicted_masks: npt.ArrayLike,
    *,
    min_pixels: int = 50,
    min_iou: float = 0.1,
    background_entities: Iterable[int] = (0,),
) -> Labels:
    """Which slot holds which object: the one-to-one assignment with the largest total intersection over union.

    Objects with fewer than `min_pixels` visible pixels are ignored, and pairs that overlap by less than `min_iou` are
    dropped after the assignment (the defaults of Emami et al. 2021, EfficientMORL).

    Args:
        true_masks: uint8 [n,O,H,W,1], 255 inside and 0 outside, or as `entity_labels` reads them; may overlap.
        predicted_masks: probabilities or uint8 [n,K,H,W,1]. A pixel of which they leave out more than any slot has is
            in no slot (`with_background`).
        min_pixels: visible pixels that an object needs. An absent object is never matched.
        min_iou: intersection over union in [0,1] that a pair needs.
        background_entities: entities that are not objects.

    Returns:
        int64 [n,O]: the slot of each entity, -1 for the background and for every entity without a match.

    Raises:
        ValueError: as in `adjusted_rand_index`.
    """
    filled = with_background(predicted_masks)
    true_labels, predicted_labels, background = _labels(true_masks, filled, background_entities)
    in_slot = predicted_labels < np.shape(predicted_masks)[1]
    table = _contingency(true_labels, np.where(in_slot, predicted_labels, -1))
    overlap = _intersection_over_union(table)  # [n,T,Q]
    eligible = table.sum(2) >= max(min_pixels, 1)
    eligible[:, np.isin(np.arange(table.shape[1]), list(background))] = False
    slots = np.full((len(table), np.shape(true_masks)[1]), -1, dtype=np.int64)
    for image, objects in enumerate(eligible):
        entities = np.flatnonzero(objects)
        rows, columns = linear_sum_assignment(overlap[image, entities], maximize=True)
        close = overlap[image, entities[rows], columns] >= min_iou
        slots[image, entities[rows[close]]] = columns[close]
    return slots


def with_background(predicted_masks: npt.ArrayLike) -> npt.NDArray[np.generic]:
    """Adds a last mask with what the given masks leave of every pixel: max(0, 1 - their sum).

    Args:
        predicted_masks: probabilities [n,K,H,W,1], or integers, whose largest value means 1.

    Returns:
        [n,K+1,H,W,1], or the unchanged masks [n,K,H,W,1] if they fill every pixel.

    Raises:
        ValueError: masks of another shape, or not finite.
    """
    masks = _check_masks(predicted_masks, "predicted_masks")
    whole = 1.0 if masks.dtype.kind == "f" else max(float(masks.max(initial=0)), 1.0)
    rest = np.maximum(whole - masks.sum(axis=1, keepdims=True), 0)
    return np.concatenate([masks, rest.astype(masks.dtype)], axis=1) if (rest > FULL * whole).any() else masks


def entity_labels(true_masks: npt.ArrayLike) -> Labels:
    """True label of each pixel: the entity in front, which is the highest one that the pixel belongs to.

    A mask is hard if it has a single value besides 0: every pixel with that value is inside. If any mask has more
    values, all masks are soft: they are shares of a pixel, relative to 1 or, if there are values above 1, to 255. A
    pixel belongs to an entity that has at least half of it. If no entity has half, it belongs to the one with the
    largest share, unless the share that no entity has is larger.

    Args:
        true_masks: numbers >= 0, [n,O,H,W,1].

    Returns:
        int64 [n,H,W]; -1 where a pixel belongs to no entity.

    Raises:
        ValueError: wrong ranks, masks that are not finite.
    """
    masks = _check_masks(true_masks, "true_masks")[..., 0]
    inside = masks != 0
    values = masks.max(axis=(0, 2, 3), keepdims=True, initial=0)
    if not (inside <= (masks == values)).all():
        largest = float(values.max())
        inside = _soft_inside(masks.astype(np.float64) / (1.0 if largest <= 1 else max(largest, 255.0)))
    highest = inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    return np.where(inside.any(axis=1), highest, -1).astype(np.int64)


def _soft_inside(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which entities each pixel belongs to, by their shares, [n,O,H,W]."""
    half = shares >= 0.5
    largest = shares.max(axis=1, keepdims=True)
    left = 1 - shares.sum(axis=1, keepdims=True)
    undecided = ~half.any(axis=1, keepdims=True) & (largest > left)
    return half | (undecided & (shares == largest))


def slot_labels(predicted_masks: npt.ArrayLike) -> Labels:
    """Predicted label of each pixel: [n,K,H,W,1] -> int64 [n,H,W], the slot with the largest mask (first on ties)."""
    masks = _check_masks(predicted_masks, "predicted_masks")
    return masks.argmax(axis=1).astype(np.int64)[..., 0]


def _labels(
    true_masks: npt.ArrayLike, predicted_masks: npt.ArrayLike, background_entities: Iterable[int]
) -> tuple[Labels, Labels, tuple[int, ...]]:
    check_true_masks(true_masks)
    true_labels, predicted_labels = entity_labels(true_masks), slot_labels(predicted_masks)
    covered = (np.asarray(predicted_masks) != 0).any(axis=1)[..., 0]
    predicted_labels[~covered] = -1
    if true_labels.shape != predicted_labels.shape:
        raise ValueError(
            "true_masks and predicted_masks differ in images or size: "
            f"{np.shape(true_masks)} and {np.shape(predicted_masks)} (only the second axis may differ)"
        )
    background = tuple(int(entity) for entity in background_entities)
    entities = np.shape(true_masks)[1]
    if not all(0 <= entity < entities for entity in background):
        raise ValueError(f"background_entities must lie in 0..{entities - 1}, got {background}")
    return true_labels, predicted_labels, background


def _check_masks(masks: npt.ArrayLike, name: str) -> npt.NDArray[np.generic]:
    masks = np.asarray(masks)
    if masks.ndim != 5 or masks.shape[-1] != 1 or masks.shape[1] == 0:
        raise ValueError(f"{name} must have the shape [images, masks, height, width, 1], got {list(masks.shape)}")
    if not np.isfinite(masks).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return masks


def check_true_masks(masks: npt.ArrayLike) -> None:
    """Checks that these can be true masks, and are not predicted masks or an index map.

    Args:
        masks: [n,O,H,W,1]. Floats must be 0 and 1, or 0 and 255. Bytes may have soft edges; other integers must have
            one value besides 0 in each mask.

    Raises:
        ValueError: wrong rank, or other values.
    """
    checked = _check_masks(masks, "true_masks")
    inside = checked[checked != 0]
    if not inside.size:
        return
    if checked.dtype.kind == "f":
        fine = inside[0] in (1, 255) and bool((inside == inside[0]).all())
    else:
        soft = checked.dtype == np.uint8 and inside.max() > 127
        fine = soft or bool(((checked == 0) | (checked == checked.max(axis=(0, 2, 3, 4), keepdims=True))).all())
    if not fine:
        raise ValueError(
            f"true_masks have values from {checked.min():g} to {checked.max():g}: they must be 0 outside and 1 or 255 "
            "inside; are they probabilities or an index map, or are true and predicted masks swapped?"
        )


def _check_labels(true_labels: npt.ArrayLike, predicted_labels: npt.ArrayLike) -> tuple[Labels, Labels]:
    true_labels, predicted_labels = np.asarray(true_labels), np.asarray(predicted_labels)
    if true_labels.ndim < 2 or true_labels.shape != predicted_labels.shape:
        raise ValueError(
            "true_labels and predicted_labels must have the same shape [images, ...], "
            f"got {list(true_labels.shape)} and {list(predicted_labels.shape)}"
        )
    if true_labels.dtype.kind not in "iu" or predicted_labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, got {true_labels.dtype} and {predicted_labels.dtype}")
    if (predicted_labels < -1).any():
        raise ValueError("predicted_labels must not be below -1, which marks a pixel in no slot")
    return true_labels.astype(np.int64), predicted_labels.astype(np.int64)


def _contingency(true_labels: Labels, predicted_labels: Labels) -> Counts:
    """Pixels per pair of labels, [n,T,Q + 1], without pixels with a negative true label; the last column is for -1."""
    images = len(true_labels)
    known = true_labels >= 0
    true_count = int(true_labels.max(initial=-1)) + 1  # T
    predicted_count = int(predicted_labels.max(initial=-1)) + 2  # Q + 1
    predicted_labels = predicted_labels % predicted_count  # -1 is the last
    image = np.repeat(np.arange(images), known.sum(axis=tuple(range(1, known.ndim))))
    cell = (image * true_count + true_labels[known]) * predicted_count + predicted_labels[known]
    counts = np.bincount(cell, minlength=images * true_count * predicted_count)
    return counts.reshape(images, true_count, predicted_count).astype(np.int64)


def _ordered_pairs(counts: Counts) -> Counts:
    return counts * (counts - 1)


def _intersection_over_union(table: Counts) -> npt.NDArray[np.float64]:
    """[n,T,Q + 1] -> [n,T,Q]."""
    union = table.sum(2, keepdims=True) + table.sum(1, keepdims=True) - table
    return (table / np.maximum(union, 1))[..., :-1]


def _weighted_mean(values: npt.NDArray[np.float64], weights: Counts) -> npt.NDArray[np.float64]:
    """Weighted mean over the last axis; NaN where all weights are 0."""
    totals = weights.sum(-1)
    return np.divide((values * weights).sum(-1), totals, out=np.full(len(values), np.nan), where=totals > 0)
