"""Procedural textures: tileable pictures of floors and walls made of value noise, sampled with mip maps."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.rendering.solids import Floats

SIDE = 256  # texels
LEVELS = 9  # 256, 128, .. 1

Picture = NDArray[np.float64]  # [SIDE, SIDE, 3] or [SIDE, SIDE], in [0, 1]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Texture:
    """A picture at every resolution, repeated endlessly.

    Attributes:
        texels: All levels one after the other, row by row, [texels, 3] in [0, 1].
    """

    texels: Floats

    def sample(self, x: Floats, y: Floats, footprint: Floats) -> Floats:
        """The colour at some places, bilinear within the level whose texels are as large as a pixel.

        Args:
            x: Place in units of the picture's side, [N].
            y: Likewise, downwards, [N].
            footprint: Side of a pixel in the same units, [N].

        Returns:
            [3, N] in [0, 1].
        """
        level = np.searchsorted(_LARGEST_FOOTPRINTS, footprint)
        side = _SIDES[level]
        columns, rows = x * side - np.float32(0.5), y * side - np.float32(0.5)
        left, top = np.floor(columns), np.floor(rows)
        across, down = columns - left, rows - top
        left, top = left.astype(np.intp) % side, top.astype(np.intp) % side
        right, bottom = (left + 1) % side, (top + 1) % side
        top, bottom = _STARTS[level] + top * side, _STARTS[level] + bottom * side
        corners = (
            (top + left, (1 - across) * (1 - down)),
            (top + right, across * (1 - down)),
            (bottom + left, (1 - across) * down),
            (bottom + right, across * down),
        )
        colour = np.zeros((len(x), 3), dtype=np.float32)
        for place, weight in corners:
            colour += self.texels[place] * weight[:, None].astype(np.float32)
        return colour.T


_SIDES = np.array([SIDE >> level for level in range(LEVELS)])
_LARGEST_FOOTPRINTS = (math.sqrt(2) / _SIDES[:-1]).astype(np.float32)  # half an octave more than a texel
_STARTS = np.concatenate([[0], np.cumsum(_SIDES**2)[:-1]])


def texture(picture: Picture) -> Texture:
    """A texture from a picture [SIDE, SIDE, 3] in [0, 1]."""
    levels = [np.clip(picture, 0, 1)]
    while len(levels) < LEVELS:
        fine = levels[-1]
        levels.append(fine.reshape(len(fine) // 2, 2, len(fine) // 2, 2, 3).mean((1, 3)))
    return Texture(np.concatenate([level.reshape(-1, 3) for level in levels]).astype(np.float32))


def noise(rng: np.random.Generator, cells_down: int, cells_across: int, octaves: int = 4) -> Picture:
    """Value noise that repeats: random values on a grid, smoothly joined, each octave twice as fine and half as strong.

    Args:
        rng: Draws the values.
        cells_down: Rows of the coarsest grid.
        cells_across: Its columns.
        octaves: How many grids are added.

    Returns:
        [SIDE, SIDE] in about [-1, 1].
    """
    total = np.zeros((SIDE, SIDE))
    for octave in range(octaves):
        down, across = min(SIDE, cells_down << octave), min(SIDE, cells_across << octave)
        values = rng.uniform(-1, 1, (down, across))
        (top, bottom, v), (left, right, u) = _joints(down), _joints(across)
        upper = values[top][:, left] * (1 - u) + values[top][:, right] * u
        lower = values[bottom][:, left] * (1 - u) + values[bottom][:, right] * u
        total += (upper * (1 - v[:, None]) + lower * v[:, None]) * 0.5**octave
    return total / (2 - 0.5 ** (octaves - 1))


def _joints(cells: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    place = (np.arange(SIDE) + 0.5) * cells / SIDE
    before = np.floor(place).astype(np.intp)
    share = place - before
    return before % cells, (before + 1) % cells, share * share * (3 - 2 * share)


def _grid() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.divmod(np.arange(SIDE * SIDE).reshape(SIDE, SIDE), SIDE)


def _tint(values: Picture, dark: Colour, light: Colour) -> Picture:
    """From dark at values -1 to light at 1."""
    share = np.clip(values / 2 + 0.5, 0, 1)[..., None]
    return np.array(dark) * (1 - share) + np.array(light) * share


def _joined(picture: Picture, joint: NDArray[np.bool_], colour: Colour) -> Picture:
    return np.where(joint[..., None], np.array(colour), picture)


def chipboard(rng: np.random.Generator) -> Picture:
    """Pressed flakes of wood."""
    flakes = noise(rng, 40, 26, 2) + 0.7 * noise(rng, 14, 22, 3)
    return _tint(1.5 * flakes, (0.42, 0.28, 0.14), (0.93, 0.78, 0.56))


def tiles(rng: np.random.Generator) -> Picture:
    """Large pale tiles with light joints."""
    y, x = _grid()
    joint = (y % 64 < 2) | (x % 64 < 2)
    return _joined(_tint(noise(rng, 6, 6), (0.64, 0.65, 0.66), (0.80, 0.80, 0.80)), joint, (0.93, 0.93, 0.93))


def mosaic(rng: np.random.Generator) -> Picture:
    """Squares of blue, white and dark glass."""
    y, x = _grid()
    glass = np.array(
        [(0.10, 0.14, 0.22), (0.16, 0.27, 0.47), (0.50, 0.72, 0.84), (0.93, 0.95, 0.95), (0.30, 0.42, 0.55)]
    )
    squares = glass[rng.integers(len(glass), size=(8, 8))][y // 32, x // 32]
    joint = (y % 32 < 1) | (x % 32 < 1)
    return _joined(squares * (1 + 0.12 * noise(rng, 32, 32, 2))[..., None], joint, (0.55, 0.56, 0.58))


def carpet(rng: np.random.Generator) -> Picture:
    """Short dusky pink pile."""
    return _tint(1.3 * noise(rng, 64, 64, 2) + 0.5 * noise(rng, 5, 5), (0.46, 0.33, 0.34), (0.84, 0.68, 0.68))


def planks(rng: np.random.Generator) -> Picture:
    """Long boards of pale wood."""
    y, x = _grid()
    row = y // 32
    start = rng.integers(0, SIDE, 8)
    board = ((x + start[row[:, 0]][:, None]) % SIDE) // 128
    shade = rng.uniform(-0.8, 0.8, (8, 2))[row, board]
    grain = noise(rng, 96, 6, 3)
    joint = (y % 32 < 1) | ((x + start[row[:, 0]][:, None]) % 128 < 1)
    return _joined(_tint(shade + 0.6 * grain, (0.70, 0.49, 0.25), (0.97, 0.80, 0.52)), joint, (0.42, 0.28, 0.14))


def parquet(rng: np.random.Generator) -> Picture:
    """Squares of four short staves, alternately turned."""
    y, x = _grid()
    turned = (y // 64 + x // 64) % 2 == 1
    along, across = np.where(turned, y, x), np.where(turned, x, y)
    stave = across // 16
    shade = rng.uniform(-0.9, 0.9, (16, 4, 4))[stave, y // 64, x // 64]
    fibres = noise(rng, 128, 8, 2)
    grain = np.where(turned, fibres.T, fibres)
    joint = (across % 16 < 1) | (along % 64 < 1)
    return _joined(_tint(shade + 0.5 * grain, (0.34, 0.17, 0.08), (0.66, 0.38, 0.19)), joint, (0.18, 0.09, 0.04))


def dark(picture: Callable[[np.random.Generator], Picture], share: float) -> Callable[[np.random.Generator], Picture]:
    """The same picture with this share of its light."""
    return lambda rng: picture(rng) * share


def zigzag(rng: np.random.Generator) -> Picture:
    """Woven stripes that turn back and forth."""
    y, x = _grid()
    stripe = (y + np.abs(x % 64 - 32)) % 32 < 16
    light, shade = np.array((0.33, 0.31, 0.28)), np.array((0.15, 0.14, 0.14))
    return np.where(stripe[..., None], light, shade) * (1 + 0.25 * noise(rng, 64, 64, 2))[..., None]


def plaster(rng: np.random.Generator) -> Picture:
    """Grey plaster."""
    return _tint(0.8 * noise(rng, 6, 6, 5) + 0.4 * noise(rng, 64, 64, 1), (0.24, 0.24, 0.25), (0.46, 0.46, 0.46))


def bricks(rng: np.random.Generator) -> Picture:
    """Rows of dark bricks."""
    y, x = _grid()
    row = y // 16
    shifted = (x + 16 * (row % 2)) % SIDE
    shade = rng.uniform(-0.8, 0.8, (16, 8))[row, shifted // 32]
    joint = (y % 16 < 2) | (shifted % 32 < 2)
    return _joined(
        _tint(shade + 0.4 * noise(rng, 64, 64, 2), (0.13, 0.11, 0.11), (0.36, 0.28, 0.24)), joint, (0.10, 0.10, 0.10)
    )


FLOORS = (chipboard, tiles, mosaic, carpet, planks, parquet)
WALLS = (dark(chipboard, 0.5), dark(tiles, 0.45), dark(mosaic, 0.5), zigzag, plaster, bricks)


@lru_cache
def floor(number: int) -> Texture:
    """Texture number 0..5 of floors; the same on every call."""
    return texture(FLOORS[number](np.random.default_rng([1, number])))


@lru_cache
def wall(number: int) -> Texture:
    """Texture number 0..5 of walls; the same on every call."""
    return texture(WALLS[number](np.random.default_rng([2, number])))
