"""Whether slots have a consistent order: how well an entity's role determines its position in the slot sequence.

    positions = slot_positions(true_masks, slot_masks)      which slot holds each entity,  [n,O]
    roles = object_roles(true_masks)                        floor, lowest object, next, .. [n,O]
    order_consistency(positions, roles)

Generated scenes have no true masks. For them, `slot_roles` gives a role to each slot, whose position is its number.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import entr

from pyro_sri.metrics.segmentation import Labels, entity_labels, match_objects_to_slots, slot_labels

Floats = npt.NDArray[np.float64]

NO_ROOM = 1e-12  # bits; below this, chance explains everything, up to rounding


class OrderConsistency(NamedTuple):
    """How well roles determine positions; see `order_consistency`."""

    score: float
    """1 if roles determine positions, 0 on average for a random order, NaN if the images cannot show an order."""
    stderr: float
    """Standard error of the score, by resampling images; NaN if there are too few."""
    information: float
    """Information that the role of an entity gives about its position, in bits."""
    chance: float
    """Information that it would seem to give if positions were shuffled in each image, in bits."""
    entropy: float
    """Entropy of the position of an entity whose role is not known, in bits: the largest possible information."""
    matched: float
    """Share of the entities with a role that also have a position. The others are left out, and so are images in which
    fewer than two entities have a position, because they cannot show an order."""


def order_consistency(
    positions: npt.ArrayLike,
    roles: npt.ArrayLike,
    *,
    num_shuffles: int = 100,
    num_resamples: int = 200,
    seed: int = 0,
) -> OrderConsistency:
    """Mutual information of position and role as a share of the largest possible value, corrected for chance.

    With P the position and R the role of an entity, and S the set of roles that its image has, all in bits:

        information = I(P; R | S)
        entropy     = H(P | S)
        score       = (information - chance) / (entropy - chance)

    `chance` is the mean information after shuffling the positions inside each image, because a few images seem to have
    an order even if there is none. Like an adjusted mutual information (Vinh et al. 2010), the score is 1 if the role
    determines the position, and 0 on average, with either sign, for a random order. Here, however, positions are only
    shuffled within an image, because they are not independent there.

    It does not matter which position belongs to which role: top to bottom is as good as bottom to top. Because S is
    given, the order may differ with the number of objects. An image takes part if at least two of its entities have a
    position: with one, there is nothing to shuffle, and no order to see. Entities may share a position. This is not an
    inconsistency, and it is why the score divides by the entropy of positions and not by that of roles. Leave out the
    roles of the background (-1): a background that comes first in every image looks like a strong order, even if
    objects come in random order.

    Args:
        positions: integers [n,O], the slot of each entity of each image; -1 where it has none.
        roles: integers [n,O], the role of each entity; -1 where it is absent.
        num_shuffles: shuffles of all images for `chance`.
        num_resamples: resamples of the images for `stderr`.
        seed: of shuffles and resamples.

    Raises:
        ValueError: no images, different shapes, values that are not integers, no shuffle, fewer than two resamples.
    """
    positions, roles = np.asarray(positions), np.asarray(roles)
    if positions.ndim != 2 or positions.shape != roles.shape or not len(positions):
        raise ValueError(
            "positions and roles must have the same shape [images, entities], with images, "
            f"got {list(positions.shape)} and {list(roles.shape)}"
        )
    if positions.dtype.kind not in "iu" or roles.dtype.kind not in "iu":
        raise ValueError(f"positions and roles must be integers, got {positions.dtype} and {roles.dtype}")
    if num_shuffles < 1 or num_resamples < 2:
        raise ValueError(f"use at least 1 shuffle and 2 resamples, got {num_shuffles} and {num_resamples}")

    rng = np.random.default_rng(seed)
    num_images, present = len(roles), roles >= 0
    known = present & (positions >= 0)
    matched = float(known.sum() / present.sum()) if present.any() else math.nan
    known &= known.sum(axis=1, keepdims=True) > 1
    if not known.any():
        return OrderConsistency(math.nan, math.nan, math.nan, math.nan, math.nan, matched)
    image, _ = np.nonzero(known)
    _, role_set = np.unique(_role_sets(roles), axis=0, return_inverse=True)
    given = role_set.reshape(-1)[image], roles[known]
    information, entropy = _bits(*given, positions[known])
    shuffles = (_shuffle_within_images(positions, known, rng)[known] for _ in range(num_shuffles))
    chance = float(np.mean([_bits(*given, shuffled)[0] for shuffled in shuffles]))
    score = _adjusted(information, entropy, chance)
    resampled = []
    for _ in range(num_resamples):
        times = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        resampled.append(_adjusted(*_bits(*given, positions[known], times[image]), chance))
    return OrderConsistency(
        score=score,
        stderr=float(np.std(resampled, ddof=1)),
        information=information,
        chance=chance,
        entropy=entropy,
        matched=matched,
    )


def commonest_position(positions: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Whether an entity is at its most frequent position: 1 or 0 for each image, NaN where it has no position.

    Args:
        positions: integers [n], the slot that holds it; -1 where none does.

    Raises:
        ValueError: values that are not integers, or another shape.
    """
    positions = np.asarray(positions)
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        raise ValueError(f"positions must be integers [images], got {positions.dtype} {list(positions.shape)}")
    known = positions[positions >= 0]
    commonest = np.bincount(known).argmax() if len(known) else -1
    return np.where(positions >= 0, positions == commonest, np.nan)


