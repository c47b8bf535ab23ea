"""Where rays enter solids and which way surfaces face, against MuJoCo, quadrics and finite differences."""

import math
from itertools import combinations

import mujoco
import numpy as np
import pytest

from pyro_sri.data.rendering.solids import (
    CONE_SIDES,
    Box,
    Capsule,
    Cylinder,
    Solid,
    Sphere,
    cone,
    icosahedron,
    power,
    yawed,
)

PLACE = (0.3, -1.2, 0.7)
LYING = ((0.0, 0.0, 1.0), (-math.sin(0.8), math.cos(0.8), 0.0), (-math.cos(0.8), -math.sin(0.8), 0.0))
TILTED = ((0.6, 0.0, -0.8), (0.0, 1.0, 0.0), (0.8, 0.0, 0.6))

GEOMS = mujoco.mjtGeom
# A solid, and its kind and measures for MuJoCo.
KNOWN = {
    "sphere": (Solid(Sphere(0.7), PLACE, 1), GEOMS.mjGEOM_SPHERE, (0.7, 0, 0)),
    "box": (Solid(Box((0.5, 0.3, 0.9)), PLACE, 1, yawed(0.6)), GEOMS.mjGEOM_BOX, (0.5, 0.3, 0.9)),
    "cylinder": (Solid(Cylinder(0.4, 0.6), PLACE, 1, yawed(1.0)), GEOMS.mjGEOM_CYLINDER, (0.4, 0.6, 0)),
    "lying cylinder": (Solid(Cylinder(0.5, 0.3), PLACE, 1, LYING), GEOMS.mjGEOM_CYLINDER, (0.5, 0.3, 0)),
    "capsule": (Solid(Capsule(0.3, 0.5), PLACE, 1, TILTED), GEOMS.mjGEOM_CAPSULE, (0.3, 0.5, 0)),
}
FORMS = {
    **{name: solid.form for name, (solid, _, _) in KNOWN.items()},
    "bevelled box": Box((0.5, 0.3, 0.9), 0.1),
    "bevelled cylinder": Cylinder(0.4, 0.6, 0.1),
    "cone": cone(0.5, 1.2),
    "icosahedron": icosahedron(0.8),
}


def draw_rays(rng, num, reach, nearest=1.01, farthest=6.0):
    """Origins outside a ball of radius `reach` around 0, and directions of any length towards and past it."""
    outward = rng.normal(size=(3, num))
    origins = outward / np.linalg.norm(outward, axis=0) * reach * rng.uniform(nearest, farthest, num)
    targets = rng.uniform(-reach, reach, (3, num))
    directions = (targets - origins) * rng.choice([0.03, 1.0, 7.0], num)
    return origins.astype(np.float32), directions.astype(np.float32)


def enter(solid, origins, directions):
    return solid.form.enter(solid.to_local(origins), solid.turn(directions))


def enter_mujoco(solid, kind, size, origins, directions):
    """t (infinite where rays miss) and normals, by MuJoCo."""
    place, turn = np.array(solid.position), np.array(solid.axes).T.ravel()
    t, normals = np.empty(origins.shape[1]), np.zeros(origins.shape[::-1])
    for ray, (origin, direction) in enumerate(zip(origins.T.astype(float), directions.T.astype(float), strict=True)):
        t[ray] = mujoco.mju_rayGeom(place, turn, np.array(size, dtype=float), origin, direction, kind, normals[ray])
    return np.where(t < 0, np.inf, t), normals.T


def share_of_disagreement(t, expected):
    return (np.isfinite(t) != np.isfinite(expected)).mean()


@pytest.mark.parametrize("name", KNOWN)
def test_rays_enter_where_mujoco_says(name):
    solid, kind, size = KNOWN[name]
    rng = np.random.default_rng(0)
    origins, directions = draw_rays(rng, 4000, solid.form.reach)
    origins += np.array(PLACE, dtype=np.float32)[:, None]
    t = enter(solid, origins, directions)
    expected, normals = enter_mujoco(solid, kind, size, origins, directions)
    assert t.dtype == np.float32
    assert share_of_disagreement(t, expected) < 0.001  # rays that only just touch
    both = np.isfinite(t) & np.isfinite(expected)
    assert 500 < both.sum() < 3500
    t, expected, normals = t[both], expected[both], normals[:, both]
    rays = directions[:, both]
    facing = -(rays * normals).sum(0) / np.linalg.norm(rays, axis=0)
    # Along a grazing ray a small error across it becomes a large one along it.
    across = np.abs(t - expected) * np.linalg.norm(rays, axis=0) * facing
    assert across.max() < 1e-4
    assert np.median(across) < 2e-6

    points = origins[:, both] + t * rays
    surface = solid.form.surface(solid.to_local(points.astype(np.float32)))
    agreement = (solid.turn_back(surface.normals) * normals).sum(0)
    assert (agreement > 0.999).mean() > 0.998  # less where flat faces meet
    assert surface.normals.dtype == np.float32


