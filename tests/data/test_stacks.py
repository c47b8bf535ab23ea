"""Stacks: what pictures, masks and factors promise, against projections and distances computed anew."""

import math
from itertools import pairwise

import numpy as np
import pytest

from pyro_sri.data.generators import GENERATORS
from pyro_sri.data.generators.block_towers import KINDS, SEPARATED, SHAPES, Block, judge
from pyro_sri.data.generators.stacks import (
    CAMERAS,
    FACTOR_NAMES,
    HALL,
    LAMPS,
    WALL_HEIGHT,
    Hall,
    StackScene,
    solid,
)
from pyro_sri.data.rendering.camera import Camera, look_at
from pyro_sri.data.rendering.casting import cast
from pyro_sri.system.errors import UserError

COLUMN = {name: place for place, name in enumerate(FACTOR_NAMES)}


def draw(name, num, size, seed=0, **options):
    family = GENERATORS[name]
    rngs = [np.random.default_rng([seed, scene]) for scene in range(num)]
    return family.make(rngs, size, family.parse_options(options), "train")


def towers(drawn):
    """The blocks of each scene, from the factors."""
    for rows in drawn.factors:
        yield tuple(
            Block(
                SHAPES[int(row[COLUMN["shape"]]) - 1],
                tuple(float(row[COLUMN[name]]) for name in ("size_x", "size_y", "size_z")),
                tuple(float(row[COLUMN[name]]) for name in ("x", "y", "z")),
                float(row[COLUMN["yaw"]]),
            )
            for row in rows[1:]
            if row[0]
        )


def at_border(entities):
    """Whether a block touches the picture's border, [n]."""
    inside = entities > 0
    return inside[:, [0, -1]].any((1, 2)) | inside[:, :, [0, -1]].any((1, 2))


@pytest.fixture(scope="module")
def stacks():
    return draw("stacks", 200, 64)


def test_blocks_are_counted_from_the_floor_and_stand(stacks):
    counts = np.zeros(7, dtype=int)
    for tower in towers(stacks):
        counts[len(tower)] += 1
        verdict = judge(tower)
        assert verdict.margin > 0.1
        assert abs(tower[0].bottom) < 1e-6
        assert all(abs(upper.bottom - lower.top) < 1e-5 for lower, upper in pairwise(tower))
        assert max(abs(place) for place in tower[0].position[:2]) <= 2
    assert counts[:2].tolist() == [0, 0]
    assert counts[2:].min() > 20
    assert (stacks.factors[:, :, COLUMN["kind"]] == 0).all()


def test_every_block_shows_at_least_four_pixels():
    from_above = draw("stacks", 60, 64, cameras=(13, 14, 15, 16), min_objects=6)  # in which some blocks hide others
    for entities, rows in zip(from_above.entities, from_above.factors, strict=True):
        exists = rows[1:, 0] > 0
        pixels = np.bincount(entities.ravel(), minlength=7)[1:]
        assert exists.all()
        assert (pixels >= 4).all()


def test_every_existing_row_tells_the_setting_and_the_background_nothing_else(stacks):
    for rows in stacks.factors:
        exists = rows[:, 0] > 0
        setting = rows[exists][:, -5:]
        assert (setting == setting[0]).all()
        _, camera, lamp, floor, wall = setting[0]
        assert camera in range(1, 17)
        assert lamp in range(5)
        assert floor in range(6)
        assert wall in range(6)
        assert (rows[0, 1:-5] == 0).all()
    for name, values in (("camera", range(1, 17)), ("lamp", range(5)), ("floor", range(6)), ("wall", range(6))):
        assert set(stacks.factors[:, 0, COLUMN[name]]) == set(values)


def test_colours_are_pure_unique_and_seen():
    drawn = draw("stacks", 60, 96, zoom=2.0)
    for image, entities, rows in zip(drawn.images, drawn.entities, drawn.factors, strict=True):
        colours = rows[rows[:, 0] > 0][1:, 2:5]
        assert set(np.unique(colours)) <= {0, 1}
        assert len(np.unique(colours, axis=0)) == len(colours)
        for entity, colour in enumerate(colours, start=1):
            inside = entities == entity
            for axis in (0, 1):  # pixels on edges are mixtures
                inside &= np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
            pixels = image[inside].astype(int)
            on, off = pixels[:, colour == 1], pixels[:, colour == 0]
            assert (on.min(1, initial=255) > off.max(1, initial=0)).all()
            assert (np.ptp(on, axis=1) <= 1).all()
            assert (np.ptp(off, axis=1) <= 1).all()


