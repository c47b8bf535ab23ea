"""Statics of towers by hand, and towers drawn to stand or to be broken in a known way."""

import math
from itertools import pairwise

import numpy as np
import pytest

from pyro_sri.data.generators.block_towers import KINDS, SEPARATED, Block, break_tower, draw_tower, judge

QUARTER = math.pi / 2


def pile(*blocks, gap=0.0):
    """Blocks on each other, from (shape, size, x, y, yaw in radians)."""
    height, tower = 0.0, []
    for shape, size, x, y, yaw in blocks:
        tower.append(Block(shape, size, (x, y, height + size[2] / 2), yaw))
        height += size[2] + gap
    return tuple(tower)


def cube(x=0.0, y=0.0, yaw=0.0, side=1.0):
    return "cuboid", (side, side, side), x, y, yaw


@pytest.mark.parametrize(
    ("tower", "margin"),
    [
        # The upper cube's middle lies 0.3 from the lower's: 0.2 from its edge; all weight at 0.15 of the base.
        (pile(cube(), cube(0.3)), 0.2),
        (pile(cube(), cube(0, -0.6)), -0.1),
        (pile(cube(), cube(0.2, -0.6)), -0.1),
        (pile(cube(), cube(0.3, 0, QUARTER)), 0.2),  # the upper face is the same when turned
        # Turned by 45 degrees, the upper cube's middle still lies 0.2 inside the lower's face, its own 0.5.
        (pile(cube(), cube(0.3, 0, math.pi / 4)), 0.2),
        # The lower one turned: its corner lies at 0.7071; the edges there have normals at 45 degrees.
        (pile(cube(0, 0, math.pi / 4), cube(0.6)), 0.5 - 0.6 * math.sqrt(0.5)),
        # Three cubes: the upper two weigh together at 0.45, 0.05 inside the lowest.
        (pile(cube(), cube(0.3), cube(0.6)), 0.05),
        (pile(cube(), cube(0.4), cube(0.8)), -0.1),
        # A beam whose middle lies outside, and a cube half as heavy on its other end, 0.4 from the tip.
        (pile(cube(), ("cuboid", (4, 1, 0.5), 0.6, 0, 0)), -0.1),
        (pile(cube(), ("cuboid", (4, 1, 0.5), 0.6, 0, 0), cube(-1)), 0.4),
        # A cylinder of radius 0.5 below: 0.3 and 0.4 from its axis is exactly its edge.
        (pile(("cylinder", (1, 1, 1), 0, 0, 0), cube(0.3, 0.4)), 0),
        (pile(("cylinder", (1, 1, 1), 0, 0, 0), cube(0.12, 0.16)), 0.3),
        # The upper face may be the smaller one.
        (pile(cube(), ("cylinder", (0.5, 0.5, 1), 0.1, 0, 0)), 0.25),
        # A sphere stands on a point of the face below.
        (pile(cube(), ("sphere", (0.6, 0.6, 0.6), 0, 0, 0)), 0.5),
        (pile(cube(), ("sphere", (0.8, 0.8, 0.8), 0.35, 0, 0)), 0.15),
        (pile(cube(), ("sphere", (0.8, 0.8, 0.8), 0.55, 0, 0)), -0.05),
    ],
)
def test_towers_by_hand(tower, margin):
    verdict = judge(tower)
    assert verdict.margin == pytest.approx(margin, abs=1e-12)
    assert verdict.touches
    assert not verdict.round_inside
    assert verdict.stands == (verdict.margin > 0)


@pytest.mark.parametrize("gap", [0.01, -0.01, 0.5])
def test_blocks_that_hover_or_are_sunk_do_not_stand(gap):
    verdict = judge(pile(cube(), cube(0.1), cube(), gap=gap))
    assert verdict.margin > 0
    assert not verdict.touches
    assert not verdict.stands


def test_a_tower_that_hovers_above_the_floor_does_not_stand():
    assert not judge(tuple(block.moved((0, 0, 0.01)) for block in pile(cube(), cube()))).stands


