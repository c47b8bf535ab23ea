"""Runs a model against its guide, and scores the sites of the two traces with scales and masks, like Pyro."""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.contrib.autoname.scoping import ScopeMessenger
from pyro.distributions import Delta, Independent, Normal
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.do_messenger import DoMessenger
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.equalize_messenger import EqualizeMessenger
from pyro.poutine.infer_config_messenger import InferConfigMessenger
from pyro.poutine.lift_messenger import LiftMessenger
from pyro.poutine.mask_messenger import MaskMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.reparam_messenger import ReparamMessenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.scale_messenger import ScaleMessenger
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_sri.programs import record_of
from pyro_sri.system.errors import UserError

Site = Any  # the entry of a sample statement in a trace

# Handlers around an objective that the model hears as the guide does: they weigh, mark, fix or hide sites.
HEARD = (
    ScaleMessenger,
    MaskMessenger,
    ConditionMessenger,
    ReplayMessenger,
    InferConfigMessenger,
    BlockMessenger,
)
# Those that put other sites in place of the guide's, which then have no counterpart in the model.
REFUSED: dict[type[Messenger], str] = {
    DoMessenger: "poutine.do",
    ReparamMessenger: "poutine.reparam",
    UnconditionMessenger: "poutine.uncondition",
    EqualizeMessenger: "poutine.equalize",
    EnumMessenger: "poutine.enum",
    LiftMessenger: "poutine.lift",
    ScopeMessenger: "scope",
}


class _Replay(Messenger):
    """Gives the latents of a model the guide's values, including those fixed in the guide by an enclosing handler."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace
        self.replayed: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or poutine.util.site_is_subsample(msg):
            return
        if (name := msg["name"]) in self.trace:
            self.replayed.add(name)
            msg["value"] = self.trace.nodes[name]["value"]
            msg["is_observed"] = msg["done"] = True


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """Hides the sites inside from enclosing handlers, except from those that the model hears as the guide does."""
    heard = [copy.copy(handler) for handler in _PYRO_STACK if isinstance(handler, HEARD)]
    with contextlib.ExitStack() as handlers:
        handlers.enter_context(poutine.block(hide_fn=lambda msg: msg["type"] == "sample"))
        for handler in heard:
            handlers.enter_context(handler)
        yield


def _check_handlers() -> None:
    """Raises UserError if an enclosing handler puts other sites in place of the guide's."""
    for handler in _PYRO_STACK:
        for kind, name in REFUSED.items():
            if isinstance(handler, kind):
                raise UserError(
                    f"{name} cannot enclose an objective: it changes what the guide draws, and the model does not "
                    "follow; apply it to the model alone, or fix draws with poutine.condition"
                )


def run_against(model: Callable[..., Any], guide_trace: Trace, *args: Any, **kwargs: Any) -> Trace:
    """Traces a model whose latent sites have the guide's values.

    Each site gets the entries `term`, the term of its KL or None, `inferred`, whether it is a latent that the guide
    drew, and `num_images`, the size of the model's plate `scenes` or None. Latents that the guide does not have are
    drawn from the prior, so their KL is 0. A warning names them.

    Raises:
        UserError: If an enclosing handler replaces sites, such as `poutine.do` and `poutine.reparam`.
    """
    _check_handlers()
    replay = _Replay(guide_trace)
    with _unseen(), poutine.trace() as recorder, replay:
        model(*args, **kwargs)
    trace, record = recorder.trace, record_of(model)
    num_images = len(trace.nodes["scenes"]["value"]) if "scenes" in trace else None
    for name, site in trace.nodes.items():
        site["num_images"] = num_images
        site["term"] = record.term(name)
        site["inferred"] = name in replay.replayed
    if lacking := [name for name, site in trace.nodes.items() if _is_drawn(site)]:
        warnings.warn(
            f"the guide lacks {', '.join(lacking)}, so the prior draws it, without a KL; let the guide draw it, "
            "observe it, or mask it",
            stacklevel=2,
        )
    return trace


def _is_drawn(site: Site) -> bool:
    """Whether a site of the model is a scored latent that the guide did not draw."""
    return _is_scored(site) and not (site["inferred"] or site["is_observed"] or isinstance(site["fn"], Delta))


