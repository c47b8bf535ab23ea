"""The objectives of AIR (Eslami et al. 2016), with presence bits by score function or summed out."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_sri.models.air import GreyImage
from pyro_sri.objectives.base import Terms, TermsELBO, Traces
from pyro_sri.objectives.stepping import PerStep
from pyro_sri.objectives.traces import (
    analytic_kl,
    latent_sites,
    log_ratio,
    other_scores,
    run_against,
    scored,
    weighed,
    whole_other_scores,
)
from pyro_sri.programs import Guide, Model
from pyro_sri.system.errors import UserError

BOUND = ("nll", "kl_pres", "kl_where", "kl_what")
PRESENCE, WHERE, WHAT = "z_pres_", "z_where_", "z_what_"
PRESENCE_BIT = re.compile(rf"{PRESENCE}\d+")
LATENT = re.compile(rf"({PRESENCE}|{WHERE}|{WHAT})\d+")  # of an object


class PresenceAnnealing(PerStep):
    """A training schedule for the KL of the presence bits, so that the model tries all numbers of objects first.

    There are two kinds, which can be combined. Both end at the model's own bound after `steps`. The model itself is not
    changed.

    - `start`: the prior's presence probabilities move from this value to the model's own, linearly in the logits. The
      published schedule starts near 1, so that many objects are tried before the decoder can draw any.
    - `weight`: the initial weight of the KL, which falls geometrically to 1. The bound remains valid, but it is loose.
      The posterior over the number of objects stays close to the prior, so the model learns from every number of
      objects, and each object learns to work without the ones after it.

    Attributes:
        steps_done: Training steps so far, a buffer.

    Args:
        steps: Training steps until the bound is the model's own.
        start: Initial presence probability of the prior, between 0 and 1. None does not change the prior.
        weight: Initial weight of the KL, positive.

    Raises:
        ValueError: If a value is out of range.
    """

    steps_done: Tensor

    def __init__(self, steps: int, *, start: float | None = None, weight: float = 1.0) -> None:
        super().__init__()
        if steps < 1 or not weight > 0 or not (start is None or 0 < start < 1):
            raise ValueError(f"annealing takes steps >= 1, start in (0, 1), weight > 0; got {steps}, {start}, {weight}")
        self.steps = steps
        self.start_logit = None if start is None else math.log(start) - math.log1p(-start)
        self.log_weight = math.log(weight)
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.long))

    @property
    def remaining(self) -> Tensor:
        """1 at the start of training, 0 from `steps` on."""
        return (1 - self.steps_done / self.steps).clamp(min=0)

    def weight(self) -> Tensor:
        """The weight of the KL at this point of training."""
        return (self.remaining * self.log_weight).exp()

    def prior(self, prior: "Presence") -> "Presence":
        """The prior at this point of training."""
        if self.start_logit is None:
            return prior
        logits = prior.log_yes - prior.log_no
        logits = logits + self.remaining.to(logits) * (self.start_logit - logits)
        return Presence(F.logsigmoid(logits), F.logsigmoid(-logits))

    def advance(self) -> None:
        """Advances by one step."""
        self.steps_done += 1

    def update(self, value: Any = None) -> None:
        """Advances by one step."""
        self.advance()


class Presence(NamedTuple):
    """Log probabilities of an object and of no object at step t, given an object at step t - 1: each [B, T]."""

    log_yes: Tensor
    log_no: Tensor

    def of_counts(self) -> Tensor:
        """Log probability of n = 0 .. T objects, [B, T + 1]."""
        start = torch.zeros_like(self.log_yes[:, :1])
        return torch.cat([start, self.log_yes.cumsum(1)], 1) + torch.cat([self.log_no, start], 1)

    def of_bits(self, bits: Tensor) -> Tensor:
        """Log probability of each presence bit given the previous one, [B, T]. It is 0 after the last object."""
        return _before(bits) * torch.where(bits.bool(), self.log_yes, self.log_no)

    def weighed(self, trace: Trace, steps: range) -> "Presence":
        """The same, weighted by the scales and masks of the sites."""
        sites = [trace.nodes[f"{PRESENCE}{t}"] for t in steps]
        return Presence(*(torch.stack([weighed(logs[:, t], sites[t]) for t in steps], 1) for logs in self))


class AIR_ELBO(TermsELBO):
    r"""The published objective of AIR, with presence bits by score function and with baselines.

    It is the negative ELBO with one sample per image, averaged over the batch. Its gradient is the gradient of

    .. math::
        -\log p(x, z) + \log q(z^{where}, z^{what} \mid x)
        - \textstyle\sum_t \log q(z^{pres}_t)\, [R_t - b_t] + \sum_t ([R_t] - b_t)^2

    where terms in brackets are constants, :math:`b_t` is the baseline of the guide's site `z_pres_t` (0 if it has none)
    and :math:`R_t` = log p - log q of all latents of steps t, t + 1, .. plus :math:`\log p(x \mid z)`. This is the
    gradient of Pyro's `TraceGraph_ELBO` on the same sites, divided by the batch size. Annealing is part of the R_t.

    Example::

        model = AIRModel(image_size=50)
        guide = AIRGuide(model, baseline_scale=1.0)
        elbo = AIR_ELBO(annealing=PresenceAnnealing(100_000, start=0.99))
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-4}), elbo)

    Args:
        annealing: Schedule of the presence bits' KL in training. None means no annealing.
    """

    bound = BOUND

    def __init__(self, *, annealing: PresenceAnnealing | None = None) -> None:
        super().__init__()
        self.annealing = annealing

    def read(self, traces: Traces) -> Terms:
        """The terms, each [B] in nats.

        `nll`, `kl_pres`, `kl_where` and `kl_what` are computed by Monte Carlo and add up to the negative ELBO.
        `annealing` is what annealing adds to them. `score` is always 0 and carries the gradient of the score function.
        `baseline` is the squared error of the baselines. There is also `other`, if any: additional observations and
        factors, and the KLs of further latents.
        """
        guide, model = traces
        steps = _steps(guide, model)
        bits = torch.stack([guide.nodes[f"{PRESENCE}{t}"]["value"] for t in steps], 1)  # [B, T]
        posterior, prior = _presence(guide, steps), _presence(model, steps)
        log_q = posterior.of_bits(bits)
        scored_q = posterior.weighed(guide, steps).of_bits(bits).detach()

        def pres_kl(prior: Presence) -> Tensor:
            return scored_q - prior.weighed(model, steps).of_bits(bits)

        pres = pres_kl(prior)
        annealing = _extra(self, pres, prior, pres_kl).detach()
        where = torch.stack([log_ratio(*_pair(traces, f"{WHERE}{t}")) for t in steps], 1)
        what = torch.stack([log_ratio(*_pair(traces, f"{WHAT}{t}")) for t in steps], 1)
        nll = -scored(model.nodes["image"])
        further = _further(model)
        other = other_scores(nll, model, guide, further)
        costs = (pres + annealing + where + what).detach()
        seen = nll + whole_other_scores(nll, model, guide, further)  # what every latent has a part in
        returns = -seen.detach()[:, None] - costs.flip(1).cumsum(1).flip(1)  # R_t, [B, T]
        baselines = torch.stack([_baseline(guide, f"{PRESENCE}{t}", nll) for t in steps], 1)
        score = log_q * (returns - baselines.detach())
        return {
            "nll": nll,
            "kl_pres": pres.sum(1),
            "kl_where": where.sum(1),
            "kl_what": what.sum(1),
            "annealing": annealing.sum(1),
            "score": (score.detach() - score).sum(1),
            "baseline": (returns - baselines).square().sum(1),
        } | other

    def has_gradient(self, latent: str) -> bool:
        """True of the presence bits."""
        return bool(PRESENCE_BIT.fullmatch(latent))

    def weights(self) -> dict[str, float]:
        """`beta`, the weight of the presence bits' KL in training."""
        return _weights(self)

    def objective(self, terms: Terms) -> Tensor:
        """The negative (annealed) ELBO in nats per image, with the gradient above. Records a step of annealing."""
        error = terms["baseline"].mean()
        return _objective(self, terms, "score") + (error - error.detach())


