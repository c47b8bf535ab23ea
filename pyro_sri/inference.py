"""Infers images with a model and its guide, and draws scenes. The results are plain tensors."""

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
from pyro_sri.objectives.traces import no_share_of_an_image, run_against
from pyro_sri.programs import Guide, Model, Record, check_range, device_of, evaluating, record_of
from pyro_sri.system.errors import UserError
from pyro_sri.system.seeds import keeping_random_state

NO_BOUND = "an auto-encoder has no prior, so there is no bound on log p(x)"
SCENES_AT_ONCE = 16  # scenes decoded together; with 9 slots of 64x64, they take about half a GB


class Codes(NamedTuple):
    """The posterior of the latents of each slot.

    Attributes:
        means: Posterior means [B, K, D].
        scales: Posterior standard deviations [B, K, D]. 0 for slots that are computed and not drawn.
    """

    means: Tensor
    scales: Tensor


class Explanation(NamedTuple):
    """The result of inference for a batch of images. Slots are in the order of the slot sequence.

    Attributes:
        images: The images [B, 3, H, W] in [0, 1].
        reconstruction: Mask-weighted mean of the slots [B, 3, H, W].
        slot_rgb: Colour of each slot [B, K, 3, H, W].
        slot_masks: Decoder masks, probabilities [B, K, 1, H, W].
            With AIR, the rest of a pixel belongs to a background that has no slot.
        attention_masks: The guide's own masks [B, K, 1, H, W], or None if it has none.
        imagination: The decoded imagined rollout [B, 3, H, W]. None if the guide has none or it was not requested.
        terms: Terms of the objective, each [B] in nats.
        kl: Sum of the bound's terms except `nll`, [B] in nats.
        log_normaliser: The constant that an unnormalised likelihood leaves out of its `nll`, in nats per image.
        nll_floor: The lowest possible `nll`, or None if the likelihood has none.
        codes: The slots' codes (for GENESIS, those of the components). None for systems without codes, such as AIR.
        no_bound: Why the terms form no bound on log p(x) of each image, or None if they do.
        counts: The number of objects [B], for guides that count objects, or None.
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
    no_bound: str | None = None
    counts: Tensor | None = None


@torch.no_grad()
def explain(
    model: Model, guide: Guide, images: Tensor, elbo: TermsELBO | None = None, *, imagine: bool = True
) -> Explanation:
    """Infers images in evaluation mode, and returns reconstructions, slots and the terms of the objective.

    For a guide that counts objects, the scene contains the most likely objects. The terms are those of its objective.

    Args:
        model: A model.
        guide: Its guide.
        images: [B, 3, H, W] in [0, 1].
        elbo: The objective. None means the one that the pair was built or loaded with, or else that of its system.
        imagine: Whether to decode the imagined rollout. It takes a third of the time.

    Raises:
        UserError: If the images have the wrong shape or values out of range.
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
        no_bound=no_share_of_an_image(len(images), traces.model, traces.guide) if record.has_prior else NO_BOUND,
        counts=_counts(record, value),
    )


def run_inference(guide: Guide, images: Tensor) -> Trace:
    """Runs a guide once, so that its scene can be shown. A guide that counts objects gives the most likely ones.

    An objective may run the guide differently, for example with all objects present.
    """
    with MostLikely() if record_of(guide).of("presence") else contextlib.nullcontext():
        return poutine.trace(guide).get_trace(images)


def _counts(record: Record, value: dict[str, Tensor]) -> Tensor | None:
    """Objects per image [B], if the model has presence sites."""
    present = [value[name] for latents in record.of("presence") for name in latents.names(value)]
    return torch.stack(present, 1).sum(1).long() if present else None


def _codes(elbo: TermsELBO, traces: Any, record: Record) -> Codes | None:
    """The posterior of the latents that describe what slots look like."""
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
    """Draws scenes from the prior, a chunk at a time to limit the memory.

    Args:
        model: A scene model.
        num_scenes: N, 0 or more.
        num_slots: Slots per scene. None means the model's own number.
        temperature: Factor on every standard deviation of the prior. 0 gives the mean scene.
        chunk: Number of scenes decoded at once.

    Raises:
        UserError: If the number or the temperature is negative.
    """
    if num_scenes < 0:
        raise UserError(f"{num_scenes} scenes cannot be drawn; use 0 or more")
    options: dict[str, Any] = {"num_slots": num_slots, "temperature": temperature}
    if num_scenes == 0:  # empty tensors of the right shapes
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
    """Draws the same scenes as `sample_scenes`, one chunk after the other."""
    for start in range(0, num_scenes, chunk):
        count = min(chunk, num_scenes - start)
        yield _run_model(model, num_scenes=count, num_slots=num_slots, temperature=temperature)


def decode_scenes(model: Model, latents: dict[str, Tensor], *, num_slots: int | None = None) -> Iterator[Scenes]:
    """Decodes latent variables by running the model conditioned on them, a few scenes at a time.

    Gradients are kept if a latent requires them.

    Args:
        model: A scene model.
        latents: Values of sites of the model, each [N, ..]. The other sites are drawn.
        num_slots: Slots per scene. None means the model's own number.
    """
    count, learning = len(next(iter(latents.values()))), any(value.requires_grad for value in latents.values())
    for start in range(0, count, SCENES_AT_ONCE):
        given = {name: value[start : start + SCENES_AT_ONCE] for name, value in latents.items()}
        conditioned = poutine.condition(model, data=given)
        with torch.set_grad_enabled(torch.is_grad_enabled() and learning):
            scenes = _run_model(conditioned, num_scenes=min(SCENES_AT_ONCE, count - start), num_slots=num_slots)
        yield scenes


def join_scenes(pieces: Iterable[Scenes]) -> Scenes:
    """Concatenates scenes. There must be at least one piece."""
    return Scenes(*(torch.cat(tensors) for tensors in zip(*pieces, strict=True)))


def _run_model(model: Model, **options: Any) -> Scenes:
    with evaluating(model):
        sites = poutine.trace(model).get_trace(**options).nodes
    return Scenes(*(sites[name]["value"] for name in ("reconstruction", "slot_rgb", "slot_masks")))