def project(point, camera, size):
    """Row and column of a point, by the camera's tilt from straight down and its yaw: Rz(yaw) Rx(tilt)."""
    position, tilt, yaw = CAMERAS[camera - 1]
    a, b = math.radians(tilt), math.radians(yaw)
    about_x = np.array([(1, 0, 0), (0, math.cos(a), -math.sin(a)), (0, math.sin(a), math.cos(a))])
    about_z = np.array([(math.cos(b), -math.sin(b), 0), (math.sin(b), math.cos(b), 0), (0, 0, 1)])
    x, y, z = (about_z @ about_x).T @ (np.array(point) - position)
    half = math.tan(math.radians(22.5)) * 196 / 224
    return (1 - y / -z / half) * size / 2, (1 + x / -z / half) * size / 2, -z


@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_middle_of_a_block_is_seen_where_it_projects_to(size):
    drawn = draw("stacks", 60, size, seed=1)
    open_to_view = 0
    for entities, rows in zip(drawn.entities, drawn.factors, strict=True):
        depths = rows[:, COLUMN["depth"]]
        for entity in range(1, int(rows[1:, 0].sum()) + 1):
            point = rows[entity, [COLUMN["x"], COLUMN["y"], COLUMN["z"]]]
            row, column, depth = project(point, int(rows[entity, COLUMN["camera"]]), size)
            assert depths[entity] == pytest.approx(depth, abs=1e-4)
            if not (0 <= row < size and 0 <= column < size):
                continue
            seen = entities[int(row), int(column)]
            if seen != entity:
                assert seen > 0
                assert depths[seen] < depth + 0.3  # behind the face of a nearer block
                continue
            open_to_view += 1
            rows_inside, columns_inside = np.nonzero(entities == entity)
            assert rows_inside.min() <= row <= rows_inside.max() + 1
            assert columns_inside.min() <= column <= columns_inside.max() + 1
    assert open_to_view > 150


def test_cameras_may_be_chosen():
    drawn = draw("stacks", 40, 32, cameras=(3, 14))
    assert set(drawn.factors[:, 1, COLUMN["camera"]]) == {3, 14}
    assert set(draw("stacks_broken", 40, 32, zoom=2.0).factors[:, 1, COLUMN["camera"]]) == {1, 4, 7, 10}


@pytest.mark.parametrize(("few", "many"), [(2, 2), (6, 6), (3, 4)])
def test_numbers_of_blocks_may_be_chosen(few, many):
    drawn = draw("stacks", 20, 32, min_objects=few, max_objects=many)
    assert drawn.factors.shape == (20, 1 + many, len(FACTOR_NAMES))
    assert set(drawn.factors[:, 1:, 0].sum(1)) == set(range(few, many + 1))


@pytest.mark.parametrize("zoom", [1.2, 2.0, 3.0])
@pytest.mark.parametrize(("name", "options"), [("stacks", {}), ("stacks_broken", {"kinds": KINDS})])
def test_zoomed_pictures_hold_all_of_a_tower(name, options, zoom):
    drawn = draw(name, 60, 32, seed=2, zoom=zoom, **options)
    assert not at_border(drawn.entities).any()


def test_larger_zooms_show_more_of_a_tower():
    seen = [(draw("stacks", 30, 32, zoom=zoom).entities > 0).sum() for zoom in (1.0, 1.5, 3.0)]
    assert seen[1] > 1.5 * seen[0]
    assert seen[2] > 1.2 * seen[1]
    assert at_border(draw("stacks", 30, 32, seed=2, min_objects=6).entities).any()  # as published


def parts(tower):
    """How many of the lowest blocks make up the lower part of a tower in two parts."""
    for number, (lower, upper) in enumerate(pairwise(tower), start=1):
        hovers = abs(upper.bottom - lower.top) > 0.2
        aside = math.dist(lower.position[:2], upper.position[:2]) > lower.reach + upper.reach
        if hovers or aside:
            return number
    raise AssertionError("in one part")


