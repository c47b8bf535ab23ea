"""Casting, shadows, soft light and pictures, against computations without short cuts; cameras by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_sri.data.rendering import soft
from pyro_sri.data.rendering.camera import Camera, look_at, square_window
from pyro_sri.data.rendering.casting import Hits, _majority, _near, cast, lit, render
from pyro_sri.data.rendering.soft import ambient_occlusion, soft_light
from pyro_sri.data.rendering.solids import (
    NEVER,
    Box,
    Capsule,
    Cylinder,
    Solid,
    Sphere,
    cone,
    icosahedron,
    yawed,
)


class Floor:
    """A floor at z = 0 of two parts, x < 0 and x >= 0, under an empty sky."""

    part_normals = np.array([(0, 0, 1), (0, 0, 1), (0, 0, 1)], dtype=np.float32)

    def meet(self, origin, rays):
        down = rays[2] < 0
        t = np.where(down, -origin[2] / np.where(down, rays[2], np.float32(-1)), NEVER)
        x = origin[0] + np.where(down, t, np.float32(0)) * rays[0]
        return t, np.where(down, 1 + (x >= 0), 0).astype(np.int16)


def draw_solids(rng, num, spread=2.0):
    """Solids of every form anywhere above the floor."""
    solids = []
    for number in range(num):
        a, b, c = rng.uniform(0.2, 0.8, 3).tolist()
        form = [Sphere(a), Box((a, b, c)), Cylinder(a, b), Capsule(a, b), cone(a, 2 * b), icosahedron(a)][number % 6]
        x, y = rng.uniform(-spread, spread, 2).tolist()
        axes = yawed(rng.uniform(0, 6))
        if number % 2:
            axes = axes[1], axes[2], axes[0]
        solids.append(Solid(form, (x, y, 1.2 + rng.uniform(0, 2)), number + 1, axes))
    return tuple(solids)


def enter(solid, origins, rays):
    """t without looking at balls first."""
    return solid.form.enter(solid.to_local(origins), solid.turn(rays))


def some_hits(rng, solids, num=600):
    """What rays from above and from the side meet, sky left out."""
    origins = rng.uniform(-4, 4, (3, num)).astype(np.float32)
    origins[2] += 8
    rays = rng.uniform(-3, 3, (3, num)).astype(np.float32) - origins
    return pick(cast(solids, Floor(), origins, rays), lambda hits: hits.depth < NEVER)


def pick(hits, condition):
    """Some of the hits."""
    here = condition(hits)
    return Hits(*(array[..., here] for array in vars(hits).values()))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.sampled_from([0.5, 1.01, 3.0, 20.0]))
def test_no_ray_that_enters_a_solid_is_left_out(seed, kind, away):
    rng = np.random.default_rng(seed)
    solid = draw_solids(rng, 6)[kind]
    outward = rng.normal(size=(3, 400))
    outward *= solid.form.reach * away * rng.uniform(0.5, 1, 400) / np.linalg.norm(outward, axis=0)
    origins = (np.array(solid.position)[:, None] + outward).astype(np.float32)
    rays = rng.normal(size=(3, 400)).astype(np.float32)
    aimed = rng.uniform(-1, 1, (3, 200)) * solid.form.reach - outward[:, :200]
    rays[:, :200] = aimed * rng.choice([0.01, 1, 100], 200)
    entered = np.flatnonzero(np.isfinite(enter(solid, origins, rays)))
    assert np.isin(entered, _near(solid, origins, rays)).all()


def test_rays_that_pass_far_from_a_solid_are_left_out():
    solid = Solid(Sphere(1), (0, 0, 0), 1)
    origins = np.float32([[-5, -5, -5, 5, 0.5], [0, 0.9, 1.1, 0, 0], [0, 0, 0, 0, 0]])
    rays = np.float32([[1], [0], [0]]) * np.ones((1, 5), dtype=np.float32)
    assert _near(solid, origins, rays).tolist() == [0, 1, 4]


@pytest.mark.parametrize("seed", range(3))
def test_rays_meet_the_nearest_of_all(seed):
    rng = np.random.default_rng(seed)
    solids = draw_solids(rng, 12)
    origin = np.float32([[5], [-4], [3]])
    rays = (np.float32([[-5], [4], [-2]]) + rng.uniform(-3, 3, (3, 3000))).astype(np.float32)
    hits = cast(solids, Floor(), origin, rays)
    floor, parts = Floor().meet(origin, rays)
    all_t = np.stack([*(enter(solid, origin, rays) for solid in solids), floor])
    np.testing.assert_array_equal(hits.depth, all_t.min(0))
    first = all_t.argmin(0)
    on_solid = (first < len(solids)) & np.isfinite(hits.depth)
    np.testing.assert_array_equal(hits.solids, np.where(on_solid, first, -1))
    assert len(np.unique(hits.solids)) > 8
    np.testing.assert_array_equal(hits.faces[~on_solid], parts[~on_solid])
    seen = np.isfinite(hits.depth)
    np.testing.assert_allclose(hits.points[:, seen], (origin + hits.depth * rays)[:, seen], atol=1e-5)
    for number, solid in enumerate(solids):
        here = hits.solids == number
        surface = solid.form.surface(solid.to_local(hits.points[:, here]))
        np.testing.assert_allclose(hits.normals[:, here], solid.turn_back(surface.normals), atol=2e-3)
        np.testing.assert_array_equal(hits.faces[here], surface.faces)
    assert {array.dtype for array in (hits.depth, hits.points, hits.normals)} == {np.dtype(np.float32)}
    numbers = {(int(solid), int(face)) for solid, face in zip(hits.solids, hits.faces, strict=True)}
    assert len(np.unique(hits.surfaces)) == len(numbers)


def test_rays_do_not_meet_the_solid_that_they_start_on():
    solids = (Solid(Sphere(1), (0, 0, 2), 1), Solid(Sphere(1), (0, 0, 6), 2))
    origins = np.float32([[0, 0], [0, 0], [0.5, 0.5]])
    rays = np.float32([[0, 0], [0, 0], [1, 1]])
    hits = cast(solids, Floor(), origins, rays, own=np.array([0, -1], dtype=np.int16))
    assert hits.solids.tolist() == [1, 0]
    np.testing.assert_allclose(hits.points[2], (5, 1), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_far_lamp_reaches_what_no_other_solid_hides(seed):
    rng = np.random.default_rng(seed)
    solids = draw_solids(rng, 8)
    hits = some_hits(rng, solids)
    lamp = (0.5, -0.3, 1.0)
    rays = np.repeat(np.float32(lamp)[:, None], len(hits.depth), 1)
    hidden = np.zeros(len(hits.depth), dtype=bool)
    for number, solid in enumerate(solids):
        hidden |= np.isfinite(enter(solid, hits.points, rays)) & (hits.solids != number)
    light = lit(solids, hits, lamp)
    np.testing.assert_array_equal(light, np.where(hidden, 0, 1))
    assert 0.05 < light.mean() < 0.95
    assert light.dtype == np.float32


def floor_hits(*places):
    """Hits of the floor at some places."""
    num = len(places)
    points = np.zeros((3, num), dtype=np.float32)
    points[:2] = np.array(places).T
    normals = np.repeat(np.float32([[0], [0], [1]]), num, 1)
    nowhere = np.full(num, -1, dtype=np.int16)
    return Hits(np.ones(num, dtype=np.float32), points, normals, nowhere, nowhere + 2, -normals)


LAMP, LAMP_SIZE = (1.0, 2.0, 6.0), 0.5


def test_a_lamp_that_nothing_hides_is_seen_whole():
    places = [(0, 0), (3, -2), (-4, 1)]
    aside = Solid(Sphere(0.5), (9, 9, 0.5), 1)
    behind = Solid(Box((3, 3, 0.2)), (1, 2, 8), 2)
    assert soft_light((), floor_hits(*places), LAMP, LAMP_SIZE).tolist() == [1, 1, 1]
    assert soft_light((aside, behind), floor_hits(*places), LAMP, LAMP_SIZE).tolist() == [1, 1, 1]


def test_a_lamp_behind_something_large_is_not_seen():
    roof = Solid(Box((5, 5, 0.2)), (0, 0, 3), 1)
    assert soft_light((roof,), floor_hits((0, 0), (1, -1)), LAMP, LAMP_SIZE).tolist() == [0, 0]


@pytest.mark.parametrize("yaw", [0, 0.7, 2.0, 4.0])
def test_half_a_lamp_is_seen_past_an_edge_before_its_middle(yaw):
    c, s = math.cos(yaw), math.sin(yaw)
    # A tall wall whose edge stands upright halfway between the floor's origin and the lamp's middle.
    middle = (LAMP[0] / 2, LAMP[1] / 2, LAMP[2] / 2)
    wall = Solid(Box((5, 0.01, 20)), (middle[0] + 5 * c, middle[1] + 5 * s, middle[2]), 1, yawed(yaw))
    assert soft_light((wall,), floor_hits((0, 0)), LAMP, LAMP_SIZE)[0] == pytest.approx(0.5, abs=0.09)


def monte_carlo(solids, hits, lamp, size, num=3000):
    """The share of a lamp, a disc that faces each point, that is seen, by rays to random points of it."""
    rng = np.random.default_rng(9)
    radius, turn = size * np.sqrt(rng.uniform(0, 1, num)), rng.uniform(0, 2 * np.pi, num)
    shares = []
    for place, owner in zip(hits.points.T.astype(float), hits.solids, strict=True):
        ahead = np.array(lamp) - place
        right = np.cross(ahead, (0.1, 0.9, 0.2))
        right /= np.linalg.norm(right)
        up = np.cross(right, ahead / np.linalg.norm(ahead))
        ends = np.array(lamp) + radius[:, None] * (np.cos(turn)[:, None] * right + np.sin(turn)[:, None] * up)
        rays = (ends - place).T.astype(np.float32)
        origin = place.astype(np.float32)[:, None]
        seen = np.ones(num, dtype=bool)
        for number, solid in enumerate(solids):
            if number != owner:
                seen &= enter(solid, origin, rays) >= 1
        shares.append(seen.mean())
    return np.array(shares)


def test_soft_light_is_near_a_monte_carlo_estimate_and_nearer_with_more_points(monkeypatch):
    rng = np.random.default_rng(3)
    solids, lamp, size = draw_solids(rng, 10), (2.0, -1.0, 7.0), 1.2
    hits = some_hits(rng, solids, 4000)
    to_lamp = np.float32(lamp)[:, None] - hits.points
    hits = pick(hits, lambda hits: (to_lamp * hits.normals).sum(0) > 0)
    shares = soft_light(solids, hits, lamp, size)
    assert shares.dtype == np.float32
    assert {0, 1} < set(shares.tolist())
    some = np.concatenate([np.flatnonzero((shares > 0) & (shares < 1))[:200], np.flatnonzero(shares % 1 == 0)[:40]])
    assert len(some) == 240
    hits, shares = pick(hits, lambda hits: some), shares[some]
    expected = monte_carlo(solids, hits, lamp, size)
    assert np.abs(shares - expected).max() < 0.25
    assert np.abs(shares - expected).mean() < 0.05
    monkeypatch.setattr(soft, "LAMP_POINTS", 500)
    monkeypatch.setattr(soft, "LAMP_DISC", soft._spiral(500))
    assert np.abs(soft_light(solids, hits, lamp, size) - expected).max() < 0.05


def test_a_surface_does_not_hide_itself():
    ball = Solid(Sphere(1), (0, 0, 1), 1)
    hits = some_hits(np.random.default_rng(0), (ball,))
    hits = pick(hits, lambda hits: hits.solids == 0)
    assert len(hits.depth) > 50
    assert (soft_light((ball,), hits, (2.0, 0.5, 9.0), 0.5) == 1).all()
    assert (lit((ball,), hits, (2.0, 0.5, 9.0)) == 1).all()


def test_ambient_occlusion_by_hand():
    ball = Solid(Sphere(1), (0, 0, 2.5), 1)
    directly_below, aside, far = ambient_occlusion((ball,), floor_hits((0, 0), (4, 0), (40, 0)))
    assert directly_below == pytest.approx((0.75 / 2.5) ** 2)  # a ball of three quarters of the reach
    assert aside == 0  # more than four such balls away
    assert far == 0
    slanted = ambient_occlusion((Solid(Sphere(1), (0, 2, 1), 1),), floor_hits((0, 0)))[0]
    assert slanted == pytest.approx(0.75**2 / 5 / math.sqrt(5))
    assert ambient_occlusion((), floor_hits((0, 0)))[0] == 0
    both = ambient_occlusion((ball, ball), floor_hits((0, 0)))[0]
    assert both == pytest.approx(1 - (1 - (0.75 / 2.5) ** 2) ** 2)


@pytest.mark.parametrize("seed", range(3))
def test_ambient_occlusion_is_a_share(seed):
    rng = np.random.default_rng(seed)
    solids = draw_solids(rng, 20, spread=1)
    share = ambient_occlusion(solids, some_hits(rng, solids))
    assert share.dtype == np.float32
    assert share.min() >= 0
    assert 0.5 < share.max() <= 1


class Stage:
    """Solids on the floor, lit by one far lamp; light is the normal and the height of a hit."""

    def __init__(self, seed):
        self.solids = draw_solids(np.random.default_rng(seed), 8)
        position = (6.0, -5.0, 4.0)
        self.camera = Camera(position, look_at(position, (0, 0, 1.5)), square_window(40))

    def look(self, rays):
        return cast(self.solids, Floor(), np.float32(self.camera.position)[:, None], rays)

    def shade(self, hits):
        light = lit(self.solids, hits, (0.5, -0.3, 1.0))
        return (0.25 + 0.2 * hits.normals * (1 + light)).astype(np.float32), light.astype(np.int16)

    def entities(self, hits):
        return (hits.solids + 1).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_pixels_on_edges_are_the_mean_and_the_majority_of_four_and_others_show_their_middle(seed):
    size, stage = 40, Stage(seed)
    picture, entities = render(stage, size)
    assert (picture.shape, picture.dtype) == ((size, size, 3), np.float32)
    assert (entities.shape, entities.dtype) == ((size, size), np.uint8)

    left, right, bottom, top = stage.camera.window

    def look(side):
        """What side x side rays through the middles of equal parts of the picture meet, one after the other."""
        places = (np.arange(side) + 0.5) / side
        u, v = np.meshgrid(left + (right - left) * places, top + (bottom - top) * places)
        hits = stage.look(stage.camera.rays(u.ravel().astype(np.float32), v.ravel().astype(np.float32)))
        light, shadow = stage.shade(hits)
        surfaces = np.stack([hits.solids, hits.faces, shadow]).reshape(3, side, side)
        return light.T.reshape(side, side, 3), stage.entities(hits).reshape(side, side), surfaces

    light, numbers, surfaces = look(size)
    fine_light, fine_numbers, _ = look(2 * size)
    edges = 0
    for row, column in np.ndindex(size, size):
        neighbours = [(row + down, column + across) for down, across in ((-1, 0), (1, 0), (0, -1), (0, 1))]
        inside = [place for place in neighbours if min(place) >= 0 and max(place) < size]
        if all((surfaces[:, *place] == surfaces[:, row, column]).all() for place in inside):
            np.testing.assert_allclose(picture[row, column], light[row, column], atol=1e-4)
            assert entities[row, column] == numbers[row, column]
            continue
        edges += 1
        samples = [(2 * row + down, 2 * column + across) for down in (0, 1) for across in (0, 1)]
        np.testing.assert_allclose(
            picture[row, column], np.mean([fine_light[place] for place in samples], axis=0), atol=1e-4
        )
        owners = [int(fine_numbers[place]) for place in samples]
        most = max(owners.count(owner) for owner in owners)
        assert entities[row, column] == next(owner for owner in owners if owners.count(owner) == most)
    assert 100 < edges < size * size / 2


def test_a_picture_may_have_no_edges():
    stage = Stage(0)
    stage.solids = ()
    position = (9.0, 1.0, 5.0)
    stage.camera = Camera(position, look_at(position, (9, 0, 0)), square_window(20))
    picture, entities = render(stage, 8)
    assert (entities == 0).all()
    np.testing.assert_allclose(picture, np.broadcast_to((0.25, 0.25, 0.65), (8, 8, 3)), atol=1e-6)


def test_the_majority_by_hand():
    samples = np.array([[1, 2, 2, 2], [3, 3, 5, 5], [5, 3, 3, 5], [4, 1, 2, 2], [7, 6, 5, 4]], dtype=np.uint8)
    assert _majority(samples).tolist() == [2, 3, 5, 2, 7]


def some_camera():
    position = (5.0, -7.0, 4.0)
    return Camera(position, look_at(position, (1.0, 0.5, -0.5)), (-0.3, 0.5, -0.2, 0.4))


def test_a_point_along_a_ray_is_seen_where_the_ray_passes():
    camera, rng = some_camera(), np.random.default_rng(0)
    for u, v, depth in rng.uniform((-0.3, -0.2, 1), (0.5, 0.4, 20), (50, 3)):
        ray = camera.rays(np.float32([u]), np.float32([v]))[:, 0].astype(float)
        point = tuple(float(c) for c in np.array(camera.position) + depth * ray)
        assert camera.project(point) == pytest.approx((u, v, depth), abs=1e-5)


def test_a_camera_looks_at_its_target_upright():
    camera = some_camera()
    axes = np.array(camera.axes)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.cross(axes[0], axes[1]), axes[2], atol=1e-12)
    assert camera.project((1.0, 0.5, -0.5)) == pytest.approx((0, 0, math.sqrt(16 + 7.5**2 + 4.5**2)), abs=1e-12)
    u, v, _ = camera.project((1.0, 0.5, 0.5))  # straight above
    assert u == pytest.approx(0, abs=1e-12)
    assert v > 0


def test_a_camera_by_hand():
    np.testing.assert_allclose(look_at((0, -2, 0), (0, 0, 0)), [(1, 0, 0), (0, 0, 1), (0, -1, 0)])
    camera = Camera((0, -2, 0), look_at((0, -2, 0), (0, 0, 0)), square_window(90, 0.5))
    assert camera.window == pytest.approx((-0.5, 0.5, -0.5, 0.5))
    assert camera.project((1, 2, 3)) == pytest.approx((0.25, 0.75, 4))
    np.testing.assert_allclose(camera.rays(np.float32([0.25]), np.float32([0.75]))[:, 0], (0.25, 1, 0.75))


def test_pixels_are_numbered_row_by_row_from_the_top_left():
    u, v = Camera((0, 0, 0), look_at((0, -2, 0), (0, 0, 0)), (-1, 3, -2, 2)).centres(2)
    assert u.tolist() == [0, 2, 0, 2]
    assert v.tolist() == [1, 1, -1, -1]
    assert u.dtype == v.dtype == np.float32


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_parts_of_a_pixel_lie_around_its_middle(samples):
    camera, size = some_camera(), 16
    pixels = np.array([0, 15, 37, 255])
    u, v = camera.within(size, pixels, samples)
    assert u.shape == v.shape == (4, samples**2)
    middle_u, middle_v = camera.centres(size)
    np.testing.assert_allclose(u.mean(1), middle_u[pixels], atol=1e-6)
    np.testing.assert_allclose(v.mean(1), middle_v[pixels], atol=1e-6)
    width = 0.8 / size
    np.testing.assert_allclose(np.ptp(u, axis=1), width * (samples - 1) / samples, atol=1e-6)
    np.testing.assert_allclose(np.ptp(v, axis=1), 0.6 / size * (samples - 1) / samples, atol=1e-6)
    assert len(np.unique(np.round(np.stack([u, v]), 5), axis=2)[0, 0]) == samples**2
