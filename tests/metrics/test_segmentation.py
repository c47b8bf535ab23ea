"""Segmentation scores against scikit-learn, the authors' numbers and cases worked by hand."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from pyro_sri.metrics import (
    adjusted_rand_index,
    ari_from_labels,
    covering_from_labels,
    entity_labels,
    match_objects_to_slots,
    segmentation_covering,
    slot_labels,
    slot_positions,
    with_background,
)
from pyro_sri.metrics.segmentation import check_true_masks
from support.golden import GOLDEN

CASE = GOLDEN / "metrics_segmentation.npz"
FLOAT32 = 1e-5  # the references compute in float32
ARI_CASES = [
    "stacked255",
    "stacked255_overlap",
    "stacked255_withbg",
    "labels",
    "labels_withbg",
    "labels_two_bg",
    "perfect",
    "perfect_permuted",
    "one_cluster",
    "edge",
    "tied_masks",
]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(CASE) as arrays:
        return {key: arrays[key] for key in arrays.files}


def stack(labels: np.ndarray, count: int | None = None) -> np.ndarray:
    """Masks 0/255 [n,O,H,W,1] of labels [n,H,W]; a negative label belongs to no mask."""
    entities = np.arange(labels.max() + 1 if count is None else count)
    return (255 * (labels[:, None] == entities[:, None, None])).astype(np.uint8)[..., None]


def channels_last(masks: np.ndarray) -> np.ndarray:
    return np.moveaxis(masks, -3, -1)


def row(*labels: int) -> np.ndarray:
    """Labels of one image with a single row of pixels, [1,1,W]."""
    return np.array(labels)[None, None]


# --- adjusted Rand index ---


@settings(max_examples=100, deadline=None)
@given(data=st.data(), pixels=st.integers(1, 40), true_count=st.integers(1, 5), predicted_count=st.integers(1, 6))
def test_ari_equals_scikit_learn(data: st.DataObject, pixels: int, true_count: int, predicted_count: int) -> None:
    def labels(count: int) -> np.ndarray:
        return np.array(data.draw(st.lists(st.integers(0, count - 1), min_size=pixels, max_size=pixels)))

    true, predicted = labels(true_count), labels(predicted_count)
    foreground = true > 0

    scores = ari_from_labels(np.stack([true, true]), np.stack([predicted, true]))
    assert scores == pytest.approx([adjusted_rand_score(true, predicted), 1.0], abs=1e-12)
    (score_fg,) = ari_from_labels(true[None], predicted[None], ignore=[0])
    if foreground.any():
        assert score_fg == pytest.approx(adjusted_rand_score(true[foreground], predicted[foreground]), abs=1e-12)
    else:
        assert np.isnan(score_fg)


def test_ari_of_large_images_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 6, (2, 128, 128))
    predicted = np.where(rng.random(true.shape) < 0.7, true, rng.integers(0, 8, true.shape))
    expected = [adjusted_rand_score(a.ravel(), b.ravel()) for a, b in zip(true, predicted, strict=True)]
    assert ari_from_labels(true, predicted) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", ARI_CASES)
def test_ari_golden(golden: dict[str, np.ndarray], case: str) -> None:
    true = golden[f"in/{case}/true"]
    true_masks = channels_last(true) if true.ndim == 5 else stack(true[:, 0])
    scores = adjusted_rand_index(
        true_masks,
        channels_last(golden[f"in/{case}/pred"]),
        foreground_only=bool(golden[f"config/{case}/exclude_background"]),
        background_entities=golden[f"config/{case}/background_idxs"],
    )
    expected = golden[f"out/{case}/ari_sri"]
    if case == "edge":  # the one documented deviation: an image without foreground is NaN here, 0 there
        assert np.isnan(scores[0])
        assert expected[0] == 0
        scores, expected = scores[1:], expected[1:]
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, atol=FLOAT32)


@pytest.mark.parametrize(("true", "expected"), [("true_onehot", "ari_all"), ("true_onehot_fg", "ari_fg")])
def test_ari_golden_with_pixels_outside_every_mask(golden: dict[str, np.ndarray], true: str, expected: str) -> None:
    def masks(one_hot: np.ndarray) -> np.ndarray:  # [n,P,O] -> [n,O,P,1,1]
        return np.swapaxes(one_hot, 1, 2)[..., None, None]

    scores = adjusted_rand_index(masks(golden[f"in/mod/{true}"]), masks(golden["in/mod/pred"]), foreground_only=False)
    np.testing.assert_allclose(scores, golden[f"out/mod/{expected}"], atol=FLOAT32)


def test_ari_golden_constant_labelings(golden: dict[str, np.ndarray]) -> None:
    true, predicted = (golden[f"in/mod/edge_{side}"].argmax(-1) for side in ("true", "pred"))
    np.testing.assert_allclose(ari_from_labels(true, predicted), golden["out/mod/edge"], atol=FLOAT32)


def test_ari_golden_genesis(golden: dict[str, np.ndarray]) -> None:
    true, predicted = golden["in/genesis/instances_ari"], golden["in/stacked255/pred"].argmax(1)
    np.testing.assert_allclose(ari_from_labels(true, predicted), golden["out/genesis/ari_all"], rtol=1e-12)
    np.testing.assert_allclose(ari_from_labels(true, predicted, ignore=[0]), golden["out/genesis/ari_fg"], rtol=1e-12)


@pytest.mark.parametrize(
    ("true", "predicted", "expected"),
    [
        # Table [[2,1],[0,3]]: index 1+3 = 4, rows 3+3 = 6, columns 1+6 = 7, expected 42/15 = 2.8, (4-2.8)/(6.5-2.8).
        ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1], 1.2 / 3.7),
        # Crossed: index 0, expected 2*2/6, maximum 2.
        ([0, 0, 1, 1], [0, 1, 0, 1], -0.5),
        ([1, 1, 1, 1], [2, 2, 2, 2], 1.0),  # one object in one slot
        ([1, 1, 1, 1], [0, 0, 1, 1], 0.0),  # one object split
        ([0, 0, 1, 1], [3, 3, 3, 3], 0.0),  # two objects in one slot
        ([0, 1, 2], [2, 0, 1], 1.0),  # every pixel apart, in both
        ([1], [4], 1.0),
        ([-1, -1, 0, 0, 1, 1], [0, 1, 0, 0, 1, 1], 1.0),  # unknown pixels do not count
    ],
)
def test_ari_by_hand(true: list[int], predicted: list[int], expected: float) -> None:
    assert ari_from_labels([true], [predicted]) == pytest.approx([expected], abs=1e-15)


def test_ari_is_exactly_one_for_equal_partitions_under_any_names() -> None:
    rng = np.random.default_rng(1)
    true = rng.integers(0, 5, (4, 8, 9))
    names = rng.permutation(7)
    assert (ari_from_labels(true, names[true]) == 1).all()


def test_ari_does_not_depend_on_the_order_of_slots_or_objects() -> None:
    rng = np.random.default_rng(2)
    true_masks, predicted_masks = stack(rng.integers(0, 4, (3, 6, 7)), 4), rng.random((3, 5, 6, 7, 1))
    score = adjusted_rand_index(true_masks, predicted_masks, foreground_only=True)
    true_masks, predicted_masks = true_masks[:, [2, 0, 3, 1]], predicted_masks[:, rng.permutation(5)]
    shuffled = adjusted_rand_index(true_masks, predicted_masks, foreground_only=True, background_entities=[1])
    np.testing.assert_allclose(shuffled, score, atol=1e-12)


def test_images_are_scored_independently() -> None:
    rng = np.random.default_rng(3)
    true, predicted = rng.integers(-1, 4, (5, 30)), rng.integers(0, 6, (5, 30))
    alone = np.concatenate([ari_from_labels(true[i : i + 1], predicted[i : i + 1]) for i in range(5)])
    np.testing.assert_array_equal(ari_from_labels(true, predicted), alone)


def test_images_without_foreground_are_nan() -> None:
    true = np.array([[[0, 0, 0]], [[0, 1, 1]]])
    scores = adjusted_rand_index(stack(true), stack(true), foreground_only=True)
    assert np.isnan(scores[0])
    assert scores[1] == 1
    assert (adjusted_rand_index(stack(true), stack(true), foreground_only=False) == 1).all()
    assert np.isnan(segmentation_covering(stack(true), stack(true), foreground_only=True).mean[0])


def test_several_background_entities() -> None:
    true, predicted = row(0, 1, 1, 2, 2, 3, 3), row(0, 0, 3, 1, 1, 2, 2)
    score = adjusted_rand_index(stack(true), stack(predicted), foreground_only=True, background_entities=(0, 1))
    assert score == [1.0]
    assert adjusted_rand_index(stack(true), stack(predicted), foreground_only=True) < 1


def test_a_background_that_is_not_entity_zero() -> None:
    true, predicted = row(0, 0, 1, 1), row(1, 1, 0, 2)
    assert adjusted_rand_index(stack(true), stack(predicted), foreground_only=True, background_entities=[1]) == [1.0]


def test_no_images() -> None:
    true_masks, predicted_masks = np.zeros((0, 3, 4, 4, 1), np.uint8), np.zeros((0, 2, 4, 4, 1))
    assert adjusted_rand_index(true_masks, predicted_masks, foreground_only=True).shape == (0,)
    assert segmentation_covering(true_masks, predicted_masks, foreground_only=True).mean.shape == (0,)
    assert match_objects_to_slots(true_masks, predicted_masks).shape == (0, 3)


# --- from masks to labels ---


def test_the_highest_entity_lies_in_front() -> None:
    masks = np.array([[255, 255, 255, 0, 255], [0, 255, 255, 0, 0], [0, 0, 255, 0, 255]], np.uint8)
    assert entity_labels(masks[None, :, None, :, None]).tolist() == [[[0, 1, 2, -1, 2]]]


@pytest.mark.parametrize("convert", [lambda m: m, lambda m: m > 0, lambda m: m // 255, lambda m: m / 255])
def test_true_masks_in_any_dtype(convert: Callable[[np.ndarray], np.ndarray]) -> None:
    labels = np.random.default_rng(4).integers(-1, 3, (2, 4, 5))
    np.testing.assert_array_equal(entity_labels(convert(stack(labels, 3))), labels)


def test_the_first_slot_wins_ties() -> None:
    masks = np.array([[0.4, 0.2, 0.3], [0.4, 0.4, 0.3], [0.2, 0.4, 0.4]])
    assert slot_labels(masks[None, :, None, :, None]).tolist() == [[[0, 1, 2]]]
    assert slot_labels(np.full((1, 3, 1, 2, 1), 200, np.uint8)).tolist() == [[[0, 0]]]


# --- segmentation covering ---


@pytest.mark.parametrize(("skip", "name"), [((), "segcover_all"), ((0,), "segcover_fg")])
def test_covering_golden(golden: dict[str, np.ndarray], skip: tuple[int, ...], name: str) -> None:
    covering = covering_from_labels(golden["in/genesis/instances"], golden["in/genesis/segmentation"], skip=skip)
    per_image = np.stack([covering.mean, covering.scaled], axis=1)
    np.testing.assert_allclose(per_image, golden[f"out/genesis/{name}_per_image"], rtol=FLOAT32)
    np.testing.assert_allclose(per_image.mean(0), golden[f"out/genesis/{name}"], rtol=FLOAT32)


def test_covering_by_hand() -> None:
    true, predicted = row(0, 0, 0, 0, 1, 1, -1), row(0, 0, 0, 1, 1, 1, 1)
    covering = segmentation_covering(stack(true), stack(predicted), foreground_only=False)
    assert covering.mean == pytest.approx([(3 / 4 + 2 / 3) / 2])
    assert covering.scaled == pytest.approx([(4 * 3 / 4 + 2 * 2 / 3) / 6])
    # The slot still pays for the background pixel that it takes.
    foreground = segmentation_covering(stack(true), stack(predicted), foreground_only=True)
    assert foreground.mean == pytest.approx([2 / 3])
    assert foreground.scaled == pytest.approx([2 / 3])


def test_covering_of_equal_partitions_is_one() -> None:
    true = np.random.default_rng(5).integers(0, 4, (3, 6, 7))
    covering = covering_from_labels(true, np.array([3, 1, 0, 2])[true])
    assert (covering.mean == 1).all()
    np.testing.assert_allclose(covering.scaled, 1)


# --- object-slot matching ---


@pytest.mark.parametrize("case", ["match_0", "match_1", "match_2"])
def test_matching_golden(golden: dict[str, np.ndarray], case: str) -> None:
    true_masks = channels_last(golden[f"in/{case}/true"])[None]
    (slots,) = match_objects_to_slots(true_masks, channels_last(golden[f"in/{case}/pred"])[None])
    objects = np.flatnonzero(slots >= 0)
    assert objects.tolist() == golden[f"out/{case}/object_index"].tolist()
    assert slots[objects].tolist() == golden[f"out/{case}/slot_index"].tolist()


def test_matching_takes_the_best_total_not_the_best_pair_first() -> None:
    # IoU of object 1: slot 0 5/9, slot 1 4/13; of object 2: slot 0 4/13, slot 1 0. Together 1-1 and 2-0 beat 1-0 alone.
    true, predicted = row(1, 1, 1, 1, 1, 1, 2, 2), row(0, 0, 0, 0, 1, 1, 0, 0)
    assert match_objects_to_slots(stack(true), stack(predicted), min_pixels=1).tolist() == [[-1, 1, 0]]


def test_matching_leaves_out_background_small_objects_and_poor_overlaps() -> None:
    true = row(0, 0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3)
    predicted = row(0, 0, 0, 0, 1, 1, 1, 2, 0, 0, 0, 3, 4, 5)
    slots = match_objects_to_slots(stack(true), stack(predicted), min_pixels=2, min_iou=0.5)
    assert slots.tolist() == [[-1, 1, -1, -1]]
    slots = match_objects_to_slots(stack(true), stack(predicted), min_pixels=1, background_entities=(3,))
    assert slots.tolist() == [[0, 1, 2, -1]]


def test_matching_of_several_images_with_more_objects_than_slots_and_with_none() -> None:
    true = np.array([[[0, 1, 1, 1, 2, 2, 3]], [[0, 0, 0, 0, 0, 0, 0]]])
    predicted = np.array([[[1, 0, 0, 0, 1, 1, 1]], [[0, 0, 0, 0, 0, 0, 0]]])
    slots = match_objects_to_slots(stack(true), stack(predicted), min_pixels=0)
    assert slots.tolist() == [[-1, 0, 1, -1], [-1, -1, -1, -1]]


# --- wrong use ---


@pytest.mark.parametrize("metric", [adjusted_rand_index, segmentation_covering])
def test_wrong_masks_are_refused(metric: Callable[..., object]) -> None:
    true_masks, predicted_masks = np.zeros((2, 3, 4, 5, 1), np.uint8), np.ones((2, 4, 4, 5, 1))
    metric(true_masks, predicted_masks, foreground_only=False)
    with pytest.raises(ValueError, match="true_masks must have the shape"):
        metric(true_masks[..., 0], predicted_masks, foreground_only=False)
    with pytest.raises(ValueError, match="predicted_masks must have the shape"):
        metric(true_masks, np.moveaxis(predicted_masks, -1, 2), foreground_only=False)
    with pytest.raises(ValueError, match="differ in images or size"):
        metric(true_masks, predicted_masks[:1], foreground_only=False)
    with pytest.raises(ValueError, match="differ in images or size"):
        metric(true_masks[:, :, :3], predicted_masks, foreground_only=False)
    with pytest.raises(ValueError, match="must be finite"):
        metric(true_masks, predicted_masks * np.nan, foreground_only=False)
    with pytest.raises(ValueError, match=r"must lie in 0\.\.2, got \(0, 3\)"):
        metric(true_masks, predicted_masks, foreground_only=True, background_entities=(0, 3))


def quarters() -> tuple[np.ndarray, np.ndarray]:
    """True masks of a background and two objects, and probabilities that agree."""
    soft = np.full((1, 3, 8, 8, 1), 0.01)
    soft[0, 0, :, :4] = soft[0, 1, :4, 4:] = soft[0, 2, 4:, 4:] = 0.98
    return (soft > 0.5).astype(np.uint8) * 255, soft


@pytest.mark.parametrize(
    "metric",
    [
        lambda true, predicted: adjusted_rand_index(true, predicted, foreground_only=False),
        lambda true, predicted: adjusted_rand_index(true, predicted, foreground_only=True),
        lambda true, predicted: segmentation_covering(true, predicted, foreground_only=True),
        match_objects_to_slots,
        slot_positions,
    ],
)
@pytest.mark.parametrize("spoil", ["swapped", "probabilities", "brightness", "index map", "halves"])
def test_true_masks_that_are_no_masks_are_refused(metric: Callable[..., object], spoil: str) -> None:
    """Arguments in each other's place, probabilities, index maps."""
    true, soft = quarters()
    metric(true, soft)
    wrong = {
        "swapped": (soft, true),
        "probabilities": (soft, soft),
        "brightness": (true * np.linspace(0.1, 1, 8)[:, None], soft),
        "index map": (
            (true // 255 * np.arange(1, 4)[:, None, None, None]).sum(1, keepdims=True).astype(np.uint8),
            soft,
        ),
        "halves": (true / 510, soft),
    }[spoil]
    with pytest.raises(ValueError, match=r"true_masks have .* 0 outside and 1 or 255 inside") as caught:
        metric(*wrong)
    assert "\n" not in str(caught.value)


def test_soft_edges_in_bytes_are_no_mistake() -> None:
    true, soft = quarters()
    shares = np.round(soft * 255).astype(np.uint8)
    assert np.isclose(adjusted_rand_index(shares, soft, foreground_only=False), 1).all()
    check_true_masks(true // 255 * np.arange(1, 4)[:, None, None, None])  # each has a value of its own


def test_the_background_is_what_masks_leave() -> None:
    true, soft = quarters()
    objects = soft[:, 1:]
    filled = with_background(objects)
    assert filled.shape == (1, 3, 8, 8, 1)
    np.testing.assert_allclose(filled.sum(1), 1)
    assert np.isclose(adjusted_rand_index(true, filled, foreground_only=False), 1).all()
    assert (adjusted_rand_index(true, objects, foreground_only=False) < 0.8).all()
    assert with_background(soft).shape == soft.shape
    over = with_background(np.full((1, 2, 4, 4, 1), 0.9))
    assert over.shape == (1, 2, 4, 4, 1)


def test_wrong_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="same shape"):
        ari_from_labels([[0, 1]], [[0, 1, 1]])
    with pytest.raises(ValueError, match="same shape"):
        covering_from_labels([0, 1], [0, 1])
    with pytest.raises(ValueError, match="must be integers"):
        ari_from_labels([[0.0, 1.0]], [[0, 1]])
    with pytest.raises(ValueError, match="must not be below -1"):
        covering_from_labels([[0, 1]], [[0, -2]])


def test_pixels_in_no_slot_are_together_with_no_other() -> None:
    """An object that every slot misses is not held by one of them."""
    true = stack(row(0, 0, 1, 1, 2, 2))
    missed = stack(row(0, 0, 1, 1, 9, 9), count=2)  # no slot has the last two pixels
    alone = stack(row(0, 0, 1, 1, 2, 3))
    for foreground_only in (True, False):
        scores = [adjusted_rand_index(true, masks, foreground_only=foreground_only) for masks in (missed, alone)]
        assert scores[0] == pytest.approx(scores[1])
    assert adjusted_rand_index(true[:, :2], np.zeros_like(missed), foreground_only=True).tolist() == [0]
    covering = segmentation_covering(true, missed, foreground_only=True)
    assert (covering.mean.item(), covering.scaled.item()) == (0.5, 0.5)
    for masks in (missed, missed.astype(np.float32) / 255):
        assert match_objects_to_slots(true, masks, min_pixels=1).tolist() == [[-1, 1, -1]]
        assert slot_positions(true, masks).tolist() == [[0, 1, -1]]
