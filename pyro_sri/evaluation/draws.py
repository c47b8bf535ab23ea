"""Measures that need repeated draws from the posterior: importance-weighted bounds, posterior predictive checks."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from pyro_sri.evaluation.likelihood import (
    SCENES_AT_ONCE,
    NoBoundError,
    bound_of_log_weights,
    draw_posterior,
    effective_sample_size,
)
from pyro_sri.evaluation.measures import Meaning, Meanings, Metrics, mean_and_error, missing
from pyro_sri.inference import NO_BOUND
from pyro_sri.metrics import bits_per_dimension
from pyro_sri.metrics.predictive import image_statistics, predictive_p_values
from pyro_sri.programs import Guide, Model, record_of

FEWER_SAMPLES = (1, 8)  # bounds from fewer draws, which show how fast the bound tightens
SURPRISING = 0.025  # on either side: more extreme p-values mark an image that is unlike its replicates
FEWEST_SAMPLES = 39  # with fewer, even a perfect model has more extreme p-values than in 0.025 of the images


_CHECKS = {
    "ppc_brightness": "replicates are at least as bright as the image",
    "ppc_contrast": "replicates have at least as much contrast as the image",
    "ppc_saturation": "replicates are at least as colourful as the image",
    "ppc_roughness": "neighbouring pixels of replicates differ at least as much as the image's",
    "ppc_misfit": "-log p(x | z) of replicates is at least that of the image",
}
_CHANCES = {name: Meaning(f"P({what}); 0.5 is perfect", detail=True) for name, what in _CHECKS.items()}
_SURPRISES = {
    f"{name}_surprising": Meaning(
        f"share of images with {name} below 0.025 or above 0.975; a perfect model has at most about 0.05; with a wide "
        "sigma, 1 is normal and not a failure, because replicates have pixel noise and images do not",
        detail=True,
    )
    for name in _CHECKS
}
MEANINGS: Meanings = {
    "reconstruction and likelihood": {
        "iwae_bpd": Meaning("importance-weighted bound in bits per dimension", "lower"),
        "iwae_bpd_8": Meaning("importance-weighted bound from 8 draws", "lower", detail=True),
        "iwae_bpd_1": Meaning(
            "importance-weighted bound from one draw, which is -ELBO by Monte Carlo", "lower", detail=True
        ),
        "iwae_sample_size": Meaning(
            "effective number of draws in iwae_bpd; if it is near 1, the bound depends on single draws", detail=True
        ),
    },
    "posterior predictive checks": _CHANCES | _SURPRISES,
}


def evaluate_draws(
    model: Model,
    guide: Guide,
    batches: Iterable[Tensor],
    num_samples: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Metrics:
    """Draws from the posterior many times for each image. Each draw gives a weight, and a replicate of the image.

    Args:
        model: A model.
        guide: Its guide.
        batches: Images [B, 3, H, W] in [0, 1].
        num_samples: L, draws per image.
        progress: Called with the number of images done.

    Returns:
        `iwae_bpd` and `iwae_bpd_l` for some l < L, each with its standard error over images; `iwae_sample_size`, the
        effective number of draws; for each statistic t of the images, and for the model's own `misfit` -log p(x | z),
        `ppc_t` (the mean p-value) and `ppc_t_surprising` (the share of images with p-values below 0.025 or above
        0.975, which takes at least 39 draws). What the draws cannot tell is None.
    """
    if not record_of(model).has_prior:
        return missing(NO_BOUND, "iwae_bpd")
    bounds: dict[int, list[Tensor]] = {size: [] for size in (*FEWER_SAMPLES, num_samples) if size <= num_samples}
    sizes: list[Tensor] = []
    p_values: dict[str, list[np.ndarray]] = {}
    differing: set[str] = set()
    done = image_size = 0
    for images in batches:
        try:
            log_weights, observed, replicated = _draw(model, guide, images, num_samples)
        except NoBoundError as error:
            return missing(str(error), "iwae_bpd")
        for size, parts in bounds.items():
            parts.append(bound_of_log_weights(log_weights, size))
        sizes.append(effective_sample_size(log_weights))
        for name, values in replicated.items():
            p_values.setdefault(name, []).append(predictive_p_values(observed[name], values))
            if (values != observed[name].reshape(len(values), -1)).any():
                differing.add(name)
        done, image_size = done + len(images), images.shape[-1]
        progress(done)
    if not done or num_samples < 1:
        return missing("left out as asked", "iwae_bpd")

    result: Metrics = {}
    for size, parts in bounds.items():
        bits = bits_per_dimension(-torch.cat(parts).numpy(), image_size)
        result |= mean_and_error("iwae_bpd" if size == num_samples else f"iwae_bpd_{size}", bits)
    result |= {"iwae_sample_size": float(torch.cat(sizes).mean()), "iwae_images": done, "iwae_samples": num_samples}
    if num_samples == 1:
        result |= missing("a single draw has no other to be compared with", "iwae_sample_size")
    for name, checked in p_values.items():
        result |= _check(f"ppc_{name}", np.concatenate(checked), num_samples, differs=name in differing)
    return result


def _check(name: str, p_values: np.ndarray, num_samples: int, *, differs: bool) -> Metrics:
    """The mean p-value, and the share of images that are unlike their replicates."""
    if not differs:
        return missing("images and replicates never differ in it", name, f"{name}_surprising")
    result: Metrics = {name: float(p_values.mean())}
    if num_samples < FEWEST_SAMPLES:
        return result | missing(f"it takes at least {FEWEST_SAMPLES} draws per image", f"{name}_surprising")
    return result | {f"{name}_surprising": float(((p_values < SURPRISING) | (p_values > 1 - SURPRISING)).mean())}


def _draw(
    model: Model, guide: Guide, images: Tensor, num_samples: int
) -> tuple[Tensor, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Log weights [B, L]; statistics of the images ([B], or [B, L] with latents) and of replicates [B, L]."""
    log_weights: list[Tensor] = []
    observed: dict[str, list[np.ndarray]] = {"misfit": []}
    replicated: dict[str, list[np.ndarray]] = {}
    for part in images.repeat_interleave(num_samples, dim=0).split(SCENES_AT_ONCE):
        draw = draw_posterior(model, guide, part)
        log_weights.append(draw.log_weights.double().cpu())
        replicate = draw.likelihood.sample()
        observed["misfit"].append(-draw.likelihood.log_prob(part).cpu().numpy())
        statistics = image_statistics(replicate.cpu().numpy())
        statistics["misfit"] = -draw.likelihood.log_prob(replicate).cpu().numpy()
        for name, values in statistics.items():
            replicated.setdefault(name, []).append(values)
    shape = (len(images), num_samples)
    own = image_statistics(images.cpu().numpy())
    return (
        torch.cat(log_weights).view(shape),
        own | {"misfit": np.concatenate(observed["misfit"]).reshape(shape)},
        {name: np.concatenate(parts).reshape(shape) for name, parts in replicated.items()},
    )