@pytest.mark.parametrize("name", KNOWN)
def test_rays_that_start_close_by_enter_where_mujoco_says(name):
    solid, kind, size = KNOWN[name]
    rng = np.random.default_rng(1)
    origins, directions = draw_rays(rng, 3000, solid.form.reach)
    origins += np.array(PLACE, dtype=np.float32)[:, None]
    t, normals = enter_mujoco(solid, kind, size, origins, directions)
    hit = np.isfinite(t)
    close = (origins[:, hit] + t[hit] * directions[:, hit] + 1e-3 * normals[:, hit]).astype(np.float32)
    directions = rng.normal(size=close.shape).astype(np.float32)
    t = enter(solid, close, directions)
    expected, normals = enter_mujoco(solid, kind, size, close, directions)
    assert np.isfinite(t).any()
    assert share_of_disagreement(t, expected) < 0.005
    both = np.isfinite(t) & np.isfinite(expected)
    facing = np.abs((directions * normals).sum(0)[both])
    assert (np.abs(t[both] - expected[both]) * facing).max() < 1e-4


@pytest.mark.parametrize("name", FORMS)
def test_rays_that_lead_away_or_past_never_enter(name):
    form = FORMS[name]
    origins, directions = draw_rays(np.random.default_rng(2), 2000, form.reach)
    assert np.isinf(form.enter(origins, origins)).all()
    entered = np.isfinite(form.enter(origins, directions))
    assert entered.any()
    assert np.isinf(form.enter(origins, -directions)[entered]).all()
    past = np.stack([origins[1], -origins[0], np.zeros_like(origins[0])])  # at right angles to the way to the middle
    sideways = np.hypot(origins[0], origins[1]) > form.reach
    assert np.isinf(form.enter(origins, past)[sideways]).all()


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("axis", range(3))
def test_rays_along_an_axis_enter_within_the_outline_alone(name, axis):
    form = FORMS[name]
    grid = np.linspace(-1.3, 1.3, 41, dtype=np.float32) * np.float32(form.reach)
    a, b = (values.ravel() for values in np.meshgrid(grid, grid))
    direction = np.zeros((3, 1), dtype=np.float32)
    direction[axis] = 1
    origins = np.insert(np.stack([a, b]), axis, -10, axis=0).astype(np.float32)
    tilted = direction + np.float32([[1e-5], [2e-5], [-1e-5]])  # nearly the same rays, without zeros
    entered, nearly = np.isfinite(form.enter(origins, direction)), np.isfinite(form.enter(origins, tilted))
    assert entered.any()
    assert not entered[np.hypot(a, b) > form.reach * 1.001].any()
    assert (entered != nearly).mean() < 0.03  # the outline itself


@pytest.mark.parametrize("name", FORMS)
def test_the_same_ray_for_all_gives_the_same_as_one_each(name):
    form = FORMS[name]
    origins, directions = draw_rays(np.random.default_rng(3), 300, form.reach)
    np.testing.assert_array_equal(
        form.enter(origins[:, :1], directions), form.enter(np.repeat(origins[:, :1], 300, 1), directions)
    )
    np.testing.assert_array_equal(
        form.enter(origins, directions[:, :1]), form.enter(origins, np.repeat(directions[:, :1], 300, 1))
    )


def hits_of(form, num=4000, seed=4):
    """Origins, directions and points of rays that hit a form."""
    origins, directions = draw_rays(np.random.default_rng(seed), num, form.reach, 1.5, 3)
    directions /= np.linalg.norm(directions, axis=0)
    t = form.enter(origins, directions)
    hit = np.isfinite(t)
    return origins[:, hit], directions[:, hit], (origins + np.where(hit, t, 0) * directions)[:, hit]


@pytest.mark.parametrize("name", FORMS)
def test_normals_have_length_1_and_face_the_ray(name):
    form = FORMS[name]
    _, directions, points = hits_of(form)
    surface = form.surface(points)
    np.testing.assert_allclose(np.linalg.norm(surface.normals, axis=0), 1, atol=3e-4)
    facing = -(surface.normals * directions).sum(0)
    assert (facing > (-0.01 if "bevelled" not in name and name != "cone" else -0.8)).all()
    assert surface.faces.dtype == np.int16
    assert surface.faces.min() >= 0
    assert surface.faces.max() < 64


