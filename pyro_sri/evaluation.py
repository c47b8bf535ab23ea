"""Evaluation of a model and guide on a split of a dataset file."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray

from pyro_sri.data.format import DatasetFile
from pyro_sri.data.loading import evaluation_batches, to_images
from pyro_sri.elbo import TermsELBO
from pyro_sri.errors import UserError
from pyro_sri.inference import Explanation, explain
from pyro_sri.metrics import (
    adjusted_rand_index,
    bits_per_dimension,
    count_accuracy,
    count_confusion,
    mean_squared_error,
)
from pyro_sri.metrics.likelihood import importance_bound, importance_log_weights

Metrics = dict[str, float | int | str | None]

ARI_NAMES = ("ari_fg", "ari", "ari_fg_attention")
NOT_HERE = "this version does not compute it"


def evaluate(
    model: Any,
    guide: Any,
    data: Path,
    elbo: TermsELBO | None = None,
    *,
    split: str = "test",
    num_images: int | None = None,
    batch_size: int = 32,
    iwae_images: int = 100,
    iwae_samples: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Metrics:
    """Every metric, averaged over images; images are read, scored and forgotten a batch at a time.

    Args:
        model: A model.
        guide: Its guide.
        data: A dataset file.
        elbo: Its objective, in evaluation mode; None for SRI's.
        split: The split to evaluate on.
        num_images: The first so many images; None for all.
        batch_size: Images at once.
        iwae_images: Images for the importance-weighted bound, the first ones; 0 leaves it out.
        iwae_samples: Draws per image for it.
        seed: Seed of the draws.
        device: Where model and guide are.
        progress: Called with the number of images done and in total.

    Returns:
        A flat dictionary: numbers, or None with `<name>_reason`. `ari_fg` and `ari` are those of the decoder's masks
        (`slot_masks`), `ari_fg_attention` that of the segregation's; `nll` and the KLs are in nats per image,
        normalised; bits per dimension with and without KL_cross.

    Raises:
        UserError: If the data cannot be read or has no such split, or the model's output is not finite.
    """
    with DatasetFile(data) as file:
        total = min(num_images or file.num_images(split), file.num_images(split))
        background, generated = file.background_entities, file.generated
        image_size, has_masks = file.image_size, file.masks(split) is not None
    pyro.set_rng_seed(seed)
    scores: dict[str, list[NDArray[np.floating]]] = {}
    done = 0
    for batch in evaluation_batches(data, split, batch_size, total):
        explanation = explain(model, guide, to_images(batch["images"], device), elbo)
        if not all(
            torch.isfinite(values).all() for values in (explanation.reconstruction, *explanation.terms.values())
        ):
            raise UserError(f"the model gives values that are not finite on {split} images from {done} on: it diverged")
        for name, values in _scores(explanation, batch, background if has_masks else None).items():
            scores.setdefault(name, []).append(values)
        done += len(batch["images"])
        progress(done, total)
    per_image = {name: np.concatenate(parts) for name, parts in scores.items()}

    result: Metrics = {}
    for name in (*ARI_NAMES, *(name for name in per_image if name not in (*ARI_NAMES, "count"))):
        values = per_image.get(name, np.empty(0))
        if name in ARI_NAMES:
            values = values[~np.isnan(values)]  # NaN marks an image without foreground: it has no score
        result[name] = float(values.mean()) if len(values) else None
        if result[name] is None:
            result[f"{name}_reason"] = _why_no_ari(name, has_masks)
    if "count" in per_image:
        result |= _counts(per_image["count"][per_image["count"][:, 0] >= 0])
    if "bpd_with_cross" not in result:
        result |= {"bpd_with_cross": None, "bpd_with_cross_reason": "this system has no KL_cross"}
    if has_masks:
        result["num_images_without_foreground"] = int(np.isnan(per_image["ari_fg"]).sum())
    result |= _importance(
        model, guide, data, split, batch_size, min(iwae_images, total), iwae_samples, image_size, device
    )
    for name in ("frechet", "frechet_features", "structure_accuracy"):
        result |= {name: None, f"{name}_reason": NOT_HERE}
    return result | {
        "num_images": total,
        "split": split,
        "data": ("generated: " if generated else "") + Path(data).name,
        "seed": seed,
    }


def _scores(
    explanation: Explanation, batch: dict[str, torch.Tensor], background: tuple[int, ...] | None
) -> dict[str, NDArray[np.floating]]:
    """Scores per image of a batch; no ARI where the background entities (and so the masks) are None."""
    terms = {name: term.double().cpu().numpy() for name, term in explanation.terms.items()}
    for name in ("nll", "segregation_nll"):
        if name in terms:
            terms[name] = terms[name] + explanation.log_normaliser
    kl = explanation.kl.double().cpu().numpy()
    size = explanation.images.shape[-1]
    images, reconstruction = (x.cpu().numpy() for x in (explanation.images, explanation.reconstruction))
    scores = {
        "mse": mean_squared_error(images, reconstruction),
        "kl": kl,
        "bpd": bits_per_dimension(terms["nll"] + kl, size),
        **terms,
    }
    if "kl_cross" in terms:
        scores["bpd_with_cross"] = bits_per_dimension(terms["nll"] + kl + terms["kl_cross"], size)
    if explanation.counts is not None:
        counts = explanation.counts.cpu().numpy()
        there = np.full(len(counts), -1)
        if background is not None:
            objects = [entity for entity in range(batch["masks"].shape[1]) if entity not in background]
            there = batch["masks"].numpy()[:, objects].any((2, 3, 4)).sum(1)
        scores["count"] = np.stack([there, counts], axis=1)
    if background is not None:
        true, slots = batch["masks"].numpy(), _as_arrays(explanation.slot_masks)
        scores["ari_fg"] = adjusted_rand_index(true, slots, foreground_only=True, background_entities=background)
        scores["ari"] = adjusted_rand_index(true, slots, foreground_only=False, background_entities=background)
        if explanation.attention_masks is not None:
            attention = _as_arrays(explanation.attention_masks)
            scores["ari_fg_attention"] = adjusted_rand_index(
                true, attention, foreground_only=True, background_entities=background
            )
    return scores


def _counts(pairs: NDArray[np.integer]) -> Metrics:
    """Count accuracy and confusion matrix, from the true and the found number of objects of each image, [n, 2]."""
    if not len(pairs):
        return {"count_accuracy": None, "count_accuracy_reason": "the data has no masks"}
    confusion = count_confusion(pairs[:, 0], pairs[:, 1])
    cells = {
        f"count_{there}_found_{found}": int(number)
        for (there, found), number in np.ndenumerate(confusion)
        if confusion[there].any()  # numbers that do not occur need no row
    }
    return {"count_accuracy": count_accuracy(pairs[:, 0], pairs[:, 1]), **cells}


def _as_arrays(masks: torch.Tensor) -> NDArray[np.floating]:
    """[B, K, 1, H, W] -> [B, K, H, W, 1]."""
    return masks.movedim(2, -1).cpu().numpy()


def _why_no_ari(name: str, has_masks: bool) -> str:
    if not has_masks:
        return "the data has no masks"
    return "the guide has no attention masks" if name == "ari_fg_attention" else "no image has foreground"


def _importance(
    model: Any,
    guide: Any,
    data: Path,
    split: str,
    batch_size: int,
    num_images: int,
    num_samples: int,
    image_size: int,
    device: torch.device | str,
) -> Metrics:
    if num_images < 1 or num_samples < 1:
        return {"iwae_bpd": None, "iwae_bpd_reason": "left out as asked"}
    bounds = []
    for batch in evaluation_batches(data, split, batch_size, num_images):
        log_weights = importance_log_weights(model, guide, to_images(batch["images"], device), num_samples)
        bounds.append(importance_bound(log_weights.double()).cpu().numpy())
    bits = bits_per_dimension(-np.concatenate(bounds), image_size)
    return {
        "iwae_bpd": float(bits.mean()),
        "iwae_bpd_stderr": float(bits.std(ddof=1) / math.sqrt(len(bits))) if len(bits) > 1 else None,
        "iwae_images": num_images,
        "iwae_samples": num_samples,
    }
