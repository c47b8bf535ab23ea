"""Pictures of scenes: reconstructions, masks and samples, with their slots in the order of the sequence."""

from collections.abc import Sequence

import numpy as np
import pyro
from numpy.typing import NDArray
from torch import Tensor

from pyro_sri.inference import Explanation, Scenes, explain, sample_scenes
from pyro_sri.objectives import TermsELBO
from pyro_sri.programs import Guide, Model
from pyro_sri.viz.masks import canvases, mask_tiles, slot_pictures, to_uint8
from pyro_sri.viz.sheets import PAPER, Header, Picture, enlarge, grid, sheet

TEMPERATURES = (0.5, 0.7, 0.85, 1.0)


def reconstructions(explanation: Explanation, *, labels: Sequence[str] = (), caption: str = "") -> Picture:
    """A row per image: input, reconstruction, imagination, masks as colours, then slot by slot in order.

    Args:
        explanation: B inferred images; what the guide does not have is left out.
        labels: A label for each row, or none.
        caption: A line below.

    Returns:
        uint8 [h, w, 3].
    """
    pictures = {"input": to_uint8(explanation.images), "reconstruction": to_uint8(explanation.reconstruction)}
    if explanation.imagination is not None:
        pictures["imagination"] = to_uint8(explanation.imagination)
    if explanation.attention_masks is not None:
        pictures["attention"] = mask_tiles(explanation.attention_masks)
    pictures["masks"] = mask_tiles(explanation.slot_masks)
    slots = slot_pictures(explanation.slot_rgb, explanation.slot_masks)
    return _with_slots(pictures, slots, labels, caption)


def slot_details(explanation: Explanation, *, labels: Sequence[str]) -> Picture:
    """Rows for the first images, slot by slot: attention mask, decoder mask, colours, and colours times mask.

    Args:
        explanation: B inferred images; what the guide does not have is left out.
        labels: What the first images are called; a block of rows for each.

    Returns:
        uint8 [h, w, 3]: masks in grey levels, black 0 and white 1.
    """
    rgb, masks, attention = explanation.slot_rgb, explanation.slot_masks, explanation.attention_masks
    inputs = to_uint8(explanation.images)
    blank = np.full_like(inputs, PAPER)
    kinds = {  # all slots together, and one by one
        "decoder mask": (mask_tiles(masks), _grey(masks)),
        "colours": (blank, to_uint8(rgb)),
        "colours x mask": (to_uint8(explanation.reconstruction), slot_pictures(rgb, masks)),
    }
    if attention is not None:
        kinds = {"attention mask": (mask_tiles(attention), _grey(attention))} | kinds
    rows, names = [], []
    for image, label in enumerate(labels):
        for kind, (together, slots) in enumerate(kinds.values()):
            tiles = [blank[image] if kind else inputs[image], together[image], *slots[image]]
            rows.append([enlarge(tile) for tile in tiles])
        names += [f"{label}\n{kind}" for kind in kinds]
    headers = [Header("input"), Header("together"), *_slot_headers(masks.shape[1])]
    breaks = range(len(kinds), len(rows), len(kinds))
    return sheet(rows, headers, names, column_breaks=[1, 2], row_breaks=breaks)


def imaginations(explanation: Explanation, *, labels: Sequence[str] = ()) -> Picture:
    """A column per image: input, reconstruction, and what the scene variable alone imagines.

    Args:
        explanation: B inferred images, with imagination.
        labels: What the images are called, or nothing.

    Returns:
        uint8 [h, w, 3].
    """
    assert explanation.imagination is not None, "the guide imagines nothing"
    rows = {
        "input": explanation.images,
        "reconstruction": explanation.reconstruction,
        "imagination": explanation.imagination,
    }
    tiles = [[enlarge(picture) for picture in to_uint8(pictures)] for pictures in rows.values()]
    return sheet(tiles, [Header(label) for label in labels], list(rows))


def samples_by_slot(scenes: Scenes, *, labels: Sequence[str] = (), caption: str = "") -> Picture:
    """A row per sampled scene: the scene, its masks as colours, then slot by slot in the order of generation.

    Args:
        scenes: N sampled scenes.
        labels: A label for each row, or none.
        caption: A line below.

    Returns:
        uint8 [h, w, 3].
    """
    pictures = {"sample": to_uint8(scenes.images), "masks": mask_tiles(scenes.slot_masks)}
    return _with_slots(pictures, slot_pictures(scenes.slot_rgb, scenes.slot_masks), labels, caption)


