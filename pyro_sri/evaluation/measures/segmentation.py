"""Adjusted Rand indices."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pyro_sri.evaluation.measures.base import (
    NO_MASKS,
    Meaning,
    Meanings,
    Measure,
    Metrics,
    Truth,
    as_arrays,
    mean_and_error,
    missing,
    slot_arrays,
)
from pyro_sri.inference import Explanation
from pyro_sri.metrics import adjusted_rand_index


class Segmentation(Measure):
    """Adjusted Rand indices of the decoder's masks and of the guide's own."""

    meanings: ClassVar[Meanings] = {
        "segmentation": {
            "ari_fg": Meaning("adjusted Rand index over foreground pixels, decoder masks (1 is perfect)", "higher"),
            "ari_fg_attention": Meaning(
                "adjusted Rand index over foreground pixels, the guide's own (attention) masks", "higher"
            ),
            "ari": Meaning("adjusted Rand index over all pixels, decoder masks", "higher", detail=True),
        }
    }

    NAMES = ("ari_fg", "ari", "ari_fg_attention")
    NOTHING_TO_SCORE: ClassVar[dict[str, str]] = dict.fromkeys(NAMES, "no image has foreground") | {
        "ari": "no pixel of any image belongs to an entity"
    }

    def __init__(self) -> None:
        self.values: dict[str, list[NDArray[np.floating]]] = {name: [] for name in self.NAMES}
        self.has_masks = False

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Adds a batch."""
        if truth.masks is None:
            return
        self.has_masks = True
        self._score("ari_fg", truth, slot_arrays(explanation.slot_masks), foreground_only=True)
        self._score("ari", truth, as_arrays(explanation.slot_masks), foreground_only=False)
        if explanation.attention_masks is not None:
            self._score("ari_fg_attention", truth, slot_arrays(explanation.attention_masks), foreground_only=True)

    def _score(self, name: str, truth: Truth, masks: NDArray[np.floating], *, foreground_only: bool) -> None:
        assert truth.masks is not None
        scores = adjusted_rand_index(
            truth.masks, masks, foreground_only=foreground_only, background_entities=truth.background
        )
        self.values[name].append(scores)

    def result(self) -> Metrics:
        """Returns means over the images with a foreground, and the number of images without one."""
        if not self.has_masks:
            return missing(NO_MASKS, *self.NAMES)
        result: Metrics = {}
        for name, parts in self.values.items():
            values = np.concatenate(parts) if parts else np.empty(0)
            scored = values[~np.isnan(values)]  # an image without foreground is NaN and has no score
            if len(scored):
                result |= mean_and_error(name, scored)
            else:
                reason = self.NOTHING_TO_SCORE[name] if parts else "the guide has no attention masks"
                result |= missing(reason, name)
        return result | {"num_images_without_foreground": int(np.isnan(np.concatenate(self.values["ari_fg"])).sum())}
