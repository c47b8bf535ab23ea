"""Convex solids for ray casting: where a ray enters, and which way the surface faces there.

Points and directions are float32 arrays [3, N], in the solid's own frame unless said otherwise. A ray's parameter t
is in units of the length of its direction, which need not be 1.
"""

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Vector = tuple[float, float, float]

TINY = 1e-7  # components of directions are kept this far from zero
NEVER = np.float32(np.inf)

CONE_SIDES = 32
GOLDEN = (1 + math.sqrt(5)) / 2


class Normals(NamedTuple):
    """Which way a surface faces at some points."""

    normals: Floats  # [3, N], of length 1
    faces: NDArray[np.int16]  # [N], the number of the flat or smooth face that each point is on


class Form(Protocol):
    """What a convex solid must have."""

    @property
    def reach(self) -> float:
        """The radius of a sphere around the origin that contains the solid."""

    def enter(self, origin: Floats, direction: Floats) -> Floats:
        """The t at which rays enter, [N]; infinite for rays that miss.

        Origins lie outside. One of the two may be [3, 1], the same for all rays.
        """

    def surface(self, points: Floats) -> Normals:
        """Which way the surface faces at points on it."""


@dataclass(frozen=True)
class Sphere:
    """All points within `radius` of the origin."""

    radius: float

    @property
    def reach(self) -> float:
        """See Form."""
        return self.radius

    def enter(self, origin: Floats, direction: Floats) -> Floats:
        """See Form."""
        return _positive(_interval(origin, direction, self.radius)[0])

    def surface(self, points: Floats) -> Normals:
        """See Form."""
        return Normals(points * (1 / self.radius), np.zeros(points.shape[1], dtype=np.int16))


@dataclass(frozen=True)
class Box:
    """|x|, |y|, |z| within the three half edges; `bevel` rounds the normals (not the form) this close to edges."""

    half: Vector
    bevel: float = 0

    @property
    def reach(self) -> float:
        """See Form."""
        return math.hypot(*self.half)

    def enter(self, origin: Floats, direction: Floats) -> Floats:
        """See Form."""
        inverse = 1 / _away_from_zero(direction)
        middle = -origin * inverse
        extent = np.abs(inverse) * np.array(self.half, dtype=np.float32)[:, None]
        first = (middle - extent).max(0)
        last = (middle + extent).min(0)
        return _positive(np.where(first <= last, first, NEVER))

    def surface(self, points: Floats) -> Normals:
        """See Form."""
        half = np.array(self.half, dtype=np.float32)[:, None]
        beyond = np.abs(points) - half
        axes = beyond.argmax(0)
        signs = np.where(points < 0, np.float32(-1), np.float32(1))
        columns = np.arange(points.shape[1])
        weights = np.zeros_like(points) if self.bevel == 0 else np.clip(1 + beyond / self.bevel, 0, 1)
        weights[axes, columns] = 1
        faces = 2 * axes + (signs[axes, columns] > 0)
        return Normals(_unit(weights * signs) if self.bevel else weights * signs, faces.astype(np.int16))


@dataclass(frozen=True)
class Cylinder:
    """Upright: x^2 + y^2 within radius^2, |z| within half_height; `bevel` as in Box."""

    radius: float
    half_height: float
    bevel: float = 0

    @property
    def reach(self) -> float:
        """See Form."""
        return math.hypot(self.radius, self.half_height)

    def enter(self, origin: Floats, direction: Floats) -> Floats:
        """See Form."""
        side_first, side_last = _interval(origin[:2], direction[:2], self.radius)
        inverse = 1 / _away_from_zero(direction[2])
        middle, extent = -origin[2] * inverse, np.abs(inverse) * self.half_height
        first = np.maximum(side_first, middle - extent)
        last = np.minimum(side_last, middle + extent)
        return _positive(np.where(first <= last, first, NEVER))

    def surface(self, points: Floats) -> Normals:
        """See Form."""
        across = np.sqrt(points[0] ** 2 + points[1] ** 2)
        beyond = np.stack([across - self.radius, np.abs(points[2]) - self.half_height])
        weights = np.clip(1 + beyond / self.bevel, 0, 1) if self.bevel else np.zeros_like(beyond)
        on_cap = beyond[1] > beyond[0]
        weights[on_cap.astype(np.intp), np.arange(points.shape[1])] = 1
        outward = weights[0] / np.maximum(across, TINY)
        up = np.where(points[2] < 0, np.float32(-1), np.float32(1))
        normals = np.stack([points[0] * outward, points[1] * outward, up * weights[1]])
        return Normals(_unit(normals), np.where(on_cap, 1 + (up > 0), 0).astype(np.int16))


