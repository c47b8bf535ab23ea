"""The latents of slots of any system, which walks and traversals change."""

from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_sri.inference import SCENES_AT_ONCE, run_inference
from pyro_sri.programs import Guide, Latents, Model, Record, record_of


class SlotBeliefs(NamedTuple):
    """The posterior of the slots of B images.

    Attributes:
        record: The system's record of its latents.
        parts: The latents that make up a slot.
        sizes: The size of each part; they add up to D.
        means: [B, K, D].
        scales: Standard deviations [B, K, D].
        present: Which slots are there, bool [B, K].
    """

    record: Record
    parts: tuple[Latents, ...]
    sizes: list[int]
    means: Tensor
    scales: Tensor
    present: Tensor

    def name(self, dimension: int) -> str:
        """The name of one of the D dimensions."""
        for part, size in zip(self.parts, self.sizes, strict=True):
            if dimension < size:
                return part.dimensions[dimension] if part.dimensions else f"{part.label} {dimension}"
            dimension -= size
        raise IndexError("a slot has no such dimension")

    def values(self, slots: Tensor, image: int) -> dict[str, Tensor]:
        """Slots [N, K, D] as values of the model's sites. The same slots are present as in the image."""
        values: dict[str, Tensor] = {}
        for part, latents in zip(self.parts, slots.split(self.sizes, -1), strict=True):
            if part.of_each_slot:
                values |= {part.name(k): latent for k, latent in enumerate(latents.unbind(1))}
            else:
                values[part.site] = latents
        for presence in self.record.of("presence"):
            there = self.present[image].to(slots).expand(len(slots), -1).unbind(1)
            values |= {presence.name(k): bit for k, bit in enumerate(there)}
        return values


def prior_trace(model: Model) -> Trace:
    """One run of the model without images."""
    with torch.no_grad():
        return poutine.trace(model).get_trace(num_scenes=1)


def has_scene(model: Model) -> bool:
    """Whether the model has a scene variable to walk through."""
    return "scene" in prior_trace(model).nodes


def has_slots(model: Model) -> bool:
    """Whether the model has slots with a posterior, which can be changed."""
    return any(part.names(prior_trace(model).nodes) for part in slot_parts(model))


def slot_parts(program: Model | Guide) -> tuple[Latents, ...]:
    """The latents that make up a slot of a model or guide. Empty if slots are not random variables."""
    return tuple(latents for latents in record_of(program).of("slot") if latents.term is not None)


@torch.no_grad()
def infer_beliefs(guide: Guide, images: Tensor) -> SlotBeliefs:
    """q(slots | x) for images [B, 3, H, W] in [0, 1], a few at a time.

    Raises:
        ValueError: If the guide has no such sites.
    """
    record, parts = record_of(guide), slot_parts(guide)
    means: list[list[Tensor]] = []  # chunk by chunk, part by part
    scales: list[list[Tensor]] = []
    present: list[Tensor] = []
    for chunk in images.split(SCENES_AT_ONCE):
        nodes = run_inference(guide, chunk).nodes
        if not parts or not all(part.names(nodes) for part in parts):
            raise ValueError("the guide has no sites `slot_0`, `slot_1`, ... or others that its record names")
        for moments, name in ((means, "mean"), (scales, "stddev")):
            moments.append([_stacked(nodes, part, name) for part in parts])
        bits = [nodes[site]["value"] for presence in record.of("presence") for site in presence.names(nodes)]
        present.append(torch.stack(bits, 1).bool() if bits else torch.ones_like(means[-1][0][..., 0]).bool())
    sizes = [moment.shape[-1] for moment in means[0]]
    return SlotBeliefs(
        record,
        parts,
        sizes,
        torch.cat([torch.cat(moment, -1) for moment in means]),
        torch.cat([torch.cat(moment, -1) for moment in scales]),
        torch.cat(present),
    )


def _stacked(nodes: Any, part: Latents, moment: str) -> Tensor:
    """A moment of all slots, [B, K, size]."""
    moments = [getattr(nodes[site]["fn"], moment) for site in part.names(nodes)]
    return torch.stack(moments, 1) if part.of_each_slot else moments[0]
