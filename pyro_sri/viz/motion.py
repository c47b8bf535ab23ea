"""Pictures that move: walks through the scene variable, and traversals of single slot dimensions."""

import io
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from PIL import Image
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_sri.inference import Scenes
from pyro_sri.viz.scenes import SCENES_AT_ONCE, mask_pictures, slot_pictures, to_uint8
from pyro_sri.viz.sheets import Header, Picture, enlarge, sheet

WALK_HARMONICS = 2  # loops that a walk is made of; more make it wander faster
TRAVERSAL_SPAN = 2.0  # how far a traversal goes to either side, in spreads of the posterior means
FRAME_MILLISECONDS = 80

SLOT_SITE = re.compile(r"slot_\d+")


class _SlotNoise(Messenger):
    """Gives slots the value mean + stddev * noise, so that they follow the scene smoothly."""

    def __init__(self, noise: dict[str, Tensor]) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.noise and not msg["done"]:
            msg["value"] = msg["fn"].mean + msg["fn"].stddev * self.noise[msg["name"]]
            msg["done"] = True


def has_scene(model: Any) -> bool:
    """Whether the model has a scene variable to walk through."""
    return "scene" in _prior_trace(model).nodes


def has_slots(model: Any) -> bool:
    """Whether the model has slots `slot_0`, `slot_1`, .. to move."""
    return bool(slot_sites(_prior_trace(model)))


@torch.no_grad()
def scene_walk(model: Any, *, num: int = 6, frames: int = 48, seed: int = 0) -> list[Picture]:
    """Random walks of the scene variable that end where they began; every slot keeps its noise.

    Args:
        model: A scene model.
        num: Walks side by side.
        frames: Frames of the animation.
        seed: Seed of walks and noise.

    Returns:
        The frames, uint8 [h, w, 3]: scenes above, their masks as colours below.

    Raises:
        ValueError: If the model has no scene variable.
    """
    pyro.set_rng_seed(seed)
    prior = _prior_trace(model)
    if "scene" not in prior.nodes:
        raise ValueError("the model has no site `scene`")
    start = prior.nodes["scene"]["fn"]
    walks = start.mean + start.stddev * closed_walks(num, frames, start.mean)  # [num, frames, S]
    noise = {name: torch.randn_like(prior.nodes[name]["value"].expand(num, -1)) for name in slot_sites(prior)}
    rows = []
    for walk in range(num):
        own = {name: values[walk] for name, values in noise.items()}
        scenes = _decode(model, {"scene": walks[walk]}, own)
        rows.append((to_uint8(scenes.images), mask_pictures(scenes.slot_masks)))
    return [
        sheet(
            [[enlarge(pictures[frame]) for pictures, _ in rows], [enlarge(masks[frame]) for _, masks in rows]],
            labels=("scene", "masks"),
        )
        for frame in range(frames)
    ]


def closed_walks(num: int, frames: int, like: Tensor) -> Tensor:
    r"""Smooth closed random walks whose every point is a draw from N(0, I).

    .. math:: s(t) = \sum_{j=1}^{J} (a_j \cos 2 \pi j t + b_j \sin 2 \pi j t) / \sqrt{J}, \quad a_j, b_j \sim N(0, I)

    Args:
        num: Number of walks.
        frames: Points on each, evenly spaced in t.
        like: A tensor [..., S] whose last dimension, type and device the walks take.

    Returns:
        [num, frames, S].
    """
    angle = 2 * math.pi * torch.arange(frames, device=like.device, dtype=like.dtype) / frames
    angles = angle * torch.arange(1, WALK_HARMONICS + 1, device=like.device)[:, None]  # [J, frames]
    waves = torch.cat([angles.cos(), angles.sin()]) / math.sqrt(WALK_HARMONICS)  # [2J, frames]
    corners = torch.randn(num, len(waves), like.shape[-1], device=like.device, dtype=like.dtype)
    return waves.T @ corners


class Traversals(NamedTuple):
    """One slot of one image with one dimension at a time moved.

    Attributes:
        image: The image [3, H, W].
        slot: Which slot.
        dimensions: The N dimensions that were moved, most active first.
        activeness: How active each is: spread of its posterior mean over images / mean posterior standard deviation.
        offsets: The T offsets from the posterior mean, in spreads.
        scenes: The scenes [N * T], dimension by dimension.
    """

    image: Tensor
    slot: int
    dimensions: list[int]
    activeness: list[float]
    offsets: list[float]
    scenes: Scenes