# The sides of a cone are flat, their normals those of a round one.
@pytest.mark.parametrize(("name", "degrees"), [(name, 2.5) for name in (*KNOWN, "icosahedron")] + [("cone", 6)])
def test_normals_are_those_of_the_surface_by_finite_differences(name, degrees):
    form = FORMS[name]
    origins, directions, points = hits_of(form)
    normals, faces = form.surface(points)
    helper = np.roll(directions, 1, axis=0)
    right = np.cross(directions, helper, axis=0)
    right /= np.linalg.norm(right, axis=0)
    up = np.cross(right, directions, axis=0)
    steps, usable = [], -(normals * directions).sum(0) > 0.3
    for side in (right, up):
        ends = []
        for sign in (-1, 1):
            turned = (directions + np.float32(sign * 0.005) * side).astype(np.float32)
            t = form.enter(origins, turned)
            ends.append(origins + np.where(np.isfinite(t), t, 0) * turned)
            usable &= np.isfinite(t) & (form.surface(ends[-1]).faces == faces)
        steps.append(ends[1] - ends[0])
    across = np.cross(*steps, axis=0)
    agreement = np.abs((across * normals).sum(0)) / np.linalg.norm(across, axis=0)
    assert usable.sum() > 300
    assert agreement[usable].min() > math.cos(math.radians(degrees))


@pytest.mark.parametrize(
    ("bevelled", "plain"),
    [(Box((0.5, 0.3, 0.9), 0.1), Box((0.5, 0.3, 0.9))), (Cylinder(0.4, 0.6, 0.1), Cylinder(0.4, 0.6))],
)
def test_a_bevel_changes_normals_near_edges_alone(bevelled, plain):
    origins, directions, points = hits_of(plain)
    np.testing.assert_array_equal(bevelled.enter(origins, directions), plain.enter(origins, directions))
    x, y, z = np.abs(points)
    if isinstance(plain, Box):
        depths = np.sort([0.5 - x, 0.3 - y, 0.9 - z], axis=0)
    else:
        depths = np.sort([0.4 - np.hypot(x, y), 0.6 - z], axis=0)
    from_edge = depths[1]  # the nearest face is the one that the point is on
    soft, hard = bevelled.surface(points), plain.surface(points)
    np.testing.assert_array_equal(soft.faces, hard.faces)
    apart = np.linalg.norm(soft.normals - hard.normals, axis=0)
    assert apart[from_edge > 0.1].max() < 1e-5
    near = from_edge < 0.09
    assert near.sum() > 100
    assert apart[near].min() > 0.05
    assert apart.max() < 1.2  # at most the corner of three faces: its diagonal lies 0.92 from each of them


def test_a_bevel_at_an_edge_faces_both_ways():
    edge = np.float32([[0.5], [0.3], [0.1]])
    half = math.sqrt(0.5)
    np.testing.assert_allclose(Box((0.5, 0.3, 0.9), 0.1).surface(edge).normals[:, 0], (half, half, 0), atol=1e-6)
    rim = np.float32([[0], [-0.4], [0.6]])
    np.testing.assert_allclose(Cylinder(0.4, 0.6, 0.1).surface(rim).normals[:, 0], (0, -half, half), atol=1e-6)


def test_a_cone_lies_between_a_round_one_and_one_wider_by_its_sides():
    radius, height = 0.5, 1.2
    form, wider = cone(radius, height), 1 / math.cos(math.pi / CONE_SIDES)
    _, _, points = hits_of(form, 8000)
    x, y, z = points.astype(float)
    on_side = form.surface(points).faces == 1
    room = radius * (height / 2 - z) / height  # radius of the round cone at that height
    across = np.hypot(x, y)
    assert on_side.sum() > 1000
    assert (across - room)[on_side].min() > -1e-5
    assert (across - room * wider)[on_side].max() < 1e-5
    np.testing.assert_allclose(z[~on_side], -height / 2, atol=1e-5)
    assert across[~on_side].max() < radius * wider + 1e-5


def test_rays_meet_a_cone_where_they_meet_the_quadric():
    radius, height = 0.5, 1.2
    form, wider = cone(radius, height), 1 / math.cos(math.pi / CONE_SIDES)
    origins, directions = draw_rays(np.random.default_rng(5), 4000, form.reach, 1.5, 4)
    ours = form.enter(origins, directions)

    def quadric(radius):
        """t of the cone x^2 + y^2 = (radius (height / 2 - z) / height)^2 and its base."""
        (ox, oy, oz), (dx, dy, dz) = origins.astype(float), directions.astype(float)
        slope = (radius / height) ** 2
        a = dx**2 + dy**2 - slope * dz**2
        b = ox * dx + oy * dy + slope * (height / 2 - oz) * dz
        c = ox**2 + oy**2 - slope * (height / 2 - oz) ** 2
        root = np.sqrt(np.where(b**2 >= a * c, b**2 - a * c, np.nan))
        first = np.full(len(a), np.inf)
        for t in ((-b - root) / a, (-b + root) / a):
            inside = (np.abs(oz + t * dz) <= height / 2) & (t > 0)
            first = np.where(inside, np.fmin(first, t), first)
        base = (-height / 2 - oz) / dz
        return np.where((np.hypot(ox + base * dx, oy + base * dy) <= radius) & (base > 0), np.fmin(first, base), first)

    inner, outer = quadric(radius), quadric(radius * wider)
    assert np.isfinite(inner).sum() > 500
    assert np.isfinite(ours[np.isfinite(inner)]).all()
    assert np.isinf(ours[np.isinf(outer)]).all()
    slack = 1e-4 / np.linalg.norm(directions, axis=0)
    hit = np.isfinite(inner)
    assert (ours <= inner + slack)[hit].all()
    assert (ours >= outer - slack)[np.isfinite(ours)].all()


