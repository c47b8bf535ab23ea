"""Rooms: a few coloured objects between coloured walls under the sky, like Objects Room (Burgess et al. 2019).

Lengths are in units; the room is seven units wide. Proportions are taken from one published picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.generators.colours import rgb
from pyro_sri.data.generators.family import Drawn, Generator
from pyro_sri.data.rendering.camera import Camera, look_at, square_window
from pyro_sri.data.rendering.casting import Hits, cast, render
from pyro_sri.data.rendering.soft import ambient_occlusion, soft_light
from pyro_sri.data.rendering.solids import (
    GOLDEN,
    NEVER,
    Box,
    Capsule,
    Cylinder,
    Floats,
    Solid,
    Sphere,
    Vector,
    cone,
    icosahedron,
    yawed,
)
from pyro_sri.data.rendering.textures import SIDE, noise
from pyro_sri.system.errors import UserError

Variant = Literal["train", "empty_room", "six_objects", "identical_color"]

PUBLISHED_SIZE = 64
MIN_VISIBLE_PIXELS = 8  # of a 64 x 64 picture; a scene with an object that shows fewer is drawn again
MAX_OBJECTS = 6
COUNTS: dict[Variant, tuple[int, int]] = {
    "train": (1, 3),
    "empty_room": (0, 0),
    "six_objects": (6, 6),
    "identical_color": (4, 6),
}

HALF_ROOM, WALL_HEIGHT = 3.5, 2.0
FIELD_OF_VIEW = 60.0
SKY, FLOOR, WALL_Y, WALL_X = range(4)
FIRST_OBJECT = 4

SHAPES = ("sphere", "box", "cylinder", "capsule", "cone", "icosahedron", "ring")
WALL_ROOM, OBJECT_ROOM = 0.15, 0.12  # the least distance of an object from walls and from others
TRIES = 40  # to place one object, before all are placed again

LAMP_RADIUS, LAMP_SIZE = 2.2, 0.35
AMBIENT, FILL, OCCLUSION = 0.38, 0.25, 0.7
GRAIN = 0.05
ICOSAHEDRON_BELOW = GOLDEN / math.hypot(1, GOLDEN)  # the height of the centre of one of radius 1 on an edge

FACTOR_NAMES = ("visible", "shape", "red", "green", "blue", "x", "y", "z", "size", "yaw", "depth")


@dataclass(frozen=True)
class RoomsOptions:
    """Which published variant: train (1 to 3 objects), empty_room, six_objects, identical_color (4 to 6 objects)."""

    variant: Variant = "train"
    """train: 1 to 3 objects; empty_room: none; six_objects; identical_color: 4 to 6 objects of one colour."""

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise UserError(f"rooms have no variant {self.variant!r}; use one of {', '.join(get_args(Variant))}")


class Walls:
    """The backdrop: sky, floor, the two walls that face along y, the two that face along x."""

    # Sky, floor; walls at -y, +y, -x, +x.
    part_normals = np.array([(0, 0, 1), (0, 0, 1), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0)], dtype=np.float32)
    entity_of_part = np.array([SKY, FLOOR, WALL_Y, WALL_Y, WALL_X, WALL_X], dtype=np.uint8)

    def meet(self, origin: Floats, rays: Floats) -> tuple[Floats, NDArray[np.int16]]:
        """See Backdrop; origins are inside the room."""
        with np.errstate(divide="ignore"):  # rays along a wall
            tx, ty = (np.copysign(np.float32(HALF_ROOM), rays[:2]) - origin[:2]) / rays[:2]
            tz = np.where(rays[2] < 0, -origin[2] / rays[2], NEVER)
        to_wall = np.minimum(tx, ty)
        parts = np.where(ty < tx, 2 + (rays[1] > 0), 4 + (rays[0] > 0))
        parts = np.where(origin[2] + to_wall * rays[2] > WALL_HEIGHT, SKY, parts)
        parts = np.where(tz < to_wall, FLOOR, parts).astype(np.int16)
        return np.where(parts == SKY, NEVER, np.minimum(to_wall, tz)), parts


class Object(NamedTuple):
    """A drawn object: its place on the floor, its size (radius of the upright cylinder around it) and its yaw."""

    shape: int  # index in SHAPES
    x: float
    y: float
    size: float
    yaw: float


@dataclass(frozen=True)
class RoomScene:
    """A room; see rendering.casting.Scene.

    Attributes:
        solids: All parts of all objects.
        palette: Colours of sky, floor, both pairs of walls, then the objects, [entities, 3] in [0, 1].
        camera: The viewpoint.
        lamp: Position of the lamp.
        brightness: Its brightness.
        grain: Where the grain of floor and walls starts.
    """

    solids: tuple[Solid, ...]
    palette: Floats
    camera: Camera
    lamp: Vector
    brightness: float
    grain: tuple[float, float]

    def look(self, rays: Floats) -> Hits:
        """See Scene."""
        return cast(self.solids, Walls(), np.array(self.camera.position, dtype=np.float32)[:, None], rays)

    def entities(self, hits: Hits) -> NDArray[np.uint8]:
        """See Scene."""
        owners = np.array([*[solid.entity for solid in self.solids], 0], dtype=np.uint8)
        return np.where(
            hits.solids < 0, Walls.entity_of_part[np.where(hits.solids < 0, hits.faces, 0)], owners[hits.solids]
        )

    def shade(self, hits: Hits) -> tuple[Floats, NDArray[np.int16]]:
        """A lamp with soft shadows, a fill light from the camera, and ambient light that is weaker in corners."""
        entities = self.entities(hits)
        albedo = self.palette[entities].T * self._grain(hits, entities)
        to_lamp = np.array(self.lamp, dtype=np.float32)[:, None] - hits.points
        facing = (to_lamp * hits.normals).sum(0) / np.sqrt((to_lamp * to_lamp).sum(0))
        direct = np.maximum(facing, 0) * soft_light(self.solids, hits, self.lamp, LAMP_SIZE)
        rays = hits.rays
        fill = np.abs((rays * hits.normals).sum(0)) / np.sqrt((rays * rays).sum(0))
        ambient = AMBIENT * (1 - OCCLUSION * ambient_occlusion(self.solids, hits))
        light = 1.25 * self.brightness * direct + FILL * fill + ambient
        light = np.where(entities == SKY, np.float32(1), light)
        return np.minimum(albedo * light, 1), np.zeros(len(entities), dtype=np.int16)

    def _grain(self, hits: Hits, entities: NDArray[np.uint8]) -> Floats:
        x, y, z = hits.points
        across = np.where(entities == WALL_X, y, x) + np.float32(self.grain[0])
        down = np.where(entities == FLOOR, y, z) + np.float32(self.grain[1])
        scale = np.float32(SIDE / (2 * HALF_ROOM))
        rows = (down * scale).astype(np.intp) % SIDE
        columns = (across * scale).astype(np.intp) % SIDE
        rough = (entities == FLOOR) | (entities == WALL_Y) | (entities == WALL_X)
        return np.where(rough, 1 + GRAIN * _GRAIN[rows, columns], np.float32(1))


_GRAIN = noise(np.random.default_rng(3), 8, 8, 3).astype(np.float32) * 2


def make(rngs: Sequence[np.random.Generator], size: int, options: RoomsOptions, split: str) -> Drawn:
    """Draw rooms, each again until every object is visible.

    Args:
        rngs: n random generators, one per scene.
        size: Side of the images.
        options: The variant; M is its largest number of objects.
        split: Not used here.

    Returns:
        Images [n, size, size, 3], entities [n, size, size], factors [n, 4 + M, 11] as in FACTOR_NAMES. Entities 0 to 3
        are sky, floor, and the walls that face along y and along x, followed by the objects. Shape is 0 for none or one
        of those four, otherwise 1 + the index in SHAPES. x, y, z are the centre in units; the origin is the middle of
        the floor. size is the radius in units, yaw is in radians, depth is the distance from the camera's plane.
    """
    num_entities = FIRST_OBJECT + COUNTS[options.variant][1]
    images = np.empty((len(rngs), size, size, 3), dtype=np.uint8)
    entities = np.empty((len(rngs), size, size), dtype=np.uint8)
    factors = np.zeros((len(rngs), num_entities, len(FACTOR_NAMES)), dtype=np.float32)
    least = max(1, round(MIN_VISIBLE_PIXELS * (size / PUBLISHED_SIZE) ** 2))
    for scene, rng in enumerate(rngs):
        count = int(rng.integers(COUNTS[options.variant][0], COUNTS[options.variant][1] + 1))
        while True:
            room, objects = _draw(rng, count, options.variant == "identical_color")
            light, entities[scene] = render(room, size)
            pixels = np.bincount(entities[scene].ravel(), minlength=num_entities)
            if (pixels[FIRST_OBJECT : FIRST_OBJECT + count] >= least).all():
                break
        images[scene] = np.round(255 * light)
        factors[scene] = _factors(room, objects, pixels)
    return Drawn(images, entities, factors)


def _draw(rng: np.random.Generator, count: int, one_colour: bool) -> tuple[RoomScene, list[Object]]:
    camera = _draw_camera(rng)
    objects = _place(rng, camera, count)
    solids = tuple(part for entity, thing in enumerate(objects, start=FIRST_OBJECT) for part in _parts(thing, entity))
    angle = rng.uniform(0, 2 * math.pi)
    return (
        RoomScene(
            solids=solids,
            palette=_draw_palette(rng, count, one_colour),
            camera=camera,
            lamp=(LAMP_RADIUS * math.cos(angle), LAMP_RADIUS * math.sin(angle), float(rng.uniform(3.5, 5))),
            brightness=float(rng.uniform(0.42, 0.58)),
            grain=(float(rng.uniform(10, 20)), float(rng.uniform(10, 20))),
        ),
        objects,
    )


def _draw_camera(rng: np.random.Generator) -> Camera:
    place = rng.uniform(0, 2 * math.pi)
    radius, height = rng.uniform(2.4, 3.0), float(rng.uniform(0.95, 1.15))
    yaw, pitch = (math.radians(value) for value in (rng.uniform(-22, 22), rng.uniform(7, 12)))
    position = (radius * math.cos(place), radius * math.sin(place), height)
    heading = place + math.pi + yaw
    ahead = (math.cos(heading) * math.cos(pitch), math.sin(heading) * math.cos(pitch), -math.sin(pitch))
    target = (position[0] + ahead[0], position[1] + ahead[1], position[2] + ahead[2])
    return Camera(position, look_at(position, target), square_window(FIELD_OF_VIEW))


def _draw_palette(rng: np.random.Generator, count: int, one_colour: bool) -> Floats:
    def colours(num: int, saturation: tuple[float, float], value: tuple[float, float]) -> NDArray[np.float64]:
        return rgb(rng.uniform(0, 1, num), rng.uniform(*saturation, num), rng.uniform(*value, num))

    sky = rgb(rng.uniform(0.5, 0.6, 1), rng.uniform(0.2, 0.5, 1), rng.uniform(0.88, 1, 1))
    floor = colours(1, (0.45, 0.95), (0.45, 0.95))
    walls = np.repeat(colours(1, (0.35, 0.9), (0.5, 0.95)), 2, axis=0)
    things = colours(1 if one_colour else count, (0.6, 1), (0.6, 1))
    return np.concatenate([sky, floor, walls, np.broadcast_to(things, (count, 3))]).astype(np.float32)


def _place(rng: np.random.Generator, camera: Camera, count: int) -> list[Object]:
    """Objects in front of the camera that do not touch, and hide little of each other."""
    while True:
        objects: list[Object] = []
        bearings: list[tuple[float, float]] = []
        for _ in range(count):
            for _ in range(TRIES):
                thing, bearing, width = _draw_object(rng, camera)
                inside = max(abs(thing.x), abs(thing.y)) <= HALF_ROOM - WALL_ROOM - thing.size
                free = all(
                    math.hypot(thing.x - other.x, thing.y - other.y) >= thing.size + other.size + OBJECT_ROOM
                    for other in objects
                )
                open_view = all(abs(bearing - other) >= 0.6 * (width + wide) for other, wide in bearings)
                if inside and free and open_view:
                    objects.append(thing)
                    bearings.append((bearing, width))
                    break
            else:
                break
        if len(objects) == count:
            return objects


def _draw_object(rng: np.random.Generator, camera: Camera) -> tuple[Object, float, float]:
    """An object, its bearing from the camera's axis and half the angle that it covers, in radians."""
    size, distance = float(rng.uniform(0.28, 0.5)), float(rng.uniform(1.7, 5))
    bearing = math.radians(rng.uniform(-25, 25))
    shape, yaw = int(rng.integers(len(SHAPES))), float(rng.uniform(0, 2 * math.pi))
    heading = math.atan2(-camera.axes[2][1], -camera.axes[2][0]) + bearing
    if SHAPES[shape] == "ring":  # turned towards the camera, or it might look like a line
        yaw = heading + math.pi / 2 + float(rng.uniform(-0.9, 0.9))
    x, y = camera.position[0] + distance * math.cos(heading), camera.position[1] + distance * math.sin(heading)
    return Object(shape, x, y, size, yaw), bearing, math.asin(size / distance)


