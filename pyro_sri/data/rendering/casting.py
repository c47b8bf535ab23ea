"""What rays meet, where lamps shine, and pictures with soft edges and exact masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.rendering.camera import Camera
from pyro_sri.data.rendering.solids import NEVER, Floats, Solid, Vector

SAMPLES = 2  # a pixel on an edge is the mean of SAMPLES x SAMPLES rays
FACES = 64  # more than any solid has


@dataclass
class Hits:
    """What N rays met first.

    Attributes:
        depth: t of each ray, [N]; infinite for the sky.
        points: Where it is met, [3, N].
        normals: Which way the surface faces there, [3, N], of length 1.
        solids: Which solid, [N]; -1 for the backdrop.
        faces: Which part of it, [N].
        rays: The directions of the rays, [3, N].
    """

    depth: Floats
    points: Floats
    normals: Floats
    solids: NDArray[np.int16]
    faces: NDArray[np.int16]
    rays: Floats

    @property
    def surfaces(self) -> NDArray[np.int16]:
        """One number for each smooth surface, [N]."""
        return self.solids * np.int16(FACES) + self.faces


class Backdrop(Protocol):
    """What is behind every solid: floor, walls, sky."""

    def meet(self, origin: Floats, rays: Floats) -> tuple[Floats, NDArray[np.int16]]:
        """The t at which rays meet it, [N], infinite for the sky; and the part that they meet, [N]."""

    @property
    def part_normals(self) -> Floats:
        """Which way each part faces, [parts, 3]."""


def cast(
    solids: Sequence[Solid], backdrop: Backdrop, origin: Floats, rays: Floats, own: NDArray[np.int16] | None = None
) -> Hits:
    """Follow rays to what they meet first.

    Args:
        solids: What may be met.
        backdrop: What is behind.
        origin: Where the rays start, [3, 1] or [3, N].
        rays: Their directions, [3, N].
        own: The solid that each ray starts on, and cannot meet again since solids are convex; [N].
    """
    depth, faces = backdrop.meet(origin, rays)
    normals = np.ascontiguousarray(backdrop.part_normals[faces].T)
    owners = np.full(len(depth), -1, dtype=np.int16)
    for number, solid in enumerate(solids):
        near = _near(solid, origin, rays)
        if own is not None:
            near = near[own[near] != number]
        start = origin if origin.shape[1] == 1 else origin[:, near]
        local_start, local_rays = solid.to_local(start), solid.turn(rays[:, near])
        t = solid.form.enter(local_start, local_rays)
        first = np.flatnonzero(t < depth[near])
        where = near[first]
        local_start = local_start if local_start.shape[1] == 1 else local_start[:, first]
        surface = solid.form.surface(local_start + t[first] * local_rays[:, first])
        depth[where] = t[first]
        normals[:, where] = solid.turn_back(surface.normals)
        owners[where] = number
        faces[where] = surface.faces
    seen: Floats = np.where(depth < NEVER, depth, np.float32(0))
    return Hits(depth, origin + seen * rays, normals, owners, faces, rays)


def lit(solids: Sequence[Solid], hits: Hits, lamp: Vector) -> Floats:
    """Which hits are in the light of a distant lamp, not in the shadow of other solids; 1 or 0, [N].

    Args:
        solids: What may be in between.
        hits: Points of surfaces; whether they face the lamp does not matter.
        lamp: The direction to the lamp.
    """
    ray = np.array(lamp, dtype=np.float32)[:, None]
    light = np.ones(len(hits.depth), dtype=np.float32)
    for number, solid in enumerate(solids):
        near = _near(solid, hits.points, ray)
        near = near[(hits.solids[near] != number) & (light[near] > 0)]
        t = solid.form.enter(solid.to_local(hits.points[:, near]), solid.turn(ray))
        light[near[t < NEVER]] = 0
    return light


def _near(solid: Solid, origin: Floats, rays: Floats) -> NDArray[np.intp]:
    """The rays that pass through the ball around a solid; all others miss it."""
    towards = np.array(solid.position, dtype=np.float32)[:, None] - origin
    along = (towards * rays).sum(0)
    distance = (towards * towards).sum(0) - solid.form.reach**2 * 1.001
    return np.flatnonzero(((along > 0) | (distance < 0)) & (along * along >= distance * (rays * rays).sum(0)))


class Scene(Protocol):
    """What can be rendered."""

    @property
    def camera(self) -> Camera:
        """The viewpoint."""

    def look(self, rays: Floats) -> Hits:
        """What rays from the camera meet."""

    def shade(self, hits: Hits) -> tuple[Floats, NDArray[np.int16]]:
        """The light that comes from hits, [3, N] in [0, 1], linear; and the state of a hard shadow there, [N]."""

    def entities(self, hits: Hits) -> NDArray[np.uint8]:
        """The entity of each hit, [N]."""


def render(scene: Scene, size: int) -> tuple[Floats, NDArray[np.uint8]]:
    """Render a scene; pixels on edges of surfaces and shadows are averaged over more rays.

    Args:
        scene: What to render.
        size: Side of the picture in pixels.

    Returns:
        The light, [size, size, 3] in [0, 1], linear, and the entity that most of each pixel shows, [size, size].
    """
    hits = scene.look(scene.camera.rays(*scene.camera.centres(size)))
    light, shadow = scene.shade(hits)
    entities = scene.entities(hits)
    edges = _edges(hits.surfaces.reshape(size, size), shadow.reshape(size, size))
    u, v = scene.camera.within(size, edges, SAMPLES)
    fine = scene.look(scene.camera.rays(u.ravel(), v.ravel()))
    light[:, edges] = scene.shade(fine)[0].reshape(3, len(edges), SAMPLES**2).mean(2)
    entities[edges] = _majority(scene.entities(fine).reshape(len(edges), SAMPLES**2))
    return np.ascontiguousarray(light.T).reshape(size, size, 3), entities.reshape(size, size)


def _edges(*maps: NDArray[np.int16]) -> NDArray[np.intp]:
    """The pixels that differ from a neighbour in one of the maps, as indices row by row."""
    edge = np.zeros(maps[0].shape, dtype=bool)
    for values in maps:
        down = values[1:] != values[:-1]
        across = values[:, 1:] != values[:, :-1]
        edge[1:] |= down
        edge[:-1] |= down
        edge[:, 1:] |= across
        edge[:, :-1] |= across
    return np.flatnonzero(edge)


def _majority(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The most frequent number of each row, [P, S] -> [P]; the first on ties."""
    counts = (samples[:, :, None] == samples[:, None, :]).sum(2)
    return samples[np.arange(len(samples)), counts.argmax(1)]
