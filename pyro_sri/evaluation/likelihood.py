"""Importance-weighted bounds on the likelihood (Burda et al. 2016)."""

import math
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_sri.objectives.base import latent_sites, run_against
from pyro_sri.programs import Guide, Model


class PosteriorDraw(NamedTuple):
    """One draw of a guide's latents for each of B images.

    Attributes:
        log_weights: Log importance weights [B] in nats; the model's likelihood is taken normalised.
        likelihood: p(x | z), a distribution over images.
    """

    log_weights: Tensor
    likelihood: Any


@torch.no_grad()
def draw_posterior(model: Model, guide: Guide, images: Tensor) -> PosteriorDraw:
    r"""Draws from the guide and weighs: :math:`\log p(x, z) - \log q(z \mid a, x)`.

    Auxiliary draws a of the guide (the segregation, the imagined rollout, the order) are drawn along. Given them the
    guide's scored sites have a density, so that the weights' mean is unbiased for p(x) whatever a is.

    Args:
        model: A model.
        guide: Its guide.
        images: [B, 3, H, W] in [0, 1].
    """
    guide_trace = poutine.trace(guide).get_trace(images)
    model_trace = run_against(model, guide_trace, images)
    likelihood = model_trace.nodes["image"]["fn"]
    log_weights = likelihood.log_prob(images) - likelihood.log_normaliser
    for name in latent_sites(model_trace, guide_trace):
        value = guide_trace.nodes[name]["value"]
        log_prior = model_trace.nodes[name]["fn"].log_prob(value)
        log_weights = log_weights + log_prior - guide_trace.nodes[name]["fn"].log_prob(value)
    return PosteriorDraw(log_weights, likelihood)


def importance_log_weights(model: Model, guide: Guide, images: Tensor, num_samples: int, chunk: int = 32) -> Tensor:
    """Log importance weights of independent draws, as `draw_posterior` makes them.

    Args:
        model: A model.
        guide: Its guide.
        images: [B, 3, H, W] in [0, 1].
        num_samples: L, draws per image.
        chunk: Scenes computed at once.

    Returns:
        Log weights [B, L] in nats.
    """
    repeated = images.repeat_interleave(num_samples, dim=0)  # [B L, 3, H, W]
    parts = [draw_posterior(model, guide, part).log_weights for part in repeated.split(chunk)]
    return torch.cat(parts).view(len(images), num_samples)


def importance_bound(log_weights: Tensor, num_samples: int | None = None) -> Tensor:
    """The bound log mean_l w_l on log p(x): log weights [B, L] -> [B], in nats.

    Args:
        log_weights: [B, L].
        num_samples: Draws in one bound; L if None. Fewer give the mean of the L // num_samples bounds that there are.
    """
    size = log_weights.shape[1] if num_samples is None else num_samples
    whole = log_weights[:, : log_weights.shape[1] // size * size].unflatten(1, (-1, size))
    return (whole.logsumexp(2) - math.log(size)).mean(1)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(sum_l w_l)^2 / sum_l w_l^2, from 1 to L: log weights [B, L] -> [B]."""
    return (2 * log_weights.logsumexp(1) - (2 * log_weights).logsumexp(1)).exp()
