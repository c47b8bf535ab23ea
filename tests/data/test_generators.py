import pickle
from dataclasses import asdict

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.generators import GENERATORS
from pyro_sri.data.generators.colours import rgb
from pyro_sri.data.generators.family import draw_until, windows
from pyro_sri.data.generators.multi_dsprites import MultiDSpritesOptions, sprite_bank
from pyro_sri.data.generators.pieces import Pieces
from pyro_sri.data.generators.tetrominoes import TetrominoesOptions, cell_brightness, paint, piece_bank
from pyro_sri.data.making import Task, _made, draw, make_dataset
from pyro_sri.system.errors import UserError
from support.mistakes import one_line

FEW = ("tetrominoes", "stacks")  # of the tests that take seconds for each family


def some_scenes(name, num=100, size=None, seed=0, split="train", **options):
    family = GENERATORS[name]
    return draw(Task(name, split, 0, num, size or family.default_size, seed, family.parse_options(options))).scenes()


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("size", [32, *(pytest.param(size, marks=pytest.mark.slow) for size in (None, 53, 128))])
def test_every_family_keeps_its_promises(name, size):
    family, num = GENERATORS[name], 40
    images, masks, factors = some_scenes(name, num, size)
    side = size or family.default_size
    assert images.shape == (num, side, side, 3)
    assert masks.shape == (num, family.max_entities, side, side, 1)
    assert factors.shape == (num, family.max_entities, len(family.factor_names))
    assert (images.dtype, masks.dtype, factors.dtype) == (np.uint8, np.uint8, np.float32)
    assert set(np.unique(masks)) == {0, 255}
    assert ((masks == 255).sum(1) == 1).all()  # every pixel in exactly one entity
    visible = (masks > 0).any((2, 3, 4))
    np.testing.assert_array_equal(factors[..., 0], visible)
    assert np.isfinite(factors).all()
    assert (factors[~visible] == 0).all()


@pytest.mark.parametrize("name", GENERATORS)
def test_a_scene_depends_on_seed_split_and_index_alone(name):
    family = GENERATORS[name]
    whole = some_scenes(name, 12)
    part = draw(Task(name, "train", 5, 12, family.default_size, 0, family.options())).scenes()
    for every, some in zip(whole, part, strict=True):
        np.testing.assert_array_equal(every[5:], some)
    for other in (some_scenes(name, 12, seed=1), some_scenes(name, 12, split="val")):
        differ = (other.images != whole.images).any((1, 2, 3))
        if name == "multi_digits":  # pictures without digits are all the same
            differ |= ~whole.images.any((1, 2, 3)) & ~other.images.any((1, 2, 3))
        assert differ.all()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FEW)) for name in GENERATORS]
)
def test_one_and_two_workers_write_the_same_arrays(name, tmp_path):
    hashes = []
    for workers in (1, 2):
        out = tmp_path / f"{workers}.h5"
        num = GENERATORS[name].scenes_per_task + 3
        make_dataset(name, out, size=32, train=num, val=2, test=0, seed=5, workers=workers)
        with DatasetFile(out) as file:
            assert file.splits == ("train", "val")
            assert file.num_images("train") == num
            hashes.append(file.content_hash())
        check_dataset(out)
    assert hashes[0] == hashes[1]


def test_a_worker_that_dies_is_one_line(tmp_path):
    task = Task("tetrominoes", "train", 0, 3, 35, 0, None)  # a worker cannot draw without options
    with _made([task], 1, Pieces(tmp_path)) as scenes, pytest.raises(AttributeError):
        next(scenes)
    with _made([task] * 3, 2, Pieces(tmp_path)) as scenes, pytest.raises(UserError) as caught:
        next(scenes)
    one_line(caught, "a worker process died", "fewer workers")