def slot_positions(
    true_masks: npt.ArrayLike,
    predicted_masks: npt.ArrayLike,
    *,
    background_entities: Iterable[int] = (0,),
    min_iou: float = 0.1,
) -> Labels:
    """The slot that holds each entity.

    Objects are matched one to one as in `match_objects_to_slots`. A background entity takes the slot with the largest
    intersection over union, whether or not another entity has that slot.

    Args:
        true_masks: uint8 [n,O,H,W,1], 255 inside and 0 outside; may overlap.
        predicted_masks: probabilities or uint8 [n,K,H,W,1], slots in the order of the sequence. What they leave out of
            the pixels is in no slot, so an entity there has none.
        background_entities: entities that are not objects.
        min_iou: intersection over union in [0,1] that entity and slot need.

    Returns:
        int64 [n,O], -1 for entities without a slot.

    Raises:
        ValueError: as in `adjusted_rand_index`.
    """
    background = {int(entity) for entity in background_entities}
    entities = set(range(np.shape(true_masks)[1]))

    def match(others: set[int]) -> Labels:
        return match_objects_to_slots(
            true_masks, predicted_masks, min_pixels=1, min_iou=min_iou, background_entities=others
        )

    positions = match(background)
    for entity in background:
        positions[:, entity] = match(entities - {entity})[:, entity]
    return positions


def object_roles(true_masks: npt.ArrayLike, *, background_entities: Iterable[int] = (0,)) -> Labels:
    """The role of each entity in its scene: a background, or an object numbered from the bottom of the picture.

    Each background entity has its own role, 0 .. B - 1 in the order of the entities. Objects have the roles B, B + 1,
    .. from the lowest middle of a visible mask to the highest. In a tower this is the height. On a floor it is roughly
    from near to far.

    Args:
        true_masks: uint8 [n,O,H,W,1], 255 inside and 0 outside; may overlap.
        background_entities: the B entities that are not objects.

    Returns:
        int64 [n,O], -1 for entities that are not visible.

    Raises:
        ValueError: masks of another shape, or entities that do not exist.
    """
    rows = mask_centres(true_masks)[..., 0]
    background = sorted({int(entity) for entity in background_entities})
    if not all(0 <= entity < rows.shape[1] for entity in background):
        raise ValueError(f"background_entities must lie in 0..{rows.shape[1] - 1}, got {tuple(background)}")
    visible = ~np.isnan(rows)
    objects = visible.copy()
    objects[:, background] = False
    roles = np.where(objects, len(background) + _rank_upwards(rows, objects), -1)
    roles[:, background] = np.where(visible[:, background], np.arange(len(background)), -1)
    return roles


