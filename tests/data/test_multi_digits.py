import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from pyro_sri.data.generators.multi_digits import (
    INK,
    MAX_OVERLAP,
    MULTI_DIGITS,
    Look,
    MultiDigitsOptions,
    bicubic,
    cosine_and_sine,
    load_scans,
    overlaps,
    place,
    render,
)
from pyro_sri.system.errors import UserError


def some_scenes(num=100, size=50, seed=0, split="train", start=0, **options):
    rngs = [np.random.default_rng([seed, scene]) for scene in range(start, start + num)]
    return MULTI_DIGITS.make(rngs, size, MULTI_DIGITS.parse_options(options), split)


def redrawn(factors, size):
    """The digits of a scene, each alone, drawn from its factors: [O - 1, size, size]."""
    pictures = np.zeros((len(factors) - 1, size, size), dtype=np.uint8)
    for digit, (visible, _, x, y, scale, rotation, shear, scan) in enumerate(factors[1:].astype(float)):
        if visible:
            look = Look(np.array([int(scan)]), np.array([scale]), np.array([rotation]), np.array([shear]))
            patch = render(look, size)[0]
            rows, columns = np.flatnonzero(patch.any(1)), np.flatnonzero(patch.any(0))
            box = patch[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            top, left = round(y * size - len(box) / 2), round(x * size - box.shape[1] / 2)
            pictures[digit, top : top + len(box), left : left + box.shape[1]] = box
    return pictures


@pytest.mark.parametrize(("size", "least", "most"), [(50, 0, 2), (32, 0, 3), (53, 3, 3), (128, 3, 3), (128, 1, 1)])
def test_every_pixel_has_one_entity(size, least, most):
    scenes = some_scenes(30, size, min_objects=least, max_objects=most)
    images, masks, factors = scenes.scenes()
    assert images.shape == (30, size, size, 3)
    assert masks.shape == (30, 1 + most, size, size, 1)
    assert factors.shape == (30, 1 + most, len(MULTI_DIGITS.factor_names))
    assert (images.dtype, scenes.entities.dtype, factors.dtype) == (np.uint8, np.uint8, np.float32)
    assert ((masks == 255).sum(1) == 1).all()
    visible = masks.any((2, 3, 4))
    assert visible[:, 0].all()
    np.testing.assert_array_equal(factors[..., 0], visible)
    assert (factors[~visible] == 0).all()
    assert (factors[:, 0, 1:] == 0).all()
    np.testing.assert_array_equal(images, images[..., :1].repeat(3, -1))
    np.testing.assert_array_equal(scenes.entities > 0, images[..., 0] >= INK)
    assert (images[~visible[:, 1:].any(1)] == 0).all()


@pytest.mark.parametrize(("least", "most"), [(0, 2), (0, 3), (2, 3), (3, 3)])
def test_counts_are_uniform_and_those_asked_for(least, most):
    num = 300 * (most - least + 1)
    counts = (some_scenes(num, 32, min_objects=least, max_objects=most).factors[:, 1:, 0] > 0).sum(1)
    assert counts.min() == least
    np.testing.assert_allclose(np.bincount(counts, minlength=most + 1)[least:], 300, atol=60)


def test_a_scene_depends_on_its_own_generator_and_split_alone():
    whole = some_scenes(12, max_objects=3)
    assert 0 in whole.factors[:, 1:, 0].sum(1)
    for scene in range(12):
        for every, alone in zip(whole, some_scenes(1, start=scene, max_objects=3), strict=True):
            np.testing.assert_array_equal(every[[scene]], alone)
    full = some_scenes(12, min_objects=1)
    for other in (some_scenes(12, min_objects=1, seed=1), some_scenes(12, min_objects=1, split="val")):
        assert (other.images != full.images).any((1, 2, 3)).all()


def test_no_split_sees_the_scans_of_another():
    _, classes = load_scans()
    seen = {}
    for split in ("train", "val", "test"):
        factors = some_scenes(700, 32, split=split).factors[:, 1:]
        digits = factors[factors[..., 0] > 0]
        scans = digits[:, 7].astype(int)
        np.testing.assert_array_equal(digits[:, 1], 1 + classes[scans])
        np.testing.assert_allclose(np.bincount(classes[scans]) / len(scans), 0.1, atol=0.05)
        seen[split] = set(scans)
    assert len(seen["train"]) > 400
    assert {scan % 5 for scan in seen["train"]} == {0, 1, 2}
    assert {scan % 5 for scan in seen["val"]} == {3}
    assert {scan % 5 for scan in seen["test"]} == {4}


@pytest.mark.parametrize("size", [32, 50, 64])
def test_scenes_are_what_their_factors_say(size):
    images, entities, factors = some_scenes(40, size, min_objects=2, max_objects=3)
    alone = np.stack([redrawn(some, size) for some in factors])
    # The factors are rounded, so that a pixel may be one step brighter or darker.
    assert np.abs(alone.max(1).astype(int) - images[..., 0]).max() <= 1
    later_wins = 3 - alone[:, ::-1].argmax(1)
    assert np.mean(np.where(alone.max(1) >= INK, later_wins, 0) == entities) > 0.9999
    assert overlaps(alone).max() <= MAX_OVERLAP + 0.01
    digits = factors[:, 1:][factors[:, 1:, 0] > 0]
    assert 2.2 <= digits[:, 4].min() < 2.3 < 2.9 < digits[:, 4].max() < 3
    for warp in digits[:, 5:7].T:
        assert np.abs(warp).max() <= 0.36
        assert 0.08 < warp.std() < 0.16


def test_digits_have_the_size_asked_for_and_lie_inside():
    images, entities, factors = some_scenes(200, min_objects=1, max_objects=1)
    heights = []
    for picture, (_, _, x, y, *_) in zip(images[..., 0], factors[:, 1], strict=True):
        rows, columns = np.flatnonzero(picture.any(1)), np.flatnonzero(picture.any(0))
        assert x * 50 == pytest.approx((columns[0] + columns[-1] + 1) / 2, abs=1e-4)
        assert y * 50 == pytest.approx((rows[0] + rows[-1] + 1) / 2, abs=1e-4)
        heights.append(np.ptp(rows) + 1)
    assert 15 <= min(heights) < 20 < 22 < max(heights) <= 33
    assert entities.any((1, 2)).all()
    assert factors[:, 1, 2:4].min() < 0.2
    assert factors[:, 1, 2:4].max() > 0.8


def test_overlaps_by_hand():
    pictures = np.zeros((2, 3, 4, 5), dtype=np.uint8)
    pictures[0, 0, :2] = 255  # 10 pixels
    pictures[0, 1, 1, 1:] = INK  # 4, of which 4 are shared
    pictures[0, 2, 1:3, :3] = 200  # 6: 3 shared with the first, 2 with the second
    pictures[0, 2, 0] = INK - 1  # no ink
    np.testing.assert_allclose(overlaps(pictures), [[1, 0.5, 0.5], [0, 0, 0]])


def test_patches_are_placed_by_their_bounding_box():
    patches = np.zeros((3, 4, 4), dtype=np.uint8)
    patches[:, 1:3, 3] = [5, 7]
    pictures, middles = place(patches, np.array([[0, 0], [0.999, 0.999], [0.6, 0.4]]), 3)
    assert pictures[0].tolist() == [[5, 0, 0], [7, 0, 0], [0, 0, 0]]
    assert pictures[1].tolist() == [[0, 0, 0], [0, 0, 5], [0, 0, 7]]
    assert pictures[2].tolist() == [[0, 0, 0], [0, 5, 0], [0, 7, 0]]
    np.testing.assert_array_equal(middles, [[1, 0.5], [2, 2.5], [2, 1.5]])


def test_no_digit_reaches_the_border_of_its_patch():
    scans = np.arange(0, 1797, 9)
    num = len(scans)
    for size in (32, 53, 128):
        for rotation, shear in ((0.36, 0.36), (0.36, -0.36)):
            patches = render(Look(scans, np.full(num, 3.0), np.full(num, rotation), np.full(num, shear)), size)
            assert not patches[:, [0, -1]].any()
            assert not patches[:, :, [0, -1]].any()
            assert ((patches >= INK).sum((1, 2)) > 10).all()


def test_an_upright_digit_is_its_scan():
    scans, _ = load_scans()
    num = 100
    look = Look(np.arange(num), np.full(num, 3.0), np.zeros(num), np.zeros(num))
    patches = render(look, 50)
    middle = patches.shape[1] // 2
    small = patches[:, middle - 12 : middle + 12, middle - 12 : middle + 12].reshape(num, 8, 3, 8, 3).mean((2, 4))
    contrast = np.clip((scans[:num] - 0.3) / 0.35, 0, 1)
    assert min(np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(small, contrast, strict=True)) > 0.95


def test_a_positive_rotation_is_clockwise_and_a_positive_shear_leans_right():
    _, classes = load_scans()
    zeros = np.flatnonzero(classes == 0)[:50]  # symmetric enough to have an axis
    num = len(zeros)

    def lean(rotation, shear):
        patches = render(Look(zeros, np.full(num, 3.0), np.full(num, rotation), np.full(num, shear)), 50).astype(float)
        y, x = np.meshgrid(*[np.arange(patches.shape[1])] * 2, indexing="ij")
        weights = patches / patches.sum((1, 2), keepdims=True)
        y_mean, x_mean = (weights * y).sum((1, 2), keepdims=True), (weights * x).sum((1, 2), keepdims=True)
        return -(weights * (y - y_mean) * (x - x_mean)).sum((1, 2)).mean()  # positive: its top is further right

    assert lean(0.3, 0) > lean(0, 0) > lean(-0.3, 0)
    assert lean(0, 0.3) > lean(0, 0) > lean(0, -0.3)


def test_digits_can_be_recognised():
    def crops(num, split):
        images, _, factors = some_scenes(num, split=split, min_objects=1, max_objects=1)
        padded = np.pad(images[..., 0], ((0, 0), (14, 14), (14, 14)))
        corners = np.round(factors[:, 1, [3, 2]] * 50).astype(int)
        some = [picture[y : y + 28, x : x + 28] for picture, (y, x) in zip(padded, corners, strict=True)]
        return np.stack(some).reshape(num, 14, 2, 14, 2).mean((2, 4)).reshape(num, -1), factors[:, 1, 1]

    assert KNeighborsClassifier(5).fit(*crops(2000, "train")).score(*crops(400, "test")) > 0.85


def test_bicubic_by_hand():
    stack = np.arange(2 * 5 * 6, dtype=np.float32).reshape(2, 5, 6) ** 2
    y, x = np.meshgrid(np.arange(5, dtype=np.float32), np.arange(6, dtype=np.float32), indexing="ij")
    values = bicubic(stack, np.ones(30, dtype=int), y.ravel(), x.ravel())
    np.testing.assert_allclose(values, stack[1].ravel(), rtol=1e-6)  # through the samples
    where = np.array([1.25, 2.5, 1.75], dtype=np.float32), np.array([1.5, 2.125, 3.75], dtype=np.float32)
    ramp = (3 * np.arange(5)[:, None] + 7 * np.arange(6)).astype(np.float32)[None]
    np.testing.assert_allclose(bicubic(ramp, np.zeros(3, dtype=int), *where), 3 * where[0] + 7 * where[1], rtol=1e-6)
    one = np.zeros((1, 5, 6), dtype=np.float32)
    one[0, 0, 5] = 1
    beyond = bicubic(one, np.zeros(2, dtype=int), np.float32([-0.5, -0.5]), np.float32([5, 5.5]))
    np.testing.assert_allclose(beyond, [9 / 16, (9 / 16) ** 2])


def test_cosine_and_sine_are_close():
    angles = np.linspace(-0.36, 0.36, 100)
    cosine, sine = cosine_and_sine(angles)
    np.testing.assert_allclose(cosine, np.cos(angles), atol=2e-7)
    np.testing.assert_allclose(sine, np.sin(angles), atol=2e-7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_objects": 2, "max_objects": 1}, ["2 to 1 objects", "from 1 to 3"]),
        ({"min_objects": -1}, ["-1 to 2"]),
        ({"max_objects": 4}, ["0 to 4"]),
        ({"max_objects": 0}, ["0 to 0"]),
        ({"max_object": 2}, ["multi_digits has no option max_object;", "did you mean max_objects?"]),
    ],
)
def test_wrong_options_are_one_line(options, words):
    with pytest.raises(UserError) as caught:
        MULTI_DIGITS.parse_options(options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert MULTI_DIGITS.max_entities == 1 + MultiDigitsOptions().max_objects
