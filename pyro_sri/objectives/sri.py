"""The objective of SRI (Emami et al. 2023), for the segregation, for all stages, and for the prior alone."""

import re
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger, unwrap
from torch import Tensor

from pyro_sri.distributions import diagonal_normal
from pyro_sri.guides.segregation import Segregation
from pyro_sri.models.scene import SceneModel
from pyro_sri.objectives.base import Terms, TermsELBO, seen_in, seen_terms
from pyro_sri.objectives.geco import GECO
from pyro_sri.objectives.mask_kl import MaskKL, read_mask_kl
from pyro_sri.objectives.traces import Site, latent_sites, other_scores, run_against, scored, total_kl
from pyro_sri.programs import Guide, Model

TERMS = ("segregation_nll", "segregation_kl", "nll", "kl_scene", "kl_slots", "kl_cross")

SEGREGATION = "segregation_"  # prefix of the names of the segregation's terms
POINT = 1e-10  # minimum standard deviation of a segregated slot, for segregations without one
ORDERED_SLOT = re.compile(r"slot_\d+")
STORY_ARGUMENTS = (
    "num_scenes",
    "num_slots",
    "temperature",
)  # arguments of every model; others are specific to the scene model


class _Held(Messenger):
    """Stops gradients into the posteriors of the ordered slots."""

    def _pyro_sample(self, msg: Any) -> None:
        if ORDERED_SLOT.fullmatch(msg["name"]):
            msg["fn"] = diagonal_normal(msg["fn"].mean.detach(), msg["fn"].stddev.detach())


class OwnRun(NamedTuple):
    """A run of a segregation pair by its own objective."""

    objective: TermsELBO
    traces: Any


class SRITraces(NamedTuple):
    """Traces of the guide, the model and the segregation's model.

    A trace is None if that part was not run. If nothing was decoded, there is no site `image`.

    Attributes:
        guide: The trace of the SRI guide.
        model: The trace of the scene model.
        segregation: The trace of the segregation's model.
        own: The run of the segregation's own objective, if it has one.
    """

    guide: Trace
    model: Trace | None
    segregation: Trace | None
    own: OwnRun | None = None


def trace_sri(model: Model, guide: Guide, images: Tensor, *args: Any, **kwargs: Any) -> SRITraces:
    """Runs the guide on images [B, 3, H, W], and the models against it.

    The segregation's model gets only the arguments that all models have.
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
    """Runs the later stages and the model after the segregation's own objective ran on images [B, 3, H, W]."""
    segregated = own.objective.segregated(own.traces)
    if not guide.end_to_end:
        segregated = segregated.detach()

    def infer(*_: Any) -> Segregation:
        if "segregated_slots" not in own.traces.guide:
            pyro.sample("segregated_slots", Delta(segregated.slots, event_dim=2))
        return segregated

    plate_is_known = poutine.block(hide=["scenes"])  # otherwise an enclosing recorder would see it twice
    with guide.segregated_by(infer), plate_is_known:
        later = poutine.trace(guide).get_trace(images, *args, **kwargs)
    guide_trace = _after(own.traces.guide, later)
    model_trace = run_against(model, guide_trace, images, *args, **kwargs)
    return SRITraces(guide_trace, model_trace, own.traces.model, own)


def _after(segregation: Trace, later: Trace) -> Trace:
    """Merges two traces. The segregation's sites become auxiliary and are not scored, as in SRI's guide."""
    whole = segregation.copy()
    for name, site in segregation.nodes.items():
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site):
            whole.nodes[name] = {**site, "mask": False, "infer": {**site["infer"], "is_auxiliary": True}}
    for name, site in later.nodes.items():
        if name not in whole:
            whole.add_node(name, **site)
    return whole


def encode_slots(guide: Any, images: Tensor) -> Tensor:
    """Means and standard deviations of the slots [B, K, 2D] that the segregation infers from images [B, 3, H, W].

    There are no gradients. The clustering of the pixels is random.
    """
    with torch.no_grad(), pyro.plate("scenes", len(images)):
        means, scales, _ = guide.segregate(images)
    return torch.cat([means, scales], dim=-1)


