"""CLEVR: cubes, spheres and cylinders of rubber and metal on a grey floor, as Johnson et al. (2017) arrange them.

Pictures show the part that everybody uses: rows 29 to 221 and columns 64 to 256 of the published 240 x 320.
Lengths are in CLEVR's units.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.generators.family import Drawn, Generator
from pyro_sri.data.rendering.camera import Camera, look_at
from pyro_sri.data.rendering.casting import Hits, cast, render
from pyro_sri.data.rendering.soft import ambient_occlusion, soft_light
from pyro_sri.data.rendering.solids import NEVER, Box, Cylinder, Floats, Form, Solid, Sphere, Vector, power, yawed
from pyro_sri.system.errors import UserError

PUBLISHED_SIZE = 96  # of CLEVR6 after cropping
PUBLISHED_ROWS, PUBLISHED_COLUMNS = 240, 320
CROP_ROWS, CROP_COLUMNS = (29, 221), (64, 256)
MIN_OBJECTS, MAX_OBJECTS = 3, 10

CAMERA: Vector = (7.481, -6.508, 5.344)
CAMERA_JITTER, LAMP_JITTER = 0.5, 1.0
PIXEL = 2 * (0.75 * 16 / 35) / PUBLISHED_ROWS  # a 35 mm lens and a sensor 32 mm wide and 24 mm high

SHAPES = ("cube", "sphere", "cylinder")
MATERIALS = ("rubber", "metal")
SIZES = (0.35, 0.7)
COLOURS = np.array(
    [
        (87, 87, 87),  # gray
        (173, 35, 35),  # red
        (42, 75, 215),  # blue
        (29, 105, 20),  # green
        (129, 74, 25),  # brown
        (129, 38, 192),  # purple
        (41, 208, 208),  # cyan
        (255, 238, 51),  # yellow
    ],
    dtype=np.float32,
) / np.float32(255)
FLOOR_EXTENT = 3.0  # objects stand within it, along x and along y
LEAST_GAP = 0.25  # between objects
LEAST_MARGIN = 0.4  # by which objects are clearly left or right, and in front of or behind each other
TRIES = 50  # to place one object, before all are placed again
LEAST_PIXELS = 200  # of the whole published picture
COARSE = 4  # visibility is judged in a picture this many times smaller


class Lamp(NamedTuple):
    """A round lamp: place, colour times brightness, and the distance at which they apply."""

    place: Vector
    colour: Vector
    reference: float
    fall: int  # four times the power of the distance by which its light falls
    highlight: float  # strength of its highlights
    reflection: float  # brightness of its image in metal


KEY = Lamp((6.447, -2.905, 4.258), (0.318, 0.300, 0.270), 8.0, 5, 2.2, 2.5)
FILL = Lamp((-4.671, -4.014, 3.011), (0.068, 0.070, 0.073), 1.0, 0, 1.5, 0.8)
BACK = Lamp((-1.169, 2.646, 5.816), (0.120, 0.120, 0.120), 6.5, 8, 1.5, 1.0)
LAMPS = (KEY, FILL, BACK)
LAMP_SIZE = 0.55
OVERHEAD: Vector = (11.66, -6.63, 25.8)  # a direction; it casts no shadows
OVERHEAD_LIGHT, OVERHEAD_HIGHLIGHT = 0.13, 0.3
AMBIENT, OCCLUSION = 0.11, 0.8
FLOOR_ALBEDO = 0.46
ALBEDO = np.array([0.85, 0], dtype=np.float32)  # of rubber and metal
MIRRORED_ALBEDO = np.array([0.85, 0.5], dtype=np.float32)  # the same in reflections, which leave out further ones
SPECULAR, SHININESS = (0.10, 0.6), (12, 70)  # of rubber and metal
IMAGE_SHARPNESS = 45  # of a lamp's reflection in metal
MIRROR = 0.95
SKYLIGHT, SKYLIGHT_ABOVE = 0.06, 0.10  # of empty space reflected in metal: level, and added straight above
CUBE_BEVEL, CYLINDER_BEVEL = 0.16, 0.13  # shares of the radius

FACTOR_NAMES = (
    *("visible", "shape", "material", "colour", "red", "green", "blue"),
    *("size", "x", "y", "z", "rotation", "depth"),
)


@dataclass(frozen=True)
class ClevrOptions:
    """How many objects a scene has: uniform between the two, 1 to 10 (published: 3 to 10)."""

    min_objects: int = MIN_OBJECTS
    """Fewest objects per scene."""
    max_objects: int = MAX_OBJECTS
    """Most objects per scene."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_objects <= self.max_objects <= MAX_OBJECTS:
            raise UserError(
                f"clevr cannot place {self.min_objects} to {self.max_objects} objects; "
                f"use min_objects and max_objects from 1 to {MAX_OBJECTS}, in order"
            )


