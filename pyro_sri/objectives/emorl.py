"""The objective of EMORL: a hierarchical bound, and refinement steps that use its gradient (Emami et al. 2021)."""

import contextlib
import math
import re
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution

from pyro_sri.distributions import diagonal_normal, sri_scale
from pyro_sri.guides.emorl import EMORLGuide
from pyro_sri.guides.segregation import Segregation
from pyro_sri.objectives.base import Terms, TermsELBO, seen_in, seen_terms
from pyro_sri.objectives.geco import GECO, EmorlGECO
from pyro_sri.objectives.traces import analytic_kl, latent_sites, other_scores, run_against, scored
from pyro_sri.programs import Guide, Model
from pyro_sri.system.processes import num_processes

LAYER = re.compile(r"layer_\d+_slots")


class Iteration(NamedTuple):
    """A posterior of the slots, and its terms.

    Attributes:
        guide: Trace of all draws so far. A refined posterior replaces the site of the layer that it refines.
        model: Trace of the model on the last draw.
        posterior: lambda, which is the mean and the raw scale, each [B, K, D].
        memory: The memory of the refinement network [B, K, D], or None before its first step.
        nll: [B] in nats.
        kl: [B] in nats.
        other: Additional scores, [B] in nats, or None if there are none.
    """

    guide: Trace
    model: Trace
    posterior: tuple[Tensor, Tensor]
    memory: Tensor | None
    nll: Tensor
    kl: Tensor
    other: Tensor | None


class EMORLTraces(NamedTuple):
    """The traces of an inference with refinement.

    Attributes:
        guide: The guide's trace of the last iteration.
        model: The model's trace of the last iteration.
        iterations: Bottom-up inference, followed by the refinement steps.
        priors: Trace of the hierarchical prior. Each layer is given a fresh draw of the previous one in the chain.
        layer_kls: KL of each layer of bottom-up inference in the order of the chain, [L, B] in nats.
        kl_above: The KL of the layers above the last iteration's posterior, [B] in nats.
    """

    guide: Trace
    model: Trace
    iterations: tuple[Iteration, ...]
    priors: Trace
    layer_kls: Tensor
    kl_above: Tensor