def trace_prior(model: Model, guide: Any, inputs: Tensor, *args: Any, **kwargs: Any) -> SRITraces:
    """Runs guide and model without gradients to the slots' posteriors, and without the image.

    Gradients reach only the prior and q(s | x), because the guide's posterior of the ordered slots is fixed.

    Args:
        model: The scene model. A `SceneModel` does not decode.
        guide: The SRI guide.
        inputs: Images [B, 3, H, W], or encoded slots [B, K, 2D]. With encoded slots, guide and model get an image of
            NaN, so that a derived program that reads it does not go unnoticed.
        *args: Passed on to guide and model.
        **kwargs: Passed on to guide and model.
    """
    if inputs.ndim == 3:
        infer, images = _decoding(inputs), _unknown_images(guide, inputs)
        if inputs.shape[1] != guide.num_slots:
            kwargs = {"num_slots": inputs.shape[1]} | kwargs
    else:
        infer, images = torch.no_grad()(guide.segregation.guide.infer), inputs
    with _Held(), guide.segregated_by(infer):
        guide_trace = poutine.trace(guide).get_trace(images, *args, **kwargs)
    program = unwrap(model)
    with program.undecoded() if isinstance(program, SceneModel) else nullcontext():
        model_trace = run_against(model, guide_trace, images, *args, **kwargs)
    if "image" in model_trace:  # of a model that decodes all the same
        model_trace.remove_node("image")
    return SRITraces(guide_trace, model_trace, None)


def _decoding(encoded: Tensor) -> Callable[..., Segregation]:
    """A first stage that draws from encoded slots [B, K, 2D]."""
    means, scales = encoded.chunk(2, dim=-1)

    def infer(*_: Any) -> Segregation:
        slots = pyro.sample("segregated_slots", diagonal_normal(means, scales.clamp(min=POINT), 2))
        return Segregation(means, scales, slots)

    return infer


def _unknown_images(guide: Any, encoded: Tensor) -> Tensor:
    """Images [B, 3, H, W] of NaN, without memory of their own."""
    return encoded.new_full((), torch.nan).expand(len(encoded), 3, guide.image_size, guide.image_size)


def read_terms(traces: SRITraces) -> Terms:
    """The terms of the objective, each [B] in nats. See `SRI_ELBO.read` for their names."""
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
    terms |= {term: total_kl(of_term, analytic=True) for term, of_term in pairs.items() if of_term}
    return terms | _read_other(traces, next(iter(terms.values())))


def _read_other(traces: SRITraces, like: Tensor) -> Terms:
    """The term `other` of both models, if there is any."""
    assert traces.model is not None
    found = [other_scores(like, traces.model, traces.guide)]
    if traces.segregation is not None and traces.own is None:  # the segregation's own objective includes them
        found.append(other_scores(like, traces.segregation))
    others = [terms["other"] for terms in found if terms]
    return {"other": torch.stack(others).sum(0)} if others else {}


def _read_segregation_terms(guide: Trace, segregation: Trace) -> Terms:
    """NLL and Monte Carlo KL (as in GENESIS-v2).

    The KL has the scales and masks of the model's sites. Those of SRI's guide are for its own slots.
    """
    priors = {name: segregation.nodes[name] for name in latent_sites(segregation)}
    pairs = [
        (guide.nodes[name] | {key: prior[key] for key in ("scale", "mask")}, prior) for name, prior in priors.items()
    ]
    nll = -scored(segregation.nodes["image"])
    kl = total_kl(pairs, analytic=False) if pairs else torch.zeros_like(nll)
    return {"segregation_nll": nll, "segregation_kl": kl}


def _read_own_terms(own: OwnRun) -> Terms:
    """The terms of the segregation's own objective, with a prefix. `segregation_kl` is the sum of its KLs."""
    terms = own.objective.read(own.traces)
    whole = {"nll": terms["nll"], "kl": own.objective.kl(terms)}
    return {f"{SEGREGATION}{name}": term for name, term in (whole | terms).items()}


def _require_segregation(guide: Any, option: str, *, model: bool = False) -> None:
    """Raises ValueError unless the guide shows its segregation and, if asked for, the segregation has a model."""
    if not hasattr(guide, "segregation"):
        raise ValueError(f"{option} needs the segregation of an SRIGuide: use handlers as contexts around the call")
    if model and guide.segregation.model is None:
        raise ValueError(f"{option} trains the segregation alone, but it has no model: use {option}=0")


