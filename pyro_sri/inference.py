"""What a model and its guide say about images, as plain tensors: for metrics, pictures and users."""

from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_sri.elbo import SRI_ELBO, Terms, TermsELBO
from pyro_sri.guides.air import find_objects
from pyro_sri.matching import permute_slots


class Explanation(NamedTuple):
    """One inference of a batch of images. Everything over slots is in the order of the slot sequence.

    Attributes:
        images: The images [B, 3, H, W] in [0, 1].
        reconstruction: Mask-weighted mean of the slots [B, 3, H, W].
        slot_rgb: Colour of each slot [B, K, 3, H, W].
        slot_masks: Decoder masks, probabilities [B, K, 1, H, W].
        attention_masks: The guide's own masks [B, K, 1, H, W], or None if it has none.
        imagination: The imagined rollout, decoded [B, 3, H, W], or None if the guide has none.
        terms: Terms of the objective, each [B] in nats.
        kl: Sum of the bound's terms but `nll`, [B] in nats.
        log_normaliser: Nats per image that an unnormalised likelihood leaves out of its `nll`.
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
    counts: Tensor | None = None


@torch.no_grad()
def explain(model: Any, guide: Any, images: Tensor, elbo: TermsELBO | None = None) -> Explanation:
    """Infers images once and reads off what the slots look like.

    Args:
        model: A model.
        guide: Its guide.
        images: [B, 3, H, W] in [0, 1].
        elbo: Its objective, in evaluation mode; None for SRI's.
    """
    elbo = SRI_ELBO() if elbo is None else elbo
    traces = elbo.trace(model, guide, images)
    sites = {**traces.guide.nodes, **traces.model.nodes}
    value = {name: site["value"] for name, site in sites.items() if site["type"] == "sample"}
    attention_masks = value.get("attention_masks")
    if attention_masks is not None and "order" in value:
        flat = permute_slots(attention_masks.flatten(2), value["order"])
        attention_masks = flat.view_as(attention_masks)
    imagination = None
    if "imagined_slot_0" in value:
        imagined = {name.removeprefix("imagined_"): v for name, v in value.items() if name.startswith("imagined_")}
        imagined_model = poutine.condition(model, data={"scene": value["scene"], **imagined})
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
        counts=find_objects(guide, images).counts if "z_pres_0" in value else None,
    )


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


@torch.no_grad()
def sample_scenes(
    model: Any, num_scenes: int, *, num_slots: int | None = None, temperature: float = 1.0, chunk: int = 64
) -> Scenes:
    """Draws scenes from the prior, a chunk at a time so that memory stays bounded.

    Args:
        model: A scene model.
        num_scenes: N.
        num_slots: Slots per scene; the model's own number if None.
        temperature: Factor on every prior standard deviation.
        chunk: Scenes decoded at once.
    """
    parts = []
    for start in range(0, num_scenes, chunk):
        count = min(chunk, num_scenes - start)
        trace = poutine.trace(model).get_trace(num_scenes=count, num_slots=num_slots, temperature=temperature)
        parts.append([trace.nodes[name]["value"] for name in ("reconstruction", "slot_rgb", "slot_masks")])
    return Scenes(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
