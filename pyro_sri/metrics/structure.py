"""Structural accuracy: the share of scenes that stand, judged from their masks by a written rule.

SRI's S-Acc is the share of generated ShapeStacks scenes in which all blocks touch and form a tower, as judged by people
who looked at pictures. Here `structure_accuracy` and `check_structure` apply the sentences below to masks alone. Pixels
are those of a 64 x 64 image. In larger and smaller images, every measure scales with the side.

What is an object:

1. A pixel belongs to the mask that is largest there, or to the first of them on ties. The pixels of a mask form
   connected pieces (with eight neighbours).
2. Unless the caller names the background masks, these are background: each mask with at least a twentieth of the
   pixels on the image's border, and each mask that reaches both the left and the right border.
3. A piece of fewer than 4 pixels (2 actual ones in small images) is a speck, and so is a piece with fewer than a tenth
   of the pixels of its mask's largest piece, unless the mask is background. Pixels of specks go to the nearest piece.
   Each mask that has a piece left is background or an object.
4. Objects touch where a pixel of one is directly above, below, left or right of a pixel of the other, or is separated
   from it by only one pixel of background (one actual pixel in small images). An object is over another in the columns
   in which it has a pixel above one of the other in this sense.

In every rule:

5. There is at least one object, and each is in one piece. Further pieces are allowed if the shortest line from the
   largest piece crosses other objects, which hide the part in between, and no more background than in 4.

The rule "tower":

6. There are at least two blocks.
7. All blocks are connected by touching.
8. Ordered by the heights of their middles, each block rests on the one before it: it is over that block in at least a
   third of the columns of the narrower of the two, and the line along which they touch is at most 60 degrees steep.
   The length of this line is the number of columns in which the block is over the other, minus those in which it is
   under it. Its rise is the number of rows in which it is to the left, minus those in which it is to the right.
9. The pixel-weighted middle of everything that rests on a block is above the columns in which it rests there, to within
   one pixel. Upright things may lean outwards in the picture, as far as they do for a camera with the field of view of
   ShapeStacks that looks down by 45 degrees.
10. The lowest block does not touch the upper border of the image.

The rules "room" and "whole_objects", in which objects stand on one floor seen from above:

11. No object is enclosed by another, because an object in front also starts lower in the picture.
12. At least half of each object's foot is held. The foot is the lower outline in the lowest quarter of the object's
    height. It is held by the floor, by the lower border of the picture, and by an object that does not reach as high,
    because that object may stand in front.
13. In a "room", the floor is each background mask with at least a twentieth of the image's lower border. Other
    background is walls and sky. For "whole_objects", all background is floor: if a floor fills the picture, as in
    CLEVR, masks do not show which way is up. So this rule also accepts scenes that are upside down or on their side.
    It is named after what it still requires: objects in one piece, none inside another. (Its former name is "table".)

The rule cannot see what masks do not show: blocks that are off balance towards the camera or by a pixel or two, a ball
that carries a block, blocks sunk into each other (masks never overlap), whether a tower touches the floor, objects that
hover in front of the floor. If the background is not known, a part of it that has its own mask and hardly reaches the
border is mistaken for an object, and an object that is largely cut off by the border is mistaken for background.
"""

import itertools
import math
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from pyro_sri.metrics.segmentation import slot_labels

Rule = Literal["tower", "room", "whole_objects", "table"]
FORMER_NAMES: dict[str, Rule] = {"table": "whole_objects"}

PUBLISHED_SIZE = 64  # the side of an image in which the measures below are pixels
SPECK = 4  # pixels
FRAGMENT = 1 / 10  # of the largest piece
BACKGROUND = 1 / 20  # of the border
REACH = 1  # pixels between objects that touch
SUPPORT = 1 / 3  # of the columns of the narrower block: without a counterweight, a block needs half
STEEPEST = math.tan(math.radians(60))  # upright things lean by up to 30 degrees, and blocks hide parts of others
FOOT = 1 / 4  # of the height of an object
# Upright lines meet at a point below the image. This is its distance from the middle of the image, in image sides. For
# a camera that looks down by 45 degrees, it is one focal length, and the side of a ShapeStacks picture is
# 2 tan(45 / 2 degrees) 196 / 224 focal lengths.
VANISHING = 1 / (2 * math.tan(math.radians(45 / 2)) * 196 / 224)

EIGHT = np.ones((3, 3))  # the eight neighbours of a pixel

Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Verdict(NamedTuple):
    """The verdict of the rule on a scene."""

    stands: bool
    reason: str
    """The first problem, with mask numbers ("block 2 is in pieces"), or what stands ("3 blocks stand")."""


class _Scene(NamedTuple):
    """A scene after sentences 1 to 3."""

    labels: Labels  # [H,W]
    background: Flags  # [K]
    objects: list[int]
    reach: int


