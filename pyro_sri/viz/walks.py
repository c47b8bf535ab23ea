"""Walks through the scene variable."""

import math
from typing import Any

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_sri.inference import decode_scenes
from pyro_sri.programs import Model
from pyro_sri.viz.latents import prior_trace, slot_parts
from pyro_sri.viz.masks import mask_pictures, to_uint8
from pyro_sri.viz.sheets import Picture, enlarge, sheet

WALK_HARMONICS = 2  # loops that a walk is made of; more make it wander faster


class _Noise(Messenger):
    """Gives sites the value mean + stddev * noise, so that they follow the scene smoothly."""

    def __init__(self, noise: dict[str, Tensor]) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.noise and not msg["done"]:
            msg["value"] = msg["fn"].mean + msg["fn"].stddev * self.noise[msg["name"]]
            msg["done"] = True


@torch.no_grad()
def scene_walk(model: Model, *, num: int = 6, frames: int = 48, seed: int = 0) -> list[Picture]:
    """Random walks of the scene variable that end where they begin. Every slot keeps its noise.

    Args:
        model: A model with a site `scene`.
        num: Walks side by side.
        frames: Frames of the animation.
        seed: Seed of walks and noise.

    Returns:
        The frames, uint8 [h, w, 3]: scenes above, their masks as colours below.

    Raises:
        ValueError: If the model has no scene variable.
    """
    pyro.set_rng_seed(seed)
    prior = prior_trace(model)
    if "scene" not in prior.nodes:
        raise ValueError("the model has no site `scene`")
    start = prior.nodes["scene"]["fn"]
    walks = start.mean + start.stddev * closed_walks(num, frames, start.mean)  # [num, frames, S]
    sites = [site for part in slot_parts(model) for site in part.names(prior.nodes)]
    noise = {site: torch.randn_like(prior.nodes[site]["value"].expand(num, -1)) for site in sites}
    rows = []
    for walk in range(num):
        with _Noise({site: values[walk] for site, values in noise.items()}):
            pieces = list(decode_scenes(model, {"scene": walks[walk]}))
        images = np.concatenate([to_uint8(piece.images) for piece in pieces])
        masks = np.concatenate([mask_pictures(piece.slot_masks) for piece in pieces])
        rows.append((images, masks))
    return [
        sheet(
            [[enlarge(pictures[frame]) for pictures, _ in rows], [enlarge(masks[frame]) for _, masks in rows]],
            labels=("scene", "masks"),
        )
        for frame in range(frames)
    ]


def closed_walks(num: int, frames: int, like: Tensor) -> Tensor:
    r"""Smooth closed random walks. Every point is a draw from N(0, I).

    .. math:: s(t) = \sum_{j=1}^{J} (a_j \cos 2 \pi j t + b_j \sin 2 \pi j t) / \sqrt{J}, \quad a_j, b_j \sim N(0, I)

    Args:
        num: Number of walks.
        frames: Points on each, evenly spaced in t.
        like: A tensor [..., S] that determines the last dimension, type and device of the walks.

    Returns:
        [num, frames, S].
    """
    angle = 2 * math.pi * torch.arange(frames, device=like.device, dtype=like.dtype) / frames
    angles = angle * torch.arange(1, WALK_HARMONICS + 1, device=like.device)[:, None]  # [J, frames]
    waves = torch.cat([angles.cos(), angles.sin()]) / math.sqrt(WALK_HARMONICS)  # [2J, frames]
    corners = torch.randn(num, len(waves), like.shape[-1], device=like.device, dtype=like.dtype)
    return waves.T @ corners
