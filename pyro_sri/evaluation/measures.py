"""What is measured on inferred images: each measure sees every batch once and keeps a few numbers."""

import math
import re
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyro_sri.inference import Explanation
from pyro_sri.metrics import (
    adjusted_rand_index,
    bits_per_dimension,
    count_accuracy,
    count_confusion,
    mean_squared_error,
    with_background,
)
from pyro_sri.metrics.structure import Rule, check_structure

Metrics = dict[str, float | int | str | None]

CONFUSION = re.compile(r"count_(\d+)_found_(\d+)")  # images by their number of objects and by the number found
NO_MASKS = "the data has no masks"
NO_BOUND = "an auto-encoder has no prior: there is no bound on log p(x)"
NO_RULE = "there are rules only for towers, stacks, rooms and CLEVR"


class Truth(NamedTuple):
    """What a dataset file knows of a batch of images.

    Attributes:
        masks: What is seen of each entity: uint8 [B, O, H, W, 1], each pixel in one entity or none; or None.
        background: Which entities are background.
        factors: Floats [B, O, F], or None.
    """

    masks: NDArray[np.uint8] | None
    background: tuple[int, ...]
    factors: NDArray[np.floating] | None = None


class Measure(Protocol):
    """Takes inferred batches one after the other, then gives metrics."""

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Sees a batch."""

    def result(self) -> Metrics:
        """What was found: numbers, or None with `<name>_reason`."""


def missing(reason: str, *names: str) -> Metrics:
    """Metrics that cannot be had, and why."""
    return {key: value for name in names for key, value in ((name, None), (f"{name}_reason", reason))}


def mean_and_error(name: str, values: NDArray[np.floating]) -> Metrics:
    """The mean over images, and its standard error where there are at least two."""
    result: Metrics = {name: float(values.mean())}
    if len(values) > 1:
        result[f"{name}_stderr"] = float(values.std(ddof=1) / math.sqrt(len(values)))
    return result


def slot_arrays(masks: Tensor) -> NDArray[np.floating]:
    """Masks [B, K, 1, H, W] -> [B, K, H, W, 1]: of the slots alone, which share the foreground among themselves."""
    return masks.movedim(2, -1).cpu().numpy()


def as_arrays(masks: Tensor) -> NDArray[np.floating]:
    """Masks [B, K, 1, H, W] -> [B, K, H, W, 1]; with a last one for the background where slots leave it out."""
    return with_background(slot_arrays(masks)).astype(np.float32, copy=False)


class Bound:
    """Reconstruction error, the terms of the objective, and the bound that they make."""

    def __init__(self) -> None:
        self.values: dict[str, list[NDArray[np.floating]]] = {}

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Sees a batch."""
        terms = {name: term.double().cpu().numpy() for name, term in explanation.terms.items()}
        above = {} if explanation.nll_floor is None else {"nll_above_floor": terms["nll"] - explanation.nll_floor}
        for name in ("nll", "segregation_nll"):
            if name in terms:
                terms[name] = terms[name] + explanation.log_normaliser
        kl = explanation.kl.double().cpu().numpy()
        size = explanation.images.shape[-1]
        images, reconstruction = (x.cpu().numpy() for x in (explanation.images, explanation.reconstruction))
        bound = {"bpd": bits_per_dimension(terms["nll"] + kl, size), "kl": kl} if explanation.has_bound else {}
        scores = {"mse": mean_squared_error(images, reconstruction), **bound, **above, **terms}
        if "kl_cross" in terms:
            scores["bpd_with_cross"] = bits_per_dimension(terms["nll"] + kl + terms["kl_cross"], size)
        for name, values in scores.items():
            self.values.setdefault(name, []).append(values)

    def result(self) -> Metrics:
        """`mse`, `nll`, `kl` and so on, each with `<name>_stderr`."""
        result: Metrics = {}
        for name, parts in self.values.items():
            result |= mean_and_error(name, np.concatenate(parts))
        if "bpd" not in result:
            return result | missing(NO_BOUND, "bpd", "bpd_with_cross", "kl") | self._floor(result)
        if "bpd_with_cross" not in result:
            result |= missing("this system has no KL_cross", "bpd_with_cross")
        return result | self._floor(result)

    def _floor(self, result: Metrics) -> Metrics:
        if "nll_above_floor" in result:
            return {}
        return missing("the likelihood has no floor", "nll_above_floor")


