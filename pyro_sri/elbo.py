"""The objectives: named terms read off the traces of model and guide, weighed by GECO."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Independent, Normal
from pyro.infer import Trace_ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from pyro_sri.distributions import diagonal_normal
from pyro_sri.geco import GECO
from pyro_sri.guides.segregation import Segregation, auxiliary
from pyro_sri.mask_kl import MaskKL, check_mask_kl, read_mask_kl

Terms = dict[str, Tensor]

TERMS = ("segregation_nll", "segregation_kl", "nll", "kl_scene", "kl_slots", "kl_cross")

POINT = 1e-10  # the least standard deviation of a segregated slot: some segregations give points
ORDERED_SLOT = re.compile(r"slot_\d+")


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
    """The trace of a model whose latent sites take the guide's values.

    Enclosing handlers have had their say in the guide and do not see the model's sites: one that draws or records
    would meet the same names twice.
    """
    hidden = poutine.block(hide_fn=lambda msg: msg["type"] == "sample")
    with hidden, poutine.trace() as recorder, _Substitute(guide_trace):
        model(*args, **kwargs)
    return recorder.trace


class _Held(Messenger):
    """Keeps gradients from the posteriors of the ordered slots."""

    def _pyro_sample(self, msg: Any) -> None:
        if ORDERED_SLOT.fullmatch(msg["name"]):
            msg["fn"] = diagonal_normal(msg["fn"].mean.detach(), msg["fn"].stddev.detach())


def latent_sites(model_trace: Trace, guide_trace: Trace) -> list[str]:
    """Names of the model's sites that the guide infers, in the model's order."""
    return [
        name
        for name, site in model_trace.nodes.items()
        if site["type"] == "sample" and name in guide_trace and not poutine.util.site_is_subsample(site)
    ]


def _log_prob(trace: Trace, name: str) -> Tensor:
    """Nats per image of a site at its value, whether the site is masked or not: [B]."""
    site = trace.nodes[name]
    return site["fn"].log_prob(site["value"])


def _total_kl(pairs: Sequence[tuple[Distribution, Distribution]]) -> Tensor:
    """Sum of the analytic KLs of posteriors from their priors: [B]; of diagonal normals of one shape all at once."""
    posteriors, priors = zip(*pairs, strict=True)
    normal = all(isinstance(site, Independent) and isinstance(site.base_dist, Normal) for site in posteriors + priors)
    if normal and len({(site.batch_shape, site.event_shape) for site in posteriors + priors}) == 1:
        return kl_divergence(_stack(posteriors), _stack(priors)).sum(0)
    return torch.stack([kl_divergence(*pair) for pair in pairs]).sum(0)


def _stack(normals: Sequence[Independent]) -> Independent:
    """K diagonal normals [B] of one shape as one [K, B]."""
    loc = torch.stack([normal.base_dist.loc for normal in normals])
    scale = torch.stack([normal.base_dist.scale for normal in normals])
    return Normal(loc, scale).to_event(len(normals[0].event_shape))


class SRITraces(NamedTuple):
    """One run of guide, model and segregation model; None for what did not run, and no image where none was decoded."""

    guide: Trace
    model: Trace | None
    segregation: Trace | None


def trace_sri(model: Any, guide: Any, images: Tensor, **kwargs: Any) -> SRITraces:
    """Runs the guide on images [B, 3, H, W], and the models against it."""
    guide_trace = poutine.trace(guide).get_trace(images, **kwargs)
    model_trace = run_against(model, guide_trace, images, **kwargs)
    if not hasattr(guide, "segregation"):
        if "segregated_slots" in guide_trace:
            raise ValueError("a wrapped SRI guide hides its segregation: use handlers as contexts around the call")
        return SRITraces(guide_trace, model_trace, None)
    if guide.segregation.model is None:
        return SRITraces(guide_trace, model_trace, None)
    return SRITraces(guide_trace, model_trace, run_against(guide.segregation.model, guide_trace, images, **kwargs))


def encode_slots(guide: Any, images: Tensor) -> Tensor:
    """What an SRI guide's segregation infers of images [B, 3, H, W]: means and standard deviations, [B, K, 2D].

    Without gradients; how pixels are clustered is drawn.
    """
    with torch.no_grad(), pyro.plate("scenes", len(images)):
        means, scales, _ = guide.segregate(images)
    return torch.cat([means, scales], dim=-1)


def trace_prior(model: Any, guide: Any, encoded: Tensor) -> SRITraces:
    """Runs the guide's later stages on encoded slots [B, K, 2D], and the model's slots against them: without decoding.

    What the guide infers of the ordered slots is fixed: gradients reach the prior and q(s | x) alone.
    """
    num_scenes, num_slots, _ = encoded.shape
    means, scales = encoded.chunk(2, dim=-1)

    def ordered() -> None:
        with pyro.plate("scenes", num_scenes):
            with auxiliary():
                slots = pyro.sample("segregated_slots", diagonal_normal(means, scales.clamp(min=POINT), 2))
            guide.relate_and_imagine(Segregation(means, scales, slots))

    def imagined() -> None:
        with pyro.plate("scenes", num_scenes):
            model.sample_slots(num_scenes, num_slots)

    with _Held():
        guide_trace = poutine.trace(ordered).get_trace()
    return SRITraces(guide_trace, run_against(imagined, guide_trace), None)


def read_terms(traces: SRITraces) -> Terms:
    """The terms of the objective, each [B] in nats, as `SRI_ELBO.read` names them."""
    guide, model, segregation = traces
    segregation_terms = {} if segregation is None else _read_segregation_terms(guide, segregation)
    if model is None:
        return segregation_terms
    terms = segregation_terms
    if "image" in model:
        nll = -_log_prob(model, "image")
        terms = dict.fromkeys(TERMS, torch.zeros_like(nll)) | segregation_terms | {"nll": nll}
    pairs: dict[str, list[tuple[Distribution, Distribution]]] = {"kl_scene": [], "kl_slots": [], "kl_cross": []}
    for name in latent_sites(model, guide):
        posterior = guide.nodes[name]["fn"]
        pairs["kl_scene" if name == "scene" else "kl_slots"].append((posterior, model.nodes[name]["fn"]))
        if (imagined := f"imagined_{name}") in guide:
            pairs["kl_cross"].append((posterior, guide.nodes[imagined]["fn"]))
    return terms | {term: _total_kl(of_term) for term, of_term in pairs.items() if of_term}


def _read_segregation_terms(guide: Trace, segregation: Trace) -> Terms:
    """NLL and Monte Carlo KL (as in GENESIS-v2); the guide's sites may be masked, so densities are computed here."""
    nll = -_log_prob(segregation, "image")
    kl = torch.zeros_like(nll)
    for name in latent_sites(segregation, guide):
        kl = kl + _log_prob(guide, name) - _log_prob(segregation, name)
    return {"segregation_nll": nll, "segregation_kl": kl}


