"""DCI against the authors' numbers and codes with known answers; activeness worked by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sklearn
from sklearn import ensemble

from pyro_sri.data.generators.clevr import FACTOR_NAMES as CLEVR_NAMES
from pyro_sri.data.generators.stacks import FACTOR_NAMES as STACKS_NAMES
from pyro_sri.metrics.disentanglement import (
    Estimator,
    Fits,
    Kind,
    active_dimensions,
    activeness,
    dci,
    dci_scores,
    fit_estimators,
    matched_codes,
    object_factors,
)
from support.golden import GOLDEN

CASE = GOLDEN / "metrics_dci.npz"
EXACT = 1e-12
MATRICES = [f"matrix_{number}" for number in range(6)]
FITTED = ["discrete_gbt", "discrete_first_gbt", "discrete_rf", "mixed_gbt"]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(CASE) as arrays:
        return {key: arrays[key] for key in arrays.files}


def plain_trees(kind: Kind, random_state: np.random.RandomState) -> Any:
    if kind == "discrete":
        return ensemble.GradientBoostingClassifier(random_state=random_state)
    return ensemble.GradientBoostingRegressor(random_state=random_state)


def forest(kind: Kind, random_state: np.random.RandomState) -> Any:
    return ensemble.RandomForestClassifier(random_state=random_state)


def few_trees(kind: Kind, random_state: np.random.RandomState) -> Any:
    return plain_trees(kind, random_state).set_params(n_estimators=20, learning_rate=0.3)


def refit(golden: dict[str, np.ndarray], case: str, estimator: Estimator, kinds: Sequence[Kind] | None = None) -> Fits:
    if sklearn.__version__ != golden["config/sklearn_version"]:
        pytest.skip(f"the numbers are those of scikit-learn {golden['config/sklearn_version']}")
    rows = (golden[f"in/{case}/{name}"].T for name in ("x_train", "y_train", "x_test", "y_test"))
    kinds = golden[f"config/{case}/factor_types"].tolist() if kinds is None else kinds
    return fit_estimators(*rows, kinds, estimator=estimator, seed=int(golden["config/seed"]))


# --- from importances to scores ---


@pytest.mark.parametrize("case", MATRICES + FITTED)
def test_scores_golden(golden: dict[str, np.ndarray], case: str) -> None:
    importance = golden[f"in/{case}"] if case in MATRICES else golden[f"out/{case}/importance"]
    scores = dci_scores(importance)
    assert scores.disentanglement == pytest.approx(golden[f"out/{case}/disentanglement"], abs=EXACT)
    assert scores.completeness == pytest.approx(golden[f"out/{case}/completeness"], abs=EXACT)
    if case in FITTED:
        for name in ("disentanglement_per_code", "completeness_per_factor"):
            np.testing.assert_allclose(getattr(scores, name), golden[f"out/{case}/{name}"], atol=EXACT)


def test_scores_by_hand() -> None:
    # Code 0 serves factor 0 alone; codes 1 and 2 serve two factors of four alike: half of the entropy is left.
    scores = dci_scores([[2, 0, 0, 0], [0, 1, 1, 0], [0, 0, 3, 3]])
    assert scores.disentanglement_per_code == pytest.approx([1, 0.5, 0.5])
    assert scores.disentanglement == pytest.approx((2 * 1 + 2 * 0.5 + 6 * 0.5) / 10)
    # Factor 2 is in two codes of three, a quarter and three quarters.
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)) / np.log(3)
    assert scores.completeness_per_factor == pytest.approx([1, 1, 1 - entropy, 1])
    assert scores.completeness == pytest.approx((2 + 1 + 4 * (1 - entropy) + 3) / 10)


@pytest.mark.parametrize("importance", [[[1.0, 2.0]], [[1.0], [2.0]], [[1.0, -1.0], [0.0, 1.0]], [[1.0, np.nan]] * 2])
def test_scores_refuse(importance: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="importance must be"):
        dci_scores(importance)


# --- fitting ---


@pytest.mark.parametrize(
    ("case", "estimator"), [("discrete_gbt", plain_trees), ("discrete_first_gbt", plain_trees), ("discrete_rf", forest)]
)
def test_fits_golden(golden: dict[str, np.ndarray], case: str, estimator: Estimator) -> None:
    fits = refit(golden, case, estimator)
    np.testing.assert_allclose(fits.importance, golden[f"out/{case}/importance"], atol=EXACT)
    assert fits.informativeness.mean() == pytest.approx(golden[f"out/{case}/informativeness_test"], abs=EXACT)


def test_each_factor_has_a_new_estimator_of_its_kind(golden: dict[str, np.ndarray]) -> None:
    made = []

    def noted(kind: Kind, random_state: np.random.RandomState) -> Any:
        made.append(plain_trees(kind, random_state))
        return made[-1]

    # Regressors for all three factors, because the first is continuous, predict no value of any of them exactly.
    wrong = refit(golden, "mixed_gbt", noted, kinds=["continuous"] * 3)
    np.testing.assert_allclose(wrong.importance, golden["out/mixed_gbt/importance"], atol=EXACT)
    assert golden["out/mixed_gbt/informativeness_test"] == 0
    right = refit(golden, "mixed_gbt", noted)
    classifier, regressor = ensemble.GradientBoostingClassifier, ensemble.GradientBoostingRegressor
    assert [type(estimator) for estimator in made] == [regressor] * 4 + [classifier, regressor]
    assert len({id(estimator) for estimator in made}) == 6
    assert right.informativeness[1] == 1  # the second factor is discrete, and one of the codes holds it
    np.testing.assert_allclose(right.importance[:, 0], wrong.importance[:, 0], atol=EXACT)


@pytest.mark.parametrize("first", ["continuous", "discrete"])
def test_perfect_code_scores_1_whatever_factor_comes_first(first: str) -> None:
    rng = np.random.default_rng(0)
    factors = np.stack([rng.normal(size=400), rng.integers(0, 4, 400)], axis=1)
    factors = factors if first == "continuous" else factors[:, ::-1]
    codes = np.concatenate([factors, rng.normal(size=(400, 2))], axis=1)
    result = dci(codes, factors, names=("a", "b"))
    assert result.kinds == (("continuous", "discrete") if first == "continuous" else ("discrete", "continuous"))
    assert result.disentanglement > 0.98
    assert result.completeness > 0.98
    np.testing.assert_allclose(result.importance, np.eye(4)[:, :2], atol=0.01)
    assert result.informativeness_per_factor[result.kinds.index("discrete")] == 1
    assert result.informativeness_per_factor.min() > 0.98


def test_rotated_code_informs_but_is_not_disentangled() -> None:
    rng = np.random.default_rng(1)
    factors = rng.normal(size=(600, 2))
    rotation = np.array([[1, 1], [1, -1]]) / np.sqrt(2)
    result = dci(factors @ rotation, factors, estimator=few_trees)
    assert result.disentanglement < 0.1
    assert result.completeness < 0.1
    assert result.informativeness > 0.8


def test_code_that_says_nothing_has_the_informativeness_of_chance() -> None:
    rng = np.random.default_rng(2)
    factors = np.stack([rng.random(1500) < 0.8, rng.normal(size=1500)], axis=1)
    result = dci(rng.normal(size=(1500, 3)), factors, estimator=few_trees)
    assert result.chance_per_factor == pytest.approx([0.8, 0], abs=0.05)
    assert result.informativeness_per_factor == pytest.approx(result.chance_per_factor, abs=0.06)
    assert result.informativeness == pytest.approx(result.informativeness_per_factor.mean())


def test_errors_are_those_of_eastwood_and_williams() -> None:
    class Constant:
        """Predicts what it was told."""

        feature_importances_ = np.array([1.0, 0.0])

        def __init__(self, predicted: list[float]) -> None:
            self.predicted = np.array(predicted)

        def fit(self, codes: np.ndarray, factor: np.ndarray) -> "Constant":
            return self

        def predict(self, codes: np.ndarray) -> np.ndarray:
            return self.predicted

    def told(kind: Kind, random_state: np.random.RandomState) -> Constant:
        return Constant([0, 1, 1, 1]) if kind == "discrete" else Constant([1, 1, 1, 1])

    codes = np.zeros((4, 2))
    test = np.array([[5, -1, 0], [7, 1, 0], [7, -1, 0], [5, 1, 4]])
    fits = fit_estimators(codes, test, codes, test, ["discrete", "continuous", "continuous"], estimator=told)
    # Classes 5 and 7: three of four right. Values of standard deviation 1 with errors 2, 0, 2, 0: mean square 2.
    # Values of variance 3 with errors 1, 1, 1, -3: mean square 3, as for their mean.
    assert fits.error == pytest.approx([0.25, np.sqrt(2), 1])
    assert fits.informativeness == pytest.approx([0.75, 0, 0])
    assert fits.chance == pytest.approx([0.5, 0, 0])


def test_groups_are_held_out_whole() -> None:
    # Two rows of each image agree in a random code and in a random factor: it can be learnt by heart, not predicted.
    rng = np.random.default_rng(3)
    codes, factors = np.repeat(rng.random((300, 2)), 2, axis=0), np.repeat(rng.random((300, 2)), 2, axis=0)
    images = np.repeat(np.arange(300), 2)

    def by_heart(kind: Kind, random_state: np.random.RandomState) -> Any:
        return ensemble.ExtraTreesRegressor(20, bootstrap=False, random_state=random_state)

    assert dci(codes, factors, estimator=by_heart).informativeness > 0.3
    assert dci(codes, factors, groups=images, estimator=by_heart).informativeness < 0.05


def test_seed_decides_split_and_estimators() -> None:
    rng = np.random.default_rng(4)
    codes, factors = rng.normal(size=(60, 3)), rng.normal(size=(60, 2))
    one, again, other = (dci(codes, factors, estimator=few_trees, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(one.importance, again.importance)
    assert np.array_equal(one.error_per_factor, again.error_per_factor)
    assert not np.array_equal(one.importance, other.importance)


def test_kinds_are_inferred_and_constants_named() -> None:
    rng = np.random.default_rng(5)
    factors = np.stack([np.full(100, 3), np.arange(100) % 16 / 7, np.arange(100) % 17, rng.normal(size=100)], axis=1)
    result = dci(rng.normal(size=(100, 2)), factors, names=("c", "sixteen", "seventeen", "z"), estimator=few_trees)
    assert result.constant == ("c",)
    assert result.names == ("sixteen", "seventeen", "z")
    assert result.kinds == ("discrete", "continuous", "continuous")
    assert result.importance.shape == (2, 3)
    given = dci(rng.normal(size=(100, 2)), factors, kinds=["continuous"] * 4, estimator=few_trees)
    assert given.kinds == ("continuous",) * 3
    assert given.names == ("1", "2", "3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.zeros((7, 2))}, "differ in rows"),
        ({"codes": np.zeros(8)}, "codes must have two axes"),
        ({"codes": np.full((8, 2), np.nan)}, "codes must be finite"),
        ({"codes": np.zeros((8, 1))}, "two codes"),
        ({"factors": np.zeros((8, 2))}, "two factors that vary"),
        ({"names": ["a"]}, "names must have an entry"),
        ({"kinds": ["discrete"]}, "kinds must have an entry"),
        ({"kinds": ["discrete", "ordinal"]}, "discrete or continuous"),
        ({"groups": np.zeros(8)}, "two groups"),
        ({"groups": np.zeros(7)}, "groups must have the shape"),
        ({"train_share": 1.0}, "train_share"),
    ],
)
def test_dci_refuses(change: dict[str, Any], message: str) -> None:
    arguments = {"codes": np.eye(8), "factors": np.arange(16).reshape(8, 2), "estimator": few_trees, **change}
    with pytest.raises(ValueError, match=message):
        dci(**arguments)


# --- objects and slots ---


def rows_of(*images: list[int], entities: int) -> np.ndarray:
    """Masks [n,O,1,W,1] of images given as the entity of each pixel of a single row."""
    return (255 * (np.array(images)[:, None] == np.arange(entities)[:, None])).astype(np.uint8)[:, :, None, :, None]


def test_matched_codes_are_those_of_the_slots_that_hold_the_objects() -> None:
    true = rows_of([0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1], entities=3)
    slots = rows_of([1, 1, 2, 2, 0, 0], [0, 0, 0, 0, 2, 1], entities=3)
    codes = np.arange(12).reshape(2, 3, 2)
    factors = np.array([[[9], [11], [12]], [[9], [21], [22]]])
    found = matched_codes(codes, true, slots, factors)
    assert found.images.tolist() == [0, 0, 1]
    assert found.factors.tolist() == [[11], [12], [21]]
    assert found.codes[:2].tolist() == [[4, 5], [0, 1]]
    assert found.codes[2].tolist() in ([8, 9], [10, 11])  # both slots overlap the object alike
    assert not len(matched_codes(codes, true, slots, factors, min_pixels=3).codes)
    assert matched_codes(codes, true, slots, factors, min_iou=0.6).images.tolist() == [0, 0]
    assert matched_codes(codes, true, slots, factors, background_entities=(0, 1)).factors.tolist() == [[12]]
    with pytest.raises(ValueError, match="codes must have"):
        matched_codes(codes[:, :2], true, slots, factors)
    with pytest.raises(ValueError, match="factors must have"):
        matched_codes(codes, true, slots, factors[..., 0])


def test_object_factors_are_what_a_picture_shows_of_an_object() -> None:
    masks = rows_of([0, 1, 1, 0], entities=3)
    factors = np.arange(3 * len(STACKS_NAMES), dtype=np.float32).reshape(1, 3, -1)
    values, names = object_factors(factors, STACKS_NAMES, masks)
    assert names == ("row", "column", "shape", "red", "green", "blue", "size_x", "size_y", "size_z")
    assert values[0, 1].tolist() == [0.5, 0.5, *(factors[0, 1, STACKS_NAMES.index(name)] for name in names[2:])]
    assert np.isnan(values[0, 2]).all()  # not visible
    factors = np.zeros((1, 3, len(CLEVR_NAMES)))
    assert object_factors(factors, CLEVR_NAMES, masks).names == (
        *("row", "column", "shape", "material", "colour", "size", "rotation"),
    )


def test_object_factors_of_a_structured_array() -> None:
    fields = [("color", "S5"), ("size", "f4"), ("pair", "f4", 2), ("visibility", "f4")]
    factors = np.array([[(b"red", 1, (2, 3), 1), (b"blue", 4, (5, 6), 1)]], dtype=fields)
    values, names = object_factors(factors, (), rows_of([0, 0, 0, 1], entities=2))
    assert names == ("row", "column", "color", "size", "pair_0", "pair_1")
    assert values[0].tolist() == [[0.5, 0.375, 1, 1, 2, 3], [0.5, 0.875, 0, 4, 5, 6]]


def test_object_factors_refuse_what_does_not_belong_to_the_masks() -> None:
    masks = rows_of([0, 1], entities=2)
    for factors in (np.zeros((1, 3, 2)), np.zeros((1, 2, 3)), np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match="factors must have the shape"):
            object_factors(factors, ("shape", "size"), masks)


def test_dci_of_slots_finds_the_factors_of_their_objects() -> None:
    # Slots lie in random order; the code of a slot is the shape and the column of the object that it holds.
    rng = np.random.default_rng(6)
    images, width = 150, 24
    columns = np.stack([rng.permutation(8)[:2] for _ in range(images)])
    entity = np.zeros((images, width), dtype=int)
    for number in range(2):
        np.put_along_axis(entity, 3 * columns[:, number, None] + np.arange(3), number + 1, axis=1)
    true = rows_of(*entity.tolist(), entities=3)
    factors = rng.integers(0, 3, (images, 3, 2)).astype(float)
    order = np.stack([rng.permutation(3) for _ in range(images)])
    codes = np.zeros((images, 3, 3))
    codes[:, 1:, 0] = factors[:, 1:, 0]
    codes[:, 1:, 1] = columns
    slots = np.take_along_axis(true, order[:, :, None, None, None], axis=1)
    codes = np.take_along_axis(codes, order[..., None], axis=1)

    values, names = object_factors(factors, ("shape", "scan"), true)
    found = matched_codes(codes, true, slots, values)
    assert len(found.codes) == 2 * images
    result = dci(found.codes, found.factors, names=names, groups=found.images, estimator=few_trees)
    assert result.constant == ("row",)
    assert result.names == ("column", "shape")
    assert result.informativeness == 1  # eight columns and three shapes are all classes
    np.testing.assert_allclose(result.importance, [[0, 1], [1, 0], [0, 0]], atol=0.02)


# --- activeness ---


def test_activeness_by_hand() -> None:
    means = [[0.0, 5, 1], [2, 5, -1], [4, 5, 0]]
    stds = [[0.5, 1, 0.5], [1.0, 1, 1], [1.5, 1, 1.5]]
    assert activeness(means, stds) == pytest.approx([2, 0, 1])
    per_slot = activeness(np.stack([means, np.multiply(means, 3)], axis=1), np.stack([stds, stds], axis=1))
    assert per_slot == pytest.approx(np.array([[2, 0, 1], [6, 0, 3]]))


def test_active_dimensions_are_those_above_the_threshold() -> None:
    # Two images at +-a have the variance 2 a^2.
    means = np.array([[1.0, 0.08, 0.06, 0], [-1.0, -0.08, -0.06, 0]])  # variances 2, 0.0128, 0.0072, 0
    assert active_dimensions(means) == 2
    assert active_dimensions(means, threshold=1) == 1
    assert active_dimensions(np.stack([means, np.zeros_like(means)], axis=1)).tolist() == [2, 0]


def test_activeness_of_a_gaussian_model_is_its_signal_to_noise_ratio() -> None:
    # x = z + noise: the posterior mean is z shrunk by 1 / (1 + v), its variance v / (1 + v).
    rng = np.random.default_rng(7)
    noise = np.array([0.1, 1, 1e4])
    seen = rng.normal(size=(20000, 3)) + np.sqrt(noise) * rng.normal(size=(20000, 3))
    means, stds = seen / (1 + noise), np.broadcast_to(np.sqrt(noise / (1 + noise)), seen.shape)
    assert activeness(means, stds) == pytest.approx(1 / np.sqrt(noise), rel=0.03)
    assert active_dimensions(means) == 2


def test_activeness_refuses() -> None:
    means = np.zeros((3, 2))
    for wrong, stds, message in (
        (means[:1], means[:1] + 1, "n at least 2"),
        (means, np.ones((3, 3)), "same shape"),
        (means, means, "above 0"),
        (means + np.nan, means + 1, "finite"),
        (means[0], means[0] + 1, r"\[n,D\]"),
    ):
        with pytest.raises(ValueError, match=message):
            activeness(wrong, stds)
    with pytest.raises(ValueError, match="n at least 2"):
        active_dimensions(means[:1])