class EMORL_ELBO(TermsELBO):
    r"""The objective of EMORL, which also runs its iterative inference.

    .. math::
        L &= \textstyle\sum_{i=0}^{I} w_i L_i, \quad w_i = (I + 3 - i) / (I + 1), \quad L_i = NLL_i + \beta KL_i \\
        NLL_0 &= -\log p(x \mid z_{L-1}), \quad
            KL_0 = \textstyle\sum_l KL( q(z_l \mid z_{l-1}, x) \,\|\, p(z_l \mid z'_{l \pm 1}) ) \\
        \lambda_i &= \lambda_{i-1} + f(\lambda_{i-1}, \nabla_{\lambda_{i-1}} L_{i-1}), \quad z \sim q(z; \lambda_i) \\
        NLL_i &= -\log p(x \mid z), \quad KL_i = KL( q(z; \lambda_i) \,\|\, p(z) ), \quad i = 1 .. I

    Priors are conditioned on fresh draws z' of the posteriors (sites `prior_draw_l`). p(z) is the prior of the refined
    layer (see HierarchicalPrior). f treats the gradient as a constant. All KLs are analytic. With GECO,
    L_i = beta KL_i - constraint(NLL_i) of the batch means. The last NLL updates the controller.

    I is `guide.refinement_steps`, or the argument `refinement_steps` of `trace`, `terms` and the loss. 0 means only
    bottom-up inference. Refinement computes gradients even under `torch.no_grad`, but this is impossible in inference
    mode. Handlers that fix draws stop the gradient that refinement uses.

    The terms are `nll`, `kl_slots` (of the last iteration), `kl_above`, and `nll_i`, `kl_i` of each previous iteration.
    The first three add up to a bound on -log p(x). `kl_above` is zero except after refinement with the prior "rpp". In
    this case, `kl_slots` is relative to :math:`p(z_0 \mid z_1')`, and the KL of the layers above, which a bound needs,
    is not part of the loss. Additional observations, factors and further latents are part of every L_i: `other`, and
    `other_i`.

    Example::

        elbo = EMORL_ELBO(geco=EmorlGECO(target=-2.206, image_size=96))
        SVI(model, guide, pyro.optim.Adam({"lr": 4e-4}), elbo).step(images)
        terms = elbo.terms(model, guide, images, refinement_steps=0)

    Args:
        geco: Controller of the NLL's weight. None means a weight of 1.
        kl_weight: beta.
        curriculum: Pairs of a training step and the number of refinement steps from this step on. The first training
            step is 0. There is no refinement in evaluation mode. None means `guide.refinement_steps`.
    """

    bound = ("nll", "kl_slots", "kl_above")

    def __init__(
        self,
        *,
        geco: GECO | None = None,
        kl_weight: float = 1.0,
        curriculum: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.geco = geco
        self.kl_weight = kl_weight
        self.curriculum = curriculum

    @property
    def phase(self) -> Hashable:
        """The refinement steps of the curriculum (None without one), and whether the controller is warming up."""
        steps = None if self.curriculum is None else self._planned(self.curriculum)
        return (steps, "warming") if self.warming else steps

    def _planned(self, curriculum: Sequence[tuple[int, int]]) -> int:
        return [steps for start, steps in curriculum if start <= self.step][-1]

    def refinement_steps(self, guide: Any) -> int:
        """The number of refinement steps, I, of the curriculum or the guide."""
        if self.curriculum is None:
            return guide.refinement_steps
        return self._planned(self.curriculum) if self.training else 0

    def controllers(self) -> dict[str, GECO]:
        """`beta`, the controller of the bound."""
        return {} if self.geco is None else {"beta": self.geco}

    def weights(self) -> dict[str, float]:
        """`beta`, the weight of the KLs, or with EMORL's GECO that of the NLL relative to the KLs."""
        if self.geco is None:
            return {"beta": self.kl_weight}
        weight = self.geco.weight.item()
        if not isinstance(self.geco, EmorlGECO):
            return {"beta": self.kl_weight * weight}
        return {"beta": weight / self.kl_weight if self.kl_weight else math.inf}

    def trace(
        self,
        model: Model,
        guide: Guide,
        images: Tensor,
        *args: Any,
        refinement_steps: int | None = None,
        **kwargs: Any,
    ) -> EMORLTraces:
        """Runs bottom-up inference and then the refinement.

        Args:
            model: An `EMORLModel`.
            guide: Its `EMORLGuide`.
            images: [B, 3, H, W] in [0, 1].
            *args: Passed on to model and guide.
            refinement_steps: I. None means `guide.refinement_steps`.
            **kwargs: Passed on to model and guide.

        Raises:
            ValueError: If a handler is wrapped around model or guide, which hides their networks, or if refinement is
                requested in inference mode.
        """
        if not hasattr(model, "prior") or not hasattr(guide, "refinement"):
            raise ValueError("a wrapped model or guide hides its networks: use handlers as contexts around the call")
        steps = self.refinement_steps(guide) if refinement_steps is None else refinement_steps
        if steps and torch.is_inference_mode_enabled():
            raise ValueError(
                "refinement needs gradients, which inference mode does not have; use torch.no_grad instead"
            )
        learning = torch.is_grad_enabled()
        order, refined_layer = model.prior.order, model.prior.refined_layer
        with torch.set_grad_enabled(learning or steps > 0):
            with _Differentiable() if steps else contextlib.nullcontext():
                guide_trace = poutine.trace(guide).get_trace(images, *args, **kwargs)
            posterior = guide_trace.nodes["_RETURN"]["value"]
            model_trace = run_against(model, guide_trace, images, *args, **kwargs)
            priors = _conditional_priors(model, model_trace, guide_trace, kwargs.get("temperature", 1.0))
            layer_kls = torch.stack([_kl(guide_trace, priors, layer) for layer in order])
            last = _iteration(guide_trace, model_trace, posterior, None, layer_kls.sum(0))
            iterations = [last]
            for step in range(1, steps + 1):
                other = None if last.other is None else last.other.mean()
                loss = self._loss(last.nll.mean(), last.kl.mean(), other)
                share = loss / num_processes()  # of this process, in the loss of the whole batch
                gradients = _gradients(share, last.posterior, retain_graph=learning)
                guide_trace, posterior, memory = _refine(guide.refinement, step, last, gradients, refined_layer)
                model_trace = run_against(
                    model, guide_trace, images, *args, **{**kwargs, "decoded_layer": refined_layer}
                )
                kl = _kl(guide_trace, priors, refined_layer)
                last = _iteration(guide_trace, model_trace, posterior, memory, kl)
                iterations.append(last)
            kl_above = layer_kls[: order.index(refined_layer) if steps else 0].sum(0)
        if not learning:
            last.guide.detach_()
            last.model.detach_()
        return EMORLTraces(last.guide, last.model, tuple(iterations), priors, layer_kls, kl_above)

    def segregated(self, traces: EMORLTraces) -> Segregation:
        """The posterior of the last iteration and its draw."""
        loc, raw_scale = traces.iterations[-1].posterior
        steps = len(traces.iterations) - 1
        drawn = f"refined_slots_{steps}" if steps else _site(len(traces.layer_kls) - 1)
        return Segregation(loc, sri_scale(raw_scale), traces.guide.nodes[drawn]["value"])

    def posterior(self, traces: EMORLTraces, site: str) -> Distribution:
        """The posterior of the last iteration."""
        loc, raw_scale = traces.iterations[-1].posterior
        return diagonal_normal(
            loc.detach(), sri_scale(raw_scale.detach()), 2
        )  # refinement computes gradients even here

    def read(self, traces: EMORLTraces) -> Terms:
        """`nll`, `kl_slots`, `kl_above`, `other` if any, and `nll_i`, `kl_i`, `other_i` of the earlier iterations: each
        [B], in nats.

        With GECO, a scaled or masked image also has `seen` and `seen_nll`, which are no part of the loss.
        """
        *earlier, last = traces.iterations
        terms = {"nll": last.nll, "kl_slots": last.kl, "kl_above": traces.kl_above}
        for i, iteration in enumerate(earlier):
            terms |= {f"nll_{i}": iteration.nll, f"kl_{i}": iteration.kl}
        others = {"other": last.other} | {f"other_{i}": iteration.other for i, iteration in enumerate(earlier)}
        terms |= {name: other for name, other in others.items() if other is not None}
        terms |= seen_terms(self.geco, traces.model.nodes["image"])
        return terms if torch.is_grad_enabled() else {name: term.detach() for name, term in terms.items()}

    def objective(self, terms: Terms) -> Tensor:
        """Combines the batch means of all iterations into a loss in nats per image, and GECO records the NLL."""
        steps = sum(name.startswith("nll_") for name in terms)
        names = [(f"nll_{i}", f"kl_{i}", f"other_{i}") for i in range(steps)] + [("nll", "kl_slots", "other")]
        mean = {name: term.mean() for name, term in terms.items()}
        losses = [self._loss(mean[nll], mean[kl], mean.get(other)) for nll, kl, other in names]
        loss = torch.stack([(steps + 3 - i) / (steps + 1) * loss for i, loss in enumerate(losses)]).sum()
        self.record(self.active(self.geco), mean["nll"], seen_in(mean))
        return loss

    def _loss(self, nll: Tensor, kl: Tensor, other: Tensor | None) -> Tensor:
        """L_i, from batch means in nats per image."""
        geco, kl = self.active(self.geco), self.kl_weight * kl
        loss = nll + kl if geco is None else geco(nll, kl)
        return loss if other is None else loss + other


EMORLGuide.objective = EMORL_ELBO  # SRI trains a pair with this guide with this objective


class _Differentiable(Messenger):
    """Lets the posteriors have a gradient even if all weights behind them are frozen.

    They depend on the slots that inference starts from, so these become a leaf if they have no gradient.
    """

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == "initial_slots" and not msg["value"].requires_grad:
            msg["value"] = msg["value"].detach().requires_grad_()


def _gradients(loss: Tensor, posterior: tuple[Tensor, Tensor], *, retain_graph: bool) -> tuple[Tensor, ...]:
    """Gradients of the loss with respect to a posterior. Zero if everything is masked."""
    if not loss.requires_grad:
        return tuple(map(torch.zeros_like, posterior))
    return torch.autograd.grad(loss, posterior, retain_graph=retain_graph, materialize_grads=True)


def _iteration(
    guide: Trace, model: Trace, posterior: tuple[Tensor, Tensor], memory: Tensor | None, kl: Tensor
) -> Iteration:
    """Computes the terms of a posterior."""
    nll = -scored(model.nodes["image"])
    further = [name for name in latent_sites(model) if not LAYER.fullmatch(name)]
    other = other_scores(nll, model, guide, further).get("other")
    return Iteration(guide, model, posterior, memory, nll, kl, other)


def _kl(guide: Trace, priors: Trace, layer: int) -> Tensor:
    """KL between the posterior and the prior of a layer, [B] in nats."""
    posterior, prior = guide.nodes[_site(layer)], priors.nodes[_site(layer)]
    return analytic_kl(posterior, prior | {"value": posterior["value"]})


def _conditional_priors(model: Any, model_trace: Trace, guide_trace: Trace, temperature: float) -> Trace:
    """Runs the hierarchical prior. Each layer is given the guide's fresh draw of the previous one in the chain.

    Its sites have the scales and masks of the model's sites.
    """
    fresh = guide_trace.copy()
    for layer in model.prior.order[:-1]:
        fresh.nodes[_site(layer)] = guide_trace.nodes[f"prior_draw_{layer}"]
    num_scenes, num_slots, _ = guide_trace.nodes[_site(0)]["value"].shape
    priors = run_against(model.prior, fresh, num_scenes, num_slots, temperature)
    for layer in model.prior.order:
        site = _site(layer)
        priors.nodes[site] |= {key: model_trace.nodes[site][key] for key in ("scale", "mask")}
    return priors


def _refine(
    refinement: Any, step: int, last: Iteration, gradients: tuple[Tensor, ...], layer: int
) -> tuple[Trace, tuple[Tensor, Tensor], Tensor]:
    """One refinement step. Returns the trace with its draw (also as the layer's site), the posterior and the memory."""
    plate_is_known = poutine.block(hide=["scenes"])  # otherwise an enclosing recorder would see it twice
    with plate_is_known, poutine.trace() as recorder, pyro.plate("scenes", len(last.nll)):
        posterior, memory = refinement(step, last.posterior, gradients, last.memory)
    drawn = recorder.trace.nodes[f"refined_slots_{step}"]
    guide_trace = last.guide.copy()
    guide_trace.add_node(drawn["name"], **drawn)
    weights = {key: last.guide.nodes[_site(layer)][key] for key in ("scale", "mask")}
    guide_trace.nodes[_site(layer)] = {**drawn, "name": _site(layer), **weights, "infer": {}}
    return guide_trace, posterior, memory


def _site(layer: int) -> str:
    return f"layer_{layer}_slots"