def corners_of(form):
    """The points where three planes meet and that no other plane cuts off."""
    corners = []
    for three in combinations(form.planes.astype(float), 3):
        sides = np.array(three)
        if abs(np.linalg.det(sides[:, :3])) > 1e-3:
            point = np.linalg.solve(sides[:, :3], sides[:, 3])
            inside = (form.planes[:, :3] @ point <= form.planes[:, 3] + 1e-5).all()
            if inside and not any(np.linalg.norm(point - other) < 1e-4 for other in corners):
                corners.append(point)
    return np.array(corners)


def test_an_icosahedron_has_20_faces_12_corners_and_30_edges():
    form = icosahedron(0.8)
    assert len(form.planes) == 20
    corners = corners_of(form)
    assert len(corners) == 12
    np.testing.assert_allclose(np.linalg.norm(corners, axis=1), 0.8, atol=1e-5)
    distances = np.sort([np.linalg.norm(p - q) for p, q in combinations(corners, 2)])
    np.testing.assert_allclose(distances[:30], distances[0], atol=1e-5)
    assert distances[30] > 1.5 * distances[0]
    _, faces = form.surface(hits_of(form)[2])
    assert len(set(faces)) == 20


def test_an_icosahedron_is_symmetric_and_rests_on_an_edge():
    form = icosahedron(0.8)
    for mirrored in (-1, 1, 1), (1, -1, 1), (1, 1, -1):
        planes = form.planes * np.array([*mirrored, 1])
        np.testing.assert_allclose(np.unique(np.round(planes, 5), axis=0), np.unique(np.round(form.planes, 5), axis=0))
    heights = np.sort(corners_of(form)[:, 2])
    assert heights[1] - heights[0] < 1e-5
    assert heights[2] - heights[1] > 0.1


@pytest.mark.parametrize("form", [cone(0.5, 1.2), icosahedron(0.8)])
def test_rays_along_a_face_miss_just_outside_and_hit_just_inside(form):
    for plane in form.planes:
        normal, room = plane[:3], plane[3]
        along = np.cross(normal, (0.3, 0.5, 0.8))
        along = (along / np.linalg.norm(along)).astype(np.float32)[:, None]
        for beyond, hits in ((1e-3, False), (-1e-3, True)):
            start = ((room + beyond) * normal)[
                :, None
            ] - 3 * along  # towards the foot of the plane, which is on the face
            assert np.isfinite(form.enter(start.astype(np.float32), along)).all() == hits


def test_level_rays_below_a_cone_miss():
    form = cone(0.5, 1.2)
    angles = np.linspace(0, 2 * np.pi, 50, dtype=np.float32)
    rays = np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)])
    for height, hit in ((-0.61, False), (-0.59, True), (0.59, True), (0.61, False)):
        start = -2 * rays + np.float32([[0], [0], [height]])
        assert (np.isfinite(form.enter(start, rays)) == hit).all()


@pytest.mark.parametrize("name", FORMS)
def test_nothing_of_a_form_lies_beyond_its_reach(name):
    form = FORMS[name]
    distance = np.linalg.norm(hits_of(form)[2], axis=0)
    assert distance.max() <= form.reach * 1.0001
    assert distance.max() > form.reach * 0.9


def test_turning_there_and_back_changes_nothing():
    solid = KNOWN["capsule"][0]
    vectors = np.random.default_rng(6).normal(size=(3, 50)).astype(np.float32)
    np.testing.assert_allclose(solid.turn_back(solid.turn(vectors)), vectors, atol=1e-6)
    own_axes = solid.turn(np.array(solid.axes, dtype=np.float32).T)
    np.testing.assert_allclose(own_axes, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(solid.to_local(np.float32(PLACE)[:, None]), 0, atol=1e-7)


@pytest.mark.parametrize("exponent", [0, 1, 2, 5, 40, 45, 70])
def test_whole_powers(exponent):
    base = np.linspace(0.5, 1, 20, dtype=np.float32)
    product = power(base, exponent)
    assert product.dtype == np.float32
    np.testing.assert_allclose(product, base.astype(float) ** exponent, rtol=1e-5)