@dataclass(frozen=True)
class Clevr6Options(ClevrOptions):
    """As for clevr, with at most 6 objects."""

    max_objects: int = 6
    """Most objects per scene."""


class Ground:
    """The backdrop: an endless floor, and nothing above it."""

    NOTHING, FLOOR = range(2)
    part_normals = np.array([(0, 0, 1), (0, 0, 1)], dtype=np.float32)

    def meet(self, origin: Floats, rays: Floats) -> tuple[Floats, NDArray[np.int16]]:
        """See Backdrop."""
        down = rays[2] < -1e-4
        t = np.where(down, -origin[2] / np.where(down, rays[2], -1), NEVER)
        return t, down.astype(np.int16)


class Object(NamedTuple):
    """A drawn object: indices in SHAPES, MATERIALS and COLOURS, radius, place on the floor, turn in radians."""

    shape: int
    material: int
    colour: int
    radius: float  # of the sphere or the cylinder; a cube's half diagonal, seen from above
    x: float
    y: float
    turn: float

    @property
    def height(self) -> float:
        """The height of its centre."""
        return self.radius / math.sqrt(2) if SHAPES[self.shape] == "cube" else self.radius

    def solid(self, entity: int) -> Solid:
        """The object for the ray caster."""
        r, half = self.radius, self.height
        form: Form
        if SHAPES[self.shape] == "cube":
            form = Box((half, half, half), CUBE_BEVEL * r)
        elif SHAPES[self.shape] == "sphere":
            form = Sphere(r)
        else:
            form = Cylinder(r, r, CYLINDER_BEVEL * r)
        return Solid(form, (self.x, self.y, half), entity, yawed(self.turn))


@dataclass(frozen=True)
class ClevrScene:
    """Objects on the floor; see rendering.casting.Scene.

    Attributes:
        objects: Object i is entity i + 1.
        solids: The same for the ray caster.
        camera: The viewpoint.
        lamps: Key, fill and back light.
    """

    objects: tuple[Object, ...]
    solids: tuple[Solid, ...]
    camera: Camera
    lamps: tuple[Lamp, ...]

    def look(self, rays: Floats) -> Hits:
        """See Scene."""
        return cast(self.solids, Ground(), np.array(self.camera.position, dtype=np.float32)[:, None], rays)

    def entities(self, hits: Hits) -> NDArray[np.uint8]:
        """See Scene."""
        return (hits.solids + 1).astype(np.uint8)

    def shade(self, hits: Hits) -> tuple[Floats, NDArray[np.int16]]:
        """Three lamps with soft shadows and one above; metal reflects its surroundings."""
        light = self._surface_light(hits, ALBEDO)
        metal = np.array([MATERIALS[thing.material] == "metal" for thing in self.objects] + [False])
        here = np.flatnonzero(metal[hits.solids])
        light[:, here] += self._mirrored(hits, here)
        return np.minimum(light, 1), np.zeros(len(hits.depth), dtype=np.int16)

    def _surface_light(self, hits: Hits, albedos: Floats) -> Floats:
        """The light that surfaces scatter, without reflections in metal, [3, N]."""
        on_object = np.flatnonzero(hits.solids >= 0)
        materials = np.array([thing.material for thing in self.objects])[hits.solids[on_object]]
        colours = np.array([thing.colour for thing in self.objects])[hits.solids[on_object]]
        albedo = np.full(hits.points.shape, FLOOR_ALBEDO, dtype=np.float32)
        albedo[:, on_object] = COLOURS[colours].T * albedos[materials]
        view = hits.rays[:, on_object]
        view = view / -np.sqrt((view * view).sum(0))

        diffuse = np.zeros_like(albedo)
        diffuse += AMBIENT * (1 - OCCLUSION * ambient_occlusion(self.solids, hits))
        gloss = np.zeros_like(view)

        def add(direction: Floats, light: Floats, highlight: float) -> None:
            """The light of a lamp, [3, N], from directions [3, N] of length 1."""
            diffuse[:] += light * np.maximum((direction * hits.normals).sum(0), 0)
            direction, light = np.broadcast_to(direction, hits.points.shape)[:, on_object], light[:, on_object]
            half = view + direction
            shine = (half * hits.normals[:, on_object]).sum(0) / np.sqrt((half * half).sum(0))
            facing = (direction * hits.normals[:, on_object]).sum(0) > 0
            shine = np.where(facing, np.maximum(shine, 0), np.float32(0))
            rubber, metal = (share * power(shine, sharp) for share, sharp in zip(SPECULAR, SHININESS, strict=True))
            gloss[:] += highlight * light * np.where(materials == 0, rubber, metal)

        for lamp in self.lamps:
            direction = np.array(lamp.place, dtype=np.float32)[:, None] - hits.points
            distance = np.sqrt((direction * direction).sum(0))
            share = soft_light(self.solids, hits, lamp.place, LAMP_SIZE)
            share *= power(np.sqrt(np.sqrt(lamp.reference / distance)), lamp.fall)
            add(direction / distance, np.array(lamp.colour, dtype=np.float32)[:, None] * share, lamp.highlight)
        overhead = np.array(OVERHEAD, dtype=np.float32)[:, None] / np.float32(math.hypot(*OVERHEAD))
        add(overhead, np.full_like(albedo, OVERHEAD_LIGHT), OVERHEAD_HIGHLIGHT)
        light = albedo * diffuse
        light[:, on_object] += gloss
        return np.where((hits.solids < 0) & (hits.faces == Ground.NOTHING), np.float32(AMBIENT), light)

    def _mirrored(self, hits: Hits, here: NDArray[np.intp]) -> Floats:
        """The reflections in metal at the hits `here`, [3, len(here)]."""
        normals, rays = hits.normals[:, here], hits.rays[:, here]
        rays = rays / np.sqrt((rays * rays).sum(0))
        facing = np.maximum(-(rays * normals).sum(0), 0)
        mirrored = rays + 2 * facing * normals
        seen = cast(self.solids, Ground(), np.ascontiguousarray(hits.points[:, here]), mirrored, own=hits.solids[here])
        around = np.full(seen.points.shape, SKYLIGHT, dtype=np.float32) + np.float32(SKYLIGHT_ABOVE) * np.maximum(
            mirrored[2], 0
        )
        for lamp in self.lamps:
            direction = np.array(lamp.place, dtype=np.float32)[:, None] - hits.points[:, here]
            cosine = (direction * mirrored).sum(0) / np.sqrt((direction * direction).sum(0))
            around += np.float32(lamp.reflection) * power(np.maximum(cosine, 0), IMAGE_SHARPNESS)
        met = np.flatnonzero(seen.depth < NEVER)
        met_hits = Hits(
            seen.depth[met],
            seen.points[:, met],
            seen.normals[:, met],
            seen.solids[met],
            seen.faces[met],
            mirrored[:, met],
        )
        around[:, met] = self._surface_light(met_hits, MIRRORED_ALBEDO)
        colour = COLOURS[[thing.colour for thing in self.objects]][hits.solids[here]].T
        return MIRROR * around * (colour + (1 - colour) * power(1 - facing, 5))