def _own_terms(terms: Terms) -> Terms:
    """The terms of the segregation's own objective, without the prefix."""
    own = {name.removeprefix(SEGREGATION): term for name, term in terms.items() if name.startswith(SEGREGATION)}
    if any(name.startswith("kl_") for name in own):
        own.pop("kl")  # their sum
    return own


class SRI_ELBO(TermsELBO):
    r"""The objective of SRI (Emami et al. 2023, equations 8 to 12).

    .. math::
        L &= L_{seg} + L_{SRI} \\
        L_{seg} &= -\log p(x \mid z^\pi) + \log q(z^\pi \mid x) - \log p(z^\pi) \\
        L_{SRI} &= -\log p(x \mid z) + KL_{scene} + KL_{slots} + KL_{cross} \\
        KL_{scene} &= KL( q(s \mid x) \,\|\, N(0, I) ) \\
        KL_{slots} &= \textstyle\sum_k KL( q(z_k \mid s, x) \,\|\, p(z_k \mid z_{<k}, s) ) \\
        KL_{cross} &= \textstyle\sum_k KL( q(z_k \mid s, x) \,\|\, p(z_k \mid \hat z_{<k}, s) )

    There is one sample per image, averaged over the batch. The segregation's KL is Monte Carlo (as in GENESIS-v2), and
    the others are analytic. With GECO, L_seg and L_SRI are NLL + beta KL (or EMORL's form), each with its own
    controller.

    If a segregation pair has its own objective (EMORL), that is L_seg, with its refinement and its weights. The later
    stages then use its final posterior of the image. Its terms have the prefix `segregation_`, and `segregation_kl` is
    the sum of the KLs of its bound.

    For guides without a `segregation` attribute or without imagined slots, the corresponding terms are zero.

    Example::

        svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-4}), SRI_ELBO())
        svi.step(images)

    Args:
        geco: Controller of L_SRI. None means a weight of 1 for every term.
        segregation_geco: Controller of L_seg. None means a weight of 1 for both terms.
        segregation: The objective of the segregation pair, with its controller. None means the pair's own objective,
            weighted by `segregation_geco`.
        segregation_steps: Initial training steps that compute only L_seg, at half the cost.
        prior_from: Step from which training computes only the KLs of L_SRI, for fixed q(z | x), without decoding.
            From then on, only p(z | s) and q(s | x) are trained, at a fraction of the cost. None means never.
        cross: Whether KL_cross is part of the loss (table 3c leaves it out). It is computed in both cases.
        mask_kl: Adds KL(`attention_masks` of the guide || `slot_masks` of the segregation's model) to L_seg. If L_SRI
            trains the segregation, or the segregation has its own objective, the masks are those of the scene model,
            and it is added to L_SRI. It is not part of the bound. Its gradient goes to both ("attached"), only to the
            attention masks ("detached"), or only to the decoded masks ("decoder"). See `weigh` for its weight.

    Raises:
        ValueError: If the kind of mask KL is unknown, or L_seg has two controllers.
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
            raise ValueError("the segregation has its own objective; pass the controller to that objective")
        self.geco = geco
        self.segregation_geco = segregation_geco
        self.segregation = segregation
        self.asked = (
            segregation,
        )  # the objective of the pair that ran last; the tuple prevents its registration as a submodule
        self.segregation_steps = segregation_steps
        self.prior_from = prior_from
        self.cross = cross

    @property
    def stage(self) -> str:
        """What is trained: only the "segregation", "all", or only the "prior"."""
        if self.step < self.segregation_steps:
            return "segregation"
        return "all" if self.prior_from is None or self.step < self.prior_from else "prior"

    @property
    def phase(self) -> Hashable:
        """The stage, the phase of the segregation's own objective, and whether controllers are in their warm start."""
        own = None if self.segregation is None else self._in_step(self.segregation).phase
        return self.stage if own is None and not self.warming else (self.stage, own, self.warming)

    def controllers(self) -> dict[str, GECO]:
        """`beta` of L_SRI and `beta_segregation` of L_seg."""
        both = {"beta": self.geco, "beta_segregation": self.segregation_geco}
        if self.segregation is not None:
            both |= {f"{name}_segregation": geco for name, geco in self.segregation.controllers().items()}
        return {name: geco for name, geco in both.items() if geco is not None}

    def weights(self) -> dict[str, float]:
        """`beta` of L_SRI, `beta_segregation` of L_seg."""
        own = {} if self.segregation is None else self.segregation.weights()
        return super().weights() | {f"{name}_segregation": weight for name, weight in own.items()}

    def _in_step(self, objective: TermsELBO) -> TermsELBO:
        """Sets the segregation's objective to the same step and mode, and returns it."""
        objective.step = self.step
        return objective.train(self.training)

    def _ask(self, pair: Any) -> TermsELBO | None:
        """The objective given for the pair, or the pair's own. None if there is none."""
        objective = None
        if pair is not None and pair.model is not None:
            make = getattr(pair, "make_objective", None)
            asked = None if make is None or self.segregation is not None else make(geco=self.segregation_geco)
            objective = asked if self.segregation is None else self.segregation
        self.asked = (objective,)
        return None if objective is None else self._in_step(objective)

    def trace(self, model: Model, guide: Guide, images: Tensor, *args: Any, **kwargs: Any) -> SRITraces:
        """Runs the guide on images [B, 3, H, W], and the models (sites `scene`, `slot_k`, `image`) against it.

        While only the prior is trained, the output of `encode_slots` [B, K, 2D] can be passed instead of the images.
        """
        if self.training and self.stage == "prior":
            _require_segregation(guide, "prior_from")
            return trace_prior(model, guide, images, *args, **kwargs)
        pair: Any = getattr(guide, "segregation", None)
        objective = self._ask(pair)
        alone = self.training and self.stage == "segregation"
        if alone:
            _require_segregation(guide, "segregation_steps", model=True)
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

        While only the segregation is trained, there are only the first two. While only the prior is trained, there are
        only the last three. If requested, there is also `segregation_mask_kl` (`mask_kl` if it belongs to L_SRI), and
        `other` if any. With GECO, scaled or masked images also have `seen` and `seen_nll`, or the same with the prefix
        `segregation_`, which are no part of the loss.
        """
        terms = read_terms(traces) | self._seen(traces)
        if self.mask_kl == "none":
            return terms
        if traces.segregation is not None and traces.own is None:
            terms["segregation_mask_kl"] = read_mask_kl(self.mask_kl, traces.guide, traces.segregation)
        elif "nll" in terms:
            order = traces.guide.nodes["order"]["value"] if "order" in traces.guide else None
            terms["mask_kl"] = read_mask_kl(self.mask_kl, traces.guide, traces.model, order)
        return terms

    def _seen(self, traces: SRITraces) -> Terms:
        """What both controllers see. The segregation's own objective reads the second itself."""
        halves = [("", self.geco, traces.model)]
        if traces.own is None:
            halves.append((SEGREGATION, self.segregation_geco, traces.segregation))
        seen: Terms = {}
        for prefix, geco, model in halves:
            if model is not None and "image" in model:
                seen |= seen_terms(geco, model.nodes["image"], prefix)
        return seen

    def objective(self, terms: Terms) -> Tensor:
        """Combines the batch means of the terms into a loss in nats per image. In training, GECO records the NLL."""
        mean = {name: term.mean() for name, term in terms.items()}
        other = mean.get("other", 0.0)
        if "segregation_nll" not in mean:  # only the prior is trained, so there is no NLL
            return self._kl_of_sri(mean) + other
        (own,) = self.asked
        if own is not None:
            loss = own.objective(_own_terms(mean))
        else:
            mask_kl = mean.get("segregation_mask_kl", 0.0)
            nll, kl = mean["segregation_nll"], mean["segregation_kl"]
            loss = self.weigh(self.segregation_geco, nll, kl, mask_kl, seen_in(mean, SEGREGATION))
        if "nll" in mean:
            kl, mask_kl = self._kl_of_sri(mean), mean.get("mask_kl", 0.0)
            loss = loss + self.weigh(self.geco, mean["nll"], kl, mask_kl, seen_in(mean))
        return loss + other

    def _kl_of_sri(self, mean: Terms) -> Tensor:
        names = ("kl_scene", "kl_slots", "kl_cross") if self.cross else ("kl_scene", "kl_slots")
        return torch.stack([mean[name] for name in names if name in mean]).sum()
