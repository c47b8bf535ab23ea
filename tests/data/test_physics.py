"""Simulated towers stand or fall as statics says, and the audit of files."""

import sys

import numpy as np
import pytest

from pyro_sri.data.generators.block_towers import Block, break_tower, draw_tower, judge
from pyro_sri.data.making import make_dataset
from pyro_sri.data.physics import audit_towers, simulate
from pyro_sri.system.errors import UserError


def cubes(*places, gap=0.0):
    return tuple(
        Block("cuboid", (1.0, 1.0, 1.0), (x, 0.0, 0.5 + level * (1 + gap)), 0.0) for level, x in enumerate(places)
    )


def test_drawn_towers_stand():
    rng = np.random.default_rng(0)
    for number in range(40):
        audit = simulate(draw_tower(rng, 2 + number % 5), np.random.default_rng(number))
        assert audit.stands
        assert audit.moved.shape == (2 + number % 5,)
        assert audit.moved.max() <= 0.05


@pytest.mark.parametrize("kind", ["gap", "air", "unsupported", "round", "sunk"])
def test_broken_towers_fall(kind):
    rng = np.random.default_rng(1)
    for number in range(6):
        tower, first = break_tower(rng, 2 + number % 5, kind)
        audit = simulate(tower, np.random.default_rng(number))
        assert not audit.stands
        if kind in ("gap", "air"):
            assert audit.moved[first:].max() > 0.2


def test_a_tower_and_a_block_beside_it_both_stand():
    """What is wrong with this kind is that it is not one tower."""
    rng = np.random.default_rng(2)
    for number in range(6):
        tower, _ = break_tower(rng, 2 + number % 5, "beside")
        assert not judge(tower).stands
        assert simulate(tower, np.random.default_rng(number)).stands


@pytest.mark.parametrize("away", [0.3, 0.44, 0.56, 0.7])
def test_a_cube_falls_off_another_when_its_middle_is_beyond_the_edge(away):
    tower = cubes(0.0, away)
    assert simulate(tower, np.random.default_rng(0), kick=0.0).stands == judge(tower).stands == (away < 0.5)


def test_a_block_falls_as_far_as_it_hovers():
    audit = simulate(cubes(0.0, 0.1, gap=0.4), np.random.default_rng(0), kick=0.0)
    assert audit.moved == pytest.approx([0, 0.4], abs=0.02)


def test_a_hard_push_topples_a_tower():
    assert simulate(cubes(0, 0, 0), np.random.default_rng(0), kick=0.05).stands
    assert not simulate(cubes(0, 0, 0), np.random.default_rng(0), kick=3.0).stands


@pytest.mark.parametrize("round_top", [("sphere", (0.6, 0.6, 0.6)), ("lying_cylinder", (0.9, 0.6, 0.6))])
def test_a_round_top_may_roll_where_it_is(round_top):
    top = Block(*round_top, (0.0, 0.0, 1.3), 0.4)
    audit = simulate((*cubes(0), top), np.random.default_rng(3), kick=0.1)
    assert audit.stands
    assert audit.moved[1] < 0.01


def test_the_same_push_gives_the_same_audit():
    tower = draw_tower(np.random.default_rng(4), 4)
    one, other = (simulate(tower, np.random.default_rng(5)).moved for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small file of each of three families."""
    folder = tmp_path_factory.mktemp("audited")
    for name, options in (("stacks", {}), ("stacks_broken", {"kinds": ("gap", "sunk")}), ("tetrominoes", {})):
        make_dataset(name, folder / f"{name}.h5", size=32, train=4, val=0, test=2, options=options)
    return folder


def test_towers_of_a_file_are_audited(files):
    told = []
    audits = audit_towers(files / "stacks.h5", progress=lambda *news: told.append(news))
    assert [audit.stands for audit in audits] == [True] * 4
    assert told == [("towers", number, 4) for number in range(1, 5)]
    assert [audit.stands for audit in audit_towers(files / "stacks_broken.h5", 3)] == [False] * 3
    assert len(audit_towers(files / "stacks.h5", split="test")) == 2
    again = audit_towers(files / "stacks.h5", 2)
    for audit, other in zip(audits, again, strict=False):
        np.testing.assert_array_equal(audit.moved, other.moved)
    pushed = audit_towers(files / "stacks.h5", 1, seed=1)[0]
    assert (pushed.moved != audits[0].moved).any()


@pytest.mark.parametrize(
    ("name", "num", "words"),
    [
        ("tetrominoes", None, ["tetrominoes.h5 was not made by", "data make stacks"]),
        ("stacks", 5, ["train has 4 towers, 5 were asked for", "1 to 4"]),
        ("stacks", 0, ["0 were asked for"]),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_line(files, name, num, words):
    with pytest.raises(UserError) as caught:
        audit_towers(files / f"{name}.h5", num)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words)


def test_without_mujoco_the_audit_says_how_to_install_it(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    for call in (
        lambda: audit_towers(files / "stacks.h5"),
        lambda: simulate(cubes(0, 0), np.random.default_rng(0)),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert 'pip install "pyro-sri[physics]"' in str(caught.value)
