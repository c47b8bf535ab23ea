"""The latents of slots, whatever the system calls them: what walks and traversals move."""

import itertools
import re
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_sri.inference import SCENES_AT_ONCE

SYSTEMS = (("slot",), ("mask_slot", "component_slot"), ("z_where", "z_what"))  # slot k has the sites KIND_k
LAYER = re.compile(r"layer_(\d+)_slots")  # EMORL: all slots in one site; the image shows the last layer
PRESENCE = "z_pres"  # AIR: z_pres_k says whether slot k is there

WORDS = {"mask_slot": "mask", "component_slot": "comp.", "z_what": "what"}  # before a dimension's number
WHERE_NAMES = ("scale", "x", "y")


class Part(NamedTuple):
    """One kind of latents.

    Attributes:
        kind: What its sites are called, without the slot's number.
        sites: The site of each slot, or the one site of all slots.
        joint: Whether it is one site of all slots.
    """

    kind: str
    sites: list[str]
    joint: bool = False


class SlotPosterior(NamedTuple):
    """The posterior of the slots of B images.

    Attributes:
        parts: What a slot is made of.
        sizes: The size of each part; they add up to D.
        means: [B, K, D].
        scales: Standard deviations [B, K, D].
        present: Which slots are there, bool [B, K].
    """

    parts: list[Part]
    sizes: list[int]
    means: Tensor
    scales: Tensor
    present: Tensor

    def name(self, dimension: int) -> str:
        """What one of the D dimensions is called."""
        for part, size in zip(self.parts, self.sizes, strict=True):
            if dimension < size:
                numbered = f"{WORDS.get(part.kind, 'dim')} {dimension}"
                return WHERE_NAMES[dimension] if part.kind == "z_where" else numbered
            dimension -= size
        raise IndexError("a slot has no such dimension")

    def values(self, slots: Tensor, image: int) -> dict[str, Tensor]:
        """Slots [N, K, D] as values of the model's sites; the same of them are there as in the image."""
        values: dict[str, Tensor] = {}
        for part, latents in zip(self.parts, slots.split(self.sizes, -1), strict=True):
            values |= {part.sites[0]: latents} if part.joint else dict(zip(part.sites, latents.unbind(1), strict=True))
        if self.parts[0].kind == "z_where":
            there = self.present[image].to(slots).expand(len(slots), -1).unbind(1)
            values |= {f"{PRESENCE}_{k}": presence for k, presence in enumerate(there)}
        return values


def prior_trace(model: Any) -> Trace:
    """One run of the model without images."""
    with torch.no_grad():
        return poutine.trace(model).get_trace(num_scenes=1)


def has_scene(model: Any) -> bool:
    """Whether the model has a scene variable to walk through."""
    return "scene" in prior_trace(model).nodes


def has_slots(model: Any) -> bool:
    """Whether the model has slots with a posterior, to move them."""
    return bool(slot_parts(prior_trace(model)))


def slot_parts(trace: Trace) -> list[Part]:
    """What the slots of a model or guide are made of; empty if they are no random variables."""
    for kinds in SYSTEMS:
        if f"{kinds[0]}_0" in trace.nodes:
            return [Part(kind, _numbered(trace, kind)) for kind in kinds]
    layers = sorted((int(match[1]), match[0]) for match in map(LAYER.fullmatch, trace.nodes) if match)
    return [Part("slot", [layers[-1][1]], joint=True)] if layers else []


@torch.no_grad()
def infer_slots(guide: Any, images: Tensor) -> SlotPosterior:
    """q(slots | x) for images [B, 3, H, W] in [0, 1], a few at a time.

    Raises:
        ValueError: If the guide has no such sites.
    """
    means: list[list[Tensor]] = []  # chunk by chunk, part by part
    scales: list[list[Tensor]] = []
    present: list[Tensor] = []
    parts: list[Part] = []
    for chunk in images.split(SCENES_AT_ONCE):
        trace = poutine.trace(guide).get_trace(chunk)
        parts = slot_parts(trace)
        if not parts:
            raise ValueError("the guide has no sites `slot_0`, `slot_1`, ... nor others that are known as slots")
        for moments, name in ((means, "mean"), (scales, "stddev")):
            moments.append([_stacked(trace, part, name) for part in parts])
        bits = [trace.nodes[site]["value"] for site in _numbered(trace, PRESENCE)]
        present.append(torch.stack(bits, 1).bool() if bits else torch.ones_like(means[-1][0][..., 0]).bool())
    sizes = [moment.shape[-1] for moment in means[0]]
    return SlotPosterior(
        parts,
        sizes,
        torch.cat([torch.cat(moment, -1) for moment in means]),
        torch.cat([torch.cat(moment, -1) for moment in scales]),
        torch.cat(present),
    )


def _numbered(trace: Trace, kind: str) -> list[str]:
    names = (f"{kind}_{k}" for k in itertools.count())
    return list(itertools.takewhile(trace.nodes.__contains__, names))


def _stacked(trace: Trace, part: Part, moment: str) -> Tensor:
    """A moment of all slots, [B, K, size]."""
    moments = [getattr(trace.nodes[site]["fn"], moment) for site in part.sites]
    return moments[0] if part.joint else torch.stack(moments, 1)