class TermsELBO(Trace_ELBO, nn.Module, ABC):
    """An ELBO made of named terms, whose weights live in buffers: `ELBOModule`s save, move and switch them.

    A system's objective says how guide and model are run, how the terms are read off, and how they are weighed.
    Usable with `pyro.infer.SVI` and as `elbo(model, guide)`. Controllers move in training mode with gradients on, after
    the loss of the step was formed; `SVI.evaluate_loss` never moves them. Nothing here waits for the device.

    Attributes:
        bound: Names of the terms whose sum, of those that there are, is the negative ELBO in nats: `nll` and KLs.
        mask_kl: Which KL between attention masks and decoded masks is part of the loss.
        step: The training step, which a trainer sets before every step; schedules follow it in training mode.
    """

    bound: ClassVar[tuple[str, ...]]
    step: int

    def __init__(self, mask_kl: MaskKL = "none") -> None:
        nn.Module.__init__(self)  # first: a plain super().__init__() never reaches it
        Trace_ELBO.__init__(self)
        self.step = 0
        self.mask_kl = check_mask_kl(mask_kl)

    @property
    def phase(self) -> Hashable:
        """What the schedule makes of this step: training steps of one phase do the same computation."""
        return None

    @abstractmethod
    def trace(self, model: Any, guide: Any, images: Tensor, **kwargs: Any) -> Any:
        """One run of guide and model: a named tuple with at least `guide` and `model`, their traces."""

    @abstractmethod
    def read(self, traces: Any) -> Terms:
        """The terms, each [B] in nats."""

    @abstractmethod
    def objective(self, terms: Terms) -> Tensor:
        """Weighs the terms' batch means into one loss (nats per image) and, when training, moves the controllers."""

    def terms(self, model: Any, guide: Any, images: Tensor, **kwargs: Any) -> Terms:
        """The terms of the objective, each [B] in nats.

        Works under enclosing handlers, such as `with poutine.condition(data=...)`.

        Args:
            model: The model.
            guide: Its guide.
            images: [B, 3, H, W] in [0, 1].
            **kwargs: Passed on to model and guide.
        """
        return self.read(self.trace(model, guide, images, **kwargs))

    def kl(self, terms: Terms) -> Tensor:
        """The terms of the bound but `nll`, [B] in nats."""
        kls = [terms[name] for name in self.bound if name != "nll" and name in terms]
        return sum(kls, torch.zeros_like(terms["nll"]))

    def negative_elbo(self, terms: Terms) -> Tensor:
        """-ELBO, [B] in nats."""
        return terms["nll"] + self.kl(terms)

    def weigh(self, geco: GECO | None, nll: Tensor, kl: Tensor, mask_kl: Tensor | float = 0.0) -> Tensor:
        """NLL and KL as their controller weighs them; moves it when training. Without one, their sum.

        The mask KL is weighed as the KL (Engelcke et al. 2021); by 1 where it moves the decoder alone, which should
        follow the attention from the start, when the KL weighs little.
        """
        followed = self.mask_kl == "decoder"
        kl = kl if followed else kl + mask_kl
        loss = nll + kl if geco is None else geco(nll, kl)
        if geco is not None and self.training and torch.is_grad_enabled():
            geco.update(nll)
        return loss + mask_kl if followed else loss

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss as a scalar tensor, in nats per image: what an `ELBOModule` returns."""
        return self.objective(self.terms(model, guide, *args, **kwargs))

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss as a number: what `SVI.evaluate_loss` returns."""
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, with gradients left in the parameters: what `SVI.step` calls."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()


