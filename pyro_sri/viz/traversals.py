"""Traversals: the effect of single dimensions of slots on an image."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_sri.inference import decode_scenes
from pyro_sri.metrics.disentanglement import activeness
from pyro_sri.programs import Model
from pyro_sri.viz.latents import SlotBeliefs
from pyro_sri.viz.masks import slot_pictures, to_uint8
from pyro_sri.viz.sheets import Header, Picture, enlarge, sheet

TRAVERSAL_SPAN = 2.0  # how far a traversal goes to either side, in spreads of the posterior means
SMALL_SIDE = 64  # pixels of a tile where all slots are moved


class Traversals(NamedTuple):
    """The slots of one image, with one dimension of one slot changed at a time.

    Attributes:
        slots: The M slots that were changed: those that are present.
        names: Names of the N dimensions that were changed, most active first. They are the same for all slots, because
            one decoder paints all slots, so a dimension has the same meaning in each.
        activeness: The activeness of each dimension in each slot [M, N].
        offsets: T offsets from the posterior mean, in spreads of the slot's posterior mean over images; the middle one
            is 0.
        pictures: The scenes, uint8 [M, N, T, H, W, 3].
        alone: The M slots at the posterior mean, each over a checkerboard, uint8 [M, H, W, 3].
    """

    slots: list[int]
    names: list[str]
    activeness: NDArray[np.float64]
    offsets: list[float]
    pictures: NDArray[np.uint8]
    alone: NDArray[np.uint8]


def traverse(model: Model, posterior: SlotBeliefs, *, num: int = 10, steps: int = 3) -> Traversals:
    """Moves the most active dimensions of every slot of an image, one at a time.

    The image is the first one with the most slots. Dimensions are ranked by their mean activeness over its slots.

    Args:
        model: A model.
        posterior: The posterior of several images, at least one of which has a slot.
        num: Dimensions to move, at most D.
        steps: Number of values on either side of the posterior mean.
    """
    image = int(posterior.present.sum(1).argmax())
    slots = posterior.present[image].nonzero()[:, 0].tolist()
    seen = [(posterior.means[there, k], posterior.scales[there, k]) for k, there in enumerate(posterior.present.T)]
    active = np.stack([_activeness(*seen[slot]) for slot in slots])  # [M, D]
    spreads = [seen[slot][0].std(0, correction=0) for slot in slots]  # [D] each
    dimensions = np.argsort(-active.mean(0), kind="stable")[:num].tolist()

    mean = posterior.means[image]  # [K, D]
    offsets = torch.arange(-steps, steps + 1).to(mean) * TRAVERSAL_SPAN / steps
    away = torch.cat([offsets[:steps], offsets[steps + 1 :]])  # the middle is the same for all
    moved = mean.repeat(len(slots), len(dimensions), len(away), 1, 1)  # [M, N, T - 1, K, D]
    for row, slot in enumerate(slots):
        for column, dimension in enumerate(dimensions):
            moved[row, column, :, slot, dimension] += away * spreads[row][dimension]
    pieces = decode_scenes(model, posterior.values(moved.flatten(0, 2), image))
    flat = np.concatenate([to_uint8(piece.images) for piece in pieces])
    pictures = flat.reshape(*moved.shape[:3], *flat.shape[1:])
    (still,) = decode_scenes(model, posterior.values(mean[None], image))
    middle = np.broadcast_to(to_uint8(still.images), (*pictures.shape[:2], 1, *pictures.shape[3:]))
    return Traversals(
        slots=slots,
        names=[posterior.name(dimension) for dimension in dimensions],
        activeness=active[:, dimensions],
        offsets=offsets.tolist(),
        pictures=np.concatenate([pictures[:, :, :steps], middle, pictures[:, :, steps:]], 2),
        alone=slot_pictures(still.slot_rgb, still.slot_masks)[0, slots],
    )


def _activeness(means: Tensor, scales: Tensor) -> NDArray[np.float64]:
    """The activeness of one slot [D]. 0 if it is present in fewer than two images."""
    return activeness(means.cpu(), scales.cpu()) if len(means) > 1 else np.zeros(means.shape[1])


def traversal_sheet(traversals: Traversals, *, caption: str = "") -> Picture:
    """The most active slot in detail: a row per dimension, from low to high, uint8 [h, w, 3]."""
    which = int(traversals.activeness.sum(1).argmax())
    rows = [[enlarge(picture) for picture in row] for row in traversals.pictures[which]]
    headers = [Header(f"{offset:+.2g} sd" if offset else "posterior mean") for offset in traversals.offsets]
    labels = [
        f"slot {traversals.slots[which]}, {name}\nactive {value:.3g}"
        for name, value in zip(traversals.names, traversals.activeness[which].tolist(), strict=True)
    ]
    return sheet(rows, headers, labels, caption=caption)


def traversal_frames(traversals: Traversals) -> list[Picture]:
    """An animation back and forth: a row per slot, which starts with the slot alone, and a column per dimension."""
    headers = [Header("slot alone"), *map(Header, traversals.names)]
    labels = [f"slot {slot}" for slot in traversals.slots]
    frames = []
    for step in range(len(traversals.offsets)):
        rows = [
            [enlarge(picture, SMALL_SIDE) for picture in (alone, *moved)]
            for alone, moved in zip(traversals.alone, traversals.pictures[:, :, step], strict=True)
        ]
        frames.append(sheet(rows, headers, labels, column_breaks=[1]))
    return frames + frames[-2:0:-1]