def _parts(thing: Object, entity: int) -> list[Solid]:
    x, y, r, axes = thing.x, thing.y, thing.size, yawed(thing.yaw)
    name = SHAPES[thing.shape]
    if name == "sphere":
        return [Solid(Sphere(r), (x, y, r), entity)]
    if name == "box":
        half = r / math.sqrt(2)
        return [Solid(Box((half, half, half)), (x, y, half), entity, axes)]
    if name == "cylinder":
        return [Solid(Cylinder(0.75 * r, r), (x, y, r), entity)]
    if name == "capsule":
        return [Solid(Capsule(0.55 * r, 0.75 * r), (x, y, 1.3 * r), entity)]
    if name == "cone":
        return [Solid(cone(0.85 * r, 1.8 * r), (x, y, 0.9 * r), entity)]
    if name == "icosahedron":
        return [Solid(icosahedron(r), (x, y, r * ICOSAHEDRON_BELOW), entity, axes)]
    return _ring(thing, entity)


def _ring(thing: Object, entity: int) -> list[Solid]:
    """Three rods in an upright triangle."""
    rod = 0.13 * thing.size
    reach = thing.size - rod
    across = (math.cos(thing.yaw), math.sin(thing.yaw))
    corners = [
        (reach * math.sin(turn), reach * math.cos(turn))  # along the triangle's plane, upwards
        for turn in (0, 2 * math.pi / 3, 4 * math.pi / 3)
    ]
    middle_height = reach / 2 + rod
    rods = []
    for (a, up), (b, high) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = math.hypot(b - a, high - up)
        along = ((b - a) / length * across[0], (b - a) / length * across[1], (high - up) / length)
        side = (-across[1], across[0], 0.0)
        third = (
            side[1] * along[2] - side[2] * along[1],
            side[2] * along[0] - side[0] * along[2],
            side[0] * along[1] - side[1] * along[0],
        )
        place = (a + b) / 2
        position = (thing.x + place * across[0], thing.y + place * across[1], middle_height + (up + high) / 2)
        rods.append(Solid(Capsule(rod, length / 2), position, entity, (side, third, along)))
    return rods


def _factors(room: RoomScene, objects: list[Object], pixels: NDArray[np.intp]) -> NDArray[np.float32]:
    rows = np.zeros((len(pixels), len(FACTOR_NAMES)), dtype=np.float32)
    rows[:, 0] = pixels > 0
    rows[: len(room.palette), 2:5] = room.palette * rows[: len(room.palette), :1]
    for entity, thing in enumerate(objects, start=FIRST_OBJECT):
        parts = [solid for solid in room.solids if solid.entity == entity]
        z = sum(part.position[2] for part in parts) / len(parts)
        place = (thing.x, thing.y, z)
        rows[entity, 1] = 1 + thing.shape
        rows[entity, 5:] = (*place, thing.size, thing.yaw % (2 * math.pi), room.camera.project(place)[2])
    return rows


ROOMS = Generator(
    name="rooms",
    description="one to three coloured objects in a coloured room under the sky, like Objects Room",
    version=1,
    default_size=PUBLISHED_SIZE,
    sizes=(32, 128),
    max_entities=FIRST_OBJECT + 3,
    factor_names=FACTOR_NAMES,
    options=RoomsOptions,
    make=make,
    scenes_per_task=32,
    background_entities=(SKY, FLOOR, WALL_Y, WALL_X),
)