def samples_in_order(scenes: Scenes, *, labels: Sequence[str] = ()) -> Picture:
    """A row per sampled scene: the scene, then its canvas as the slots are added one after another.

    Args:
        scenes: N sampled scenes.
        labels: A label for each row, or none.

    Returns:
        uint8 [h, w, 3].
    """
    canvas = canvases(scenes.slot_rgb, scenes.slot_masks)  # [N, K, H, W, 3]
    rows = [
        [enlarge(tile) for tile in (image, *steps)]
        for image, steps in zip(to_uint8(scenes.images), canvas, strict=True)
    ]
    headers = [Header("sample"), *(Header(f"+ slot {k}" if k else "slot 0", k) for k in range(canvas.shape[1]))]
    return sheet(rows, headers, labels, column_breaks=[1])


def temperatures(
    model: Model,
    num_slots: int,
    *,
    num: int = 8,
    values: Sequence[float] = TEMPERATURES,
    seed: int = 0,
    caption: str = "",
) -> Picture:
    """The same draws at several temperatures, with one slot less than in training, the same number, and one more.

    Args:
        model: A scene model.
        num_slots: K in training.
        num: Scenes per row. The draws of a column share their random numbers.
        values: Factors on every prior standard deviation.
        seed: Seed of the draws.
        caption: A line below.

    Returns:
        uint8 [h, w, 3].
    """
    counts = [count for count in (num_slots - 1, num_slots, num_slots + 1) if count >= 1]
    rows, labels = [], []
    for count in counts:
        for value in values:
            pyro.set_rng_seed(seed)
            scenes = sample_scenes(model, num, num_slots=count, temperature=value, chunk=num)
            rows.append([enlarge(picture) for picture in to_uint8(scenes.images)])
            labels.append(f"{count} {'slot' if count == 1 else 'slots'}, T = {value:g}")
    breaks = [len(values) * i for i in range(1, len(counts))]
    return sheet(rows, labels=labels, row_breaks=breaks, caption=caption)


def tensorboard_images(
    model: Model, guide: Guide, images: Tensor, num_samples: int, elbo: TermsELBO | None = None
) -> dict[str, Picture]:
    """Pictures for a training log; draws from the current random state.

    Args:
        model: A scene model.
        guide: Its guide.
        images: [B, 3, H, W] in [0, 1].
        num_samples: Scenes to sample.
        elbo: The objective; None for that of the pair.

    Returns:
        uint8 [h, w, 3] by name: `input_reconstruction_imagination`, `attention_masks` (if the guide has any),
        `decoder_masks`, `samples`, `samples_slots`.
    """
    explanation = explain(model, guide, images, elbo)
    scenes = sample_scenes(model, num_samples)
    triples = [explanation.images, explanation.reconstruction, explanation.imagination]
    shown = [to_uint8(pictures) for pictures in triples if pictures is not None]
    tiles = [[enlarge(picture) for picture in pictures] for pictures in shown]
    pictures = {"input_reconstruction_imagination": sheet(tiles)}
    if explanation.attention_masks is not None:
        pictures["attention_masks"] = grid(mask_tiles(explanation.attention_masks))
    pictures["decoder_masks"] = grid(mask_tiles(explanation.slot_masks))
    pictures["samples"] = grid(to_uint8(scenes.images))
    pictures["samples_slots"] = samples_by_slot(scenes)
    return pictures


def _with_slots(
    pictures: dict[str, NDArray[np.uint8]], slots: NDArray[np.uint8], labels: Sequence[str], caption: str
) -> Picture:
    """Rows of named pictures [N, H, W, 3], then of slots [N, K, H, W, 3]."""
    rows = [
        [enlarge(column[row]) for column in pictures.values()] + [enlarge(slot) for slot in slots[row]]
        for row in range(len(slots))
    ]
    headers = [*map(Header, pictures), *_slot_headers(slots.shape[1])]
    return sheet(rows, headers, labels, column_breaks=[len(pictures)], caption=caption)


def _slot_headers(num_slots: int) -> list[Header]:
    return [Header(f"slot {k}", k) for k in range(num_slots)]


def _grey(masks: Tensor) -> NDArray[np.uint8]:
    """Masks [..., 1, H, W] in grey levels [..., H, W, 3]."""
    return to_uint8(masks.expand(*masks.shape[:-3], 3, *masks.shape[-2:]))