def make(rngs: Sequence[np.random.Generator], size: int, options: ClevrOptions, split: str) -> Drawn:
    """Draw scenes, each again until every object has about 200 pixels or more in the published 240 x 320.

    Args:
        rngs: n random generators, one per scene.
        size: Side of the images.
        options: The number of objects, at most M.
        split: Not used here.

    Returns:
        Images [n, size, size, 3], entities [n, size, size], factors [n, 1 + M, 13] as in FACTOR_NAMES: shape, material
        and colour are 0 for none, otherwise 1 + the index in SHAPES, MATERIALS and COLOURS; size is the radius; x, y, z
        are the centre; rotation is in radians; depth is the distance from the camera's plane. An object may be outside
        the picture, which is a part of the published one; then all its factors are 0.
    """
    images = np.empty((len(rngs), size, size, 3), dtype=np.uint8)
    entities = np.empty((len(rngs), size, size), dtype=np.uint8)
    factors = np.zeros((len(rngs), 1 + options.max_objects, len(FACTOR_NAMES)), dtype=np.float32)
    for scene, rng in enumerate(rngs):
        count = int(rng.integers(options.min_objects, options.max_objects + 1))
        stage = _draw(rng, count)
        while not _all_visible(stage):
            stage = _draw(rng, count)
        light, entities[scene] = render(stage, size)
        images[scene] = _srgb(light)
        factors[scene] = _factors(stage, entities[scene], len(factors[scene]))
    return Drawn(images, entities, factors)


def _draw(rng: np.random.Generator, count: int) -> ClevrScene:
    position = _jittered(rng, CAMERA, CAMERA_JITTER)
    left, right = ((column - PUBLISHED_COLUMNS / 2) * PIXEL for column in CROP_COLUMNS)
    top, bottom = ((PUBLISHED_ROWS / 2 - row) * PIXEL for row in CROP_ROWS)
    camera = Camera(position, look_at(position, (0, 0, 0)), (left, right, bottom, top))
    objects = _place(rng, camera, count)
    return ClevrScene(
        objects=objects,
        solids=tuple(thing.solid(entity) for entity, thing in enumerate(objects, start=1)),
        camera=camera,
        lamps=tuple(lamp._replace(place=_jittered(rng, lamp.place, LAMP_JITTER)) for lamp in LAMPS),
    )


