"""Evaluation of a model and guide on a split of a dataset file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyro
import torch
from numpy.typing import NDArray

from pyro_sri.data.format import DatasetFile, Report
from pyro_sri.data.loading import Batch, evaluation_batches, to_images
from pyro_sri.evaluation.controllers import weights
from pyro_sri.evaluation.draws import evaluate_draws
from pyro_sri.evaluation.measures import MEASURES, Facts, Metrics, Truth
from pyro_sri.evaluation.samples import evaluate_samples
from pyro_sri.features import FeatureExtractor, ScatteringFeatures
from pyro_sri.inference import Explanation, explain
from pyro_sri.metrics.structure import Rule
from pyro_sri.objectives import TermsELBO
from pyro_sri.programs import Guide, Model, joined
from pyro_sri.system.errors import UserError

RULES: dict[str, Rule] = {
    **dict.fromkeys(("towers", "towers_broken", "stacks", "stacks_broken", "shapestacks"), "tower"),
    **dict.fromkeys(("rooms", "objects_room"), "room"),
    **dict.fromkeys(("clevr", "clevr6", "clevr_with_masks"), "whole_objects"),
}
MOST_SAMPLES = 10_000  # scenes generated if no number is given, as for published FIDs


def evaluate(
    model: Model,
    guide: Guide,
    data: Path,
    elbo: TermsELBO | None = None,
    *,
    split: str = "test",
    num_images: int | None = None,
    batch_size: int = 32,
    iwae_images: int = 50,
    iwae_samples: int = 64,
    num_samples: int | None = None,
    extractor: FeatureExtractor | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Report = lambda what, done, total: None,
) -> Metrics:
    """Computes every metric. Images are read, scored and discarded one batch at a time.

    Args:
        model: A model.
        guide: Its guide.
        data: A dataset file.
        elbo: Its objective. None means the one that the pair was built or loaded with, or else that of its system.
        split: The split to evaluate on.
        num_images: Evaluate only this many images, from the start of the split. None means all.
        batch_size: Images evaluated at once.
        iwae_images: Number of images, from the start of the split, for the importance-weighted bound and the posterior
            predictive checks. 0 leaves these metrics out.
        iwae_samples: Draws per image for these metrics.
        num_samples: Scenes to generate for the Fréchet distance and the structural accuracy. None means one per image,
            but at most 10,000. 0 leaves these metrics out.
        extractor: The features used to compare generated and real images. None means the built-in ones.
        seed: Seed of the draws.
        device: Where model and guide are.
        progress: Called with the name of what is counted, the number done, and the total.

    Returns:
        A flat dictionary of the metrics in `pyro_sri.evaluation.METRICS` and how they were measured: numbers, or None
        with `<name>_reason`. Means over images have a standard error `<name>_stderr`. `ari_fg` and `ari` are for the
        decoder's masks (`slot_masks`), `ari_fg_attention` for the segregation's. `nll` and the KLs are in nats per
        image, normalised. Bits per dimension are with and without KL_cross. `collapse` says how the slots collapsed.

    Raises:
        UserError: If the data cannot be read or has no such split, or the model's output is not finite.
    """
    with DatasetFile(data) as file:
        total = min(num_images or file.num_images(split), file.num_images(split))
        background, generated = file.background_entities, file.generated
        rule = structure_rule(file)
        no_factors = file.factor_fault(split)
        factors, factor_names = (None, ()) if no_factors else _factors(file, split, total)

    facts = Facts(rule, factor_names, no_factors)
    measures = [measure.of(facts) for measure in MEASURES.values()]
    pyro.set_rng_seed(seed)
    done = 0
    for batch in evaluation_batches(data, split, batch_size, total):
        stop = done + len(batch["images"])
        explanation = explain(model, guide, to_images(batch["images"], device), elbo, imagine=False)
        _check_finite(explanation, split, done)
        masks = batch["masks"].numpy() if "masks" in batch else None
        truth = Truth(masks, background, None if factors is None else factors[done:stop])
        for measure in measures:
            measure.update(explanation, truth)
        done = stop
        progress("images", done, total)
    result: Metrics = {}
    for measure in measures:
        result |= measure.result()
    count = min(iwae_images, total)
    result |= evaluate_draws(
        model,
        guide,
        _images(data, split, batch_size, count, device),
        iwae_samples,
        lambda done: progress("posterior draws", done, count),
    )
    result |= evaluate_samples(
        model,
        ScatteringFeatures() if extractor is None else extractor,
        data,
        split,
        num_real=total,
        num_generated=min(total, MOST_SAMPLES) if num_samples is None else num_samples,
        rule=rule,
        device=device,
        progress=progress,
    )
    result |= {
        "num_images": total,
        "split": split,
        "data": ("generated: " if generated else "") + Path(data).name,
        "seed": seed,
    }
    return result | weights(model, joined(guide) if elbo is None else elbo)


def structure_rule(file: DatasetFile) -> Rule | None:
    """The structural rule for a file's scenes, by the name of the generator or of the published data set."""
    return RULES.get(str(file.attributes.get("generator", file.attributes.get("dataset"))))


def _images(data: Path, split: str, batch_size: int, count: int, device: torch.device | str) -> Iterator[torch.Tensor]:
    """The first images of a split, a batch at a time."""
    batches: Iterator[Batch] = evaluation_batches(data, split, batch_size, count) if count > 0 else iter(())
    return (to_images(batch["images"], device) for batch in batches)


def _factors(file: DatasetFile, split: str, total: int) -> tuple[NDArray[np.floating] | None, tuple[str, ...]]:
    """The factors of the first scenes, as numbers [n, O, F], and their names."""
    array = file.factors(split)
    if array is None:
        return None, ()
    values = file.read(array, slice(total))
    if values.dtype.names is None:
        return values, tuple(file.attributes.get("factor_names", map(str, range(values.shape[-1]))))
    columns, names = [], []
    for name in values.dtype.names:
        field = values[name]
        if field.dtype.kind not in "biuf":  # texts: numbers in alphabetical order
            field = np.unique(field, return_inverse=True)[1].reshape(field.shape)
        field = field.reshape(*values.shape[:2], -1).astype(np.float64)
        columns.append(field)
        names += [name] if field.shape[2] == 1 else [f"{name}_{i}" for i in range(field.shape[2])]
    return np.concatenate(columns, axis=2), tuple(names)


def _check_finite(explanation: Explanation, split: str, first: int) -> None:
    if not all(torch.isfinite(values).all() for values in (explanation.reconstruction, *explanation.terms.values())):
        raise UserError(f"the model gives values that are not finite on {split} images from {first} on: it diverged")
