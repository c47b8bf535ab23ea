"""Stacks: towers of blocks in a hall, like ShapeStacks (Groth et al. 2018); and stacks_broken, in separate parts.

Lengths are in units: a block is 0.5 to 1 wide, the hall 20. Light and cameras are as in ShapeStacks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from pyro_sri.data.generators.block_towers import KINDS, SEPARATED, SHAPES, Block, Kind, Tower, break_tower, draw_tower
from pyro_sri.data.generators.family import Drawn, Generator
from pyro_sri.data.rendering import textures
from pyro_sri.data.rendering.camera import Camera, look_at, square_window
from pyro_sri.data.rendering.casting import Hits, cast, lit, render
from pyro_sri.data.rendering.solids import NEVER, Box, Cylinder, Floats, Form, Solid, Sphere, Vector, power, yawed
from pyro_sri.system.errors import UserError

PUBLISHED_SIZE = 64
MIN_BLOCKS, MAX_BLOCKS = 2, 6
MIN_VISIBLE_PIXELS = 4  # of a 64 x 64 picture; a scene with a block that shows fewer is drawn again
GAP_PIXELS = 2  # at least, of other things between the parts of a broken tower

HALL = 10.0  # the floor and the walls reach from -HALL to HALL
WALL_HEIGHT = 20.0
TOWER_SHIFT = 2.0  # towers stand up to this far from the middle, along x and along y
TEXTURE_SIDE = 10.0  # a texture repeats twice across the hall

# Cameras 1 to 16: position, tilt from straight down and yaw in degrees.
CAMERAS: tuple[tuple[Vector, float, float], ...] = (
    ((-7, -7, 5), 75, -45),
    ((-9, -2, 5), 75, -75),
    ((-2, -9, 5), 75, -15),
    ((-7, 7, 5), 75, 225),
    ((-9, 2, 5), 75, 255),
    ((-2, 9, 5), 75, 195),
    ((7, 7, 5), 75, 135),
    ((9, 2, 5), 75, 105),
    ((2, 9, 5), 75, 165),
    ((7, -7, 5), 75, 45),
    ((9, -2, 5), 75, 75),
    ((2, -9, 5), 75, 15),
    ((-5, -5, 9), 45, -45),
    ((-5, 5, 9), 45, 225),
    ((5, 5, 9), 45, 135),
    ((5, -5, 9), 45, 45),
)
FIELD_OF_VIEW = 45.0
CROP = 196 / 224  # everybody uses this middle part of the published pictures
ROOM = 1.15  # a picture must be this much larger than a tower

LAMPS: tuple[Vector, ...] = ((0, 0, 20), (9, 9, 20), (9, -9, 20), (-9, 9, 20), (-9, -9, 20))  # directions towards them
DIFFUSE, SPECULAR, SHININESS, AMBIENT = 0.63, 0.16, 40, 0.06
FLOOR_ALBEDO = 0.37  # five lamps would overexpose the floor
SKY = (0.4, 0.6, 0.8)

COLOURS: tuple[Vector, ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1))

FACTOR_NAMES = (
    *("visible", "shape", "red", "green", "blue", "x", "y", "z", "size_x", "size_y", "size_z", "yaw", "depth"),
    *("kind", "camera", "lamp", "floor", "wall"),
)


@dataclass(frozen=True)
class StacksOptions:
    """How many blocks (uniform between the two, 2 to 6), which cameras (1 to 16), and how close.

    At zoom 1 the pictures are framed as published, a block 4 to 9 pixels wide at 64 x 64. Larger zooms (up to 3) turn
    the camera to the tower and show it larger, as far as it fits.
    """

    min_objects: int = MIN_BLOCKS
    """Fewest blocks per tower."""
    max_objects: int = MAX_BLOCKS
    """Most blocks per tower."""
    cameras: tuple[int, ...] = tuple(range(1, 17))
    """Numbers of the cameras to draw from, 1 to 16."""
    zoom: float = 1.0
    """1 frames the picture as published; larger values, up to 3, show the tower larger, as far as it fits."""

    def __post_init__(self) -> None:
        if not MIN_BLOCKS <= self.min_objects <= self.max_objects <= MAX_BLOCKS:
            raise UserError(
                f"a stack cannot have {self.min_objects} to {self.max_objects} blocks; "
                f"use min_objects and max_objects from {MIN_BLOCKS} to {MAX_BLOCKS}, in order"
            )
        if not self.cameras or any(not 1 <= camera <= len(CAMERAS) for camera in self.cameras):
            raise UserError(f"invalid cameras {list(self.cameras)}; choose one or more from 1 to {len(CAMERAS)}")
        if not 1 <= self.zoom <= 3:
            raise UserError(f"zoom {self.zoom} is out of range; use 1 to 3")


@dataclass(frozen=True)
class BrokenStacksOptions(StacksOptions):
    """Options of stacks, and the kinds of damage, which are drawn uniformly (see break_tower)."""

    cameras: tuple[int, ...] = (1, 4, 7, 10)
    """Numbers of the cameras to draw from, 1 to 16."""
    kinds: tuple[Kind, ...] = SEPARATED
    """Kinds of damage to draw from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kinds or any(kind not in KINDS for kind in self.kinds):
            raise UserError(f"invalid kinds '{', '.join(self.kinds)}'; choose one or more of {', '.join(KINDS)}")