class Segmentation:
    """Adjusted Rand indices of the decoder's masks and of the guide's own."""

    NAMES = ("ari_fg", "ari", "ari_fg_attention")
    NOTHING_TO_SCORE: ClassVar[dict[str, str]] = dict.fromkeys(NAMES, "no image has foreground") | {
        "ari": "no pixel of any image belongs to an entity"
    }

    def __init__(self) -> None:
        self.values: dict[str, list[NDArray[np.floating]]] = {name: [] for name in self.NAMES}
        self.has_masks = False

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Sees a batch."""
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
        """Means over the images that have a foreground, and how many have none."""
        if not self.has_masks:
            return missing(NO_MASKS, *self.NAMES)
        result: Metrics = {}
        for name, parts in self.values.items():
            values = np.concatenate(parts) if parts else np.empty(0)
            scored = values[~np.isnan(values)]  # NaN marks an image without foreground: it has no score
            if len(scored):
                result |= mean_and_error(name, scored)
            else:
                reason = self.NOTHING_TO_SCORE[name] if parts else "the guide has no attention masks"
                result |= missing(reason, name)
        return result | {"num_images_without_foreground": int(np.isnan(np.concatenate(self.values["ari_fg"])).sum())}


class Counting:
    """How many objects a guide that counts finds; nothing for the others."""

    def __init__(self) -> None:
        self.pairs: list[NDArray[np.integer]] = []  # true and found [B, 2]
        self.counts = False

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Sees a batch."""
        if explanation.counts is None:
            return
        self.counts = True
        if truth.masks is not None:
            objects = [entity for entity in range(truth.masks.shape[1]) if entity not in truth.background]
            there = truth.masks[:, objects].any((2, 3, 4)).sum(1)
            self.pairs.append(np.stack([there, explanation.counts.cpu().numpy()], axis=1))

    def result(self) -> Metrics:
        """`count_accuracy`, and the confusion matrix as `count_i_found_j`."""
        if not self.counts:
            return {}
        if not self.pairs:
            return missing(NO_MASKS, "count_accuracy")
        pairs = np.concatenate(self.pairs)
        confusion = count_confusion(pairs[:, 0], pairs[:, 1])
        cells = {
            f"count_{there}_found_{found}": int(number)
            for (there, found), number in np.ndenumerate(confusion)
            if confusion[there].any()  # numbers that do not occur need no row
        }
        return {"count_accuracy": count_accuracy(pairs[:, 0], pairs[:, 1]), **cells}


class TrueStructure:
    """The structural rule on the data's own masks: how often it holds where every scene is as it should be."""

    def __init__(self, rule: Rule | None) -> None:
        self.rule = rule
        self.stands: list[bool] = []

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Sees a batch."""
        if self.rule is not None and truth.masks is not None:
            nobodys = np.where(truth.masks.any(1, keepdims=True), 0, 255).astype(np.uint8)
            masks = np.concatenate([truth.masks, nobodys], axis=1)  # what is in no entity is background too
            background = (*truth.background, truth.masks.shape[1])
            verdicts = check_structure(masks, rule=self.rule, background=background)
            self.stands += [verdict.stands for verdict in verdicts]

    def result(self) -> Metrics:
        """`structure_accuracy_data`."""
        if self.rule is None:
            return missing(NO_RULE, "structure_accuracy_data")
        if not self.stands:
            return missing(NO_MASKS, "structure_accuracy_data")
        return {"structure_accuracy_data": float(np.mean(self.stands))}