@pytest.mark.parametrize("shape", ["sphere", "lying_cylinder"])
def test_a_round_block_below_the_top_counts_as_fallen(shape):
    verdict = judge(pile(cube(), (shape, (1, 1, 1), 0, 0, 0), cube()))
    assert verdict.touches
    assert verdict.round_inside
    assert not verdict.stands
    assert judge(pile(cube(), cube(), (shape, (1, 1, 1), 0, 0, 0))).stands


def test_a_single_block_stands():
    assert judge(pile(cube())).margin == 0.5
    assert judge(pile(("sphere", (1, 1, 1), 0, 0, 0))).stands


def test_volumes_and_measures_by_hand():
    sphere, upright, lying, box = (
        Block(shape, size, (1, 2, 3), 0.5)
        for shape, size in (
            ("sphere", (2, 2, 2)),
            ("cylinder", (2, 2, 3)),
            ("lying_cylinder", (3, 2, 2)),
            ("cuboid", (3, 4, 2)),
        )
    )
    assert [block.volume for block in (sphere, upright, lying, box)] == pytest.approx(
        [4 / 3 * math.pi, 3 * math.pi, 3 * math.pi, 24]
    )
    assert [block.reach for block in (sphere, upright, lying, box)] == pytest.approx([1, 1, math.sqrt(3.25), 2.5])
    assert (lying.bottom, lying.top, upright.top) == (2, 4, 4.5)
    assert [block.is_round for block in (sphere, upright, lying, box)] == [True, False, True, False]


def test_corners_by_hand():
    corners = Block("cuboid", (2, 4, 6), (10, 20, 30), QUARTER).corners()
    expected = [(10 + x, 20 + y, 30 + z) for x in (-2, 2) for y in (-1, 1) for z in (-3, 3)]
    np.testing.assert_allclose(np.unique(np.round(corners, 9), axis=0), expected)


def many_towers(draw, num):
    """Towers of 2 to 6 blocks by draw(rng, count)."""
    rng = np.random.default_rng(0)
    return [draw(rng, 2 + number % 5) for number in range(num)]


def test_drawn_towers_always_stand():
    towers = many_towers(draw_tower, 1000)
    for number, tower in enumerate(towers):
        verdict = judge(tower)
        assert verdict.stands
        assert verdict.margin > 0.1
        assert len(tower) == 2 + number % 5
        assert tower[0].position[:2] == (0, 0)
    blocks = [block for tower in towers for block in tower]
    measures = np.array([block.size for block in blocks])
    assert 0.5 <= measures.min() < 0.51
    assert 0.99 < measures.max() < 1
    assert {block.shape for tower in towers for block in tower[:-1]} == {"cuboid", "cylinder"}
    assert {tower[-1].shape for tower in towers} == {"cuboid", "cylinder", "sphere"}
    for block in blocks:
        x, y, z = block.size
        assert x == y or block.shape == "cuboid"
        assert x == z or block.shape != "sphere"
    assert np.ptp([tower[-1].position[0] for tower in towers]) > 0.5


def points_of(block, rng, num=400):
    """Random points inside a block, [num, 3]."""
    x, y, z = rng.uniform(-1, 1, (3, 20 * num))
    inside = {
        "cuboid": x == x,
        "cylinder": x**2 + y**2 <= 1,
        "sphere": x**2 + y**2 + z**2 <= 1,
        "lying_cylinder": y**2 + z**2 <= 1,
    }[block.shape]
    points = (np.stack([x, y, z], axis=1)[inside] * np.array(block.size) / 2)[:num]
    c, s = math.cos(block.yaw), math.sin(block.yaw)
    return points @ np.array([(c, s, 0), (-s, c, 0), (0, 0, 1)]) + np.array(block.position)


@pytest.mark.parametrize("shape", ["cuboid", "cylinder", "sphere", "lying_cylinder"])
def test_the_margin_is_that_of_the_outline_seen_from_above(shape):
    size = {"cuboid": (1, 0.6, 0.8), "cylinder": (1, 1, 0.8), "sphere": (1, 1, 1), "lying_cylinder": (0.7, 1, 1)}[shape]
    block, rng = Block(shape, size, (3, 4, 5), 0.7), np.random.default_rng(0)
    assert all(block.reach >= math.hypot(x - 3, y - 4) for x, y, _ in points_of(block, rng))
    if shape != "sphere":  # touches in a point only
        assert all(block.margin(x, y) >= -1e-9 for x, y, _ in points_of(block, rng))
    c, s = math.cos(0.7), math.sin(0.7)
    assert block.margin(3, 4) == pytest.approx(min(size[:2]) / 2)
    assert block.margin(3 + 0.6 * c, 4 + 0.6 * s) == pytest.approx(size[0] / 2 - 0.6)