class Hall:
    """The backdrop: sky, floor, the wall at y = +10 and the wall at x = +10."""

    SKY, FLOOR, WALL_Y, WALL_X = range(4)
    part_normals = np.array([(0, 0, 1), (0, 0, 1), (0, -1, 0), (-1, 0, 0)], dtype=np.float32)

    def meet(self, origin: Floats, rays: Floats) -> tuple[Floats, NDArray[np.int16]]:
        """See Backdrop."""
        depth = np.full(rays.shape[1], NEVER)
        parts = np.zeros(rays.shape[1], dtype=np.int16)
        for part, axis, place in ((self.FLOOR, 2, 0.0), (self.WALL_Y, 1, HALL), (self.WALL_X, 0, HALL)):
            with np.errstate(divide="ignore", invalid="ignore"):  # rays along the plane
                t = (place - origin[axis]) / rays[axis]
            t = np.where(t > 0, t, NEVER)
            x, y, z = np.where(t < NEVER, origin + np.where(t < NEVER, t, np.float32(0)) * rays, np.float32(0))
            slack = 1e-3  # the corners belong to the hall
            inside = (np.abs(x) <= HALL + slack) & (np.abs(y) <= HALL + slack) & (z >= -slack) & (z <= WALL_HEIGHT)
            nearer = inside & (t < depth)
            depth[nearer], parts[nearer] = t[nearer], part
        return depth, parts


@dataclass(frozen=True)
class StackScene:
    """A tower in the hall; see rendering.casting.Scene.

    Attributes:
        solids: The blocks; block i is entity i + 1.
        colours: Their colours, [blocks, 3].
        camera: The viewpoint.
        lamp: Which of LAMPS casts shadows.
        floor: Number of the floor's texture.
        wall: Number of the walls' texture.
        pixel: Side of a pixel at distance 1.
    """

    solids: tuple[Solid, ...]
    colours: Floats
    camera: Camera
    lamp: int
    floor: int
    wall: int
    pixel: float

    def look(self, rays: Floats) -> Hits:
        """See Scene."""
        return cast(self.solids, Hall(), np.array(self.camera.position, dtype=np.float32)[:, None], rays)

    def entities(self, hits: Hits) -> NDArray[np.uint8]:
        """See Scene."""
        return (hits.solids + 1).astype(np.uint8)

    def shade(self, hits: Hits) -> tuple[Floats, NDArray[np.int16]]:
        """Phong's model with directional lamps, one of which casts shadows."""
        albedo = self._albedo(hits)
        caster = lit(self.solids, hits, LAMPS[self.lamp])
        on_block = np.flatnonzero(hits.solids >= 0)
        view = hits.rays[:, on_block]
        view = view / -np.sqrt((view * view).sum(0))
        diffuse = np.full(len(hits.depth), AMBIENT, dtype=np.float32)
        gloss = np.zeros(len(on_block), dtype=np.float32)
        for number, place in enumerate(LAMPS):
            length = math.hypot(*place)
            x, y, z = (value / length for value in place)
            facing = np.maximum(hits.normals[0] * x + hits.normals[1] * y + hits.normals[2] * z, 0)
            if number == self.lamp:
                facing *= caster
            diffuse += DIFFUSE * facing
            half = view + np.array([[x], [y], [z]], dtype=np.float32)
            shine = (half * hits.normals[:, on_block]).sum(0) / np.sqrt((half * half).sum(0))
            gloss += np.where(facing[on_block] > 0, power(np.maximum(shine, 0), SHININESS), np.float32(0))
        light = albedo * np.where((hits.solids < 0) & (hits.faces == Hall.SKY), np.float32(1), diffuse)
        light[:, on_block] += SPECULAR * gloss
        return np.minimum(light, 1), caster.astype(np.int16)

    def _albedo(self, hits: Hits) -> Floats:
        albedo = np.empty_like(hits.points)
        # The side of a square with the area of surface that a pixel shows, which is larger at a slant.
        slant = np.abs((hits.rays * hits.normals).sum(0)) / np.sqrt((hits.rays * hits.rays).sum(0))
        depth = np.where(hits.depth < NEVER, hits.depth, np.float32(1))
        footprint = depth * np.float32(self.pixel / TEXTURE_SIDE) / np.sqrt(np.maximum(slant, np.float32(0.05)))
        x, y, z = hits.points / np.float32(TEXTURE_SIDE)
        outside = hits.solids < 0
        floor, wall = textures.floor(self.floor), textures.wall(self.wall)
        for part, texture, across, down, share in (
            (Hall.FLOOR, floor, x, y, FLOOR_ALBEDO),
            (Hall.WALL_Y, wall, x, -z, 1),
            (Hall.WALL_X, wall, -y, -z, 1),  # so that the pattern continues around the corner
        ):
            here = np.flatnonzero(outside & (hits.faces == part))
            albedo[:, here] = share * texture.sample(across[here], down[here], footprint[here])
        sky = np.flatnonzero(outside & (hits.faces == Hall.SKY))
        rays = hits.rays[:, sky]
        height = rays[2] / np.sqrt((rays * rays).sum(0))
        albedo[:, sky] = np.array(SKY, dtype=np.float32)[:, None] * (0.5 + 0.5 * height)
        block = np.flatnonzero(~outside)
        albedo[:, block] = self.colours[hits.solids[block]].T
        return albedo