def structure_accuracy(masks: npt.ArrayLike, *, rule: Rule = "tower", background: Iterable[int] | None = None) -> float:
    """Share of scenes that stand by the rule at the head of this module.

    Args:
        masks: as in `check_structure`.
        rule: as in `check_structure`.
        background: as in `check_structure`.

    Returns:
        A number in [0,1].

    Raises:
        ValueError: no scenes, or as in `check_structure`.
    """
    verdicts = check_structure(masks, rule=rule, background=background)
    if not verdicts:
        raise ValueError("masks must contain at least one scene")
    return sum(verdict.stands for verdict in verdicts) / len(verdicts)


def check_structure(
    masks: npt.ArrayLike, *, rule: Rule = "tower", background: Iterable[int] | None = None
) -> list[Verdict]:
    """Which scenes stand by the rule at the head of this module, and why the others do not.

    Args:
        masks: probabilities or uint8 [n,K,H,W,1], true or generated, in any order. Any of them may be empty.
        rule: "tower": one stack of blocks; "room": objects on a floor between walls; "whole_objects": objects on a
            floor that fills the picture. No rule can see whether these stand.
        background: the background masks if they are known, for example a file's background entities.

    Returns:
        n verdicts.

    Raises:
        ValueError: no such rule, wrong ranks, masks that are not finite, background masks that do not exist.
    """
    rule = FORMER_NAMES.get(rule, rule)
    if rule not in get_args(Rule):
        raise ValueError(f"there is no rule {rule!r}; use one of {', '.join(get_args(Rule))}")
    labels = slot_labels(masks)
    num_masks = np.shape(masks)[1]
    known = None if background is None else [int(mask) for mask in background]
    if known is not None and not all(0 <= mask < num_masks for mask in known):
        raise ValueError(f"background must lie in 0..{num_masks - 1}, got {known}")
    return [_judge(_look(scene, num_masks, known), rule) for scene in labels]


def _look(labels: Labels, num_masks: int, known_background: list[int] | None) -> _Scene:
    background = _find_background(labels, num_masks)
    if known_background is not None:
        background = np.isin(np.arange(num_masks), known_background)
    scale = math.sqrt(labels.size) / PUBLISHED_SIZE
    labels, kept = _without_specks(labels, background, max(2, SPECK * scale**2))
    return _Scene(labels, background, [mask for mask in kept if not background[mask]], max(1, round(REACH * scale)))


def _find_background(labels: Labels, num_masks: int) -> Flags:
    """Sentence 2."""
    top, bottom, left, right = (
        np.bincount(side, minlength=num_masks) for side in (labels[0], labels[-1], labels[1:-1, 0], labels[1:-1, -1])
    )
    border = top + bottom + left + right
    return (border >= BACKGROUND * border.sum()) | ((left > 0) & (right > 0))


def _without_specks(labels: Labels, background: Flags, smallest: float) -> tuple[Labels, list[int]]:
    """Sentence 3: the labels, and the masks that have a piece left."""
    specks = np.zeros(labels.shape, dtype=bool)
    kept = []
    for mask in np.unique(labels).tolist():
        pieces, _ = ndimage.label(labels == mask, EIGHT)
        sizes = np.bincount(pieces.ravel())[1:]
        small = sizes < (smallest if background[mask] else max(smallest, FRAGMENT * sizes.max()))
        specks |= np.concatenate([[False], small])[pieces]
        if not small.all():
            kept.append(mask)
    if not kept or not specks.any():
        return labels, kept
    rows, columns = ndimage.distance_transform_edt(specks, return_distances=False, return_indices=True)
    return labels[rows, columns], kept


def _judge(scene: _Scene, rule: Rule) -> Verdict:
    name = "block" if rule == "tower" else "object"
    if not scene.objects:
        return Verdict(False, f"no {name}")
    for mask in scene.objects:
        if _in_pieces(scene, mask):
            return Verdict(False, f"{name} {mask} is in pieces")
    problem = _tower_problem(scene) if rule == "tower" else _floor_problem(scene, rule)
    if problem:
        return Verdict(False, problem)
    count = len(scene.objects)
    return Verdict(True, f"{count} {name}{' stands' if count == 1 else 's stand'}")


def _in_pieces(scene: _Scene, mask: int) -> bool:
    """Sentence 5."""
    pieces, count = ndimage.label(scene.labels == mask, EIGHT)
    if count == 1:
        return False
    largest = 1 + np.bincount(pieces.ravel())[1:].argmax()
    distance, nearest = ndimage.distance_transform_edt(pieces != largest, return_indices=True)
    for piece in range(1, count + 1):
        start = np.unravel_index(np.where(pieces == piece, distance, np.inf).argmin(), pieces.shape)
        end = nearest[:, *start]
        steps = 1 + int(np.abs(end - start).max())
        rows, columns = (np.linspace(a, b, steps).round().astype(np.intp) for a, b in zip(start, end, strict=True))
        if scene.background[scene.labels[rows, columns]].sum() > scene.reach:
            return True
    return False