def _jittered(rng: np.random.Generator, place: Vector, by: float) -> Vector:
    x, y, z = (value + float(shift) for value, shift in zip(place, rng.uniform(-by, by, 3), strict=True))
    return x, y, z


def _place(rng: np.random.Generator, camera: Camera, count: int) -> tuple[Object, ...]:
    (right_x, right_y, _), _, (back_x, back_y, _) = camera.axes
    flat = math.hypot(back_x, back_y)
    while True:
        objects: list[Object] = []
        for _ in range(count):
            for _ in range(TRIES):
                thing = _draw_object(rng)
                if all(_apart(thing, other, (right_x, right_y), (back_x / flat, back_y / flat)) for other in objects):
                    objects.append(thing)
                    break
            else:
                break
        if len(objects) == count:
            return tuple(objects)


def _draw_object(rng: np.random.Generator) -> Object:
    shape, material = int(rng.integers(len(SHAPES))), int(rng.integers(len(MATERIALS)))
    colour, radius = int(rng.integers(len(COLOURS))), SIZES[rng.integers(len(SIZES))]
    x, y = (float(value) for value in rng.uniform(-FLOOR_EXTENT, FLOOR_EXTENT, 2))
    return Object(shape, material, colour, radius, x, y, float(rng.uniform(0, 2 * math.pi)))


def _apart(one: Object, other: Object, right: tuple[float, float], back: tuple[float, float]) -> bool:
    dx, dy = one.x - other.x, one.y - other.y
    if math.hypot(dx, dy) - one.radius - other.radius < LEAST_GAP:
        return False
    return all(abs(dx * axis[0] + dy * axis[1]) >= LEAST_MARGIN for axis in (right, back))


def _all_visible(stage: ClevrScene) -> bool:
    """Whether enough of every object is visible in the whole published picture."""
    rows, columns = PUBLISHED_ROWS // COARSE, PUBLISHED_COLUMNS // COARSE
    u = (np.arange(columns, dtype=np.float32) + 0.5 - columns / 2) * np.float32(PIXEL * COARSE)
    v = (rows / 2 - 0.5 - np.arange(rows, dtype=np.float32)) * np.float32(PIXEL * COARSE)
    across, up = np.meshgrid(u, v)
    entities = stage.entities(stage.look(stage.camera.rays(across.ravel(), up.ravel())))
    pixels = np.bincount(entities, minlength=1 + len(stage.objects))[1:] * COARSE**2
    return bool((pixels >= LEAST_PIXELS).all())


def _linear(value: float) -> float:
    """The light that an sRGB value in [0, 1] stands for."""
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


# The light halfway between the values 0 and 1, 1 and 2, .. of a picture.
_STEPS = np.array([_linear((value + 0.5) / 255) for value in range(255)], dtype=np.float32)


def _srgb(light: Floats) -> NDArray[np.uint8]:
    """The values of a picture nearest to linear light in [0, 1]."""
    return np.searchsorted(_STEPS, light).astype(np.uint8)


def _factors(stage: ClevrScene, entities: NDArray[np.uint8], num_entities: int) -> NDArray[np.float32]:
    rows = np.zeros((num_entities, len(FACTOR_NAMES)), dtype=np.float32)
    rows[0, 0] = 1
    for row, entity, thing in zip(rows[1:], range(1, num_entities), stage.objects, strict=False):
        if not (entities == entity).any():
            continue
        place = (thing.x, thing.y, thing.height)
        depth = stage.camera.project(place)[2]
        row[:4] = 1, 1 + thing.shape, 1 + thing.material, 1 + thing.colour
        row[4:] = *COLOURS[thing.colour], thing.radius, *place, thing.turn, depth
    return rows


def _family(name: str, description: str, options: type[ClevrOptions]) -> Generator:
    return Generator(
        name=name,
        description=description,
        version=1,
        default_size=PUBLISHED_SIZE,
        sizes=(32, 128),
        max_entities=1 + options().max_objects,
        factor_names=FACTOR_NAMES,
        options=options,
        make=make,
        scenes_per_task=32,
    )


CLEVR6 = _family("clevr6", "three to six cubes, spheres and cylinders on a grey floor, like CLEVR6", Clevr6Options)
CLEVR = _family("clevr", "three to ten cubes, spheres and cylinders on a grey floor, like CLEVR", ClevrOptions)