class EnumeratedAIR_ELBO(TermsELBO):
    r"""The objective of AIR with the number of objects summed out, for less variance.

    There is no score function, and there are no baselines. Presence is monotone, so its T bits have T + 1 patterns, one
    for each number n of objects. Step t is the same in all patterns that contain it. So a single run of guide and model
    with all objects present is enough to compute

    .. math::
        L = \sum_{n=0}^T q(n \mid x) \Big[ -\log p(x \mid z_{<n})
            + \log \frac{q(n \mid x)}{p(n)} + \sum_{t<n} KL_t \Big], \qquad
        q(n \mid x) = (1 - p_n) \textstyle\prod_{t<n} p_t, \quad p_T = 0

    where :math:`p_t` is the guide's presence probability, given the previous objects. This is the published bound with
    its expectation over n in closed form. :math:`KL_t` of z_where and z_what is analytic. Gradients reach the presence
    probabilities through q(n), and every step learns from every image.

    The objective works with any AIR guide and does not use baselines. It is averaged over the batch.

    Args:
        annealing: Schedule of the presence bits' KL in training. None means no annealing.
    """

    bound = BOUND

    def __init__(self, *, annealing: PresenceAnnealing | None = None) -> None:
        super().__init__()
        self.annealing = annealing

    def trace(self, model: Model, guide: Guide, images: Tensor, *args: Any, **kwargs: Any) -> Traces:
        """Runs the guide on images [B, 3, H, W] with all objects present, and the model against it.

        Raises:
            ValueError: If an enclosing handler fixes presence bits.
        """
        with poutine.trace() as recorder, _AllPresent() as present:
            guide(images, *args, **kwargs)
        guide_trace = recorder.trace
        sites = {name: site for name, site in guide_trace.nodes.items() if name in present.bits}
        if any(site["value"] is not present.bits[name] for name, site in sites.items()):
            raise ValueError(
                "the number of objects is summed out, so presence bits cannot be conditioned on or replayed; "
                "use AIR_ELBO"
            )
        return Traces(guide_trace, run_against(model, guide_trace, images, *args, **kwargs))

    def read(self, traces: Traces) -> Terms:
        """The terms, each [B] in nats.

        `nll`, `kl_pres`, `kl_where` and `kl_what` are expectations over the number of objects and add up to the
        negative ELBO. `annealing` is what annealing adds to them.

        Raises:
            UserError: If anything other than the image is observed, or there are factors or further latents.
        """
        guide, model = traces
        steps = _steps(guide, model)
        posterior, prior = _presence(guide, steps), _presence(model, steps)
        log_q = posterior.of_counts()
        q = log_q.exp()  # [B, T + 1]
        if other_scores(q[:, 0], model, guide, _further(model)):
            raise UserError(
                "additional observations, latents and factors may depend on the number of objects, which is summed "
                "out here; use AIR_ELBO (estimator='score'), which draws it"
            )
        scored_q = posterior.weighed(guide, steps).of_counts()

        def pres_kl(prior: Presence) -> Tensor:
            return scored_q - prior.weighed(model, steps).of_counts()

        pres = pres_kl(prior)
        present = q.flip(1).cumsum(1).flip(1)[:, 1:]  # q(n > t), [B, T]
        where = torch.stack([analytic_kl(*_pair(traces, f"{WHERE}{t}")) for t in steps], 1)
        what = torch.stack([analytic_kl(*_pair(traces, f"{WHAT}{t}")) for t in steps], 1)
        return {
            "nll": weighed(-(q * _log_likelihoods(model)).sum(1), model.nodes["image"]),
            "kl_pres": (q * pres).sum(1),
            "kl_where": (present * where).sum(1),
            "kl_what": (present * what).sum(1),
            "annealing": (q * _extra(self, pres, prior, pres_kl)).sum(1),
        }

    def has_gradient(self, latent: str) -> bool:
        """True of the presence bits."""
        return bool(PRESENCE_BIT.fullmatch(latent))

    def weights(self) -> dict[str, float]:
        """`beta`, the weight of the presence bits' KL in training."""
        return _weights(self)

    def objective(self, terms: Terms) -> Tensor:
        """The negative (annealed) ELBO in nats per image. In training, records a step of annealing."""
        return _objective(self, terms)