def test_the_file_says_how_it_was_made(tmp_path):
    told = []
    make_dataset(
        "multi_dsprites",
        tmp_path / "a.h5",
        size=32,
        train=3,
        val=0,
        test=2,
        seed=9,
        options={"max_objects": 4, "variant": "binarized"},
        progress=lambda *news: told.append(news),
    )
    assert told == [("train", 3, 3), ("test", 2, 2)]
    with h5py.File(tmp_path / "a.h5") as file:
        attributes = dict(file.attrs)
    assert attributes.pop("factor_names").tolist() == list(GENERATORS["multi_dsprites"].factor_names)
    assert attributes == {
        "source": "generated",
        "generator": "multi_dsprites",
        "generator_version": 1,
        "seed": 9,
        "size": 32,
        "variant": "binarized",
        "min_objects": 2,
        "max_objects": 4,
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "tetromino"}, ["tetromino'", "did you mean tetrominoes?"]),
        ({"name": "xyz"}, ["choose from clevr6, clevr"]),
        ({"size": 31}, ["size 31", "32 to 128"]),
        ({"size": 129}, ["size 129", "32 to 128"]),
        ({"train": -1}, ["-1"]),
        ({"train": 0, "val": 0, "test": 0}, ["at least one of them positive"]),
        ({"seed": -3}, ["-3"]),
        ({"workers": 0}, ["workers is 0"]),
        ({"options": {"num_piece": 2}}, ["num_piece;", "did you mean num_pieces?"]),
        ({"options": {"num_pieces": 6}}, ["6 pieces", "1 to 5"]),
        ({"name": "multi_dsprites", "options": {"min_objects": 4, "max_objects": 3}}, ["4 to 3", "1 to 8"]),
        ({"name": "multi_dsprites", "options": {"max_objects": 9}}, ["1 to 8"]),
        ({"name": "multi_dsprites", "options": {"variant": "binary"}}, ["'binary'", "use one of", "binarized"]),
        ({"name": "multi_dsprites", "options": {"variant": "binarized", "min_objects": 4}}, ["4 to 3"]),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(tmp_path, arguments, words):
    with pytest.raises(UserError) as caught:
        make_dataset(**{"name": "tetrominoes", "out": tmp_path / "a.h5"} | arguments)
    one_line(caught, *words)
    assert list(tmp_path.iterdir()) == []


def test_draws_are_repeated_until_accepted():
    rngs = [np.random.default_rng(seed) for seed in range(50)]
    streams = [np.random.default_rng(seed).random((200, 2)) for seed in range(50)]
    expected = [next(draw for draw in stream if draw[0] < 0.2) for stream in streams]
    draws = draw_until(rngs, (2,), lambda draws, scenes: draws[:, 0] < 0.2)
    np.testing.assert_array_equal(draws, expected)


def test_windows_write_through():
    canvas = np.zeros((2, 3, 4), dtype=np.uint8)
    windows(canvas, 2)[np.array([0, 1]), np.array([1, 0]), np.array([2, 1])] = 7
    np.testing.assert_array_equal(canvas[0], [[0, 0, 0, 0], [0, 0, 7, 7], [0, 0, 7, 7]])
    np.testing.assert_array_equal(canvas[1], [[0, 7, 7, 0], [0, 7, 7, 0], [0, 0, 0, 0]])


def test_the_published_tetromino_cell():
    expected = [
        [190, 250, 250, 250, 222],
        [128, 159, 159, 159, 190],
        [128, 159, 159, 159, 190],
        [128, 159, 159, 159, 190],
        [96, 62, 62, 62, 127],
    ]
    np.testing.assert_array_equal(cell_brightness(5), expected)


def test_a_larger_cell_has_a_wider_mitred_bevel():
    cell = cell_brightness(9)
    assert cell[0].tolist() == [190, *[250] * 7, 222]
    assert cell[1].tolist() == [128, 190, *[250] * 5, 222, 190]
    assert cell[4].tolist() == [128, 128, *[159] * 5, 190, 190]
    assert cell[8].tolist() == [96, *[62] * 7, 127]


def test_the_seventeen_pieces():
    shapes, turns, bank = piece_bank(1)
    assert np.bincount(shapes).tolist() == [2, 1, 2, 4, 4, 4]
    assert ((bank > 0).sum((1, 2)) == 4).all()
    assert len({piece.tobytes() for piece in bank}) == len(bank) == 17
    assert turns.tolist() == [0, 1, 0, 0, 1, *[0, 1, 2, 3] * 3]
    assert (bank[3] > 0)[:2, :3].tolist() == [[False, True, True], [True, True, False]]  # S, not Z


