"""The objective of SRI (Emami et al. 2023): the segregation's, the scene model's, and the prior's alone."""

import re
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, Independent, Normal
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_sri.distributions import diagonal_normal
from pyro_sri.guides.segregation import Segregation, auxiliary
from pyro_sri.objectives.base import Terms, TermsELBO
from pyro_sri.objectives.geco import GECO
from pyro_sri.objectives.mask_kl import MaskKL, read_mask_kl
from pyro_sri.objectives.traces import (
    Site,
    analytic_kl,
    is_plain,
    latent_sites,
    log_prob,
    other_scores,
    run_against,
    scored,
    weighed,
)
from pyro_sri.programs import Guide, Model

TERMS = ("segregation_nll", "segregation_kl", "nll", "kl_scene", "kl_slots", "kl_cross")

SEGREGATION = "segregation_"  # what the names of the segregation's terms begin with
POINT = 1e-10  # the least standard deviation of a segregated slot: some segregations give points
ORDERED_SLOT = re.compile(r"slot_\d+")
STORY_ARGUMENTS = ("num_scenes", "num_slots", "temperature")  # those of every model; others are the scene model's own


class _Held(Messenger):
    """Keeps gradients from the posteriors of the ordered slots."""

    def _pyro_sample(self, msg: Any) -> None:
        if ORDERED_SLOT.fullmatch(msg["name"]):
            msg["fn"] = diagonal_normal(msg["fn"].mean.detach(), msg["fn"].stddev.detach())


class OwnRun(NamedTuple):
    """One run of a segregation pair by its own objective."""

    objective: TermsELBO
    traces: Any


class SRITraces(NamedTuple):
    """One run of guide, model and segregation model; None for what did not run, and no image where none was decoded.

    Attributes:
        guide: That of the SRI guide.
        model: That of the scene model.
        segregation: That of the segregation's model.
        own: What the segregation's own objective ran, if it has one.
    """

    guide: Trace
    model: Trace | None
    segregation: Trace | None
    own: OwnRun | None = None


def trace_sri(model: Model, guide: Guide, images: Tensor, *args: Any, **kwargs: Any) -> SRITraces:
    """Runs the guide on images [B, 3, H, W], and the models against it.

    The segregation's model takes those of the arguments that all models have.
    """
    guide_trace = poutine.trace(guide).get_trace(images, *args, **kwargs)
    model_trace = run_against(model, guide_trace, images, *args, **kwargs)
    if not hasattr(guide, "segregation"):
        if "segregated_slots" in guide_trace:
            raise ValueError("a wrapped SRI guide hides its segregation: use handlers as contexts around the call")
        return SRITraces(guide_trace, model_trace, None)
    if guide.segregation.model is None:
        return SRITraces(guide_trace, model_trace, None)
    shared = {name: value for name, value in kwargs.items() if name in STORY_ARGUMENTS}
    return SRITraces(guide_trace, model_trace, run_against(guide.segregation.model, guide_trace, images, **shared))


def trace_stages(model: Model, guide: Any, images: Tensor, own: OwnRun, *args: Any, **kwargs: Any) -> SRITraces:
    """Runs the later stages on what a segregation's own objective made of images [B, 3, H, W], and the model."""
    segregated = own.objective.segregated(own.traces)
    if not guide.end_to_end:
        segregated = segregated.detach()

    def later() -> None:
        with pyro.plate("scenes", len(images)):
            if "segregated_slots" not in own.traces.guide:
                with auxiliary():
                    pyro.sample("segregated_slots", Delta(segregated.slots, event_dim=2))
            guide.relate_and_imagine(segregated)

    with poutine.block(hide=["scenes"]):  # an enclosing recorder would meet the plate twice
        guide_trace = _after(own.traces.guide, poutine.trace(later).get_trace())
    model_trace = run_against(model, guide_trace, images, *args, **kwargs)
    return SRITraces(guide_trace, model_trace, own.traces.model, own)


