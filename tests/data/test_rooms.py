"""Rooms: variants, places and colours of objects, and what they stand on."""

import math

import numpy as np
import pytest

from pyro_sri.data.generators import GENERATORS
from pyro_sri.data.generators import rooms as rooms_module
from pyro_sri.data.generators.rooms import (
    FACTOR_NAMES,
    FIRST_OBJECT,
    FLOOR,
    HALF_ROOM,
    SHAPES,
    SKY,
    WALL_HEIGHT,
    WALL_X,
    WALL_Y,
    Object,
    Walls,
    _parts,
)
from pyro_sri.system.errors import UserError

COLUMN = {name: place for place, name in enumerate(FACTOR_NAMES)}


def draw(num, size=64, seed=0, **options):
    family = GENERATORS["rooms"]
    rngs = [np.random.default_rng([seed, scene]) for scene in range(num)]
    return family.make(rngs, size, family.parse_options(options), "train")


@pytest.fixture(scope="module")
def rooms():
    return draw(200)


def objects_of(drawn):
    """The factors of the objects of each scene."""
    return [rows[FIRST_OBJECT:][rows[FIRST_OBJECT:, COLUMN["shape"]] > 0] for rows in drawn.factors]


@pytest.mark.parametrize(
    ("variant", "num", "counts"),
    [("train", 60, {1, 2, 3}), ("empty_room", 10, {0}), ("six_objects", 12, {6}), ("identical_color", 30, {4, 5, 6})],
)
def test_variants_have_their_numbers_of_objects(variant, num, counts):
    drawn = draw(num, 32, variant=variant)
    assert drawn.factors.shape == (num, FIRST_OBJECT + max(counts), len(FACTOR_NAMES))
    assert {len(objects) for objects in objects_of(drawn)} == counts
    assert {len(set(np.unique(entities)) - set(range(4))) for entities in drawn.entities} == counts


def test_numbers_of_objects_are_even(rooms):
    counts = np.bincount([len(objects) for objects in objects_of(rooms)])
    np.testing.assert_allclose(counts[1:] / 200, 1 / 3, atol=0.1)


def test_an_unknown_variant_is_refused_in_one_line():
    with pytest.raises(UserError) as caught:
        GENERATORS["rooms"].parse_options({"variant": "seven_objects"})
    assert "\n" not in str(caught.value)
    assert "'seven_objects'; use one of train, empty_room, six_objects, identical_color" in str(caught.value)


def test_objects_have_one_colour_in_identical_color_alone(rooms):
    for objects in objects_of(draw(15, 32, variant="identical_color")):
        assert len(np.unique(objects[:, 2:5], axis=0)) == 1
    for objects in objects_of(rooms):
        assert len(np.unique(objects[:, 2:5], axis=0)) == len(objects)


def test_sky_floor_and_walls_are_background(rooms):
    assert GENERATORS["rooms"].background_entities == (SKY, FLOOR, WALL_Y, WALL_X) == (0, 1, 2, 3)
    assert (rooms.factors[:, :FIRST_OBJECT, COLUMN["shape"] : COLUMN["red"]] == 0).all()
    assert (rooms.factors[:, :FIRST_OBJECT, COLUMN["x"] :] == 0).all()
    for entities in rooms.entities:
        # The sky is above all background, the floor below all of it, and walls in between.
        for column in entities.T:
            background = [{SKY: 0, FLOOR: 2}.get(entity, 1) for entity in column if entity < FIRST_OBJECT]
            assert background == sorted(background)
    shown = (rooms.factors[:, :FIRST_OBJECT, 0] > 0).mean(0)
    assert shown[[SKY, FLOOR]].min() == 1
    assert (shown[[WALL_Y, WALL_X]] > 0.6).all()


def test_the_sky_has_the_colour_of_its_factors_and_things_about_theirs(rooms):
    looked_at = 0
    for image, entities, rows in zip(rooms.images, rooms.entities, rooms.factors, strict=True):
        for entity in np.flatnonzero(rows[:, 0]):
            inside = entities == entity
            for axis in (0, 1):  # pixels on edges are mixtures
                inside &= np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
            if not inside.any():
                continue
            colour, pixels = rows[entity, 2:5] * 255, image[inside]
            if entity == SKY:
                np.testing.assert_allclose(pixels, np.broadcast_to(colour, pixels.shape), atol=0.51)
            elif pixels.max() < 255:  # cut off at white, a colour changes
                looked_at += 1
                strongest = colour.argmax()
                brightness = pixels[:, strongest] / colour[strongest]
                np.testing.assert_allclose(pixels, brightness[:, None] * colour, atol=1.1)
    assert looked_at > 500


@pytest.mark.parametrize("variant", ["train", "six_objects"])
def test_objects_are_inside_the_room_and_apart(rooms, variant):
    drawn = rooms if variant == "train" else draw(12, 32, variant=variant)
    for objects in objects_of(drawn):
        x, y, sizes = (objects[:, COLUMN[name]] for name in ("x", "y", "size"))
        assert (np.maximum(np.abs(x), np.abs(y)) + sizes <= HALF_ROOM - 0.15 + 1e-5).all()
        assert 0.28 <= sizes.min(initial=1) <= sizes.max(initial=0) <= 0.5
        apart = np.hypot(x[:, None] - x, y[:, None] - y) - sizes[:, None] - sizes
        assert (apart[~np.eye(len(objects), dtype=bool)] >= 0.12 - 1e-5).all()


