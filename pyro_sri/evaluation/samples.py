"""Measures of scenes drawn from the model: how their images compare with real ones, and whether they stand."""

from pathlib import Path

import numpy as np
import torch

from pyro_sri.data.format import Report
from pyro_sri.data.loading import evaluation_batches, to_images
from pyro_sri.evaluation.measures import NO_RULE, Meaning, Meanings, Metrics, as_arrays, missing
from pyro_sri.features import FeatureExtractor, cached_features, extract, images_hash
from pyro_sri.inference import SCENES_AT_ONCE, draw_scenes
from pyro_sri.metrics import check_structure, density_coverage, frechet_distance, precision_recall
from pyro_sri.metrics.structure import Rule
from pyro_sri.programs import Model, record_of
from pyro_sri.system.errors import UserError

COMPARED = ("frechet", "precision", "recall", "density", "coverage")
NO_PRIOR = "an auto-encoder has no prior to draw scenes from"
FEWEST = 6  # images of each kind, so that one has five neighbours

MEANINGS: Meanings = {
    "generated scenes": {
        "frechet": Meaning("Fréchet distance between features of generated and of real images (0 is perfect)", "lower"),
        "precision": Meaning(
            "share of generated images that look like a real one, by the same features", "higher", detail=True
        ),
        "recall": Meaning("share of real images that look like a generated one", "higher", detail=True),
        "density": Meaning(
            "how closely real images surround the generated ones (about 1 is perfect)", "higher", detail=True
        ),
        "coverage": Meaning("share of real images that are close to a generated one", "higher", detail=True),
        "structure_accuracy": Meaning("share of generated scenes that pass structure_rule", "higher"),
    }
}


def evaluate_samples(
    model: Model,
    extractor: FeatureExtractor,
    data: Path,
    split: str,
    *,
    num_real: int,
    num_generated: int,
    rule: Rule | None,
    device: torch.device | str,
    progress: Report,
) -> Metrics:
    """Draws scenes, a few at a time, and keeps the features of their images and the structural rule's verdicts.

    A scene's image is the mask-weighted mean of its slots, without pixel noise, as in the published figures.

    Args:
        model: A scene model.
        extractor: The features used to compare images.
        data: The dataset file of the real images. Their features are cached.
        split: Its split.
        num_real: Number of its images, from the start.
        num_generated: Scenes to draw.
        rule: The structural rule, or None.
        device: Where the model is.
        progress: Called with the name of what is counted, the number done, and the total.

    Returns:
        `frechet`, `precision`, `recall`, `density`, `coverage`, `structure_accuracy`, and how they were measured.

    Raises:
        UserError: If the model's images are not finite.
    """
    names = (*COMPARED, "frechet_features", "structure_accuracy")
    if not record_of(model).has_prior:
        return missing(NO_PRIOR, *names)
    if num_generated == 0:
        return missing("left out as asked", *names)
    features, stands, done = [], [], 0
    for scenes in draw_scenes(model, num_generated):
        if not torch.isfinite(scenes.images).all():
            raise UserError("the model draws images that are not finite: it diverged")
        features.append(extract(extractor, [scenes.images]))
        if rule is not None:
            stands += [verdict.stands for verdict in check_structure(as_arrays(scenes.slot_masks), rule=rule)]
        done += len(scenes.images)
        progress("generated scenes", done, num_generated)

    result: Metrics = {"num_samples": num_generated, "frechet_images": num_real, "frechet_features": extractor.name}
    if rule is None:
        result |= missing(NO_RULE, "structure_accuracy")
    else:
        share = float(np.mean(stands))
        result |= {"structure_accuracy": share, "structure_rule": rule}
        if num_generated > 1:
            error = (share * (1 - share) / num_generated) ** 0.5  # of a share of independent scenes
            result["structure_accuracy_stderr"] = error
    if min(num_real, num_generated) < FEWEST:
        return result | missing(f"it needs at least {FEWEST} images of each kind", *COMPARED)
    real = cached_features(
        extractor,
        images_hash(data, split, num_real),
        num_real,
        lambda: extract(
            extractor,
            (to_images(batch["images"], device) for batch in evaluation_batches(data, split, SCENES_AT_ONCE, num_real)),
        ),
    )
    generated = np.concatenate(features)
    precision, recall = precision_recall(real, generated)
    density, coverage = density_coverage(real, generated)
    return result | {
        "frechet": frechet_distance(real, generated),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }
