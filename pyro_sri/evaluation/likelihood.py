"""Importance-weighted bounds on the likelihood (Burda et al. 2016)."""

import math
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_sri.objectives.traces import (
    latent_sites,
    log_ratio,
    no_share_of_an_image,
    other_scores,
    run_against,
    scored,
)
from pyro_sri.programs import Guide, Model, check_range, evaluating, record_of
from pyro_sri.system.errors import UserError

SCENES_AT_ONCE = 32  # more do not fit into the caches and take longer


class NoBoundError(UserError):
    """There is no bound on log p(x) of single images."""


class PosteriorDraw(NamedTuple):
    """One draw of a guide's latents for each of B images.

    Attributes:
        log_weights: Log importance weights [B] in nats, with the normalised likelihood.
        likelihood: p(x | z), a distribution over images.
    """

    log_weights: Tensor
    likelihood: Any


@torch.no_grad()
def draw_posterior(model: Model, guide: Guide, images: Tensor) -> PosteriorDraw:
    r"""Draws from the guide, with the log weight :math:`\log p(x, z) - \log q(z \mid a, x)`.

    As in Pyro's ELBOs, additional observations and factors count, and every site counts with its scale and mask.
    The guide's auxiliary sites a (the segregation, the imagined rollout, the order) are also drawn. Given them, the
    guide's scored sites have a density, so the mean of the weights is unbiased for p(x), whatever a is.

    Args:
        model: A model.
        guide: Its guide.
        images: [B, 3, H, W] in [0, 1].

    Raises:
        NoBoundError: If something is scored that does not belong to single images, such as a factor outside the plate
            `scenes`: images do not have importance weights of their own then.
    """
    with evaluating(model, guide):
        guide_trace = poutine.trace(guide).get_trace(images)
        model_trace = run_against(model, guide_trace, images)
    if reason := no_share_of_an_image(len(images), model_trace, guide_trace):
        raise NoBoundError(reason)
    image = model_trace.nodes["image"]
    likelihood = image["fn"]
    log_weights = scored(image) - getattr(likelihood, "log_normaliser", 0.0)
    for name in latent_sites(model_trace):
        log_weights = log_weights - log_ratio(guide_trace.nodes[name], model_trace.nodes[name])
    for other in other_scores(log_weights, model_trace, guide_trace).values():
        log_weights = log_weights - other
    return PosteriorDraw(log_weights, likelihood)


def importance_log_weights(
    model: Model, guide: Guide, images: Tensor, num_samples: int, *, chunk: int = SCENES_AT_ONCE
) -> Tensor:
    """Log importance weights of independent draws by `draw_posterior`.

    Args:
        model: A model.
        guide: Its guide.
        images: [B, 3, H, W] in [0, 1].
        num_samples: L, draws per image.
        chunk: Scenes computed at once.

    Returns:
        Log weights [B, L] in nats.

    Raises:
        UserError: If the model has no prior, num_samples is below 1, or the images are out of range. NoBoundError as
            `draw_posterior`.
    """
    if not record_of(model).has_prior:
        raise UserError(f"{type(model).__name__} has no prior: there are no importance weights")
    if num_samples < 1:
        raise UserError(f"num_samples is {num_samples}: it must be at least 1")
    check_range(model, images)
    repeated = images.repeat_interleave(num_samples, dim=0)  # [B L, 3, H, W]
    parts = [draw_posterior(model, guide, part).log_weights for part in repeated.split(chunk)]
    return torch.cat(parts).view(len(images), num_samples)


def importance_bound(
    model: Model, guide: Guide, images: Tensor, num_samples: int = 64, *, chunk: int = SCENES_AT_ONCE
) -> Tensor:
    r"""The importance-weighted bound on :math:`\log p(x)` (Burda et al. 2016): [B], in nats.

    .. math:: \mathbb{E} \log \tfrac{1}{L} \textstyle\sum_{l=1}^L w_l \le \log p(x)

    It tightens as L grows. L = 1 is the ELBO. `bits_per_dimension(-bound, image_size)` of `pyro_sri.metrics` converts
    it to bits.

    Args:
        model: A model.
        guide: Its guide.
        images: [B, 3, H, W] in [0, 1].
        num_samples: L, draws per image.
        chunk: Scenes computed at once.

    Raises:
        UserError: As `importance_log_weights`.
    """
    return bound_of_log_weights(importance_log_weights(model, guide, images, num_samples, chunk=chunk))


def bound_of_log_weights(log_weights: Tensor, num_samples: int | None = None) -> Tensor:
    """The bound log mean_l w_l on log p(x): log weights [B, L] -> [B], in nats.

    Args:
        log_weights: [B, L].
        num_samples: Draws per bound. None means L. With fewer, the result is the mean of L // num_samples bounds.
    """
    size = log_weights.shape[1] if num_samples is None else num_samples
    whole = log_weights[:, : log_weights.shape[1] // size * size].unflatten(1, (-1, size))
    return (whole.logsumexp(2) - math.log(size)).mean(1)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(sum_l w_l)^2 / sum_l w_l^2, from 1 to L: log weights [B, L] -> [B]."""
    return (2 * log_weights.logsumexp(1) - (2 * log_weights).logsumexp(1)).exp()