@pytest.mark.parametrize("kind", SEPARATED)
@pytest.mark.parametrize("size", [32, 64, 128])
def test_pixels_of_separate_parts_are_at_least_two_others_apart(kind, size):
    drawn = draw("stacks_broken", 15, size, kinds=(kind,))
    for entities, tower in zip(drawn.entities, towers(drawn), strict=True):
        lowest = parts(tower)
        lower = np.argwhere((entities > 0) & (entities <= lowest))
        upper = np.argwhere(entities > lowest)
        apart = np.abs(lower[:, None] - upper).max(2)  # the Chebyshev distance of every pair
        assert apart.min() >= 3


@pytest.mark.parametrize("name", ["default", "all"])
def test_kinds_occur_evenly_and_every_row_tells_them(name):
    kinds = {"default": SEPARATED, "all": KINDS}[name]
    num = 30 * len(kinds)
    options = {} if name == "default" else {"kinds": kinds}
    drawn = draw("stacks_broken", num, 32, zoom=3.0, **options)
    told = drawn.factors[..., COLUMN["kind"]]
    exists = drawn.factors[..., 0] > 0
    assert (told[~exists] == 0).all()
    assert all(len(set(rows[here])) == 1 for rows, here in zip(told, exists, strict=True))
    counts = np.bincount(told[:, 0].astype(int), minlength=7)
    assert counts[0] == 0
    assert set(np.flatnonzero(counts)) == {1 + KINDS.index(kind) for kind in kinds}
    assert counts[counts > 0].min() > 15
    blocks = np.bincount(exists[:, 1:].sum(1), minlength=7)[2:]
    assert blocks.min() > 0.1 * num


@pytest.mark.parametrize("kind", KINDS)
def test_towers_of_a_kind_are_broken_in_that_way(kind):
    drawn = draw("stacks_broken", 12, 32, kinds=(kind,), zoom=2.0)
    assert (drawn.factors[:, 1, COLUMN["kind"]] == 1 + KINDS.index(kind)).all()
    for tower in towers(drawn):
        verdict = judge(tower)
        assert not verdict.stands
        assert verdict.round_inside == (kind == "round")
        if kind == "unsupported":
            assert verdict.margin == pytest.approx(-0.05, abs=1e-5)
        if kind in ("gap", "sunk", "round"):
            assert verdict.margin > 0


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("stacks", {"min_objects": 1}, ["1 to 6 blocks", "2 to 6"]),
        ("stacks", {"max_objects": 7}, ["2 to 7 blocks", "2 to 6"]),
        ("stacks", {"min_objects": 5, "max_objects": 4}, ["5 to 4", "in order"]),
        ("stacks", {"cameras": (0, 3)}, ["cameras [0, 3]", "1 to 16"]),
        ("stacks", {"cameras": (17,)}, ["[17]", "1 to 16"]),
        ("stacks", {"cameras": ()}, ["cameras []", "1 to 16"]),
        ("stacks", {"zoom": 0.9}, ["zoom 0.9", "1 to 3"]),
        ("stacks", {"zoom": 3.1}, ["zoom 3.1", "1 to 3"]),
        ("stacks", {"kinds": ("gap",)}, ["no option kinds"]),
        ("stacks_broken", {"kinds": ("gap", "wobbly")}, ["wobbly", "unsupported"]),
        ("stacks_broken", {"kinds": ()}, ["kinds", "gap"]),
        ("stacks_broken", {"zoom": 5}, ["zoom 5", "1 to 3"]),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(name, options, words):
    with pytest.raises(UserError) as caught:
        GENERATORS[name].parse_options(options)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_ray_caster_gets_a_block_as_it_is(shape):
    size = {"cuboid": (1, 0.6, 0.8), "cylinder": (1, 1, 0.8), "sphere": (1, 1, 1), "lying_cylinder": (0.7, 1, 1)}[shape]
    block = Block(shape, size, (3.0, 4.0, 5.0), 0.7)
    given = solid(block, 2)
    assert given.entity == 2
    middle, half = np.array(block.position), np.array(size) / 2
    own_axes = np.array([(math.cos(0.7), math.sin(0.7), 0), (-math.sin(0.7), math.cos(0.7), 0), (0, 0, 1)])
    for axis, length in zip(own_axes, half, strict=True):
        for sign in (-1, 1):
            start = (middle + sign * 5 * axis).astype(np.float32)[:, None]
            ray = (-sign * axis).astype(np.float32)[:, None]
            t = given.form.enter(given.to_local(start), given.turn(ray))
            assert t[0] == pytest.approx(5 - length, abs=1e-5)
    # Along which of its axes does its outline fill the corners of the cuboid around it?
    for number, axis in enumerate(own_axes):
        corner = middle + 0.98 * sum(half[other] * own_axes[other] for other in range(3) if other != number) + 5 * axis
        t = given.form.enter(
            given.to_local(corner.astype(np.float32)[:, None]), given.turn(-axis.astype(np.float32)[:, None])
        )
        filled = {"cuboid": (0, 1, 2), "cylinder": (0, 1), "sphere": (), "lying_cylinder": (1, 2)}[shape]
        assert np.isfinite(t[0]) == (number in filled)