def _is_scored(site: Site) -> bool:
    """Whether a site is scored: not a parameter, not fully masked, and not deterministic."""
    if site["type"] != "sample" or poutine.util.site_is_subsample(site):
        return False
    return site["mask"] is not False and not site["infer"].get("_deterministic", False)


def latent_sites(model_trace: Trace) -> list[str]:
    """Names of the model's latent sites that the guide drew, in the model's order."""
    return [name for name, site in model_trace.nodes.items() if site["inferred"]]


def log_prob(site: Site) -> Tensor:
    """The log density of a site at its value, without scale and mask, [B] in nats."""
    return site["fn"].log_prob(site["value"])


def weighed(score: Tensor, site: Site) -> Tensor:
    """A score [B], weighted by the scale and the mask of a site."""
    return scale_and_mask(score, site["scale"], site["mask"])


def scored(site: Site) -> Tensor:
    """The contribution of a site to Pyro's log density, [B] in nats."""
    return weighed(log_prob(site), site)


def is_plain(site: Site) -> bool:
    """Whether a site has neither scale nor mask."""
    return site["mask"] is None and not isinstance(site["scale"], Tensor) and site["scale"] == 1


def log_ratio(posterior: Site, prior: Site) -> Tensor:
    """log q - log p of a site at its drawn value, which is a Monte Carlo KL, [B] in nats."""
    return scored(posterior) - scored(prior)


def analytic_kl(posterior: Site, prior: Site) -> Tensor:
    """KL(posterior || prior) of a site, [B] in nats, in closed form if there is one and otherwise by Monte Carlo.

    It has the scale and mask of the posterior's site. If the prior's site is scaled or masked differently, the
    difference is computed at the drawn value, so that the expectation equals that of `log_ratio`.
    """
    try:
        kl = kl_divergence(posterior["fn"], prior["fn"])
    except NotImplementedError:
        return log_ratio(posterior, prior)
    kl = weighed(kl, posterior)
    if _weigh_alike(posterior, prior):
        return kl
    at_value = log_prob(prior)
    return kl + weighed(at_value, posterior) - weighed(at_value, prior)


def total_kl(pairs: Sequence[tuple[Site, Site]], *, analytic: bool) -> Tensor:
    """Sum over several sites of `analytic_kl`, or of `log_ratio`, between posteriors and priors, [B] in nats.

    Diagonal normals of one shape are stacked and computed in one batch. The KL of a latent that all images share is
    divided equally among them.
    """
    sites = [site for pair in pairs for site in pair]
    if not _can_stack(sites):
        kls = [((analytic_kl if analytic else log_ratio)(*pair), pair[1]) for pair in pairs]
        return torch.stack([_per_image(kl, prior, prior.get("num_images")) for kl, prior in kls]).sum(0)
    posteriors, priors = _stack(sites[::2]), _stack(sites[1::2])
    if analytic:
        return kl_divergence(posteriors, priors).sum(0)
    values = torch.stack([site["value"] for site in sites[::2]])
    return (posteriors.log_prob(values) - priors.log_prob(values)).sum(0)


def _can_stack(sites: Sequence[Site]) -> bool:
    """Whether there are several pairs, all of diagonal normals of one shape, of images, without scales or masks."""
    if len(sites) == 2 or not all(_is_of_images(site, site["num_images"]) for site in sites if site.get("num_images")):
        return False
    dists = [site["fn"] for site in sites]
    normal = all(isinstance(dist, Independent) and isinstance(dist.base_dist, Normal) for dist in dists)
    alike = normal and len({(dist.batch_shape, dist.event_shape) for dist in dists}) == 1
    return alike and all(map(is_plain, sites))


def _stack(sites: Sequence[Site]) -> Independent:
    """The diagonal normals [B] of K sites as one [K, B]."""
    normals = [site["fn"] for site in sites]
    loc = torch.stack([normal.base_dist.loc for normal in normals])
    scale = torch.stack([normal.base_dist.scale for normal in normals])
    return Normal(loc, scale).to_event(len(normals[0].event_shape))


def _weigh_alike(one: Site, other: Site) -> bool:
    """Whether two sites certainly have the same scale and mask. Does not read tensors."""
    if one["mask"] is not other["mask"]:
        return False
    if isinstance(one["scale"], Tensor) or isinstance(other["scale"], Tensor):
        return one["scale"] is other["scale"]
    return bool(one["scale"] == other["scale"])


