"""Detects collapsed slots or a collapsed scene variable, and describes the collapse in a sentence."""

import numpy as np
from numpy.typing import NDArray

from pyro_sri.evaluation.measures.base import Measure, Metrics, Truth, as_arrays
from pyro_sri.inference import Explanation
from pyro_sri.metrics import active_dimensions, entity_labels, slot_labels

FEWEST_IMAGES = 16  # fewer are not enough to judge
MOST_IMAGES = 1000  # whose codes are kept
EMPTY = 0.001  # of an image's area is at most in slots, in the median image
ONE_SLOT = 0.99  # of an image's pixels in its largest slot, in the median image
SOMETHING = 0.02  # of an image's pixels are outside its largest true entity, so there is something to find
LEAST_SCENE = 0.1  # nats that a scene variable in use has at least; an unused one has about 0
AS_GOOD = 0.9  # from this ratio on, another image's masks explain an image as well as its own

NOTHING = "the slots hold nothing: no dimension of any slot varies from image to image (posterior collapse)"
NO_OBJECTS = "the slots are empty: no objects are found in most images"
ALL_IN_ONE = "one slot takes the whole image: no objects are separated"
REGIONS = "the masks are regions of the image, not objects: they fit another image as well as their own"
NO_SCENE = "the scene variable holds nothing, so nothing relates the slots but their order (posterior collapse)"
TRY = {
    NOTHING: "try a smaller --pixel-std, or a --geco-target that is harder to meet",
    NO_OBJECTS: "try a smaller --pixel-std, a larger --presence-prior, or more --annealing-steps (AIR)",
    ALL_IN_ONE: "try another seed, a smaller --pixel-std, or --colour-start picture (SRI and GENESIS-v2)",
    REGIONS: "try another seed, more --steps, or --colour-start picture with --no-learn-masks (SRI and GENESIS-v2)",
    NO_SCENE: "try --prior-warmup-steps 100 (SRI with --prior-from), or another seed",
}


class Collapse(Measure):
    """Checks batches of inferred images for collapse.

    - Nothing in the slots: the variance over images of every dimension of every slot's posterior mean is at most 0.01.
    - No objects: in the median image, at most 0.001 of the area is in slots (of AIR, which leaves out the background).
    - One slot for everything: in the median image, 0.99 of the pixels are in one slot.
    - Regions: the masks of the image before explain the variance of an image's colours about as well as its own.
    - Nothing in the scene variable: its KL is less than 0.1 nats in the mean.

    No objects or one slot are no collapse if there is nothing else to see: less than 0.02 of the pixels, if there are
    true masks.
    """

    def __init__(self) -> None:
        self.num_images = 0
        self.means: list[NDArray[np.floating]] = []
        self.held: list[NDArray[np.floating]] = []
        self.largest: list[NDArray[np.floating]] = []
        self.to_find: list[NDArray[np.floating]] = []
        self.used: list[NDArray[np.integer]] = []
        self.scenes: list[NDArray[np.floating]] = []  # their KLs
        self.left_by_own, self.left_by_others = 0.0, 0.0
        self.labels_before: list[NDArray[np.integer]] = []  # of the last image so far [H, W], if any

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Adds a batch."""
        if explanation.codes is not None and self.num_images < MOST_IMAGES:
            self.means.append(explanation.codes.means.double().cpu().numpy())
        if "kl_scene" in explanation.terms:
            self.scenes.append(explanation.terms["kl_scene"].double().cpu().numpy())
        self.num_images += len(explanation.images)
        masks, num_slots = as_arrays(explanation.slot_masks), explanation.slot_masks.shape[1]
        labels = slot_labels(masks)
        shares = np.stack([(labels == slot).mean((1, 2)) for slot in range(masks.shape[1])], axis=1)  # [B, K or K + 1]
        self.held.append(masks[:, :num_slots].sum(1).mean((1, 2, 3)))
        self.largest.append(shares[:, :num_slots].max(1))
        self.used.append((shares > 1 - ONE_SLOT).sum(1))
        self._compare(explanation.images.double().cpu().numpy(), labels)
        if truth.masks is not None:
            entities = entity_labels(truth.masks)
            largest = [(entities == entity).mean((1, 2)) for entity in range(-1, truth.masks.shape[1])]
            self.to_find.append(1 - np.max(largest, axis=0))

    def _compare(self, images: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
        """Explains each image [B, 3, H, W] by its own labels [B, H, W] and by those of the image before."""
        others = [*self.labels_before, *labels[:-1]]
        known = slice(len(images) - len(others), None)  # the very first image has none before it
        for image, own, other in zip(images[known], labels[known], others, strict=True):
            self.left_by_own += _unexplained(image, own)
            self.left_by_others += _unexplained(image, other)
        self.labels_before = [labels[-1]]

    def result(self) -> Metrics:
        """Returns `collapse`, the sentence, if the slots have collapsed."""
        sentence = self.sentence()
        return {} if sentence is None else {"collapse": sentence}

    def sentence(self) -> str | None:
        """The kind of collapse and what to try, in a sentence. None if there is none, or too few images to judge."""
        found = None if self.num_images < FEWEST_IMAGES else self._find()
        return None if found is None else f"{found}; {TRY[found]}"

    def _find(self) -> str | None:
        if self.means and not active_dimensions(np.concatenate(self.means)).any():
            return NOTHING
        to_find = np.median(np.concatenate(self.to_find)) if self.to_find else 1
        if np.median(np.concatenate(self.held)) <= EMPTY:
            return NO_OBJECTS if to_find >= SOMETHING else None
        if np.median(np.concatenate(self.largest)) >= ONE_SLOT:
            return ALL_IN_ONE if to_find >= SOMETHING else None
        several = np.median(np.concatenate(self.used)) > 1
        if several and self.left_by_others > 0 and self.left_by_own >= AS_GOOD * self.left_by_others:
            return REGIONS
        if self.scenes and np.concatenate(self.scenes).mean() < LEAST_SCENE:
            return NO_SCENE
        return None


def _unexplained(image: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Squared error of an image [3, H, W] whose pixels have the mean colour of their label [H, W]."""
    flat, pixels = labels.ravel(), image.reshape(3, -1)
    counts = np.maximum(np.bincount(flat), 1)
    sums = np.stack([np.bincount(flat, channel) for channel in pixels])  # [3, labels]
    return float(np.square(pixels).sum() - (np.square(sums) / counts).sum())
