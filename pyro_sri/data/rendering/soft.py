"""Soft light: lamps with a size, and darker corners."""

import math
from collections.abc import Sequence

import numpy as np

from pyro_sri.data.rendering.casting import Hits
from pyro_sri.data.rendering.solids import Floats, Solid, Vector

LAMP_POINTS = 12
BALL = 0.75  # the radius of the ball that stands for a solid, as a share of its reach


def _spiral(count: int) -> Floats:
    """Points spread evenly over a disc of radius 1 (Vogel's spiral), [count, 2]."""
    golden_angle = math.pi * (3 - math.sqrt(5))
    turns, radii = np.arange(count) * golden_angle, np.sqrt((np.arange(count) + 0.5) / count)
    return np.stack([radii * np.cos(turns), radii * np.sin(turns)], axis=1).astype(np.float32)


LAMP_DISC = _spiral(LAMP_POINTS)


def soft_light(solids: Sequence[Solid], hits: Hits, lamp: Vector, lamp_size: float) -> Floats:
    """The share of a round lamp visible from hits, [N] in [0, 1]; 1 where the surface faces away from its centre.

    Args:
        solids: What may be in between.
        hits: Points of surfaces.
        lamp: The lamp's centre.
        lamp_size: Its radius.
    """
    place = np.array(lamp, dtype=np.float32)[:, None]
    towards = place - hits.points
    distance = np.sqrt((towards * towards).sum(0))
    awake = (towards * hits.normals).sum(0) > 0
    hidden = np.zeros((LAMP_POINTS, len(distance)), dtype=bool)
    for number, solid in enumerate(solids):
        near = np.flatnonzero(awake & _may_hide(solid, hits, towards, distance, lamp_size) & (hits.solids != number))
        if not len(near):
            continue
        points = hits.points[:, near]
        # A disc that faces the points: two directions at right angles to the way to the lamp.
        ahead = towards[:, near] / distance[near]
        flat = np.sqrt(ahead[0] ** 2 + ahead[1] ** 2) + np.float32(1e-6)
        right = np.stack([-ahead[1] / flat, ahead[0] / flat, np.zeros_like(flat)])
        up = np.stack([-ahead[2] * right[1], ahead[2] * right[0], flat])
        start, base = solid.to_local(points), solid.turn(towards[:, near])
        right, up = (solid.turn(np.float32(lamp_size) * side) for side in (right, up))
        rays = base[:, None] + LAMP_DISC[:, :1] * right[:, None] + LAMP_DISC[:, 1:] * up[:, None]  # [3, lamp points, M]
        start = np.broadcast_to(start[:, None], rays.shape)
        t = solid.form.enter(start.reshape(3, -1), rays.reshape(3, -1))
        hidden[:, near] |= (t < 1).reshape(LAMP_POINTS, -1)
    return 1 - hidden.mean(0, dtype=np.float32)


def _may_hide(solid: Solid, hits: Hits, towards: Floats, distance: Floats, lamp_size: float) -> np.ndarray:
    """Whether the ball around a solid comes near the cone from each hit to the lamp, [N]."""
    away = np.array(solid.position, dtype=np.float32)[:, None] - hits.points
    reach = solid.form.reach
    along = (away * towards).sum(0) / distance
    across2 = (away * away).sum(0) - along * along
    width = reach + lamp_size * np.clip((along + reach) / distance, 0, 1)
    return (along > -reach) & (along < distance + reach) & (across2 < width * width)


def ambient_occlusion(solids: Sequence[Solid], hits: Hits) -> Floats:
    """The share of ambient light that balls in place of the solids keep from hits, [N] in [0, 1]."""
    open_share = np.ones(len(hits.depth), dtype=np.float32)
    for number, solid in enumerate(solids):
        away = np.array(solid.position, dtype=np.float32)[:, None] - hits.points
        distance2 = (away * away).sum(0)
        ball = BALL * solid.form.reach
        near = np.flatnonzero((distance2 < (4 * ball) ** 2) & (hits.solids != number))
        distance = np.maximum(np.sqrt(distance2[near]), ball)
        facing = np.maximum((away[:, near] * hits.normals[:, near]).sum(0) / distance, 0)
        open_share[near] *= 1 - facing * (ball / distance) ** 2
    return 1 - open_share