def test_patches_are_added_and_cut_at_the_border():
    patches = np.array([[[[1, 2], [3, 4]], [[10, 0], [0, 0]]]], dtype=np.uint8)
    picture = paint(patches, np.array([[[0, 0], [2, 2]]]), 3)
    np.testing.assert_array_equal(picture, [[[1, 2, 0], [3, 4, 0], [0, 0, 10]]])


@pytest.mark.parametrize("size", [35, 32, 64])
def test_tetrominoes_masks_agree_with_pixels_and_factors(size):
    images, masks, factors = some_scenes("tetrominoes", 150, size)
    cell = round(size / 7)
    inside = masks[..., 0] > 0  # [n, O, H, W]
    np.testing.assert_array_equal(inside[:, 0], (images == 0).all(-1))  # black exactly where entity 0
    assert (inside[:, 1:].sum((2, 3)) == 4 * cell**2).all()
    faces = 0
    for scene, entity in np.ndindex(len(images), 3):
        _, shape, *colour, x, y, turns = factors[scene, entity + 1]
        pixels, (rows, columns) = images[scene][inside[scene, entity + 1]], np.nonzero(inside[scene, entity + 1])
        np.testing.assert_array_equal((pixels > 0).all(0), np.array(colour) > 0)
        np.testing.assert_array_equal(pixels, pixels.max(1, keepdims=True) * np.array(colour))
        assert x == pytest.approx((columns.min() + columns.max() + 1) / 2 / size)
        assert y == pytest.approx((rows.min() + rows.max() + 1) / 2 / size)
        assert shape in range(1, 7)
        assert turns in range(4)
        faces += (pixels.max(1) == 159).sum()
    assert faces == len(images) * 12 * (cell - 2) ** 2 or size == 64  # wider bevels at 64


def test_tetrominoes_are_drawn_evenly():
    factors = some_scenes("tetrominoes", 2000).factors[:, 1:]
    shapes = np.bincount(factors[..., 1].astype(int).ravel(), minlength=7)[1:] / 6000
    # Long pieces collide more often, so that the shares are near those of the kinds, not equal to them.
    np.testing.assert_allclose(shapes, np.array([2, 1, 2, 4, 4, 4]) / 17, atol=0.03)
    colours = np.unique(factors[..., 2:5].reshape(-1, 3), axis=0, return_counts=True)[1] / 6000
    np.testing.assert_allclose(colours, 1 / 6, atol=0.02)


@pytest.mark.parametrize("pieces", [1, 5])
def test_tetrominoes_with_other_numbers_of_pieces(pieces):
    masks = some_scenes("tetrominoes", 30, num_pieces=pieces).masks
    assert masks.shape[1] == 1 + pieces
    assert masks.any((2, 3, 4)).all()
    assert TetrominoesOptions().num_pieces == 3


@settings(deadline=None, max_examples=25)
@given(st.integers(32, 128))
def test_sprites_never_leave_the_picture(size):
    assert sprite_bank(size).shape[-1] // 2 <= size // 4