@torch.no_grad()
def traverse(
    model: Any, guide: Any, images: Tensor, *, slot: int | None = None, num: int = 8, steps: int = 9
) -> Traversals:
    """Moves the most active dimensions of one slot of the first image, one at a time.

    Args:
        model: A scene model.
        guide: A guide with sites `slot_k`.
        images: [B, 3, H, W] in [0, 1], B at least 2; all of them say how active a dimension is.
        slot: The slot; None takes the one whose dimensions are most active.
        num: Dimensions to move, at most D.
        steps: Values of each.

    Raises:
        ValueError: If the guide has no sites `slot_k`.
    """
    posterior = poutine.trace(guide).get_trace(images)
    names = slot_sites(posterior)
    if not names:
        raise ValueError("the guide has no sites `slot_0`, `slot_1`, ...")
    means = torch.stack([posterior.nodes[name]["fn"].mean for name in names], 1)  # [B, K, D]
    scales = torch.stack([posterior.nodes[name]["fn"].stddev for name in names], 1)  # [B, K, D]
    spread = means.std(0)  # [K, D]
    most_active = (spread / scales.mean(0)).topk(min(num, spread.shape[-1]))  # [K, N]
    slot = int(most_active.values.sum(-1).argmax()) if slot is None else slot
    dimensions = most_active.indices[slot]  # [N]

    offsets = torch.linspace(-TRAVERSAL_SPAN, TRAVERSAL_SPAN, steps).to(means)
    moved = means[0, slot].expand(len(dimensions), steps, -1).clone()  # [N, T, D]
    for row, dimension in enumerate(dimensions.tolist()):
        moved[row, :, dimension] += offsets * spread[slot, dimension]
    values = {name: means[0, k].expand(len(dimensions) * steps, -1) for k, name in enumerate(names)}
    values[names[slot]] = moved.flatten(0, 1)
    if "scene" in posterior.nodes:
        values["scene"] = posterior.nodes["scene"]["value"][0].expand(len(moved) * steps, -1)
    return Traversals(
        image=images[0],
        slot=slot,
        dimensions=dimensions.tolist(),
        activeness=most_active.values[slot].tolist(),
        offsets=offsets.tolist(),
        scenes=_decode(model, values, {}),
    )


def traversal_sheet(traversals: Traversals, *, caption: str = "") -> Picture:
    """A row per dimension, from low to high: uint8 [h, w, 3]."""
    steps = len(traversals.offsets)
    pictures = to_uint8(traversals.scenes.images)
    rows = [[enlarge(p) for p in pictures[i : i + steps]] for i in range(0, len(pictures), steps)]
    headers = [Header(f"{offset:+.3g} sd" if offset else "posterior mean") for offset in traversals.offsets]
    labels = [
        f"slot {traversals.slot}, dim {dimension}\nactive {value:.3g}"
        for dimension, value in zip(traversals.dimensions, traversals.activeness, strict=True)
    ]
    return sheet(rows, headers, labels, caption=caption)


def traversal_frames(traversals: Traversals) -> list[Picture]:
    """An animation to and fro, a column per dimension: the scenes above, the moved slot alone below."""
    steps = len(traversals.offsets)
    pictures = to_uint8(traversals.scenes.images)
    slots = slot_pictures(traversals.scenes.slot_rgb, traversals.scenes.slot_masks)[:, traversals.slot]
    headers = [Header(f"dim {dimension}", traversals.slot) for dimension in traversals.dimensions]
    frames = [
        sheet(
            [[enlarge(p) for p in pictures[step::steps]], [enlarge(p) for p in slots[step::steps]]],
            headers,
            ("scene", f"slot {traversals.slot}"),
        )
        for step in range(steps)
    ]
    return frames + frames[-2:0:-1]


def gif(frames: Sequence[Picture], milliseconds: int = FRAME_MILLISECONDS) -> bytes:
    """The bytes of an endless GIF: one palette for all frames and no dithering, so that still parts stay still."""
    some = np.concatenate(frames[:: max(1, len(frames) // 8)])
    palette = Image.fromarray(some).quantize(256, dither=Image.Dither.NONE)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    return file.getvalue()


def slot_sites(trace: Trace) -> list[str]:
    """Names of the sites `slot_0`, `slot_1`, .. of a trace, in order."""
    return [name for name in trace.nodes if SLOT_SITE.fullmatch(name)]


def _prior_trace(model: Any) -> Trace:
    with torch.no_grad():
        return poutine.trace(model).get_trace(num_scenes=1)


def _decode(model: Any, values: dict[str, Tensor], noise: dict[str, Tensor]) -> Scenes:
    """Scenes with some latent variables given [N, ..] and the noise of others [D] given."""
    count = len(next(iter(values.values())))
    parts = []
    for start in range(0, count, SCENES_AT_ONCE):
        given = {name: value[start : start + SCENES_AT_ONCE] for name, value in values.items()}
        size = min(SCENES_AT_ONCE, count - start)
        with poutine.trace() as recorder, poutine.condition(data=given), _SlotNoise(noise):
            model(num_scenes=size)
        parts.append([recorder.trace.nodes[name]["value"] for name in ("reconstruction", "slot_rgb", "slot_masks")])
    return Scenes(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
