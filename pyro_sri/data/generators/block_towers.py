"""Towers of blocks: drawn so that they stand, broken in known ways, and judged by exact statics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from pyro_sri.data.rendering.solids import Vector

Shape = Literal["cuboid", "cylinder", "sphere", "lying_cylinder"]
Kind = Literal["gap", "air", "beside", "unsupported", "round", "sunk"]

SHAPES: tuple[Shape, ...] = ("cuboid", "cylinder", "sphere", "lying_cylinder")
KINDS: tuple[Kind, ...] = ("gap", "air", "beside", "unsupported", "round", "sunk")
# The kinds in which parts of a tower have come apart.
SEPARATED: tuple[Kind, ...] = ("gap", "air", "beside")

SMALLEST, LARGEST = 0.5, 1.0  # every side of a block, in units; the hall is 20 units wide
BALL_ROOM = 0.2  # how far a ball on top lies from the edge below it, so that a small push does not roll it off
OVERHANG = 0.05  # how far the weight lies outside its support in an unsupported tower
TOUCHING = 1e-6
# How much of the cuboid around it a block fills.
FULLNESS: dict[Shape, float] = {
    "cuboid": 1,
    "cylinder": math.pi / 4,
    "sphere": math.pi / 6,
    "lying_cylinder": math.pi / 4,
}


@dataclass(frozen=True)
class Block:
    """A block of a tower.

    Attributes:
        shape: A lying cylinder has its axis along its own x axis.
        size: Its sides along its own axes, in units: all equal for a sphere.
        position: Its centre.
        yaw: Rotation of its axes about z, in radians.
    """

    shape: Shape
    size: Vector
    position: Vector
    yaw: float

    @property
    def volume(self) -> float:
        """In cubic units. It is also the weight of a block, since all have the same density."""
        x, y, z = self.size
        return x * y * z * FULLNESS[self.shape]

    @property
    def bottom(self) -> float:
        """The height of its lowest point."""
        return self.position[2] - self.size[2] / 2

    @property
    def top(self) -> float:
        """The height of its highest point."""
        return self.position[2] + self.size[2] / 2

    @property
    def is_round(self) -> bool:
        """Whether it touches what is above and below it only in a point or a line."""
        return self.shape in ("sphere", "lying_cylinder")

    @property
    def reach(self) -> float:
        """The radius of the upright cylinder around its centre that contains it."""
        x, y, _ = self.size
        return math.hypot(x, y) / 2 if self.shape in ("cuboid", "lying_cylinder") else x / 2

    def margin(self, x: float, y: float) -> float:
        """How far inside its flat faces a point lies, seen from above, in units; negative outside."""
        dx, dy = x - self.position[0], y - self.position[1]
        if self.shape == "cylinder":
            return self.size[0] / 2 - math.hypot(dx, dy)
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return min(self.size[0] / 2 - abs(c * dx + s * dy), self.size[1] / 2 - abs(c * dy - s * dx))

    def corners(self) -> list[Vector]:
        """The eight corners of the cuboid around it with the same yaw."""
        x, y, z = self.position
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        halves = product(*((-size / 2, size / 2) for size in self.size))
        return [(x + c * a - s * b, y + s * a + c * b, z + h) for a, b, h in halves]

    def moved(self, by: Vector) -> "Block":
        """The same block elsewhere."""
        x, y, z = (p + d for p, d in zip(self.position, by, strict=True))
        return replace(self, position=(x, y, z))


Tower = tuple[Block, ...]  # from the floor upwards


class Verdict(NamedTuple):
    """What statics says about a tower.

    Attributes:
        stands: Whether it stands.
        margin: The smallest distance of a weight from the border of the faces it rests on; negative outside.
        touches: Whether every block starts at the height where the one below ends, and the first on the floor.
        round_inside: Whether a block below the top is round, which counts as not standing.
    """

    stands: bool
    margin: float
    touches: bool
    round_inside: bool


def judge(tower: Tower) -> Verdict:
    """Exact statics of a column with horizontal contacts.

    It stands if and only if at every contact the centre of the weight above lies inside both faces that touch. (From
    inside, the distance to the border of an intersection is the smaller of the two distances.)
    """
    below = [0.0, *(block.top for block in tower[:-1])]
    touches = all(abs(block.bottom - height) < TOUCHING for block, height in zip(tower, below, strict=True))
    round_inside = any(block.is_round for block in tower[:-1])
    margins = []
    for level, block in enumerate(tower):
        x, y = _centre_of_weight(tower[level:])
        if not block.is_round:  # a round top stands on a point, which must be on the face below
            margins.append(block.margin(x, y))
        if level:
            margins.append(tower[level - 1].margin(x, y))
    margin = min(margins, default=math.inf)
    return Verdict(touches and not round_inside and margin > 0, margin, touches, round_inside)


def _centre_of_weight(blocks: Sequence[Block]) -> tuple[float, float]:
    total = sum(block.volume for block in blocks)
    x, y = (sum(block.volume * block.position[axis] for block in blocks) / total for axis in range(2))
    return x, y


def draw_tower(rng: np.random.Generator, count: int) -> Tower:
    """Draw a tower that stands, with its lowest block at the origin.

    Every side is uniform in [0.5, 1]. The top block is a cuboid, a cylinder or a sphere, the others one of the first
    two. From the top down, each block is placed so that the centre of the weight above it lies within a quarter of its
    sides from its centre (ShapeStacks, Groth et al. 2018). A ball also lies at least 0.2 units from the edge.

    Args:
        rng: The random generator.
        count: How many blocks.
    """
    shapes = [SHAPES[rng.integers(2)] for _ in range(count - 1)] + [SHAPES[rng.integers(3)]]
    return _build(rng, [_draw_block(rng, shape) for shape in shapes])


def break_tower(rng: np.random.Generator, count: int, kind: Kind) -> tuple[Tower, int]:
    """Draw a tower that does not stand.

    Args:
        rng: The random generator.
        count: How many blocks, at least 2.
        kind: What is wrong with it: `gap`: a part of it hovers above the rest; `air`: a part of it hovers beside the
            rest; `beside`: its top block stands on the floor beside the rest; `unsupported`: the weight of a part
            lies 0.05 units outside the block below it; `round`: a block below the top is a sphere or a lying
            cylinder; `sunk`: a part of it has sunk into the block below.

    Returns:
        The tower, and the number of the first block of the part that is separated or wrong.
    """
    tower = draw_tower(rng, count)
    first = int(rng.integers(1, count))
    lower, upper = tower[first - 1], tower[first]
    if kind == "gap":
        return _shift(tower, first, (0, 0, rng.uniform(0.25, 1.2))), first
    if kind == "sunk":
        return _shift(tower, first, (0, 0, -rng.uniform(0.4, 0.7) * min(lower.size[2], upper.size[2]))), first
    if kind == "air":
        x, y = _beside(rng, tower[:first], lower, upper.reach + rng.uniform(0.05, 0.4))
        return _shift(tower, first, (x - upper.position[0], y - upper.position[1], 0)), first
    if kind == "beside":
        top = tower[-1]
        x, y = _beside(rng, tower[:-1], tower[0], top.reach + rng.uniform(0.25, 1.2))
        return (*tower[:-1], replace(top, position=(x, y, top.size[2] / 2))), count - 1
    blocks = list(tower)
    if kind == "round":
        shape: Shape = ("sphere", "lying_cylinder")[rng.integers(2)]
        blocks[first - 1] = _draw_block(rng, shape)
        return _build(rng, blocks), first
    return _build(rng, blocks, unsupported=first), first


def _draw_block(rng: np.random.Generator, shape: Shape) -> Block:
    a, b, c = (float(value) for value in rng.uniform(SMALLEST, LARGEST, 3))
    size = {"cuboid": (a, b, c), "cylinder": (a, a, c), "sphere": (a, a, a), "lying_cylinder": (c, a, a)}[shape]
    return Block(shape, size, (0.0, 0.0, 0.0), math.radians(int(rng.integers(360))))


def _build(rng: np.random.Generator, blocks: Sequence[Block], unsupported: int | None = None) -> Tower:
    """Stack blocks from the top down. The weight from block `unsupported` upwards misses the block below."""
    placed = [blocks[-1]]
    for level in range(len(blocks) - 2, -1, -1):
        block = blocks[level]
        x, y = _centre_of_weight(placed)
        if level + 1 == unsupported:
            dx, dy = _draw_outside(rng, block)
        else:
            ball_on_top = len(placed) == 1 and placed[0].shape == "sphere"
            dx, dy = _draw_inside(rng, block, BALL_ROOM if ball_on_top else 0)
        c, s = math.cos(block.yaw), math.sin(block.yaw)
        placed.insert(0, replace(block, position=(x - (c * dx - s * dy), y - (s * dx + c * dy), 0.0)))
    base_x, base_y, _ = placed[0].position
    tower, height = [], 0.0
    for block in placed:
        x, y, _ = block.position
        tower.append(replace(block, position=(x - base_x, y - base_y, height + block.size[2] / 2)))
        height += block.size[2]
    return tuple(tower)


def _draw_inside(rng: np.random.Generator, block: Block, room: float = 0) -> tuple[float, float]:
    """A place within a quarter of a block's sides from its centre, at least `room` from the edge of its face."""
    if block.shape == "sphere":
        return 0.0, 0.0
    while True:
        u, v = (float(value) for value in rng.uniform(-0.5, 0.5, 2))
        if block.shape == "lying_cylinder":
            return u * block.size[0] / 2, 0.0
        x, y = u * block.size[0] / 2, v * block.size[1] / 2
        if block.shape == "cylinder":
            fits = math.hypot(u, v) <= 0.5 and block.size[0] / 2 - math.hypot(x, y) >= room
        else:
            fits = min(block.size[0] / 2 - abs(x), block.size[1] / 2 - abs(y)) >= room
        if fits:
            return x, y


