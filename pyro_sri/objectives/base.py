"""What the objectives share: a model run with its guide's draws, and named terms that are weighted into a loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, NamedTuple

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBOModule
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from pyro_sri.objectives.geco import GECO
from pyro_sri.objectives.mask_kl import MaskKL, check_mask_kl
from pyro_sri.programs import Guide, Model, adopt, record_of

Terms = dict[str, Tensor]


class Traces(NamedTuple):
    """One run of guide and model."""

    guide: Trace
    model: Trace


class _Substitute(Messenger):
    """Gives the sites of a model the values that the guide drew, also those that an enclosing handler fixed there."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.trace and not poutine.util.site_is_subsample(msg):
            msg["value"] = self.trace.nodes[msg["name"]]["value"]
            msg["is_observed"] = msg["done"] = True


def run_against(model: Callable[..., Any], guide_trace: Trace, *args: Any, **kwargs: Any) -> Trace:
    """The trace of a model whose latent sites take the guide's values, each with the `term` of its KL (or None).

    Enclosing handlers have already acted on the guide and do not see the model's sites, because a handler that draws or
    records would meet the same names twice.
    """
    hidden = poutine.block(hide_fn=lambda msg: msg["type"] == "sample")
    with hidden, poutine.trace() as recorder, _Substitute(guide_trace):
        model(*args, **kwargs)
    record = record_of(model)
    for name, site in recorder.trace.nodes.items():
        site["term"] = record.term(name)
    return recorder.trace


def latent_sites(model_trace: Trace, guide_trace: Trace) -> list[str]:
    """Names of the model's sites that the guide infers, in the model's order."""
    return [
        name
        for name, site in model_trace.nodes.items()
        if site["type"] == "sample" and name in guide_trace and not poutine.util.site_is_subsample(site)
    ]


def log_prob(trace: Trace, name: str) -> Tensor:
    """Nats per image of a site at its value, whether the site is masked or not: [B]."""
    site = trace.nodes[name]
    return site["fn"].log_prob(site["value"])


def analytic_kl(guide_trace: Trace, model_trace: Trace, name: str) -> Tensor:
    """KL(posterior || prior) of a site in closed form: [B] in nats."""
    return kl_divergence(guide_trace.nodes[name]["fn"], model_trace.nodes[name]["fn"])


def log_ratio(guide_trace: Trace, model_trace: Trace, name: str) -> Tensor:
    """log q - log p of a site at its drawn value, a Monte Carlo KL: [B] in nats."""
    return log_prob(guide_trace, name) - log_prob(model_trace, name)


class TermsELBO(Trace_ELBO, nn.Module, ABC):
    """An ELBO made of named terms, whose weights live in buffers: an `ELBOModule` saves, moves and switches them.

    A system's objective defines how guide and model are run, how the terms are computed, and how they are weighted.
    It can be used with `pyro.infer.SVI` and as `elbo(model, guide)`. Controllers are updated in training mode with
    gradients on, after the loss of the step is computed. `SVI.evaluate_loss` never updates them. Nothing here waits for
    the device.

    Attributes:
        bound: Names of the terms (`nll` and KLs) whose sum is the negative ELBO in nats; terms that a system lacks are
            skipped. An objective that takes them from the model's record has none, and its own `kl`.
        mask_kl: Which KL between attention masks and decoded masks is part of the loss.
        step: The training step. A trainer sets it before every step, and schedules follow it in training mode.
    """

    bound: ClassVar[tuple[str, ...]] = ()
    step: int

    def __init__(self, mask_kl: MaskKL = "none") -> None:
        nn.Module.__init__(self)  # first: a plain super().__init__() never reaches it
        Trace_ELBO.__init__(self)
        self.step = 0
        self.mask_kl = check_mask_kl(mask_kl)

    def __call__(self, model: nn.Module, guide: nn.Module) -> ELBOModule:
        """The loss of a pair as a torch module: its parameters are theirs; call it with images [B, 3, H, W]."""
        adopt(model)
        adopt(guide)
        return Trace_ELBO.__call__(self, model, guide)

    @property
    def phase(self) -> Hashable:
        """The phase of the schedule that this step is in. Training steps of one phase do the same computation."""
        return None

    def trace(self, model: Model, guide: Guide, images: Tensor, **kwargs: Any) -> Any:
        """Runs the guide on images [B, 3, H, W], and the model with the guide's draws.

        Returns:
            `Traces`, or another named tuple with at least `guide` and `model`.
        """
        guide_trace = poutine.trace(guide).get_trace(images, **kwargs)
        return Traces(guide_trace, run_against(model, guide_trace, images, **kwargs))

    @abstractmethod
    def read(self, traces: Any) -> Terms:
        """The terms, each [B] in nats."""

    @abstractmethod
    def objective(self, terms: Terms) -> Tensor:
        """Combines the terms' batch means into one loss (nats per image) and, when training, updates the
        controllers."""

    def terms(self, model: Model, guide: Guide, images: Tensor, **kwargs: Any) -> Terms:
        """The terms of the objective, each [B] in nats.

        Works under enclosing handlers, such as `with poutine.condition(data=...)`.

        Args:
            model: The model.
            guide: Its guide.
            images: [B, 3, H, W] in [0, 1].
            **kwargs: Passed on to model and guide.
        """
        return self.read(self.trace(model, guide, images, **kwargs))

    def controllers(self) -> dict[str, GECO]:
        """The controllers of the KL weights, by the names of the weights in the log."""
        return {}

    def posterior(self, traces: Any, site: str) -> Distribution:
        """The final posterior of a latent site in one run."""
        return traces.guide.nodes[site]["fn"]

    def kl(self, terms: Terms) -> Tensor:
        """The terms of the bound except `nll`, [B] in nats."""
        kls = [terms[name] for name in self.bound if name != "nll" and name in terms]
        return sum(kls, torch.zeros_like(terms["nll"]))

    def negative_elbo(self, terms: Terms) -> Tensor:
        """-ELBO, [B] in nats."""
        return terms["nll"] + self.kl(terms)

    def weigh(self, geco: GECO | None, nll: Tensor, kl: Tensor, mask_kl: Tensor | float = 0.0) -> Tensor:
        """NLL and KL, weighted by their controller, which is updated when training. Without one, their sum.

        The mask KL has the same weight as the KL (Engelcke et al. 2021). If it only trains the decoder, the weight is
        1, as the decoder should follow the attention from the start, when the weight of the KL is small.
        """
        followed = self.mask_kl == "decoder"
        kl = kl if followed else kl + mask_kl
        loss = nll + kl if geco is None else geco(nll, kl)
        if geco is not None and self.training and torch.is_grad_enabled():
            geco.update(nll)
        return loss + mask_kl if followed else loss

    def differentiable_loss(self, model: Model, guide: Guide, *args: Any, **kwargs: Any) -> Tensor:
        """The loss as a scalar tensor, in nats per image: what an `ELBOModule` returns."""
        return self.objective(self.terms(model, guide, *args, **kwargs))

    def loss(self, model: Model, guide: Guide, *args: Any, **kwargs: Any) -> float:
        """The loss as a number: what `SVI.evaluate_loss` returns."""
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Model, guide: Guide, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, with gradients left in the parameters: what `SVI.step` calls."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()
