"""Order consistency of orders made up for the purpose, and roles and positions of small pictures."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from pyro_sri.metrics.order import (
    commonest_position,
    mask_centres,
    object_roles,
    order_consistency,
    slot_positions,
    slot_roles,
)

ROUNDING = 1e-12


def scenes(num_images: int, num_entities: int = 7, seed: int = 0) -> np.ndarray:
    """Roles of scenes with three entities or more: 0, 1, .. and then none."""
    count = np.random.default_rng(seed).integers(3, num_entities + 1, (num_images, 1))
    return np.where(np.arange(num_entities) < count, np.arange(num_entities), -1)


def random_positions(num_images: int, num_entities: int, num_slots: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((num_images, num_slots)).argsort(1)[:, :num_entities]


def pictures(*images: list[str]) -> np.ndarray:
    """Masks [n,O,H,W,1] of images drawn with the number of the entity in each pixel."""
    entity = np.array([[[int(letter) for letter in row] for row in image] for image in images])
    return (255 * (entity[:, None] == np.arange(entity.max() + 1)[:, None, None])).astype(np.uint8)[..., None]


# --- consistency ---


def test_same_order_in_every_image_is_1() -> None:
    roles = scenes(200)
    result = order_consistency(roles, roles)
    assert result.score == pytest.approx(1, abs=ROUNDING)
    assert result.stderr == pytest.approx(0, abs=ROUNDING)
    assert result.information == pytest.approx(result.entropy)
    assert result.matched == 1


def test_reversed_order_is_as_good() -> None:
    # Positions count from the last entity, so that a role's position depends on how many there are.
    roles = scenes(200)
    positions = np.where(roles >= 0, roles.max(1, keepdims=True) - roles, -1)
    assert order_consistency(positions, roles).score == pytest.approx(1, abs=ROUNDING)


def test_entities_that_share_a_slot_are_no_inconsistency() -> None:
    roles = scenes(200)
    assert order_consistency(roles // 3, roles).score == pytest.approx(1, abs=ROUNDING)


def test_random_order_is_0_on_average() -> None:
    scores = []
    for seed in range(20):
        roles, positions = scenes(60, seed=seed), random_positions(60, 7, 9, seed)
        result = order_consistency(positions, roles, num_resamples=2, seed=seed)
        assert result.information > 0.2  # far from 0: what chance is there for
        scores.append(result.score)
    mean, stderr = np.mean(scores), np.std(scores, ddof=1) / math.sqrt(len(scores))
    assert abs(mean) < 4 * stderr < 0.03
    assert min(scores) < 0 < max(scores)


def test_order_shifted_round_by_chance_is_0() -> None:
    roles = np.tile(np.arange(5), (2000, 1))
    shifts = np.random.default_rng(1).integers(0, 5, (2000, 1))
    result = order_consistency((roles + shifts) % 5, roles)
    assert abs(result.score) < 4 * result.stderr < 0.01


def test_half_known_order_by_hand() -> None:
    # Floor and sky come first and last; the two objects between them come in either order, exactly half of the time
    # each. Of 2 bits the role leaves 0 for floor and sky, 1 for the objects: 0.5 on average.
    positions = np.array([[0, 1, 2, 3], [0, 2, 1, 3]] * 500)
    roles = np.tile(np.arange(4), (1000, 1))
    result = order_consistency(positions, roles)
    assert result.entropy == pytest.approx(2, abs=ROUNDING)
    assert result.information == pytest.approx(1.5, abs=ROUNDING)
    assert 0 < result.chance < 0.01
    assert result.score == pytest.approx((1.5 - result.chance) / (2 - result.chance), abs=ROUNDING)
    # No resample has both orders equally often: the objects' bit is 1 - (p - 1/2)^2 2 / ln 2, at most 1.
    assert 0 < result.stderr < 0.001


def test_roles_that_only_say_how_many_entities_there_are_say_nothing() -> None:
    # Images with three entities use slots 0 to 2, those with four slots 3 to 6; in each the order is random.
    rng = np.random.default_rng(2)
    three = np.concatenate([rng.random((400, 3)).argsort(1), np.full((400, 1), -1)], axis=1)
    four = 3 + rng.random((400, 4)).argsort(1)
    roles = np.concatenate([np.tile([0, 1, 2, -1], (400, 1)), np.tile([0, 1, 2, 3], (400, 1))])
    result = order_consistency(np.concatenate([three, four]), roles)
    assert abs(result.score) < 4 * result.stderr < 0.02


def test_information_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    roles, positions = np.tile(np.arange(4), (50, 1)), rng.integers(0, 6, (50, 4))
    result = order_consistency(positions, roles)
    assert result.information == pytest.approx(mutual_info_score(roles.ravel(), positions.ravel()) / math.log(2))


def test_stderr_is_the_spread_over_data_sets() -> None:
    def half_ordered(seed: int) -> np.ndarray:
        ordered = np.random.default_rng(seed).random((200, 1)) < 0.5
        return np.where(ordered, np.arange(5), random_positions(200, 5, 6, seed))

    roles = np.tile(np.arange(5), (200, 1))
    results = [order_consistency(half_ordered(seed), roles, num_shuffles=20, num_resamples=40) for seed in range(40)]
    spread = np.std([result.score for result in results], ddof=1)
    assert np.mean([result.stderr for result in results]) == pytest.approx(spread, rel=0.4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_names_of_positions_and_places_of_entities_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    roles, positions = scenes(30, 5, seed), rng.integers(-1, 4, (30, 5))
    result = order_consistency(positions, roles, num_shuffles=3, num_resamples=2)
    renamed = np.where(positions >= 0, np.append(rng.permutation(9)[:4], -1)[positions], -1)
    assert order_consistency(renamed, roles, num_shuffles=3, num_resamples=2) == pytest.approx(result, abs=1e-9)
    places = rng.permutation(5)
    moved = order_consistency(positions[:, places], roles[:, places], num_resamples=2)
    for name in ("information", "entropy", "matched"):
        assert getattr(moved, name) == pytest.approx(getattr(result, name))


def test_entities_without_slot_or_role_are_left_out_and_counted() -> None:
    roles, positions = scenes(100, seed=4), random_positions(100, 7, 9, 4)
    absent = np.full((100, 2), -1)
    result = order_consistency(positions, roles)
    more = order_consistency(np.hstack([positions, absent, absent + 1]), np.hstack([roles, absent + 8, absent]))
    assert (more.information, more.entropy) == pytest.approx((result.information, result.entropy))
    assert result.matched == 1
    assert more.matched == (roles >= 0).sum() / ((roles >= 0).sum() + 200)


def test_images_with_one_position_have_no_part_in_the_score() -> None:
    roles, positions = np.tile(np.arange(3), (40, 1)), np.tile(np.arange(3), (40, 1))
    alone = np.where(np.arange(3) == 1, np.random.default_rng(0).integers(0, 3, (40, 1)), -1)
    result = order_consistency(np.concatenate([positions, alone]), np.concatenate([roles, roles]))
    assert result.score == pytest.approx(1, abs=ROUNDING)
    assert result.matched == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("positions", "roles", "matched"),
    [
        ([[0, 1]], [[0, 1]], 1.0),  # one image has an order, and no second to compare it with
        ([[0, 0], [0, 0]], [[0, 1], [0, 1]], 1.0),  # one slot holds everything
        ([[-1, -1], [-1, -1]], [[0, 1], [0, 1]], 0.0),
        ([[0, 1], [0, 1]], [[-1, -1], [-1, -1]], math.nan),
        ([[0], [1], [2], [1]], [[0], [0], [0], [0]], 1.0),  # one object in each image
        ([[0, -1], [1, -1], [-1, 0], [-1, 1]], [[0, 1]] * 4, 0.5),  # or one that a slot holds
    ],
)
def test_no_score_where_there_is_nothing_to_tell_an_order_by(
    positions: list[list[int]], roles: list[list[int]], matched: float
) -> None:
    result = order_consistency(positions, roles)
    assert math.isnan(result.score)
    assert math.isnan(result.stderr)
    assert result.matched == pytest.approx(matched, nan_ok=True)


def test_consistency_refuses() -> None:
    good = np.zeros((2, 3), dtype=int)
    for positions, roles, message in (
        (good, good[:, :2], "same shape"),
        (good[:0], good[:0], "with images"),
        (good[0], good[0], "same shape"),
        (good + 0.5, good, "must be integers"),
    ):
        with pytest.raises(ValueError, match=message):
            order_consistency(positions, roles)
    with pytest.raises(ValueError, match="at least 1 shuffle"):
        order_consistency(good, good, num_shuffles=0)


# --- roles and positions ---


def test_objects_count_from_the_bottom_of_the_picture() -> None:
    masks = pictures(["0000", "0330", "0110", "0220"], ["0110", "0000", "2200", "2200"])
    assert object_roles(masks).tolist() == [[0, 2, 1, 3], [0, 2, 1, -1]]


def test_each_background_has_a_role_of_its_own() -> None:
    masks = pictures(["1111", "3344", "3344", "0000"], ["0000", "0004", "0004", "2222"])
    assert object_roles(masks, background_entities=(2, 0, 1)).tolist() == [[0, 1, -1, 3, 4], [0, -1, 2, -1, 3]]
    with pytest.raises(ValueError, match="background_entities"):
        object_roles(masks, background_entities=(5,))


def test_centres_are_those_of_the_visible_part() -> None:
    masks = pictures(["0000", "0112"])
    masks[0, 1] = 255  # entity 1 lies behind entity 2 and in front of entity 0
    centres = mask_centres(masks)
    assert np.isnan(centres[0, 0]).all()
    assert centres[0, 2].tolist() == [0.75, 0.875]
    assert centres[0, 1] == pytest.approx([(4 * 0.25 + 3 * 0.75) / 7, (0.5 * 8 - 0.875) / 7])


def test_backgrounds_may_share_a_slot_and_objects_may_not() -> None:
    true = pictures(["00001111", "22334444"])
    slots = pictures(["22222222", "11110002"])  # 0 and 1 together in slot 2, 2 and 3 in slot 1, most of 4 in slot 0
    positions = slot_positions(true, slots, background_entities=(0, 1))
    assert positions[0, :2].tolist() == [2, 2]
    assert positions[0, 4] == 0
    assert sorted(positions[0, 2:4].tolist()) == [-1, 1]
    assert slot_positions(true, slots, background_entities=(0, 1), min_iou=0.6).tolist() == [[-1, -1, -1, -1, 0]]


def test_background_split_among_slots_takes_the_best() -> None:
    true = pictures(["00000011"])
    slots = pictures(["10022233"])
    assert slot_positions(true, slots).tolist() == [[2, 3]]


def test_slots_of_generated_scenes_have_roles_by_their_masks() -> None:
    masks = pictures(["11111", "13311", "11021", "11221"])
    assert slot_roles(masks).tolist() == [[2, 0, 1, 3]]
    assert slot_roles(masks, min_pixels=2).tolist() == [[-1, 0, 1, 2]]
    assert slot_roles(masks, min_pixels=99).tolist() == [[-1, 0, -1, -1]]


def test_towers_built_from_the_bottom_have_a_consistent_order() -> None:
    # Slot 0 is the background, then come the blocks from the lowest up, whatever their numbers in the data are.
    rng = np.random.default_rng(8)
    true, slots = [], []
    for _ in range(60):
        height = rng.integers(2, 5)
        names = 1 + rng.permutation(4)[:height]
        true.append(["00000"] * (5 - height) + [f"00{names[block]}00" for block in reversed(range(height))])
        slots.append(["00000"] * (5 - height) + [f"00{block + 1}00" for block in reversed(range(height))])
    true_masks, slot_masks = pictures(*true), pictures(*slots)
    positions, roles = slot_positions(true_masks, slot_masks), object_roles(true_masks)
    assert order_consistency(positions, roles).score == pytest.approx(1, abs=ROUNDING)
    shuffled = np.take_along_axis(slot_masks, rng.random((60, 5)).argsort(1)[:, :, None, None, None], axis=1)
    result = order_consistency(slot_positions(true_masks, shuffled), roles)
    assert result.matched == 1
    assert abs(result.score) < 4 * result.stderr < 0.2
    generated = slot_roles(slot_masks)
    assert order_consistency(np.broadcast_to(np.arange(5), generated.shape), generated).score == pytest.approx(1)


def test_a_background_that_comes_first_is_no_order_of_objects() -> None:
    rng = np.random.default_rng(0)
    roles = np.tile(np.arange(4), (500, 1))
    positions = np.zeros((500, 4), int)
    positions[:, 1:] = [1 + rng.permutation(3) for _ in range(500)]
    assert order_consistency(positions, roles).score > 0.4
    roles[:, 0] = -1
    alone = order_consistency(positions, roles)
    assert abs(alone.score) < 4 * alone.stderr
    assert commonest_position(positions[:, 0]).mean() == 1


def test_commonest_position_by_hand() -> None:
    np.testing.assert_array_equal(commonest_position([2, 0, 2, -1, 1, 2]), [1, 0, 1, np.nan, 0, 1])
    assert np.isnan(commonest_position([-1, -1])).all()
    with pytest.raises(ValueError, match="must be integers"):
        commonest_position([0.5])