class _AllPresent(Messenger):
    """Makes every object present.

    Attributes:
        bits: The values of the presence bits by site. An enclosing handler may put others in their place.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bits: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if PRESENCE_BIT.fullmatch(msg["name"]):
            msg["value"] = self.bits[msg["name"]] = torch.ones_like(msg["fn"].probs)
            msg["done"] = True


def _objective(elbo: AIR_ELBO | EnumeratedAIR_ELBO, terms: Terms, *surrogates: str) -> Tensor:
    summed = [name for name in (*BOUND, "annealing", "other", *surrogates) if name in terms]
    loss = torch.stack([terms[name].mean() for name in summed]).sum()
    if elbo.annealing is not None and elbo.learning:
        elbo.annealing.notice()
    return loss


def _weights(elbo: AIR_ELBO | EnumeratedAIR_ELBO) -> dict[str, float]:
    return {"beta": 1.0 if elbo.annealing is None else elbo.annealing.weight().item()}


def _extra(
    elbo: AIR_ELBO | EnumeratedAIR_ELBO, kl: Tensor, prior: Presence, kl_to: Callable[[Presence], Tensor]
) -> Tensor:
    """What annealing adds to the presence bits' KL to the prior in training. It is 0 in evaluation."""
    if elbo.annealing is None or not elbo.training:
        return torch.zeros_like(kl)
    return elbo.annealing.weight() * kl_to(elbo.annealing.prior(prior)) - kl