def _tower_problem(scene: _Scene) -> str | None:
    """Sentences 6 to 10."""
    if len(scene.objects) == 1:
        return "only one block"
    over = _over(scene.labels, scene)  # [K,K,W]
    above, left = over.sum(2), _over(scene.labels.T, scene).sum(2)  # [K,K]: turned, left is above
    touching = (above + left)[np.ix_(scene.objects, scene.objects)] > 0
    count, group = connected_components(touching, directed=False)
    if count > 1:
        alone = np.flatnonzero(np.bincount(group)[group] == 1)
        return f"block {scene.objects[alone[0]]} touches nothing" if len(alone) else f"{count} towers"

    places = {mask: np.nonzero(scene.labels == mask) for mask in scene.objects}  # rows and columns
    blocks = sorted(scene.objects, key=lambda mask: -places[mask][0].mean())  # from the floor upwards
    if places[blocks[0]][0].min() == 0:
        return f"block {blocks[0]} hangs from above"
    for level, (lower, upper) in enumerate(itertools.pairwise(blocks), start=1):
        columns = np.flatnonzero(over[upper, lower])
        narrower = min(len(np.unique(places[mask][1])) for mask in (lower, upper))
        rise = abs(left[upper, lower] - left[lower, upper])
        if len(columns) < SUPPORT * narrower or rise > STEEPEST * (above[upper, lower] - above[lower, upper]):
            return f"block {upper} does not rest on block {lower}"
        row, column = np.concatenate([places[mask] for mask in blocks[level:]], axis=1).mean(1)
        lean = _lean(row, column, scene.labels.shape) * (places[upper][0].max() - row)
        if not columns[0] + min(lean, 0) - scene.reach <= column <= columns[-1] + max(lean, 0) + scene.reach:
            return f"block {upper} is off balance"
    return None


def _over(labels: Labels, scene: _Scene) -> Flags:
    """Sentence 4: whether an object is over another, in each column: [K,K,W]."""
    count = len(scene.background)
    over = np.zeros((count, count, labels.shape[1]), dtype=bool)
    is_object = ~scene.background[labels]
    open_below = is_object  # objects with nothing but background in all steps so far
    for step in range(1, scene.reach + 2):
        upper, lower = labels[:-step], labels[step:]
        open_below = open_below[: len(upper)]
        rows, columns = np.nonzero(open_below & is_object[step:] & (upper != lower))
        over[upper[rows, columns], lower[rows, columns], columns] = True
        open_below = open_below & ~is_object[step:]
    return over


def _lean(row: float, column: float, shape: tuple[int, ...]) -> float:
    """Sentence 9: how many columns to the right upright things may lean per row upwards, at a place."""
    height, width = shape
    return (column - (width - 1) / 2) / (VANISHING * height - (row - (height - 1) / 2))


def _floor_problem(scene: _Scene, rule: Rule) -> str | None:
    """Sentences 11 to 13."""
    floor = scene.background
    if rule == "room":
        bottom = np.bincount(scene.labels[-1], minlength=len(floor))
        floor = floor & (bottom >= BACKGROUND * bottom.sum())
    regions = {mask: scene.labels == mask for mask in scene.objects}
    tops = {mask: region.any(1).argmax() for mask, region in regions.items()}
    for mask, region in regions.items():
        around = np.unique(np.pad(scene.labels, 1, constant_values=-1)[_outline(region)])
        if len(around) == 1 and around[0] in regions:
            return f"object {mask} is inside object {around[0]}"
        lower = [other for other in scene.objects if tops[other] > tops[mask]]
        if not _is_held(region, floor[scene.labels] | np.isin(scene.labels, lower)):
            return f"object {mask} hovers"
    return None


def _outline(region: Flags) -> Flags:
    """The pixels around a region, in the image with one more pixel on each side."""
    region = np.pad(region, 1)
    return ndimage.binary_dilation(region, EIGHT) & ~region


def _is_held(region: Flags, holds: Flags) -> bool:
    """Sentence 12."""
    rows = np.flatnonzero(region.any(1))
    columns = np.flatnonzero(region.any(0))
    below = len(region) - region[::-1, columns].argmax(0)  # the row below the lower outline
    foot = below > 1 + rows[-1] - FOOT * (1 + rows[-1] - rows[0])
    held = np.pad(holds, ((0, 1), (0, 0)), constant_values=True)[below[foot], columns[foot]]
    return bool(2 * held.sum() >= len(held))