def _after(segregation: Trace, later: Trace) -> Trace:
    """One trace of both; the sites of the segregation are auxiliary and not scored, as SRI's guide draws them."""
    whole = segregation.copy()
    for name, site in segregation.nodes.items():
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site):
            whole.nodes[name] = {**site, "mask": False, "infer": {**site["infer"], "is_auxiliary": True}}
    for name, site in later.nodes.items():
        if name not in whole:
            whole.add_node(name, **site)
    return whole


def encode_slots(guide: Any, images: Tensor) -> Tensor:
    """What an SRI guide's segregation infers of images [B, 3, H, W]: means and standard deviations, [B, K, 2D].

    Without gradients; how pixels are clustered is drawn.
    """
    with torch.no_grad(), pyro.plate("scenes", len(images)):
        means, scales, _ = guide.segregate(images)
    return torch.cat([means, scales], dim=-1)


def trace_prior(model: Model, guide: Guide, encoded: Tensor) -> SRITraces:
    """Runs the guide's later stages on encoded slots [B, K, 2D], and the model's slots against them: without decoding.

    The guide's posterior of the ordered slots is fixed: gradients reach only the prior and q(s | x).
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
    guide, model, segregation, own = traces
    terms = {}
    if own is not None:
        terms = _read_own_terms(own)
    elif segregation is not None:
        terms = _read_segregation_terms(guide, segregation)
    if model is None:
        assert segregation is not None
        return terms if own is not None else terms | other_scores(terms["segregation_nll"], segregation, guide)
    if "image" in model:
        nll = -scored(model.nodes["image"])
        terms = dict.fromkeys(TERMS, torch.zeros_like(nll)) | terms | {"nll": nll}
    pairs: dict[str, list[tuple[Site, Site]]] = {"kl_scene": [], "kl_slots": [], "kl_cross": []}
    for name in latent_sites(model):
        posterior = guide.nodes[name]
        pairs["kl_scene" if name == "scene" else "kl_slots"].append((posterior, model.nodes[name]))
        if (imagined := f"imagined_{name}") in guide:
            counted = {key: posterior[key] for key in ("scale", "mask")}  # the imagined one is masked
            pairs["kl_cross"].append((posterior, guide.nodes[imagined] | counted))
    terms |= {term: _total_kl(of_term) for term, of_term in pairs.items() if of_term}
    return terms | _read_other(traces, next(iter(terms.values())))


def _read_other(traces: SRITraces, like: Tensor) -> Terms:
    """The term `other` of both models, if there is any."""
    assert traces.model is not None
    found = [other_scores(like, traces.model, traces.guide)]
    if traces.segregation is not None and traces.own is None:  # an own objective has them among its terms
        found.append(other_scores(like, traces.segregation))
    others = [terms["other"] for terms in found if terms]
    return {"other": torch.stack(others).sum(0)} if others else {}


def _read_segregation_terms(guide: Trace, segregation: Trace) -> Terms:
    """NLL and Monte Carlo KL (as in GENESIS-v2); SRI's guide masks its own sites, so that the model's masks count."""
    nll = -scored(segregation.nodes["image"])
    kl = torch.zeros_like(nll)
    for name in latent_sites(segregation):
        posterior, prior = guide.nodes[name], segregation.nodes[name]
        kl = kl + weighed(log_prob(posterior), posterior | {"mask": prior["mask"]}) - scored(prior)
    return {"segregation_nll": nll, "segregation_kl": kl}


def _read_own_terms(own: OwnRun) -> Terms:
    """The terms of a segregation's own objective, with a prefix; `segregation_kl` adds up the KLs of its bound."""
    terms = own.objective.read(own.traces)
    whole = {"nll": terms["nll"], "kl": own.objective.kl(terms)}
    return {f"{SEGREGATION}{name}": term for name, term in (whole | terms).items()}


def _own_terms(terms: Terms) -> Terms:
    """Those terms as the objective itself calls them."""
    own = {name.removeprefix(SEGREGATION): term for name, term in terms.items() if name.startswith(SEGREGATION)}
    if any(name.startswith("kl_") for name in own):
        own.pop("kl")  # their sum
    return own