def _steps(guide: Trace, model: Trace) -> range:
    """The range of steps in a run.

    Raises:
        UserError: If the guide does not infer every latent of the model, or the model fixes one.
    """
    steps = range(sum(map(bool, map(PRESENCE_BIT.fullmatch, {**guide.nodes, **model.nodes}))))
    for site in (f"{kind}{t}" for t in steps for kind in (PRESENCE, WHERE, WHAT)):
        if not (site in guide and site in model and model.nodes[site]["inferred"]):
            raise UserError(
                f"AIR's objectives need a guide that infers every object, but it does not infer '{site}' of the model; "
                "to condition on it, enclose the call with poutine.condition instead of wrapping the model"
            )
    return steps


def _further(model: Trace) -> list[str]:
    """Names of the latents that are not of an object."""
    return [name for name in latent_sites(model) if not LATENT.fullmatch(name)]


def _pair(traces: Traces, site: str) -> tuple[Any, Any]:
    """The same site of guide and model."""
    return traces.guide.nodes[site], traces.model.nodes[site]


def _before(bits: Tensor) -> Tensor:
    """z_pres of the previous step, [B, T]."""
    return torch.cat([torch.ones_like(bits[:, :1]), bits[:, :-1]], 1)


def _presence(trace: Trace, steps: range) -> Presence:
    dists = [trace.nodes[f"{PRESENCE}{t}"]["fn"] for t in steps]
    return Presence(*(torch.stack([d.log_prob(torch.full_like(d.probs, bit)) for d in dists], 1) for bit in (1, 0)))


def _baseline(trace: Trace, name: str, like: Tensor) -> Tensor:
    value: Tensor = trace.nodes[name]["infer"].get("baseline", {}).get("baseline_value", torch.zeros_like(like))
    return value


def _log_likelihoods(model: Trace) -> Tensor:
    """log p(x | the first n objects) for n = 0 .. T: [B, T + 1]."""
    site = model.nodes["image"]
    drawn = model.nodes["slot_rgb"]["value"][:, :, 0]  # [B, T, H, W], one of three equal channels
    canvases = torch.cat([torch.zeros_like(drawn[:, :1]), drawn.cumsum(1)], 1)
    return GreyImage(canvases, site["fn"].scale).log_prob(site["value"][:, None])
