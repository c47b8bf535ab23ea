"""CLEVR scenes: the published constraints, what objects are like, and how light becomes pixels."""

import math
from itertools import combinations

import numpy as np
import pytest

from pyro_sri.data.generators import GENERATORS
from pyro_sri.data.generators.clevr import (
    COLOURS,
    FACTOR_NAMES,
    LAMPS,
    MATERIALS,
    SHAPES,
    ClevrScene,
    Ground,
    Object,
    _all_visible,
    _draw,
    _srgb,
)
from pyro_sri.data.rendering.casting import render
from pyro_sri.data.rendering.solids import NEVER
from pyro_sri.system.errors import UserError

COLUMN = {name: place for place, name in enumerate(FACTOR_NAMES)}


def draw(name, num, size, seed=0, **options):
    family = GENERATORS[name]
    rngs = [np.random.default_rng([seed, scene]) for scene in range(num)]
    return family.make(rngs, size, family.parse_options(options), "train")


@pytest.fixture(scope="module")
def stages():
    """Scenes as drawn, before any is drawn again for what it hides."""
    return [_draw(np.random.default_rng(seed), 1 + seed % 10) for seed in range(150)]


@pytest.fixture(scope="module")
def scenes():
    return draw("clevr", 40, 64)


def objects_of(drawn):
    return [rows[1:][rows[1:, 0] > 0] for rows in drawn.factors]


def test_objects_keep_their_distance(stages):
    for number, stage in enumerate(stages):
        assert len(stage.objects) == 1 + number % 10
        for one, other in combinations(stage.objects, 2):
            assert math.hypot(one.x - other.x, one.y - other.y) - one.radius - other.radius >= 0.25
        assert max(max(abs(thing.x), abs(thing.y)) for thing in stage.objects) <= 3


def test_objects_lie_clearly_left_or_right_and_in_front_or_behind_each_other(stages):
    nearest = []
    for stage in stages:
        eye = np.array(stage.camera.position)
        behind = -eye[:2] / np.linalg.norm(eye[:2])  # the camera looks at the middle of the floor
        right = np.array([behind[1], -behind[0]])
        for one, other in combinations(stage.objects, 2):
            apart = np.array([one.x - other.x, one.y - other.y])
            nearest += [abs(apart @ behind), abs(apart @ right)]
    assert 0.4 - 1e-9 <= min(nearest) < 0.42


def test_shapes_sizes_materials_and_colours_occur_evenly(stages):
    objects = [thing for stage in stages for thing in stage.objects]
    for values, num in (
        ([thing.shape for thing in objects], 3),
        ([thing.material for thing in objects], 2),
        ([thing.colour for thing in objects], 8),
    ):
        np.testing.assert_allclose(np.bincount(values) / len(objects), 1 / num, atol=0.05)
    sizes, counts = np.unique([thing.radius for thing in objects], return_counts=True)
    assert sizes.tolist() == [0.35, 0.7]
    assert counts[1] / len(objects) == pytest.approx(0.47, abs=0.07)  # large ones find a place less often


def whole_picture(stage):
    """The entity that each ray of the published 240 x 320 meets, by a lens of 35 mm before a sensor 32 mm wide."""
    rows, columns = np.divmod(np.arange(240 * 320), 320)
    u, v = (columns + 0.5 - 160) * 32 / 320 / 35, (120 - rows - 0.5) * 32 / 320 / 35
    return stage.entities(stage.look(stage.camera.rays(u.astype(np.float32), v.astype(np.float32))))


def test_every_object_shows_200_pixels_of_the_whole_picture(stages):
    accepted = 0
    for stage in stages:
        pixels = np.bincount(whole_picture(stage), minlength=1 + len(stage.objects))[1:]
        if _all_visible(stage):  # judged by one ray of sixteen
            accepted += 1
            assert pixels.min() >= 150
        else:
            assert pixels.min() < 260
    assert 60 < accepted < 150


def test_pictures_are_the_published_crop():
    """Rows 29 to 221 and columns 64 to 256 of 240 x 320, each pixel of which is one of a picture of side 192."""
    stage = _draw(np.random.default_rng(3), 6)
    cropped = whole_picture(stage).reshape(240, 320)[29:221, 64:256]
    hits = stage.look(stage.camera.rays(*stage.camera.centres(192)))
    assert (stage.entities(hits).reshape(192, 192) != cropped).mean() < 0.001


@pytest.mark.parametrize(("name", "few", "many"), [("clevr6", 3, 6), ("clevr", 3, 10)])
def test_families_have_their_numbers_of_objects(name, few, many):
    family = GENERATORS[name]
    assert family.max_entities == 1 + many
    assert (family.options().min_objects, family.options().max_objects) == (few, many)
    drawn = draw(name, 30, 32)
    assert drawn.factors.shape[1] == 1 + many
    counts = [len(objects) for objects in objects_of(drawn)]
    assert max(counts) <= many
    assert max(counts) >= many - 1
    alone = objects_of(draw(name, 10, 32, min_objects=1, max_objects=1))
    assert all(len(objects) <= 1 for objects in alone)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("clevr", {"max_objects": 11}, ["3 to 11 objects", "1 to 10"]),
        ("clevr", {"min_objects": 0}, ["0 to 10", "1 to 10"]),
        ("clevr6", {"min_objects": 7}, ["7 to 6", "in order"]),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(name, options, words):
    with pytest.raises(UserError) as caught:
        GENERATORS[name].parse_options(options)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words)