class SRI_ELBO(TermsELBO):
    r"""The objective of SRI (Emami et al. 2023, equations 8 to 12).

    .. math::
        L &= L_{seg} + L_{SRI} \\
        L_{seg} &= -\log p(x \mid z^\pi) + \log q(z^\pi \mid x) - \log p(z^\pi) \\
        L_{SRI} &= -\log p(x \mid z) + KL_{scene} + KL_{slots} + KL_{cross} \\
        KL_{scene} &= KL( q(s \mid x) \,\|\, N(0, I) ) \\
        KL_{slots} &= \textstyle\sum_k KL( q(z_k \mid s, x) \,\|\, p(z_k \mid z_{<k}, s) ) \\
        KL_{cross} &= \textstyle\sum_k KL( q(z_k \mid s, x) \,\|\, p(z_k \mid \hat z_{<k}, s) )

    one sample per image, averaged over the batch; the segregation's KL is Monte Carlo (as in GENESIS-v2), the others
    are analytic. With GECO each of the two lines is NLL + beta KL (or EMORL's form) with its own controller.

    Guides without a `segregation` attribute or imagined slots have zeros for those terms.

    Example::

        svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-4}), SRI_ELBO())
        svi.step(images)

    Args:
        geco: Controller of L_SRI; None weighs every term by 1.
        segregation_geco: Controller of L_seg; None weighs both terms by 1.
        segregation_steps: Training steps at the start that compute L_seg alone, at half the cost.
        prior_from: Step from which training computes the KLs of L_SRI alone, for fixed q(z | x), without decoding:
            then p(z | s) and q(s | x) learn, at a fraction of the cost. None: never.
        cross: Whether KL_cross is part of the loss (table 3c leaves it out); it is read either way.
        mask_kl: Adds KL(`attention_masks` of the guide || `slot_masks` of the segregation's model) to the segregation's
            KL; where L_SRI trains the segregation, to the KLs of L_SRI. It is not part of the bound; its gradient goes
            to both ("attached"), to the attention masks alone ("detached"), or to the decoder alone ("decoder": at
            weight 1, whatever the KLs weigh).

    Raises:
        ValueError: On another mask KL.
    """

    bound = ("nll", "kl_scene", "kl_slots")

    def __init__(
        self,
        *,
        geco: GECO | None = None,
        segregation_geco: GECO | None = None,
        segregation_steps: int = 0,
        prior_from: int | None = None,
        cross: bool = True,
        mask_kl: MaskKL = "none",
    ) -> None:
        super().__init__(mask_kl)
        self.geco = geco
        self.segregation_geco = segregation_geco
        self.segregation_steps = segregation_steps
        self.prior_from = prior_from
        self.cross = cross

    @property
    def phase(self) -> Hashable:
        """What is trained: "segregation" alone, "all", or the "prior" alone."""
        if self.step < self.segregation_steps:
            return "segregation"
        return "all" if self.prior_from is None or self.step < self.prior_from else "prior"

    def trace(self, model: Any, guide: Any, images: Tensor, **kwargs: Any) -> SRITraces:
        """Runs the guide on images [B, 3, H, W], and the models (sites `scene`, `slot_k`, `image`) against it.

        While the prior trains alone, what `encode_slots` made of the images [B, K, 2D] may stand for them.
        """
        if self.training and self.phase == "segregation":
            pair = guide.segregation
            guide_trace = poutine.trace(pair.guide).get_trace(images, **kwargs)
            return SRITraces(guide_trace, None, run_against(pair.model, guide_trace, images, **kwargs))
        if self.training and self.phase == "prior":
            return trace_prior(model, guide, images if images.ndim == 3 else encode_slots(guide, images))
        return trace_sri(model, guide, images, **kwargs)

    def read(self, traces: SRITraces) -> Terms:
        """`segregation_nll`, `segregation_kl`, `nll`, `kl_scene`, `kl_slots`, `kl_cross`: each [B], in nats.

        The first two alone while the segregation trains alone, the last three while the prior does;
        `segregation_mask_kl` (`mask_kl` where the segregation has no model of its own) if asked.
        """
        terms = read_terms(traces)
        if self.mask_kl == "none" or not terms.keys() & {"nll", "segregation_nll"}:
            return terms
        if traces.segregation is not None:
            return terms | {"segregation_mask_kl": read_mask_kl(self.mask_kl, traces.guide, traces.segregation)}
        return terms | {"mask_kl": read_mask_kl(self.mask_kl, traces.guide, traces.model)}

    def objective(self, terms: Terms) -> Tensor:
        """Weighs the terms' batch means into one loss (nats per image) and, when training, moves GECO."""
        mean = {name: term.mean() for name, term in terms.items()}
        if "segregation_nll" not in mean:  # the prior alone: there is nothing to weigh its KLs against
            return self._kl_of_sri(mean)
        segregation_mask_kl = mean.get("segregation_mask_kl", 0.0)
        loss = self.weigh(self.segregation_geco, mean["segregation_nll"], mean["segregation_kl"], segregation_mask_kl)
        if "nll" in mean:
            loss = loss + self.weigh(self.geco, mean["nll"], self._kl_of_sri(mean), mean.get("mask_kl", 0.0))
        return loss

    def _kl_of_sri(self, mean: Terms) -> Tensor:
        names = ("kl_scene", "kl_slots", "kl_cross") if self.cross else ("kl_scene", "kl_slots")
        return torch.stack([mean[name] for name in names if name in mean]).sum()
