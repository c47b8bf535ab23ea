"""Pictures of scenes: reconstructions, masks and samples, with their slots in the order of the sequence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_sri.elbo import TermsELBO
from pyro_sri.inference import Explanation, Scenes, explain, sample_scenes
from pyro_sri.viz.sheets import PALETTE, Header, Picture, enlarge, grid, sheet

TEMPERATURES = (0.5, 0.7, 0.85, 1.0)

UNSURE = 224  # a grey that stands out from the paper
# Where a slot is transparent, a checkerboard shows: black or grey would look like something it painted.
CHECKER_LIGHT, CHECKER_DARK = 240, 216
CHECKERS_PER_SIDE = 16

SCENES_AT_ONCE = 16  # scenes decoded together: bounds the memory, 9 slots of 64x64 need about half a GB


def to_uint8(pictures: Tensor) -> NDArray[np.uint8]:
    """Pictures [..., 3, H, W] in [0, 1], clipped, -> uint8 [..., H, W, 3]."""
    return (pictures.detach().clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()


def mask_pictures(masks: Tensor) -> NDArray[np.uint8]:
    """Masks as colours: the colour of the slot with the largest mask, paler the less sure it is.

    Args:
        masks: Probabilities [..., K, 1, H, W].

    Returns:
        uint8 [..., H, W, 3]: the pure colour where one slot has everything, UNSURE where all slots share alike.
    """
    num_slots = masks.shape[-4]
    largest, winner = masks.squeeze(-3).max(-3)  # [..., H, W]
    fair_share = 1 / num_slots
    sure = ((largest - fair_share) / (1 - fair_share)).clamp(0, 1) if num_slots > 1 else torch.ones_like(largest)
    colours = torch.from_numpy(PALETTE).to(masks)[winner % len(PALETTE)] / 255  # [..., H, W, 3]
    pale = torch.full_like(colours, UNSURE / 255)
    return to_uint8(torch.lerp(pale, colours, sure[..., None]).movedim(-1, -3))


def slot_pictures(rgb: Tensor, masks: Tensor) -> NDArray[np.uint8]:
    """What each slot paints, over a checkerboard.

    Args:
        rgb: Colours [..., K, 3, H, W] in [0, 1].
        masks: Probabilities [..., K, 1, H, W].

    Returns:
        uint8 [..., K, H, W, 3].
    """
    board = checkerboard(rgb.shape[-2], rgb.shape[-1]).to(rgb)
    return to_uint8(masks * rgb.clamp(0, 1) + (1 - masks) * board)


def checkerboard(height: int, width: int) -> Tensor:
    """A grey checkerboard [H, W] in [0, 1]."""
    cell = max(1, min(height, width) // CHECKERS_PER_SIDE)
    odd = (torch.arange(height)[:, None] // cell + torch.arange(width) // cell) % 2
    return torch.where(odd == 1, CHECKER_DARK / 255, CHECKER_LIGHT / 255)


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
        pictures["attention"] = mask_pictures(explanation.attention_masks)
    pictures["masks"] = mask_pictures(explanation.slot_masks)
    slots = slot_pictures(explanation.slot_rgb, explanation.slot_masks)
    return _with_slots(pictures, slots, labels, caption)


def samples_by_slot(scenes: Scenes, *, labels: Sequence[str] = (), caption: str = "") -> Picture:
    """A row per sampled scene: the scene, its masks as colours, then slot by slot in the order of generation.

    Args:
        scenes: N sampled scenes.
        labels: A label for each row, or none.
        caption: A line below.

    Returns:
        uint8 [h, w, 3].
    """
    pictures = {"sample": to_uint8(scenes.images), "masks": mask_pictures(scenes.slot_masks)}
    return _with_slots(pictures, slot_pictures(scenes.slot_rgb, scenes.slot_masks), labels, caption)


def temperatures(
    model: Any,
    num_slots: int,
    *,
    num: int = 8,
    values: Sequence[float] = TEMPERATURES,
    seed: int = 0,
    caption: str = "",
) -> Picture:
    """The same draws at several temperatures, with a slot less, as many as in training, and one more.

    Args:
        model: A scene model.
        num_slots: K in training.
        num: Scenes in a row; down a column all draws share their random numbers.
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
    model: Any, guide: Any, images: Tensor, num_samples: int, elbo: TermsELBO | None = None
) -> dict[str, Picture]:
    """Pictures for a training log; draws from the current random state.

    Args:
        model: A scene model.
        guide: Its guide.
        images: [B, 3, H, W] in [0, 1].
        num_samples: Scenes to sample.
        elbo: The objective, in evaluation mode; None for SRI's.

    Returns:
        uint8 [h, w, 3] by name: `input_reconstruction_imagination`, `attention_masks` (if the guide has any),
        `decoder_masks`, `samples`, `samples_slots`.
    """
    explanation = explain(model, guide, images, elbo)
    scenes = sample_scenes(model, num_samples, chunk=SCENES_AT_ONCE)
    triples = [explanation.images, explanation.reconstruction, explanation.imagination]
    shown = [to_uint8(pictures) for pictures in triples if pictures is not None]
    tiles = [[enlarge(picture) for picture in pictures] for pictures in shown]
    pictures = {"input_reconstruction_imagination": sheet(tiles)}
    if explanation.attention_masks is not None:
        pictures["attention_masks"] = grid(mask_pictures(explanation.attention_masks))
    pictures["decoder_masks"] = grid(mask_pictures(explanation.slot_masks))
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
    headers = [Header(name) for name in pictures] + [Header(f"slot {k}", k) for k in range(slots.shape[1])]
    return sheet(rows, headers, labels, column_breaks=[len(pictures)], caption=caption)