def test_sprites_by_hand():
    squares, ellipses, hearts = sprite_bank(64)
    assert squares[-1, 0].sum() == 20 * 20
    assert squares[0, 10].sum() == 10 * 10  # scale 0.5, a quarter turn
    assert ellipses[-1, 0].any(0).sum() == 24  # 25 pixels long, but its tips fall between pixels
    assert ellipses[-1, 0].any(1).sum() == 14
    np.testing.assert_array_equal(ellipses[:, 10], ellipses[:, 0].transpose(0, 2, 1))
    upright = hearts[-1, 0]
    assert upright.any(0).sum() == 20
    np.testing.assert_array_equal(upright, upright[:, ::-1])
    widths = upright.sum(1)[upright.any(1)]
    assert widths[0] < widths.max() > widths[-1]
    assert widths.argmax() < len(widths) / 2  # lobes above, point below
    assert not upright[np.flatnonzero(upright.any(1))[0], upright.shape[1] // 2]  # the cleft


def test_rgb_by_hand():
    hue, one = np.array([0, 1 / 6, 1 / 3, 2 / 3, 0.75]), np.ones(5)
    np.testing.assert_allclose(
        rgb(hue, one, one), [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [0.5, 0, 1]], atol=1e-12
    )
    np.testing.assert_allclose(rgb(hue, one * 0, one / 2), np.full((5, 3), 0.5))


@pytest.mark.parametrize("size", [64, 32])
@pytest.mark.parametrize(
    ("variant", "counts"),
    [("colored_on_grayscale", {2, 3, 4, 5}), ("binarized", {2, 3}), ("colored_on_colored", {1, 2, 3, 4})],
)
def test_multi_dsprites_masks_agree_with_pixels_and_factors(size, variant, counts):
    images, masks, factors = some_scenes("multi_dsprites", 60, size, variant=variant)
    assert masks.shape[1] == 1 + max(counts)
    entities = masks[..., 0].argmax(1)  # [n, H, W]
    colours = np.round(factors[..., 2:5] * 255).astype(np.uint8)  # [n, O, 3]
    np.testing.assert_array_equal(images, colours[np.arange(60)[:, None, None], entities])
    pixels = (masks > 0).sum((2, 3, 4))[:, 1:]
    assert set((pixels > 0).sum(1)) == counts
    assert pixels[pixels > 0].min() >= (8 if size == 64 else 2)
    sprites = factors[:, 1:][pixels > 0]
    assert set(sprites[:, 1]) == {1, 2, 3}
    assert 0.25 <= sprites[:, 5:7].min() <= sprites[:, 5:7].max() < 0.75
    assert sprites[:, 7].min() == 0.5
    assert sprites[:, 7].max() == 1
    assert sprites[:, 8].max() < 2 * np.pi


def colours_of(variant):
    """Of the backgrounds [n, 3] and of the sprites [m, 3] of many scenes."""
    factors = some_scenes("multi_dsprites", 400, 32, variant=variant).factors
    return factors[:, 0, 2:5], factors[:, 1:, 2:5][factors[:, 1:, 0] > 0]


def test_multi_dsprites_colored_on_grayscale_has_bright_sprites_on_any_grey():
    behind, sprites = colours_of("colored_on_grayscale")
    assert (np.ptp(behind, axis=1) == 0).all()
    assert np.histogram(behind[:, 0], 4, (0, 1))[0].min() > 70
    assert sprites.max(1).min() > 0.49  # value
    assert np.ptp(sprites / sprites.max(1, keepdims=True), axis=1).min() > 0.49  # saturation


def test_multi_dsprites_binarized_are_white_on_black():
    behind, sprites = colours_of("binarized")
    assert (behind == 0).all()
    assert (sprites == 1).all()


def test_multi_dsprites_colored_on_colored_have_any_colours():
    for colours in colours_of("colored_on_colored"):
        for channel in colours.T:
            np.testing.assert_allclose(np.histogram(channel, 4, (0, 1))[0] / len(channel), 1 / 4, atol=0.08)
        np.testing.assert_allclose(np.corrcoef(colours.T), np.eye(3), atol=0.2)


def test_multi_dsprites_of_few_objects():
    scenes = some_scenes("multi_dsprites", 300, 32, min_objects=1, max_objects=3)
    assert scenes.masks.shape[1] == 4
    objects = scenes.masks[:, 1:].any((2, 3, 4)).sum(1)
    np.testing.assert_allclose(np.bincount(objects)[1:] / 300, 1 / 3, atol=0.1)


def test_multi_dsprites_options_hold_the_numbers_of_the_variant():
    assert asdict(MultiDSpritesOptions()) == {"variant": "colored_on_grayscale", "min_objects": 2, "max_objects": 5}
    assert MultiDSpritesOptions("binarized") == MultiDSpritesOptions("binarized", 2, 3)
    assert MultiDSpritesOptions("colored_on_colored", max_objects=2) == MultiDSpritesOptions("colored_on_colored", 1, 2)
    assert pickle.loads(pickle.dumps(MultiDSpritesOptions("binarized"))) == MultiDSpritesOptions("binarized")