def test_factors_tell_what_is_there(scenes):
    for objects in objects_of(scenes):
        assert set(objects[:, COLUMN["shape"]]) <= {1, 2, 3}
        assert set(objects[:, COLUMN["material"]]) <= {1, 2}
        colours = objects[:, COLUMN["colour"]].astype(int)
        np.testing.assert_array_equal(objects[:, COLUMN["red"] : COLUMN["blue"] + 1], COLOURS[colours - 1])
        sizes, cube = objects[:, COLUMN["size"]], objects[:, COLUMN["shape"]] == 1
        np.testing.assert_allclose(objects[:, COLUMN["z"]], np.where(cube, sizes / math.sqrt(2), sizes), rtol=1e-6)
        assert (objects[:, COLUMN["depth"]] > 4).all()
        assert (objects[:, COLUMN["rotation"]] < 2 * math.pi).all()


def test_nearer_objects_hide_farther_ones_and_lie_lower(scenes):
    for entities, rows in zip(scenes.entities, scenes.factors, strict=True):
        whole = [entity for entity in np.flatnonzero(rows[1:, 0]) + 1 if not at_border(entities == entity)]
        bottoms = {entity: np.nonzero(entities == entity)[0].max() for entity in whole}
        for one, other in combinations(whole, 2):
            if rows[one, COLUMN["depth"]] < rows[other, COLUMN["depth"]] - 1.5:
                assert bottoms[one] > bottoms[other]


def at_border(inside):
    return inside[[0, -1]].any() or inside[:, [0, -1]].any()


def test_the_mean_brightness_is_that_of_a_grey_floor(scenes):
    means = scenes.images.mean((1, 2, 3))
    assert 90 < means.mean() < 140
    assert means.min() > 70
    assert means.max() < 170
    floor = scenes.images[scenes.entities == 0].astype(float)
    assert np.ptp(floor, axis=1).mean() < 8


def picture_of(*things):
    """The light of a scene of some objects, and the entity of each pixel."""
    stage = _draw(np.random.default_rng(0), 1)
    solids = tuple(thing.solid(entity) for entity, thing in enumerate(things, start=1))
    return render(ClevrScene(tuple(things), solids, stage.camera, LAMPS), 64)


@pytest.mark.parametrize("shape", SHAPES)
def test_metal_shines_and_rubber_does_not(shape):
    pixels = {}
    for number, material in enumerate(MATERIALS):
        light, entities = picture_of(Object(SHAPES.index(shape), number, 1, 0.7, 0.0, 0.0, 0.4))
        pixels[material] = light[entities == 1]
    assert len(pixels["rubber"]) == len(pixels["metal"]) > 100
    spread = {material: seen.mean(1).std() / seen.mean() for material, seen in pixels.items()}
    assert spread["metal"] > 1.4 * spread["rubber"]
    if shape == "sphere":  # in which some point always mirrors the lamp
        assert pixels["metal"].max() > 2 * pixels["rubber"].max()
    for seen in pixels.values():  # both look red
        assert (seen[:, 0] > seen[:, 1:].max(1)).mean() > 0.9


def test_metal_mirrors_rubber_and_metal_beside_it():
    """A ball of grey metal shows some blue once a blue ball is beside it."""
    grey = Object(1, 1, 0, 0.7, 0.0, 0.0, 0.0)
    alone, inside = picture_of(grey)
    for material in range(len(MATERIALS)):
        light, entities = picture_of(grey, Object(1, material, 2, 0.7, 1.7, -0.4, 0.0))
        here = (entities == 1) & (inside == 1)
        shares = [(seen[..., 2] / seen.sum(2))[here] for seen in (alone, light)]
        assert shares[0].max() < 0.36
        assert (shares[1] > 0.4).sum() >= 6


def test_things_cast_soft_shadows_on_the_floor():
    thing = Object(1, 0, 1, 0.7, 0.0, 0.0, 0.0)
    empty, _ = picture_of(Object(1, 0, 1, 0.7, 30.0, 30.0, 0.0))
    light, entities = picture_of(thing)
    share = (light / empty)[entities == 0].mean(1)
    assert share.min() < 0.6
    assert share.max() < 1.02
    assert ((share > 0.65) & (share < 0.95)).sum() > 50
    assert (share > 0.97).mean() > 0.5


def test_objects_may_lie_outside_the_picture():
    light, entities = picture_of(Object(1, 0, 1, 0.7, 2.9, 2.9, 0.0))
    assert (entities == 0).all()
    assert light.std() < 0.1
    drawn = draw("clevr", 60, 32, min_objects=1, max_objects=1)
    assert 0 < (drawn.factors[:, 1, 0] == 0).sum() < 30
    assert (drawn.factors[:, 1][drawn.factors[:, 1, 0] == 0] == 0).all()


def test_values_of_srgb():
    known = {0: 0, 0.0031308: 10, 0.0185: 37, 0.18: 118, 0.214: 127, 0.5: 188, 0.75: 225, 1: 255}
    assert _srgb(np.float32(list(known))).tolist() == list(known.values())
    assert _srgb(np.zeros((2, 3), dtype=np.float32)).dtype == np.uint8


def test_every_value_of_srgb_comes_back_from_its_light():
    values = np.arange(256) / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    assert _srgb(light.astype(np.float32)).tolist() == list(range(256))


def test_rays_meet_the_ground_below_them_alone():
    origin = np.float32([[1], [2], [3]])
    rays = np.float32([(0, 0, -1), (0, 0, 1), (1, 0, 0), (1, -1, -0.5)]).T
    t, parts = Ground().meet(origin, rays)
    assert t.tolist() == [3, NEVER, NEVER, 6]
    assert parts.tolist() == [Ground.FLOOR, Ground.NOTHING, Ground.NOTHING, Ground.FLOOR]
    assert t.dtype == np.float32