def _total_kl(pairs: Sequence[tuple[Site, Site]]) -> Tensor:
    """Sum of the analytic KLs of posteriors from their priors: [B]; of diagonal normals of one shape all at once."""
    sites = [site for pair in pairs for site in pair]
    dists = [site["fn"] for site in sites]
    normal = all(isinstance(dist, Independent) and isinstance(dist.base_dist, Normal) for dist in dists)
    if normal and all(map(is_plain, sites)) and len({(dist.batch_shape, dist.event_shape) for dist in dists}) == 1:
        return kl_divergence(_stack(dists[::2]), _stack(dists[1::2])).sum(0)
    return torch.stack([analytic_kl(*pair) for pair in pairs]).sum(0)


def _stack(normals: Sequence[Independent]) -> Independent:
    """K diagonal normals [B] of one shape as one [K, B]."""
    loc = torch.stack([normal.base_dist.loc for normal in normals])
    scale = torch.stack([normal.base_dist.scale for normal in normals])
    return Normal(loc, scale).to_event(len(normals[0].event_shape))


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

    A segregation pair that brings its own objective trains with that as L_seg, with its refinement and its weights
    (EMORL); the later stages then see its final posterior of the image. Its terms have the prefix `segregation_`, and
    `segregation_kl` is the sum of the KLs of its bound.

    For guides without a `segregation` attribute or imagined slots, those terms are zero.

    Example::

        svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-4}), SRI_ELBO())
        svi.step(images)

    Args:
        geco: Controller of L_SRI; None weighs every term by 1.
        segregation_geco: Controller of L_seg; None weighs both terms by 1.
        segregation: The objective of the segregation pair, with its controller. None takes the pair's own, weighed by
            `segregation_geco`.
        segregation_steps: Training steps at the start that compute only L_seg, at half the cost.
        prior_from: Step from which training computes only the KLs of L_SRI, for fixed q(z | x), without decoding.
            Then only p(z | s) and q(s | x) learn, at a fraction of the cost. None means never.
        cross: Whether KL_cross is part of the loss (table 3c leaves it out). It is computed either way.
        mask_kl: Adds KL(`attention_masks` of the guide || `slot_masks` of the segregation's model) to the segregation's
            KL; where L_SRI trains the segregation, to the KLs of L_SRI. It is not part of the bound; its gradient goes
            to both ("attached"), to the attention masks alone ("detached"), or to the decoder alone ("decoder": at
            weight 1, whatever the KLs weigh).

    Raises:
        ValueError: On another mask KL, or two controllers of L_seg.
    """

    bound = ("nll", "kl_scene", "kl_slots")
    asked: tuple[TermsELBO | None]

    def __init__(
        self,
        *,
        geco: GECO | None = None,
        segregation_geco: GECO | None = None,
        segregation: TermsELBO | None = None,
        segregation_steps: int = 0,
        prior_from: int | None = None,
        cross: bool = True,
        mask_kl: MaskKL = "none",
    ) -> None:
        super().__init__(mask_kl)
        if segregation is not None and segregation_geco is not None:
            raise ValueError("the segregation has an objective of its own: give its controller to that")
        self.geco = geco
        self.segregation_geco = segregation_geco
        self.segregation = segregation
        self.asked = (segregation,)  # what the pair that ran last trains with; a tuple hides it from registration
        self.segregation_steps = segregation_steps
        self.prior_from = prior_from
        self.cross = cross

    @property
    def stage(self) -> str:
        """What is trained: "segregation" alone, "all", or the "prior" alone."""
        if self.step < self.segregation_steps:
            return "segregation"
        return "all" if self.prior_from is None or self.step < self.prior_from else "prior"

    @property
    def phase(self) -> Hashable:
        """What is trained, and what the segregation's objective and the controllers make of this step."""
        own = None if self.segregation is None else self._in_step(self.segregation).phase
        return self.stage if own is None and not self.warming else (self.stage, own, self.warming)

    def controllers(self) -> dict[str, GECO]:
        """`beta` of L_SRI and `beta_segregation` of L_seg."""
        both = {"beta": self.geco, "beta_segregation": self.segregation_geco}
        if self.segregation is not None:
            both |= {f"{name}_segregation": geco for name, geco in self.segregation.controllers().items()}
        return {name: geco for name, geco in both.items() if geco is not None}

    def _in_step(self, objective: TermsELBO) -> TermsELBO:
        """The segregation's objective, at the same step and in the same mode."""
        objective.step = self.step
        return objective.train(self.training)

    def _ask(self, pair: Any) -> TermsELBO | None:
        """The pair's own objective: what was given for it, or what it says; None if it has none."""
        objective = None
        if pair is not None and pair.model is not None:
            make = getattr(pair, "make_objective", None)
            asked = None if make is None or self.segregation is not None else make(geco=self.segregation_geco)
            objective = asked if self.segregation is None else self.segregation
        if objective is not None and self.mask_kl != "none":
            raise ValueError(f"mask_kl='{self.mask_kl}': a segregation with an objective of its own has no mask KL")
        self.asked = (objective,)
        return None if objective is None else self._in_step(objective)

    def trace(self, model: Model, guide: Guide, images: Tensor, *args: Any, **kwargs: Any) -> SRITraces:
        """Runs the guide on images [B, 3, H, W], and the models (sites `scene`, `slot_k`, `image`) against it.

        While the prior trains alone, the output of `encode_slots` for the images [B, K, 2D] may be passed instead of
        them.
        """
        if self.training and self.stage == "prior":
            return trace_prior(model, guide, images if images.ndim == 3 else encode_slots(guide, images))
        pair: Any = getattr(guide, "segregation", None)
        objective = self._ask(pair)
        alone = self.training and self.stage == "segregation"
        shared = {name: value for name, value in kwargs.items() if name in STORY_ARGUMENTS}
        if objective is not None:
            own = OwnRun(objective, objective.trace(pair.model, pair.guide, images, **shared))
            if alone:
                return SRITraces(own.traces.guide, None, own.traces.model, own)
            return trace_stages(model, guide, images, own, *args, **kwargs)
        if alone:
            guide_trace = poutine.trace(pair.guide).get_trace(images, **shared)
            return SRITraces(guide_trace, None, run_against(pair.model, guide_trace, images, **shared))
        return trace_sri(model, guide, images, *args, **kwargs)

    def read(self, traces: SRITraces) -> Terms:
        """`segregation_nll`, `segregation_kl`, `nll`, `kl_scene`, `kl_slots`, `kl_cross`: each [B], in nats.

        The first two alone while the segregation trains alone, the last three while the prior does;
        `segregation_mask_kl` (`mask_kl` where the segregation has no model of its own) if asked; `other` if any.
        """
        terms = read_terms(traces)
        if self.mask_kl == "none" or not terms.keys() & {"nll", "segregation_nll"}:
            return terms
        if traces.segregation is not None:
            return terms | {"segregation_mask_kl": read_mask_kl(self.mask_kl, traces.guide, traces.segregation)}
        return terms | {"mask_kl": read_mask_kl(self.mask_kl, traces.guide, traces.model)}

    def objective(self, terms: Terms) -> Tensor:
        """Weighs the terms' batch means into one loss (nats per image), which GECO notices in training."""
        mean = {name: term.mean() for name, term in terms.items()}
        other = mean.get("other", 0.0)
        if "segregation_nll" not in mean:  # the prior alone: there is nothing to weigh its KLs against
            return self._kl_of_sri(mean) + other
        (own,) = self.asked
        if own is not None:
            loss = own.objective(_own_terms(mean))
        else:
            mask_kl = mean.get("segregation_mask_kl", 0.0)
            loss = self.weigh(self.segregation_geco, mean["segregation_nll"], mean["segregation_kl"], mask_kl)
        if "nll" in mean:
            loss = loss + self.weigh(self.geco, mean["nll"], self._kl_of_sri(mean), mean.get("mask_kl", 0.0))
        return loss + other

    def _kl_of_sri(self, mean: Terms) -> Tensor:
        names = ("kl_scene", "kl_slots", "kl_cross") if self.cross else ("kl_scene", "kl_slots")
        return torch.stack([mean[name] for name in names if name in mean]).sum()