def slot_roles(predicted_masks: npt.ArrayLike, *, min_pixels: int = 1) -> Labels:
    """The role of each slot in a scene without ground truth, from its mask.

    The slot with the most pixels is the background, role 0. The others have the roles 1, 2, .. from the lowest middle
    of a mask to the highest. The matching positions are the slots' numbers:

        order_consistency(np.broadcast_to(np.arange(roles.shape[1]), roles.shape), roles)

    Args:
        predicted_masks: probabilities or uint8 [n,K,H,W,1], slots in the order of the sequence.
        min_pixels: a slot whose mask is the largest in fewer pixels is empty.

    Returns:
        int64 [n,K], -1 for empty slots.

    Raises:
        ValueError: masks of another shape, or not finite.
    """
    masks = _one_hot(slot_labels(predicted_masks), np.shape(predicted_masks)[1])  # [n,K,H,W]
    pixels = masks.sum((2, 3))
    objects = pixels >= max(min_pixels, 1)
    background = np.arange(len(pixels)), pixels.argmax(1)
    objects[background] = False
    roles = np.where(objects, 1 + _rank_upwards(mask_centres(masks[..., None])[..., 0], objects), -1)
    roles[background] = 0
    return roles


def mask_centres(true_masks: npt.ArrayLike) -> Floats:
    """The middle of the visible part of each entity.

    Args:
        true_masks: uint8 [n,O,H,W,1], 255 inside and 0 outside; may overlap.

    Returns:
        float64 [n,O,2]: row (downwards) and column, in [0,1]; NaN for entities that are not visible.

    Raises:
        ValueError: masks of another shape.
    """
    labels = entity_labels(true_masks)
    visible = _one_hot(labels, np.shape(true_masks)[1])  # [n,O,H,W]
    rows, columns = ((np.arange(length) + 0.5) / length for length in labels.shape[1:])
    centres = np.stack([visible.sum(3) @ rows, visible.sum(2) @ columns], axis=-1)
    pixels = visible.sum((2, 3))[..., None]
    return np.divide(centres, pixels, out=np.full_like(centres, np.nan), where=pixels > 0)


def _one_hot(labels: Labels, count: int) -> npt.NDArray[np.bool_]:
    """[n,H,W] -> [n,count,H,W]."""
    return np.asarray(labels[:, None] == np.arange(count)[:, None, None])


def _rank_upwards(rows: Floats, among: npt.NDArray[np.bool_]) -> Labels:
    """Rank of each row among the marked ones of its image, the lowest in the picture first; [n,O]."""
    order = np.where(among, -rows, np.inf).argsort(axis=1, kind="stable")
    return order.argsort(axis=1).astype(np.int64)


def _role_sets(roles: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Which roles each image has, [n,R]."""
    image, entity = np.nonzero(roles >= 0)
    sets = np.zeros((len(roles), int(roles.max(initial=-1)) + 1), dtype=bool)
    sets[image, roles[image, entity]] = True
    return sets


def _shuffle_within_images(
    positions: npt.NDArray[np.integer], known: npt.NDArray[np.bool_], rng: np.random.Generator
) -> npt.NDArray[np.integer]:
    """Shuffles the known positions of each image among themselves."""
    source = np.where(known, rng.random(known.shape), np.inf).argsort(axis=1)  # the known ones first, in random order
    place = np.maximum(known.cumsum(axis=1) - 1, 0)
    return np.take_along_axis(positions, np.take_along_axis(source, place, axis=1), axis=1)


def _bits(
    role_set: npt.NDArray[np.integer],
    role: npt.NDArray[np.integer],
    position: npt.NDArray[np.integer],
    times: npt.NDArray[np.integer] | None = None,
) -> tuple[float, float]:
    """I(P; R | S) and H(P | S) in bits, of entities [m] that count `times` times."""
    shape = tuple(int(values.max(initial=-1)) + 1 for values in (role_set, role, position))
    table = np.bincount(np.ravel_multi_index((role_set, role, position), shape), times, minlength=math.prod(shape))
    table = table.reshape(shape) / max(table.sum(), 1)
    entropy = _entropy(table.sum(1)) - _entropy(table.sum((1, 2)))
    left = max(_entropy(table) - _entropy(table.sum(2)), 0.0)  # H(P | R, S), which may be negative by rounding
    return entropy - left, entropy


def _entropy(shares: Floats) -> float:
    return float(entr(shares).sum() / math.log(2))


def _adjusted(information: float, entropy: float, chance: float) -> float:
    room = entropy - chance
    return (information - chance) / room if room > NO_ROOM else math.nan