class Setting(NamedTuple):
    """Everything that is drawn for a scene."""

    tower: Tower
    kind: Kind | None  # None: it stands
    apart: int | None  # the first block of the part that must be visibly separate
    colours: NDArray[np.intp]
    camera: int
    lamp: int
    floor: int
    wall: int


def make(rngs: Sequence[np.random.Generator], size: int, options: StacksOptions, split: str) -> Drawn:
    """Draw towers, each again until every block is visible; see StacksOptions and BrokenStacksOptions.

    Args:
        rngs: n random generators, one per scene.
        size: Side of the images.
        options: Options of either family.
        split: Not used here.

    Returns:
        Images [n, size, size, 3], entities [n, size, size], factors [n, 1 + most blocks, 18] as in FACTOR_NAMES:
        shape is 0 for none or the background, otherwise 1 + the index in SHAPES; x, y, z are the centre in units; yaw
        is in radians; depth is the distance of the centre from the camera's plane; kind is 0 if the tower stands,
        otherwise 1 + the index in KINDS; camera is 1 to 16; lamp (the one with shadows), floor and wall start at 0.
        Entity 1 is the lowest block. The last five columns are the same for all entities that exist. The background
        has only these and `visible`.
    """
    images = np.empty((len(rngs), size, size, 3), dtype=np.uint8)
    entities = np.empty((len(rngs), size, size), dtype=np.uint8)
    factors = np.zeros((len(rngs), 1 + options.max_objects, len(FACTOR_NAMES)), dtype=np.float32)
    for scene, rng in enumerate(rngs):
        count = int(rng.integers(options.min_objects, options.max_objects + 1))
        kind = options.kinds[rng.integers(len(options.kinds))] if isinstance(options, BrokenStacksOptions) else None
        while True:
            setting = _draw(rng, options, count, kind)
            stage = _stage(setting, options.zoom, size)
            light, entities[scene] = render(stage, size)
            if _shows_what_it_should(entities[scene], setting, size):
                break
        images[scene] = np.round(255 * light)
        factors[scene, : 1 + len(setting.tower)] = _factors(setting, stage)
    return Drawn(images, entities, factors)


def _draw(rng: np.random.Generator, options: StacksOptions, count: int, kind: Kind | None) -> Setting:
    tower, first = (draw_tower(rng, count), 0) if kind is None else break_tower(rng, count, kind)
    x, y = (float(value) for value in rng.uniform(-TOWER_SHIFT, TOWER_SHIFT, 2))
    return Setting(
        tower=tuple(block.moved((x, y, 0.0)) for block in tower),
        kind=kind,
        apart=first if kind in SEPARATED else None,
        colours=rng.permutation(len(COLOURS))[:count],
        camera=options.cameras[rng.integers(len(options.cameras))],
        lamp=int(rng.integers(len(LAMPS))),
        floor=int(rng.integers(len(textures.FLOORS))),
        wall=int(rng.integers(len(textures.WALLS))),
    )