@pytest.mark.parametrize("kind", KINDS)
def test_broken_towers_never_stand(kind):
    for number, (tower, first) in enumerate(many_towers(lambda rng, count: break_tower(rng, count, kind), 300)):
        assert not judge(tower).stands
        assert len(tower) == 2 + number % 5
        assert 1 <= first < len(tower)
        assert min(block.bottom for block in tower) == pytest.approx(0, abs=1e-9)


def verdicts(kind, num=300):
    """Towers broken in a way, the number of their first wrong block, and what statics says of them."""
    for tower, first in many_towers(lambda rng, count: break_tower(rng, count, kind), num):
        yield tower, first, judge(tower)


def test_the_weight_of_unsupported_towers_lies_just_outside():
    firsts = set()
    for tower, first, verdict in verdicts("unsupported"):
        assert verdict.margin == pytest.approx(-0.05)
        assert verdict.touches
        assert not verdict.round_inside
        # What misses its support is the part from `first` on; both parts would stand by themselves.
        upper = tower[first:]
        weight = sum(block.volume for block in upper)
        x, y = (sum(block.volume * block.position[axis] for block in upper) / weight for axis in range(2))
        assert tower[first - 1].margin(x, y) == pytest.approx(-0.05)
        assert judge(tuple(block.moved((0, 0, -tower[first].bottom)) for block in upper)).stands
        firsts.add((first, len(tower)))
    assert firsts == {(first, count) for count in range(2, 7) for first in range(1, count)}


def test_round_blocks_are_below_what_they_break():
    shapes = set()
    for tower, first, verdict in verdicts("round"):
        assert verdict.touches
        assert verdict.round_inside
        assert verdict.margin > 0.1
        assert [block.is_round for block in tower[:-1]] == [number == first - 1 for number in range(len(tower) - 1)]
        shapes.add(tower[first - 1].shape)
    assert shapes == {"sphere", "lying_cylinder"}


def test_sunk_parts_lie_deep_in_the_block_below():
    for tower, first, verdict in verdicts("sunk"):
        assert not verdict.touches
        depth = tower[first - 1].top - tower[first].bottom
        smaller = min(tower[first - 1].size[2], tower[first].size[2])
        assert 0.4 * smaller <= depth <= 0.7 * smaller
        for number, (lower, upper) in enumerate(pairwise(tower), start=1):
            assert number == first or upper.bottom == pytest.approx(lower.top)


def test_parts_hover_above_a_gap():
    for tower, first, verdict in verdicts("gap"):
        assert not verdict.touches
        assert verdict.margin > 0
        assert 0.25 <= tower[first].bottom - tower[first - 1].top <= 1.2
        for number, (lower, upper) in enumerate(pairwise(tower), start=1):
            assert number == first or upper.bottom == pytest.approx(lower.top)


def test_parts_in_the_air_keep_their_height():
    for tower, _, verdict in verdicts("air"):
        assert verdict.margin < 0
        assert all(upper.bottom == pytest.approx(lower.top) for lower, upper in pairwise(tower))


def test_the_block_beside_a_tower_stands_on_the_floor_and_so_does_the_rest():
    for tower, first, verdict in verdicts("beside"):
        assert first == len(tower) - 1
        assert tower[-1].bottom == pytest.approx(0)
        assert judge(tower[:-1]).stands
        assert not verdict.touches


@pytest.mark.parametrize("kind", SEPARATED)
def test_separated_parts_share_no_contact(kind):
    for tower, first, _ in verdicts(kind):
        for lower in tower[:first]:
            for upper in tower[first:]:
                above = upper.bottom - lower.top
                aside = math.dist(lower.position[:2], upper.position[:2]) - lower.reach - upper.reach
                assert max(above, aside) > 0.04