@dataclass(frozen=True)
class Capsule:
    """All points within `radius` of the segment from -half_length to +half_length on the z axis."""

    radius: float
    half_length: float

    @property
    def reach(self) -> float:
        """See Form."""
        return self.radius + self.half_length

    def enter(self, origin: Floats, direction: Floats) -> Floats:
        """See Form."""
        side, _ = _interval(origin[:2], direction[:2], self.radius)
        with np.errstate(invalid="ignore"):  # infinity times zero
            height = origin[2] + side * direction[2]
            first = np.where(np.abs(height) <= self.half_length, side, NEVER)
        for end in (-self.half_length, self.half_length):
            shift = np.array([[0], [0], [end]], dtype=np.float32)
            first = np.minimum(first, _interval(origin - shift, direction, self.radius)[0])
        return _positive(first)

    def surface(self, points: Floats) -> Normals:
        """See Form."""
        normals = points.copy()
        normals[2] -= np.clip(points[2], -self.half_length, self.half_length)
        return Normals(_unit(normals), np.zeros(points.shape[1], dtype=np.int16))


@dataclass(frozen=True)
class Polyhedron:
    """All points p with planes[:, :3] p <= planes[:, 3] for every row. The normals have length 1."""

    planes: Floats = field(repr=False)  # [P, 4]
    reach: float
    smooth_cone: tuple[float, float] | None = None  # radius and height, if the sides stand for a round cone

    def enter(self, origin: Floats, direction: Floats) -> Floats:
        """See Form."""
        slope = _away_from_zero(_rows(self.planes, direction))  # [P, N]
        t = (self.planes[:, 3:] - _rows(self.planes, origin)) / slope
        first = np.where(slope < 0, t, -NEVER).max(0)
        last = np.where(slope > 0, t, NEVER).min(0)
        return _positive(np.where(first <= last, first, NEVER))

    def surface(self, points: Floats) -> Normals:
        """See Form."""
        faces = (_rows(self.planes, points) - self.planes[:, 3:]).argmax(0)
        normals = np.ascontiguousarray(self.planes[faces, :3].T)
        if self.smooth_cone is None:
            return Normals(normals, faces.astype(np.int16))
        radius, height = self.smooth_cone
        across = np.maximum(np.sqrt(points[0] ** 2 + points[1] ** 2), TINY)
        round_side = _unit(np.stack([points[0] / across, points[1] / across, np.full_like(across, radius / height)]))
        on_side = faces > 0  # the base is the first plane
        return Normals(np.where(on_side, round_side, normals), on_side.astype(np.int16))


def cone(radius: float, height: float) -> Polyhedron:
    """An upright cone about the z axis, from its base at -height / 2 to its tip at height / 2."""
    slope = math.hypot(radius, height)
    planes = [(0.0, 0.0, -1.0, height / 2)]
    for side in range(CONE_SIDES):
        angle = 2 * math.pi * side / CONE_SIDES
        normal = (math.cos(angle) * height / slope, math.sin(angle) * height / slope, radius / slope)
        planes.append((*normal, radius * height / slope / 2))  # through the tip (0, 0, height / 2)
    reach = math.hypot(radius / math.cos(math.pi / CONE_SIDES), height / 2)
    return Polyhedron(np.array(planes, dtype=np.float32), reach, (radius, height))