def _stage(setting: Setting, zoom: float, size: int) -> StackScene:
    camera = _camera(setting, zoom)
    return StackScene(
        solids=tuple(solid(block, entity) for entity, block in enumerate(setting.tower, start=1)),
        colours=np.array(COLOURS, dtype=np.float32)[setting.colours],
        camera=camera,
        lamp=setting.lamp,
        floor=setting.floor,
        wall=setting.wall,
        pixel=(camera.window[1] - camera.window[0]) / size,
    )


def _camera(setting: Setting, zoom: float) -> Camera:
    position, tilt, yaw = CAMERAS[setting.camera - 1]
    published = square_window(FIELD_OF_VIEW, CROP)
    if zoom == 1:
        (ct, st), (cy, sy) = ((math.cos(a), math.sin(a)) for a in (math.radians(tilt), math.radians(yaw)))
        axes = (cy, sy, 0.0), (-sy * ct, cy * ct, st), (sy * st, -cy * st, ct)
        return Camera(position, axes, published)
    corners = [corner for block in setting.tower for corner in block.corners()]
    x, y, z = ((min(along) + max(along)) / 2 for along in zip(*corners, strict=True))
    camera = Camera(position, look_at(position, (x, y, z)), published)
    farthest = max(abs(place) for corner in corners for place in camera.project(corner)[:2])
    half = max(published[1] / zoom, ROOM * farthest)  # all of the tower is in the picture
    return replace(camera, window=(-half, half, -half, half))


def solid(block: Block, entity: int) -> Solid:
    """A block for the ray caster."""
    x, y, z = block.size
    axes = yawed(block.yaw)
    form: Form
    if block.shape == "cuboid":
        form = Box((x / 2, y / 2, z / 2))
    elif block.shape == "sphere":
        form = Sphere(x / 2)
    else:
        form = Cylinder(y / 2, (x if block.shape == "lying_cylinder" else z) / 2)
        if block.shape == "lying_cylinder":
            axes = axes[1], axes[2], axes[0]  # the cylinder's own z axis lies along the block's x axis
    return Solid(form, block.position, entity, axes)


def _shows_what_it_should(entities: NDArray[np.uint8], setting: Setting, size: int) -> bool:
    count = len(setting.tower)
    pixels = np.bincount(entities.ravel(), minlength=1 + count)[1:]
    if pixels.min() < max(1, round(MIN_VISIBLE_PIXELS * (size / PUBLISHED_SIZE) ** 2)):
        return False
    if setting.apart is None:
        return True
    upper = entities > setting.apart  # entities are numbered from 1
    lower = (entities > 0) & ~upper
    return not (binary_dilation(upper, np.ones((3, 3)), GAP_PIXELS) & lower).any()


def _factors(setting: Setting, stage: StackScene) -> NDArray[np.float32]:
    rows = np.zeros((1 + len(setting.tower), len(FACTOR_NAMES)), dtype=np.float32)
    rows[:, 0] = 1
    kind = 0 if setting.kind is None else 1 + KINDS.index(setting.kind)
    rows[:, -5:] = kind, setting.camera, setting.lamp, setting.floor, setting.wall
    for row, block, colour in zip(rows[1:], setting.tower, stage.colours, strict=True):
        depth = stage.camera.project(block.position)[2]
        row[1:-5] = (1 + SHAPES.index(block.shape), *colour, *block.position, *block.size, block.yaw, depth)
    return rows


STACKS = Generator(
    name="stacks",
    description="towers of two to six blocks that stand, in a hall, like ShapeStacks",
    version=1,
    default_size=PUBLISHED_SIZE,
    sizes=(32, 128),
    max_entities=1 + MAX_BLOCKS,
    factor_names=FACTOR_NAMES,
    options=StacksOptions,
    make=make,
    scenes_per_task=32,
)

STACKS_BROKEN = Generator(
    name="stacks_broken",
    description="towers as in stacks, but in visibly separate parts, hovering or side by side",
    version=1,
    default_size=PUBLISHED_SIZE,
    sizes=(32, 128),
    max_entities=1 + MAX_BLOCKS,
    factor_names=FACTOR_NAMES,
    options=BrokenStacksOptions,
    make=make,
    scenes_per_task=32,
)
