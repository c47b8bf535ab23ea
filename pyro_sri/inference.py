"""What a model and its guide infer from images, as plain tensors for metrics, pictures and users."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_sri.distributions import moments
from pyro_sri.guides.air import MostLikely
from pyro_sri.matching import permute_slots
from pyro_sri.objectives import Terms, TermsELBO, objective_of
from pyro_sri.objectives.base import Traces
from pyro_sri.objectives.traces import run_against
from pyro_sri.programs import Guide, Model, Record, check_range, device_of, evaluating, record_of
from pyro_sri.system.errors import UserError
from pyro_sri.system.seeds import keeping_random_state

SCENES_AT_ONCE = 16  # scenes decoded together: bounds the memory, 9 slots of 64x64 need about half a GB


class Codes(NamedTuple):
    """What a guide knows about the latents of each slot.

    Attributes:
        means: Posterior means [B, K, D].
        scales: Posterior standard deviations [B, K, D]; 0 for slots that are computed, not drawn.
    """

    means: Tensor
    scales: Tensor


class Explanation(NamedTuple):
    """One inference of a batch of images. Everything over slots is in the order of the slot sequence.

    Attributes:
        images: The images [B, 3, H, W] in [0, 1].
        reconstruction: Mask-weighted mean of the slots [B, 3, H, W].
        slot_rgb: Colour of each slot [B, K, 3, H, W].
        slot_masks: Decoder masks, probabilities [B, K, 1, H, W].
            They may leave part of a pixel to a background that no slot stands for (AIR).
        attention_masks: The guide's own masks [B, K, 1, H, W], or None if it has none.
        imagination: The imagined rollout, decoded [B, 3, H, W]; None if the guide has none, or it was not asked for.
        terms: Terms of the objective, each [B] in nats.
        kl: Sum of the bound's terms except `nll`, [B] in nats.
        log_normaliser: Nats per image that an unnormalised likelihood leaves out of its `nll`.
        nll_floor: The lowest possible `nll`, or None if the likelihood has none.
        codes: The slots' codes; GENESIS has those of the components. None for systems without, such as AIR.
        has_bound: Whether the terms make a bound on log p(x); those of an auto-encoder, which has no prior, do not.
        counts: How many objects a guide that counts finds [B], or None.
    """

    images: Tensor
    reconstruction: Tensor
    slot_rgb: Tensor
    slot_masks: Tensor
    attention_masks: Tensor | None
    imagination: Tensor | None
    terms: Terms
    kl: Tensor
    log_normaliser: float
    nll_floor: float | None = None
    codes: Codes | None = None
    has_bound: bool = True
    counts: Tensor | None = None


@torch.no_grad()
def explain(
    model: Model, guide: Guide, images: Tensor, elbo: TermsELBO | None = None, *, imagine: bool = True
) -> Explanation:
    """Infers images once and reads off what the slots look like, all in evaluation mode.

    A guide that counts shows the objects that it finds most likely, and the terms stay those of its objective.

    Args:
        model: A model.
        guide: Its guide.
        images: [B, 3, H, W] in [0, 1].
        elbo: Its objective; None for that which the pair was built or loaded with, or else that of its system.
        imagine: Whether to decode the imagined rollout, which takes a third of the time.

    Raises:
        UserError: If the images have another shape, or values out of range.
    """
    elbo = objective_of(model, guide) if elbo is None else elbo
    check_range(model, images)
    with evaluating(model, guide, elbo):
        return _explain(model, guide, images, elbo, imagine)


def _explain(model: Model, guide: Guide, images: Tensor, elbo: TermsELBO, imagine: bool) -> Explanation:
    record, traces = record_of(model), elbo.trace(model, guide, images)
    if record.of("presence"):
        guide_trace = run_inference(guide, images)
        shown = Traces(guide_trace, run_against(model, guide_trace, images))
    else:
        shown = traces
    sites = {**shown.guide.nodes, **shown.model.nodes}
    value = {name: site["value"] for name, site in sites.items() if site["type"] == "sample"}
    attention_masks = value.get("attention_masks")
    if attention_masks is not None and "order" in value:
        flat = permute_slots(attention_masks.flatten(2), value["order"])
        attention_masks = flat.view_as(attention_masks)
    imagination = None
    if imagine and "imagined_slot_0" in value:
        imagined = {name.removeprefix("imagined_"): v for name, v in value.items() if name.startswith("imagined_")}
        if "scene" in value:
            imagined["scene"] = value["scene"]
        imagined_model = poutine.condition(model, data=imagined)
        imagination = poutine.trace(imagined_model).get_trace(images).nodes["reconstruction"]["value"]
    terms = elbo.read(traces)
    return Explanation(
        images=images,
        reconstruction=value["reconstruction"],
        slot_rgb=value["slot_rgb"],
        slot_masks=value["slot_masks"],
        attention_masks=attention_masks,
        imagination=imagination,
        terms=terms,
        kl=elbo.kl(terms),
        log_normaliser=getattr(traces.model.nodes["image"]["fn"], "log_normaliser", 0.0),
        nll_floor=getattr(traces.model.nodes["image"]["fn"], "nll_floor", None),
        codes=_codes(elbo, traces, record),
        has_bound=record.has_prior,
        counts=_counts(record, value),
    )


def run_inference(guide: Guide, images: Tensor) -> Trace:
    """A run of a guide whose scene can be shown: one draw; of a guide that counts, what it finds most likely.

    An objective may run a guide in another way, with all objects there for example.
    """
    with MostLikely() if record_of(guide).of("presence") else contextlib.nullcontext():
        return poutine.trace(guide).get_trace(images)


def _counts(record: Record, value: dict[str, Tensor]) -> Tensor | None:
    """Objects per image [B], where there are sites that say whether there is one."""
    present = [value[name] for latents in record.of("presence") for name in latents.names(value)]
    return torch.stack(present, 1).sum(1).long() if present else None


def _codes(elbo: TermsELBO, traces: Any, record: Record) -> Codes | None:
    """The posterior of the latents that say what slots look like."""
    means, scales = [], []
    for latents in record.codes:
        known = [moments(elbo.posterior(traces, name)) for name in latents.names(traces.guide.nodes)]
        if known:
            of_slots = zip(*known, strict=True)
            mean, scale = (torch.stack(parts, 1) if latents.of_each_slot else parts[0] for parts in of_slots)
            means.append(mean)
            scales.append(scale)
    return Codes(torch.cat(means, -1), torch.cat(scales, -1)) if means else None


class Scenes(NamedTuple):
    """Scenes drawn from a model.

    Attributes:
        images: Mask-weighted means of the slots, without pixel noise [N, 3, H, W] in [0, 1].
        slot_rgb: Colour of each slot [N, K, 3, H, W].
        slot_masks: Masks, probabilities [N, K, 1, H, W].
    """

    images: Tensor
    slot_rgb: Tensor
    slot_masks: Tensor


def sample_scenes(
    model: Model,
    num_scenes: int,
    *,
    num_slots: int | None = None,
    temperature: float = 1.0,
    chunk: int = SCENES_AT_ONCE,
) -> Scenes:
    """Draws scenes from the prior, a chunk at a time so that memory stays bounded.

    Args:
        model: A scene model.
        num_scenes: N, 0 or more.
        num_slots: Slots per scene; the model's own number if None.
        temperature: Factor on every prior standard deviation; 0 draws the mean scene.
        chunk: Scenes decoded at once.

    Raises:
        UserError: If the number or the temperature is negative.
    """
    if num_scenes < 0:
        raise UserError(f"{num_scenes} scenes cannot be drawn: ask for 0 or more")
    options: dict[str, Any] = {"num_slots": num_slots, "temperature": temperature}
    if num_scenes == 0:  # their shapes are those of any
        with keeping_random_state(device_of(model)):
            return Scenes(*(tensor[:0] for tensor in join_scenes(draw_scenes(model, 1, **options))))
    return join_scenes(draw_scenes(model, num_scenes, chunk=chunk, **options))


@torch.no_grad()
def draw_scenes(
    model: Model,
    num_scenes: int,
    *,
    num_slots: int | None = None,
    temperature: float = 1.0,
    chunk: int = SCENES_AT_ONCE,
) -> Iterator[Scenes]:
    """The same scenes, a chunk after the other."""
    for start in range(0, num_scenes, chunk):
        count = min(chunk, num_scenes - start)
        yield _run_model(model, num_scenes=count, num_slots=num_slots, temperature=temperature)


def decode_scenes(model: Model, latents: dict[str, Tensor], *, num_slots: int | None = None) -> Iterator[Scenes]:
    """Decodes latent variables by running the model conditioned on them, a few scenes at a time.

    Gradients are kept where a latent asks for them.

    Args:
        model: A scene model.
        latents: Values of its sites, each [N, ..]; it draws those that are not given.
        num_slots: Slots per scene; the model's own number if None.
    """
    count, learning = len(next(iter(latents.values()))), any(value.requires_grad for value in latents.values())
    for start in range(0, count, SCENES_AT_ONCE):
        given = {name: value[start : start + SCENES_AT_ONCE] for name, value in latents.items()}
        conditioned = poutine.condition(model, data=given)
        with torch.set_grad_enabled(torch.is_grad_enabled() and learning):
            scenes = _run_model(conditioned, num_scenes=min(SCENES_AT_ONCE, count - start), num_slots=num_slots)
        yield scenes


def join_scenes(pieces: Iterable[Scenes]) -> Scenes:
    """Pieces, one after the other; at least one."""
    return Scenes(*(torch.cat(tensors) for tensors in zip(*pieces, strict=True)))


def _run_model(model: Model, **options: Any) -> Scenes:
    with evaluating(model):
        sites = poutine.trace(model).get_trace(**options).nodes
    return Scenes(*(sites[name]["value"] for name in ("reconstruction", "slot_rgb", "slot_masks")))