def icosahedron(radius: float) -> Polyhedron:
    """Twenty triangles with their corners on a sphere, and with one edge at the top and one at the bottom."""
    corners = [np.roll((0, a, b * GOLDEN), shift) for shift in range(3) for a in (-1, 1) for b in (-1, 1)]
    scale = radius / math.hypot(1, GOLDEN)
    # A face's normal is the sum of three neighbouring corners, at distance 2 from each other.
    normals = [
        np.sum(three, axis=0)
        for three in combinations(corners, 3)
        if all(abs(math.dist(p, q) - 2) < 1e-6 for p, q in combinations(three, 2))
    ]
    inner = scale * GOLDEN**2 / math.sqrt(3)
    planes = [(*(normal / math.hypot(*normal)), inner) for normal in normals]
    return Polyhedron(np.array(planes, dtype=np.float32), radius)


@dataclass(frozen=True)
class Solid:
    """A form somewhere in the world.

    Attributes:
        form: Its shape, about its own origin.
        position: Where its origin is.
        axes: Its x, y and z axis in the world, of length 1.
        entity: The entity that it is (or is part of).
    """

    form: Form
    position: Vector
    entity: int
    axes: tuple[Vector, Vector, Vector] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

    def to_local(self, points: Floats) -> Floats:
        """Points of the world in the solid's frame, [3, N]."""
        return self.turn(points - np.array(self.position, dtype=np.float32)[:, None])

    def turn(self, vectors: Floats) -> Floats:
        """Directions of the world in the solid's frame, [3, N]."""
        return _combine(self.axes, vectors)

    def turn_back(self, vectors: Floats) -> Floats:
        """Directions of the solid's frame in the world, [3, N]."""
        return _combine(tuple(zip(*self.axes, strict=True)), vectors)


def yawed(yaw: float) -> tuple[Vector, Vector, Vector]:
    """Axes turned about z by an angle in radians, counter-clockwise seen from above."""
    c, s = math.cos(yaw), math.sin(yaw)
    return (c, s, 0.0), (-s, c, 0.0), (0.0, 0.0, 1.0)


def _interval(origin: Floats, direction: Floats, radius: float) -> tuple[Floats, Floats]:
    """Where rays enter and leave a ball (or a disc, given two coordinates) about the origin."""
    a = np.maximum((direction * direction).sum(0), TINY**2)
    b = (origin * direction).sum(0)
    c = (origin * origin).sum(0) - radius * radius
    under_root = b * b - a * c
    hits = under_root >= 0
    root = np.sqrt(np.where(hits, under_root, np.float32(0)))
    return np.where(hits, (-b - root) / a, NEVER), np.where(hits, (-b + root) / a, -NEVER)


def _combine(rows: tuple[Vector, ...], vectors: Floats) -> Floats:
    """A matrix of three rows times vectors, [3, N], summed in a fixed order on every machine."""
    x, y, z = vectors
    products = np.empty(vectors.shape, dtype=np.float32)
    for product, (a, b, c) in zip(products, rows, strict=True):
        np.multiply(x, a, out=product)
        if b:
            product += b * y
        if c:
            product += c * z
    return products


def _rows(planes: Floats, vectors: Floats) -> Floats:
    """The first three columns of planes times vectors, [P, N], summed in a fixed order on every machine."""
    a, b, c = planes[:, 0, None], planes[:, 1, None], planes[:, 2, None]
    return a * vectors[0] + b * vectors[1] + c * vectors[2]


def _away_from_zero(values: Floats) -> Floats:
    return np.where(np.abs(values) < TINY, np.float32(TINY), values)


def _positive(t: Floats) -> Floats:
    return np.where(t > 0, t, NEVER)


def _unit(vectors: Floats) -> Floats:
    return vectors / np.sqrt((vectors * vectors).sum(0))


def power(base: Floats, exponent: int) -> Floats:
    """A whole power by multiplications alone, which round alike on every machine."""
    product = np.ones_like(base)
    while exponent:
        if exponent % 2:
            product = product * base
        base, exponent = base * base, exponent // 2
    return product