def test_rays_meet_the_hall_in_its_floor_and_two_walls():
    rng = np.random.default_rng(0)
    origin = np.float32([[-6], [-7], [5]])
    rays = rng.normal(size=(3, 4000)).astype(np.float32)
    rays[:, :6] = np.float32([(1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (0, -1, 0), (0, 0, -1)]).T
    t, parts = Hall().meet(origin, rays)
    assert parts[:6].tolist() == [Hall.WALL_X, Hall.WALL_Y, Hall.SKY, Hall.SKY, Hall.SKY, Hall.FLOOR]
    assert (np.isinf(t) == (parts == Hall.SKY)).all()
    x, y, z = (origin + np.where(np.isfinite(t), t, 0) * rays).astype(float)
    for part, on_plane in ((Hall.FLOOR, z), (Hall.WALL_X, x - HALL), (Hall.WALL_Y, y - HALL)):
        np.testing.assert_allclose(on_plane[parts == part], 0, atol=1e-4)
    inside = np.maximum(np.abs(x), np.abs(y)) <= HALL + 0.01
    assert inside.all()
    assert (z[parts != Hall.SKY] > -1e-4).all()
    assert z.max() <= WALL_HEIGHT
    # Rays into the sky: backwards, or over the walls; followed to where they would leave the hall.
    dx, dy, dz = rays[:, parts == Hall.SKY].astype(float)
    with np.errstate(divide="ignore"):
        to_x, to_y = (np.copysign(HALL, dx) + 6) / dx, (np.copysign(HALL, dy) + 7) / dy
    leaves = np.minimum(to_x, to_y)
    forwards = np.where(to_x < to_y, dx > 0, dy > 0)
    height = 5 + np.minimum(leaves, 1e9) * dz
    assert (~forwards | (height > WALL_HEIGHT - 0.01))[height > 0].all()
    assert (height > -0.01).all()


@pytest.mark.parametrize("lamp", range(5))
def test_the_one_lamp_with_shadows_casts_them_away_from_it(lamp):
    pole = solid(Block("cuboid", (0.5, 0.5, 4.0), (0.0, 0.0, 2.0), 0.0), 1)
    x, y, z = LAMPS[lamp]
    steps = np.float32([0.2, 0.4, 0.6]) * 4 * math.hypot(x, y) / z + 0.3  # along the shadow of a pole 4 high
    turn = math.atan2(-y, -x)
    away = np.stack([steps * math.cos(turn), steps * math.sin(turn), np.zeros(3)])
    points = np.concatenate([away, -away], axis=1).astype(np.float32)
    camera = Camera((5.0, 5.0, 9.0), look_at((5.0, 5.0, 9.0), (0, 0, 0)), (-0.3, 0.3, -0.3, 0.3))
    down = np.repeat(np.float32([[0], [0], [-1]]), 6, 1)
    seen = []
    for caster in (lamp, (lamp + 1) % 5):
        stage = StackScene((pole,), np.ones((1, 3), dtype=np.float32), camera, caster, 1, 0, 0.01)
        hits = cast(stage.solids, Hall(), points - 9 * down, down)
        assert (hits.faces == Hall.FLOOR).all()
        seen.append((stage.shade(hits)[0].mean(0), stage.shade(hits)[1]))
    (light, reached), (other_light, _) = seen
    if lamp == 0:  # straight above: no shadow beside the pole
        assert reached.tolist() == [1] * 6
    else:
        assert reached.tolist() == [0, 0, 0, 1, 1, 1]
        assert (light[:3] < 0.95 * other_light[:3]).all()
        assert (light[3:] > 1.05 * light[:3]).all()
