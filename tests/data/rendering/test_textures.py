"""Textures repeat, are the same on every call, and are sampled at the resolution of a pixel."""

import numpy as np
import pytest

from pyro_sri.data.rendering.textures import FLOORS, LEVELS, SIDE, WALLS, floor, noise, texture, wall

ALL = [(FLOORS[number], floor(number), [1, number]) for number in range(6)]
ALL += [(WALLS[number], wall(number), [2, number]) for number in range(6)]
FINEST = 1 / SIDE


def sample(surface, x, y, footprint):
    x, y = np.broadcast_arrays(np.float32(x), np.float32(y))
    return surface.sample(x.ravel(), y.ravel(), np.full(x.size, footprint, dtype=np.float32))


def centres(side):
    """The middles of side x side texels, row by row: x and y."""
    y, x = np.divmod(np.arange(side * side), side)
    return (x + 0.5) / side, (y + 0.5) / side


def random_picture(seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (SIDE, SIDE, 3))


@pytest.mark.parametrize(("picture", "surface", "key"), ALL)
def test_textures_are_the_same_on_every_call(picture, surface, key):
    again = texture(picture(np.random.default_rng(key)))
    np.testing.assert_array_equal(again.texels, surface.texels)


def test_textures_differ_from_one_another():
    means = np.array([sample(surface, [0.5], [0.5], 1.0)[:, 0] for _, surface, _ in ALL])
    assert len(np.unique(np.round(means, 3), axis=0)) == len(ALL)


@pytest.mark.parametrize(("picture", "surface", "key"), ALL)
def test_values_are_shares(picture, surface, key):
    rng = np.random.default_rng(0)
    x, y, footprint = rng.uniform((-3, -3, 1e-4), (3, 3, 2), (5000, 3)).astype(np.float32).T
    colours = surface.sample(x, y, footprint)
    assert (colours.shape, colours.dtype) == ((3, 5000), np.float32)
    for values in (surface.texels, colours):
        assert values.min() >= 0
        assert values.max() <= 1.0001
    assert surface.texels.std() > 0.01


@pytest.mark.parametrize("level", range(LEVELS))
def test_textures_repeat(level):
    rng = np.random.default_rng(level)
    x, y = rng.integers(0, 1 << 12, (2, 500)) / (1 << 12)  # such that adding whole numbers is exact
    here = sample(floor(5), x, y, FINEST * 2**level)
    for right, down in ((1, 0), (0, 1), (-2, 3)):
        np.testing.assert_array_equal(sample(floor(5), x + right, y + down, FINEST * 2**level), here)


@pytest.mark.parametrize(("cells_down", "cells_across", "octaves"), [(6, 6, 4), (96, 6, 3), (5, 5, 4), (64, 64, 1)])
def test_noise_has_no_seams(cells_down, cells_across, octaves):
    values = noise(np.random.default_rng(0), cells_down, cells_across, octaves)
    assert np.abs(values).max() <= 1
    for axis in (0, 1):
        inside = np.abs(np.diff(values, axis=axis))
        seam = np.abs(values.take(0, axis) - values.take(-1, axis))
        assert seam.max() <= inside.max() * 1.01
        assert seam.mean() < 2 * inside.mean()
    assert values.std() > 0.1


def test_the_finest_level_at_the_middles_of_texels_is_the_picture():
    picture = random_picture()
    colours = sample(texture(picture), *centres(SIDE), FINEST)
    np.testing.assert_allclose(colours.T.reshape(SIDE, SIDE, 3), picture, atol=1e-6)


@pytest.mark.parametrize("level", [1, 4, LEVELS - 1])
def test_coarser_levels_are_means_of_squares(level):
    picture, side = random_picture(), SIDE >> level
    colours = sample(texture(picture), *centres(side), FINEST * 2**level)
    squares = picture.reshape(side, 1 << level, side, 1 << level, 3)
    np.testing.assert_allclose(colours.T.reshape(side, side, 3), squares.mean((1, 3)), atol=1e-5)


@pytest.mark.parametrize("footprint", [0.8, 1.0, 50.0])
def test_a_pixel_that_shows_all_of_a_texture_has_its_mean_colour(footprint):
    picture = random_picture()
    colours = sample(texture(picture), [0.1, 0.77], [0.9, 0.3], footprint)
    np.testing.assert_allclose(colours.T, [picture.mean((0, 1))] * 2, atol=1e-5)


def test_between_texels_the_colour_is_a_mixture():
    picture = random_picture()
    a, b, c, d = picture[10, 20], picture[10, 21], picture[11, 20], picture[11, 21]
    x, y = np.array([21, 20.75, 21.0]) / SIDE, np.array([10.5, 10.5, 11]) / SIDE
    expected = [(a + b) / 2, 0.75 * a + 0.25 * b, (a + b + c + d) / 4]
    np.testing.assert_allclose(sample(texture(picture), x, y, FINEST).T, expected, atol=1e-4)


def test_a_texel_of_the_chosen_level_is_as_large_as_a_pixel_to_half_an_octave():
    flat = texture(np.zeros((SIDE, SIDE, 3)))
    starts = np.cumsum([0] + [(SIDE >> level) ** 2 for level in range(LEVELS)])
    for level in range(LEVELS):
        flat.texels[starts[level] : starts[level + 1]] = level
    footprint = np.float32([1e-6, 1, 1.41, 1.42, 2, 2.82, 2.84, 4, 90, 91, 128, 256, 1000]) / SIDE
    middle = np.full(len(footprint), 0.5, dtype=np.float32)
    assert flat.sample(middle, middle, footprint)[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 6, 7, 7, 8, 8]