def test_every_shape_occurs(rooms):
    shapes = np.concatenate([objects[:, COLUMN["shape"]] for objects in objects_of(rooms)]).astype(int)
    assert np.bincount(shapes, minlength=1 + len(SHAPES))[1:].min() > 0.5 * len(shapes) / len(SHAPES)


@pytest.mark.parametrize(("size", "least"), [(32, 2), (64, 8), (128, 32)])
@pytest.mark.parametrize("strict", [1, 5])
def test_every_object_shows_its_share_of_pixels(monkeypatch, size, least, strict):
    """Few drawn objects show less; five times as many pixels are asked for to see that it is looked at."""
    monkeypatch.setattr(rooms_module, "MIN_VISIBLE_PIXELS", strict * rooms_module.MIN_VISIBLE_PIXELS)
    for variant, num in (("train", 20), ("six_objects", 4)):
        drawn = draw(num, size, seed=1, variant=variant)
        for entities, objects in zip(drawn.entities, objects_of(drawn), strict=True):
            pixels = np.bincount(entities.ravel(), minlength=10)[FIRST_OBJECT:]
            assert (pixels[: len(objects)] >= strict * least).all()
            assert (pixels[len(objects) :] == 0).all()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("yaw", [0.0, 1.1])
def test_objects_rest_on_the_floor_within_their_tube(name, yaw):
    size = 0.4
    parts = _parts(Object(SHAPES.index(name), 1.0, -2.0, size, yaw), 5)
    assert {part.entity for part in parts} == {5}
    grid = np.linspace(-1.1 * size, 1.1 * size, 301)
    x, y = (values.ravel() for values in np.meshgrid(grid, grid))
    start = np.stack([1 + x, -2 + y, np.full_like(x, -3)]).astype(np.float32)
    up = np.float32([[0], [0], [1]])
    heights = np.min([part.form.enter(part.to_local(start), part.turn(up)) for part in parts], axis=0) - 3
    assert heights.min() == pytest.approx(0, abs=2e-4)
    beyond = np.hypot(x, y) > size * 1.005  # a cone has straight sides, wider by half a percent
    assert np.isinf(heights[beyond]).all()
    assert np.isfinite(heights).any()


def test_the_height_told_is_that_of_the_middle():
    heights = {name: set() for name in SHAPES}
    for objects in objects_of(draw(60, 32, seed=2)):
        for row in objects:
            heights[SHAPES[int(row[COLUMN["shape"]]) - 1]].add(round(float(row[COLUMN["z"]] / row[COLUMN["size"]]), 4))
    below = (1 + math.sqrt(5)) / math.sqrt(2 * (5 + math.sqrt(5)))  # an icosahedron's middle above its lowest edge
    expected = {"sphere": 1, "box": math.sqrt(0.5), "cylinder": 1, "capsule": 1.3, "cone": 0.9, "icosahedron": below}
    expected["ring"] = 0.87 / 2 + 0.13
    assert heights == {name: {round(height, 4)} for name, height in expected.items()}


def test_rays_meet_the_walls_of_the_room():
    rng = np.random.default_rng(0)
    origin = np.float32([[1.5], [-2.0], [1.0]])
    rays = rng.normal(size=(3, 4000)).astype(np.float32)
    rays[:, :6] = np.float32([(0, -1, 0), (0, 1, 0), (-1, 0, 0), (1, 0, 0), (0, 0, 1), (0, 0, -1)]).T
    rays[:, 6:12] = -0.0 + rays[:, :6]
    t, parts = Walls().meet(origin, rays)
    assert parts[:6].tolist() == parts[6:12].tolist() == [2, 3, 4, 5, 0, 1]
    entities = Walls.entity_of_part[parts]
    assert (np.isinf(t) == (entities == SKY)).all()
    met = np.isfinite(t)
    x, y, z = (origin + np.where(met, t, 0) * rays).astype(float)
    np.testing.assert_allclose(z[entities == FLOOR], 0, atol=1e-5)
    np.testing.assert_allclose(np.abs(x[entities == WALL_X]), HALF_ROOM, atol=1e-5)
    np.testing.assert_allclose(np.abs(y[entities == WALL_Y]), HALF_ROOM, atol=1e-5)
    assert np.maximum(np.abs(x), np.abs(y))[met].max() < HALF_ROOM + 1e-5
    assert z[met].min() > -1e-5
    assert z[met].max() < WALL_HEIGHT + 1e-5
    facing = (rays.T * Walls.part_normals[parts]).sum(1)
    assert (facing[met] < 0).all()
    # Rays into the sky are higher than the walls where they pass them.
    with np.errstate(divide="ignore"):
        leave = np.min([(np.copysign(HALF_ROOM, rays[axis]) - origin[axis]) / rays[axis] for axis in (0, 1)], axis=0)
    over = ~met & np.isfinite(leave)
    assert (origin[2] + leave[over] * rays[2, over] > WALL_HEIGHT - 1e-5).all()
