"""Importance-weighted bounds on the likelihood (Burda et al. 2016)."""

import math
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_sri.elbo import latent_sites, run_against


@torch.no_grad()
def importance_log_weights(model: Any, guide: Any, images: Tensor, num_samples: int, chunk: int = 256) -> Tensor:
    r"""Log importance weights :math:`\log p(x, z) - \log q(z \mid a, x)` of independent draws of the guide.

    Auxiliary draws a of the guide (the segregation, the imagined rollout, the order) are drawn anew for each sample.
    Given them the guide's scored sites have a density, so that the weights' mean is unbiased for p(x) whatever a is.

    Args:
        model: A model.
        guide: Its guide.
        images: [B, 3, H, W] in [0, 1].
        num_samples: L, draws per image.
        chunk: Scenes computed at once.

    Returns:
        Log weights [B, L] in nats; the model's likelihood is taken normalised.
    """
    repeated = images.repeat_interleave(num_samples, dim=0)  # [B L, 3, H, W]
    parts = []
    for part in repeated.split(chunk):
        guide_trace = poutine.trace(guide).get_trace(part)
        model_trace = run_against(model, guide_trace, part)
        image = model_trace.nodes["image"]
        log_weights = image["fn"].log_prob(part) - image["fn"].log_normaliser
        for name in latent_sites(model_trace, guide_trace):
            value = guide_trace.nodes[name]["value"]
            log_prior = model_trace.nodes[name]["fn"].log_prob(value)
            log_weights = log_weights + log_prior - guide_trace.nodes[name]["fn"].log_prob(value)
        parts.append(log_weights)
    return torch.cat(parts).view(len(images), num_samples)


def importance_bound(log_weights: Tensor) -> Tensor:
    """The bound log mean_l w_l on log p(x): log weights [B, L] -> [B], in nats."""
    return log_weights.logsumexp(1) - math.log(log_weights.shape[1])