def _draw_outside(rng: np.random.Generator, block: Block) -> tuple[float, float]:
    dx, dy = _draw_inside(rng, block)
    if block.shape == "cylinder":
        angle = float(rng.uniform(0, 2 * math.pi))
        away = block.size[0] / 2 + OVERHANG
        return away * math.cos(angle), away * math.sin(angle)
    sign_x, sign_y = (float(2 * value - 1) for value in rng.integers(2, size=2))
    sides = int(rng.integers(3))  # beyond x, beyond y, beyond both
    if sides != 1:
        dx = sign_x * (block.size[0] / 2 + OVERHANG)
    if sides != 0:
        dy = sign_y * (block.size[1] / 2 + OVERHANG)
    return dx, dy


def _beside(rng: np.random.Generator, blocks: Tower, around: Block, away: float) -> tuple[float, float]:
    """A place this far outside the upright cylinder around the centre of a block that contains some blocks."""
    x, y, _ = around.position
    away += max(math.dist((x, y), block.position[:2]) + block.reach for block in blocks)
    angle = float(rng.uniform(0, 2 * math.pi))
    return x + away * math.cos(angle), y + away * math.sin(angle)


def _shift(tower: Tower, first: int, by: Vector) -> Tower:
    return tower[:first] + tuple(block.moved(by) for block in tower[first:])