def other_scores(
    like: Tensor, model: Trace, guide: Trace | None = None, latents: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The term `other`, [B] in nats, if there is any: scores that are part of neither `nll` nor a KL.

    These are additional observations and factors of the model, and sites that only the guide scores. A score outside
    the plate of the images counts once per run, as in Pyro's ELBOs, and is divided equally among the images of the run.

    Args:
        like: A term [B].
        model: A run of the model.
        guide: The run of the guide that the model was run against. None leaves out the scores of the guide.
        latents: Names of latents whose KL has no term of its own, and so belongs to `other`.
    """
    scores = [_per_image(score, site, len(like)) for score, site in _others(model, guide, latents)]
    return {"other": torch.stack([score + torch.zeros_like(like) for score in scores]).sum(0)} if scores else {}


def whole_other_scores(like: Tensor, model: Trace, guide: Trace, latents: Sequence[str] = ()) -> Tensor:
    """What `other` is to each image, [B] in nats: its own scores, and all of those that the images share."""
    scores = [
        _per_image(score, site, len(like)) * (1 if _is_of_images(site, len(like)) else len(like))
        for score, site in _others(model, guide, latents)
    ]
    return torch.stack([torch.zeros_like(like), *scores]).sum(0)


def _others(model: Trace, guide: Trace | None, latents: Sequence[str]) -> list[tuple[Tensor, Site]]:
    """The scores of `other`, and their sites."""
    observed = [
        (-scored(site), site)
        for name, site in model.nodes.items()
        if _is_scored(site) and site["is_observed"] and not site["inferred"] and name != "image"
    ]
    beside = [
        (scored(site), site)
        for name, site in ({} if guide is None else guide.nodes).items()
        if _is_scored(site) and not (name in model.nodes and model.nodes[name]["inferred"])
    ]
    pairs = [] if guide is None else [(guide.nodes[name], model.nodes[name]) for name in latents]
    return observed + beside + [(log_ratio(posterior, prior), prior) for posterior, prior in pairs]


def check_gradients(guide: Trace, model: Trace, handled: Callable[[str], bool]) -> None:
    """Raises UserError if the gradient of a latent would be lost: it is learned, but not reparameterised.

    Args:
        guide: A run of the guide.
        model: A run of the model against it.
        handled: Whether the objective has a gradient of its own for a latent of this name.
    """
    for name in latent_sites(model):
        site = guide.nodes[name]
        if handled(name) or site["is_observed"] or site["fn"].has_rsample or not log_prob(site).requires_grad:
            continue
        raise UserError(
            f"the guide draws '{name}' from a {type(site['fn']).__name__}, which has no reparameterised gradient, so "
            "it would never learn; choose a continuous distribution, or train with Pyro's TraceGraph_ELBO"
        )


def no_share_of_an_image(num_images: int, model: Trace, guide: Trace) -> str | None:
    """Why some scores of a run have no share that belongs to an image, in a line, or None if all belong to images.

    What an image gets of a score outside the plate of the images depends on how many images are in the run. There is
    thus no bound on log p(x) of an image.

    Args:
        num_images: B.
        model: A run of the model.
        guide: The run of the guide that the model was run against.
    """
    sites = {**guide.nodes, **model.nodes}
    names = [name for name, site in sites.items() if _is_scored(site) and not _is_of_images(site, num_images)]
    if not names:
        return None
    return (
        f"there is no bound on log p(x) of an image, because all images share {', '.join(names)}: "
        "put what belongs to images into the plate 'scenes'"
    )


def _is_of_images(site: Site, num_images: int) -> bool:
    """Whether a site is in a plate with a place for each image."""
    return any(frame.dim == -1 and frame.size == num_images for frame in site["cond_indep_stack"])


def _per_image(score: Tensor, site: Site, num_images: int | None) -> Tensor:
    """Converts a score of any shape to a score per image [B] with the same sum; unchanged if B is not known."""
    if num_images is None:
        return score
    if _is_of_images(site, num_images):
        return score.reshape(-1, num_images).sum(0)
    return (score.sum() / num_images).expand(num_images)
