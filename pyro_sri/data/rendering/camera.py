"""A pinhole camera."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.rendering.solids import Floats, Vector


@dataclass(frozen=True)
class Camera:
    """Looks along its negative z axis, with y up in the picture.

    Attributes:
        position: Its position.
        axes: Its x, y and z axis in the world, of length 1.
        window: The part of the plane at distance 1 that the picture shows: left, right, bottom, top.
    """

    position: Vector
    axes: tuple[Vector, Vector, Vector]
    window: tuple[float, float, float, float]

    def centres(self, size: int) -> tuple[Floats, Floats]:
        """The centres of size x size pixels on the plane at distance 1, row by row: u and v, [size^2]."""
        left, right, bottom, top = self.window
        steps = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
        u, v = np.meshgrid(left + (right - left) * steps, top + (bottom - top) * steps)
        return u.ravel(), v.ravel()

    def within(self, size: int, pixels: NDArray[np.intp], samples: int) -> tuple[Floats, Floats]:
        """The centres of samples x samples equal parts of some pixels: u and v, [P, samples^2]."""
        left, right, bottom, top = self.window
        parts = (np.arange(samples, dtype=np.float32) + np.float32(0.5)) / np.float32(samples)
        down, across = (part.ravel() for part in np.meshgrid(parts, parts, indexing="ij"))
        rows, columns = np.divmod(pixels, size)
        u = left + (right - left) / size * (columns[:, None].astype(np.float32) + across)
        v = top + (bottom - top) / size * (rows[:, None].astype(np.float32) + down)
        return u, v

    def rays(self, u: Floats, v: Floats) -> Floats:
        """The directions through points of the plane at distance 1, [3, N]; t along them is depth."""
        x, y, z = self.axes
        return np.stack([u * x[i] + v * y[i] - z[i] for i in range(3)])

    def project(self, point: Vector) -> tuple[float, float, float]:
        """Where a point of the world appears on the plane at distance 1, u and v, and its depth."""
        away = [p - c for p, c in zip(point, self.position, strict=True)]
        x, y, z = (sum(a * b for a, b in zip(axis, away, strict=True)) for axis in self.axes)
        return x / -z, y / -z, -z


def look_at(position: Vector, target: Vector) -> tuple[Vector, Vector, Vector]:
    """The axes of a camera that looks from one point to another, upright."""
    back = [p - t for p, t in zip(position, target, strict=True)]
    length = math.hypot(*back)
    z = (back[0] / length, back[1] / length, back[2] / length)
    flat = math.hypot(z[0], z[1])
    x = (-z[1] / flat, z[0] / flat, 0.0)
    y = (-z[2] * x[1], z[2] * x[0], z[0] * x[1] - z[1] * x[0])
    return x, y, z


def square_window(field_of_view: float, share: float = 1) -> tuple[float, float, float, float]:
    """The window of a square picture that shows the central share of a vertical field of view in degrees."""
    half = math.tan(math.radians(field_of_view) / 2) * share
    return -half, half, -half, half
