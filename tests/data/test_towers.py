"""Towers: what pictures, masks and factors promise, against drawing and statics computed anew from the factors."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest

from pyro_sri.data.generators import GENERATORS
from pyro_sri.data.generators.family import Drawn
from pyro_sri.data.generators.towers import FACTOR_NAMES, KINDS, SHAPES
from pyro_sri.system.errors import UserError

SKY, FLOOR = (150, 180, 210), (110, 100, 90)
FILLED = {"box": 1, "dome": np.pi / 4, "wedge": 0.5, "barrel": 0.95}
FACE = {"box": 1, "dome": 1, "wedge": 1, "barrel": 0.85}


class Block(NamedTuple):
    """A block in pixels of a picture of 32 x 32; heights from the floor."""

    place: int
    shape: str
    colour: tuple[int, ...]
    x: float
    bottom: float
    width: float
    height: float

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        return self.x + self.width / 2

    @property
    def top(self) -> float:
        return self.bottom + self.height

    def holds(self, x: float, height: float) -> bool:
        """Whether a point is in it."""
        across, up = abs(x - self.x) / (self.width / 2), (height - self.bottom) / self.height
        if not 0 <= up < 1:
            return False
        return {
            "box": across <= 1,
            "dome": across**2 + up**2 <= 1,
            "wedge": across + up <= 1,
            "barrel": across <= 0.85 + 0.6 * up * (1 - up),
        }[self.shape]


def draw(name: str, num: int, size: int = 32, seed: int = 0, **options: object) -> Drawn:
    family = GENERATORS[name]
    rngs = [np.random.default_rng([seed, scene]) for scene in range(num)]
    return family.make(rngs, size, family.parse_options(options), "train")


def towers(drawn: Drawn) -> list[list[Block]]:
    """The blocks of each scene, from the factors."""
    return [
        [
            Block(
                place=int(row[1]),
                shape=SHAPES[int(row[2]) - 1],
                colour=tuple(int(255 * value) for value in row[3:6]),
                x=32 * float(row[6]),
                bottom=32 * (1 - float(row[7]) - float(row[9]) / 2) - 4,
                width=32 * float(row[8]),
                height=32 * float(row[9]),
            )
            for row in rows[2:]
            if row[0]
        ]
        for rows in drawn.factors.astype(np.float64)
    ]


def balance(tower: list[Block]) -> list[float]:
    """How far inside its contact with what is below the middle of each block and all above it lies."""
    inside = []
    for level in range(len(tower)):
        areas = [FILLED[other.shape] * other.width * other.height for other in tower[level:]]
        middle = np.average([other.x for other in tower[level:]], weights=areas)
        halves = [(other, FACE[other.shape] * other.width / 2) for other in tower[max(0, level - 1) : level + 1]]
        inside.append(min(half - abs(middle - other.x) for other, half in halves))
    return inside


@pytest.fixture(scope="module")
def thousand() -> Drawn:
    return draw("towers", 1000)


@pytest.mark.parametrize(("name", "size"), [("towers", 32), ("towers", 50), ("towers_broken", 32)])
def test_pictures_and_masks_are_those_of_the_factors(name: str, size: int) -> None:
    drawn = draw(name, 6, size, seed=3, shapes=SHAPES, max_objects=6)
    samples = (np.arange(4 * size) + 0.5) * 32 / (4 * size)
    for image, entities, tower in zip(drawn.images, drawn.entities, towers(drawn), strict=True):
        colours = np.array([SKY, FLOOR, *(block.colour for block in tower)])
        found = np.zeros((4 * size, 4 * size), dtype=int)
        for row, column in np.ndindex(found.shape):
            height = 28 - samples[row]
            hit = [2 + number for number, block in enumerate(tower) if block.holds(samples[column], height)]
            assert len(hit) <= 1
            found[row, column] = (*hit, int(height < 0))[0]
        pixels = found.reshape(size, 4, size, 4).transpose(0, 2, 1, 3).reshape(size, size, 16)
        np.testing.assert_array_equal(image, np.round(colours[pixels].mean(2)))
        counts = (pixels[..., None] == np.arange(len(colours))).sum(2)
        np.testing.assert_array_equal(entities, counts.argmax(-1))


def test_towers_stand_on_the_floor_within_the_picture(thousand: Drawn) -> None:
    for tower in towers(thousand):
        assert [block.place for block in tower] == list(range(1, 1 + len(tower)))
        assert tower[0].bottom == pytest.approx(0, abs=1e-4)
        for lower, upper in pairwise(tower):
            assert upper.bottom == pytest.approx(lower.top, abs=1e-4)
            assert abs(upper.x - lower.x) <= 0.3 * lower.width + 1e-4
            assert lower.shape == "box"
        assert min(balance(tower)) > -1e-4
        assert min(block.left for block in tower) >= 1 - 1e-4
        assert max(block.right for block in tower) <= 31 + 1e-4
    background = thousand.entities < 2
    assert background[:, [0, -1]].all()
    assert background[:, :, [0, -1]].all()
    np.testing.assert_array_equal(thousand.entities == 1, np.broadcast_to(np.arange(32)[:, None] >= 28, (1000, 32, 32)))


def test_towers_are_drawn_evenly(thousand: Drawn) -> None:
    scenes = towers(thousand)
    np.testing.assert_allclose(np.bincount([len(tower) for tower in scenes])[2:] / 1000, 1 / 3, atol=0.05)
    assert np.mean([tower[-1].shape == "dome" for tower in scenes]) == pytest.approx(0.5, abs=0.05)
    blocks = [block for tower in scenes for block in tower]
    for values, low, high in (
        ([block.width for block in blocks], 6, 11),
        ([block.height for block in blocks], 4.5, 6.5),
    ):
        shares = np.histogram(values, 5, (low - 1e-4, high + 1e-4))[0] / len(blocks)
        np.testing.assert_allclose(shares, 0.2, atol=0.04)
    colours, counts = np.unique([block.colour for block in blocks], axis=0, return_counts=True)
    assert len(colours) == 6
    assert all(set(colour) == {0, 255} for colour in colours.tolist())
    np.testing.assert_allclose(counts / len(blocks), 1 / 6, atol=0.03)
    assert all(len({block.colour for block in tower}) == len(tower) for tower in scenes)
    starts = [min(block.left for block in tower) for tower in scenes]
    assert min(starts) < 2
    assert max(starts) > 20


def test_towers_of_any_colours() -> None:
    scenes = towers(draw("towers", 200, variant="any_colours"))
    repeated = np.mean([len({block.colour for block in tower}) < len(tower) for tower in scenes])
    assert repeated == pytest.approx((1 / 6 + (1 - 20 / 36) + (1 - 60 / 216)) / 3, abs=0.1)


@pytest.mark.parametrize("name", ["towers", "towers_broken"])
def test_six_blocks_fit(name: str) -> None:
    drawn = draw(name, 100, min_objects=6, max_objects=6)
    for tower in towers(drawn):
        assert len({block.colour for block in tower}) == len(tower) == 6
        assert max(block.top for block in tower) <= 27 + 1e-4
        assert len({round(block.height, 3) for block in tower}) > 1
    assert (drawn.entities[:, 0] == 0).all()


def test_other_shapes_stand_too() -> None:
    scenes = towers(draw("towers", 300, shapes=("wedge", "barrel"), min_objects=5, max_objects=6))
    assert min(min(balance(tower)) for tower in scenes) > -1e-4
    assert {block.shape for tower in scenes for block in tower[:-1]} == {"barrel"}
    assert {tower[-1].shape for tower in scenes} == {"wedge", "barrel"}


@pytest.mark.parametrize("kind", KINDS)
def test_towers_of_a_kind_are_broken_in_that_way(kind: str) -> None:
    drawn = draw("towers_broken", 100, kinds=(kind,), max_objects=6)
    assert GENERATORS["towers_broken"].factor_names == (*FACTOR_NAMES, "kind")
    rows = drawn.factors[:, 2:]
    np.testing.assert_array_equal(rows[..., -1], (1 + KINDS.index(kind)) * rows[..., 0])
    assert not drawn.factors[:, :2, -1].any()
    wrong_places = set()
    for tower in towers(drawn):
        rise = [upper.bottom - lower.top for lower, upper in pairwise(tower)]
        apart = [max(b.left - a.right, a.left - b.right) for a, b in pairwise(tower)]
        if kind == "gap":
            wrong = [place for place, by in enumerate(rise) if by > 2.99]
            assert max(rise) < 5.01
        elif kind == "air":
            np.testing.assert_allclose(rise, 0, atol=1e-4)
            wrong = [place for place, by in enumerate(apart) if by > 1.99]
        elif kind == "beside":
            wrong = [len(tower) - 2]
            assert tower[-1].bottom == pytest.approx(0, abs=1e-4)
            assert all(max(tower[-1].left - other.right, other.left - tower[-1].right) > 1.99 for other in tower[:-1])
        else:
            np.testing.assert_allclose(rise, 0, atol=1e-4)
            wrong = [place for place, by in enumerate(balance(tower)[1:]) if by < -1.49]
            assert all(by < 0 for by in apart)  # they touch
        assert len(wrong) == 1
        wrong_places.add(wrong[0])
        assert min(block.left for block in tower) >= 1 - 1e-4
        assert max(block.right for block in tower) <= 31 + 1e-4
        assert max(block.top for block in tower) <= 27 + 1e-4
    assert wrong_places == set(range(5))


def test_broken_towers_are_of_all_kinds() -> None:
    kinds = draw("towers_broken", 800).factors[:, 2, -1].astype(int)
    np.testing.assert_allclose(np.bincount(kinds)[1:] / 800, 1 / 4, atol=0.05)


def test_sky_and_floor_are_background() -> None:
    assert GENERATORS["towers"].background_entities == GENERATORS["towers_broken"].background_entities == (0, 1)
    rows = draw("towers", 2).factors[:, :2]
    assert (rows[..., 0] == 1).all()
    np.testing.assert_allclose(rows[..., 3:6], np.broadcast_to([SKY, FLOOR], (2, 2, 3)) / np.float32(255), rtol=1e-6)
    assert not rows[..., [1, 2, 6, 7, 8, 9]].any()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("towers", {"min_objects": 1}, ["1 to 4 blocks", "2 to 6"]),
        ("towers", {"max_objects": 7}, ["2 to 7 blocks", "2 to 6"]),
        ("towers", {"min_objects": 4, "max_objects": 3}, ["4 to 3", "in order"]),
        ("towers", {"shapes": ("box", "ball")}, ["ball", "box, dome, wedge, barrel"]),
        ("towers", {"shapes": ()}, ["shapes", "box"]),
        ("towers", {"shapes": ("dome", "wedge")}, ["dome, wedge", "add box or barrel"]),
        ("towers", {"variant": "train"}, ["'train'", "different_colours, any_colours"]),
        ("towers", {"kinds": ("gap",)}, ["no option kinds"]),
        ("towers_broken", {"kinds": ("gap", "wobbly")}, ["wobbly", "unsupported"]),
        ("towers_broken", {"kinds": ()}, ["kinds", "gap"]),
    ],
)
def test_mistakes_in_options_are_one_line(name: str, options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        GENERATORS[name].parse_options(options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
