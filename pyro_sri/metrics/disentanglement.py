"""What single dimensions of a slot represent: disentanglement, completeness and informativeness, and activeness.

`dci` scores the codes of objects [n,D] against their true factors [n,F]. `object_factors` and `matched_codes` compute
both from slots, masks and the factors of a data set:

    factors, names = object_factors(factors, names, true_masks)
    codes, factors, images = matched_codes(slot_means, true_masks, slot_masks, factors)
    dci(codes, factors, names=names, groups=images)

`activeness` and `active_dimensions` need no ground truth.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pyro_sri.metrics.order import mask_centres
from pyro_sri.metrics.segmentation import match_objects_to_slots

Floats = npt.NDArray[np.float64]
Kind = Literal["discrete", "continuous"]
Estimator = Callable[[Kind, np.random.RandomState], Any]

MOST_CLASSES = 16
IMPORTANCE_FLOOR = 1e-11  # gives a code or factor without importance the largest entropy instead of an undefined one
ACTIVE_VARIANCE = 0.01  # Burda et al. 2016

# The same for all objects of a scene, or not visible in a picture.
NOT_OF_OBJECTS = frozenset(("visible", "visibility", "kind", "camera", "lamp", "floor", "wall", "scan"))
# Places and directions in the world, which a picture does not show if the camera moves.
IN_THE_WORLD = frozenset(("x", "y", "z", "depth", "yaw", "pixel_x", "pixel_y", "pixel_depth"))


class DCIScores(NamedTuple):
    """Scores of an importance matrix, all in [0,1]; see `dci_scores`."""

    disentanglement: float
    completeness: float
    disentanglement_per_code: Floats
    completeness_per_factor: Floats


class Fits(NamedTuple):
    """The results of F estimators; see `fit_estimators`."""

    importance: Floats
    """[D,F]; every column sums to 1."""
    informativeness: Floats
    """[F], on held-out rows: the share of exact predictions (discrete factors), or R^2, at least 0 (continuous)."""
    error: Floats
    """[F], on held-out rows: the share of wrong predictions, or the normalised root-mean-square error."""
    chance: Floats
    """[F], the informativeness of codes without information: share of the most common class, or 0 (continuous)."""


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness of D codes for F factors; see `dci`."""

    disentanglement: float
    completeness: float
    informativeness: float
    """Mean over the factors."""
    disentanglement_per_code: Floats
    completeness_per_factor: Floats
    informativeness_per_factor: Floats
    error_per_factor: Floats
    """The measure of Eastwood & Williams: the normalised root-mean-square error, or the share of wrong predictions."""
    chance_per_factor: Floats
    """The informativeness of codes without information."""
    importance: Floats
    """R, [D,F]."""
    names: tuple[str, ...]
    """The factors that were scored, in the order of the columns of R."""
    kinds: tuple[Kind, ...]
    constant: tuple[str, ...]
    """The factors that were left out because they do not vary in the training rows or in the held-out rows."""


def boosted_trees(kind: Kind, random_state: np.random.RandomState) -> Any:
    """A new gradient-boosted ensemble of 100 trees of depth 3, each fitted to half of the rows.

    It has scikit-learn's defaults, but is stochastic (Friedman 2002), which takes half of the time and scores much the
    same. Every split may use every code. Otherwise, as in scikit-learn's random forest for classes, other codes have to
    substitute for it, and a perfect code looks entangled.
    """
    from sklearn import ensemble  # takes a second to import, and no other metric needs it

    name = "GradientBoostingClassifier" if kind == "discrete" else "GradientBoostingRegressor"
    return getattr(ensemble, name)(subsample=0.5, random_state=random_state)


def dci(
    codes: npt.ArrayLike,
    factors: npt.ArrayLike,
    *,
    names: Sequence[str] | None = None,
    kinds: Sequence[Kind] | None = None,
    groups: npt.ArrayLike | None = None,
    train_share: float = 0.7,
    estimator: Estimator = boosted_trees,
    seed: int = 0,
) -> DCI:
    """Disentanglement, completeness and informativeness (Eastwood & Williams 2018).

    Every factor is predicted from all codes by a new estimator of the right kind: a classifier for a discrete factor, a
    regressor for a continuous one. `dci_scores` explains how the importance of the codes for the predictions is scored,
    and `fit_estimators` how the quality of the predictions is scored. Time grows with rows, codes, and classes of the
    discrete factors: 4,000 rows of 64 codes with 10 factors take about half a minute.

    Args:
        codes: numbers [n,D], for example posterior means of the slots that hold the objects; D at least 2.
        factors: numbers [n,F].
        names: the factors' names; their numbers if None.
        kinds: "discrete" or "continuous" for each factor. None treats factors with at most 16 different values as
            discrete, which ignores the order of the values.
        groups: integers [n], for example the image of each object. All rows of a group are held out, or none. None
            gives each row a group of its own.
        train_share: share of the groups to fit the estimators to, in (0,1).
        estimator: makes an unfitted estimator as in scikit-learn, with `feature_importances_`.
        seed: of the split and of the estimators.

    Raises:
        ValueError: shapes that do not agree, numbers that are not finite, fewer than two groups, two codes, or two
            factors that vary.
    """
    codes, factors = _matrix(codes, "codes"), _matrix(factors, "factors")
    if len(codes) != len(factors):
        raise ValueError(f"codes and factors differ in rows: {list(codes.shape)} and {list(factors.shape)}")
    num_factors = factors.shape[1]
    names = [str(factor) for factor in range(num_factors)] if names is None else list(names)
    kinds = [_kind(column) for column in factors.T] if kinds is None else list(kinds)
    for what, given in (("names", names), ("kinds", kinds)):
        if len(given) != num_factors:
            raise ValueError(f"{what} must have an entry for each of the {num_factors} factors, got {len(given)}")
    groups = np.arange(len(codes)) if groups is None else np.asarray(groups)
    train = _training_rows(groups, len(codes), train_share, seed)
    varies = np.ptp(factors[train], axis=0) > 0
    varies &= np.ptp(factors[~train], axis=0) > 0
    scored = np.flatnonzero(varies)
    if len(scored) < 2 or codes.shape[1] < 2:
        raise ValueError(f"dci needs two codes and two factors that vary, got {codes.shape[1]} and {len(scored)}")
    kept = factors[:, scored]
    kinds = [kinds[factor] for factor in scored]
    fits = fit_estimators(codes[train], kept[train], codes[~train], kept[~train], kinds, estimator=estimator, seed=seed)
    scores = dci_scores(fits.importance)
    return DCI(
        disentanglement=scores.disentanglement,
        completeness=scores.completeness,
        informativeness=float(fits.informativeness.mean()),
        disentanglement_per_code=scores.disentanglement_per_code,
        completeness_per_factor=scores.completeness_per_factor,
        informativeness_per_factor=fits.informativeness,
        error_per_factor=fits.error,
        chance_per_factor=fits.chance,
        importance=fits.importance,
        names=tuple(names[factor] for factor in scored),
        kinds=tuple(kinds),
        constant=tuple(name for name, there in zip(names, varies, strict=True) if not there),
    )


def dci_scores(importance: npt.ArrayLike) -> DCIScores:
    r"""Disentanglement and completeness from importances (Eastwood & Williams 2018, section 2).

    With R [D,F] the importance of code i for factor j, and H_F and H_D entropies to the bases F and D:

        disentanglement_i = 1 - H_F(R_ij / sum_j R_ij)      1 where code i represents only one factor
        completeness_j    = 1 - H_D(R_ij / sum_i R_ij)      1 where factor j is in only one code

    The total scores are averages, weighted by the codes' and by the factors' shares of sum_ij R_ij.

    Args:
        importance: numbers >= 0, [D,F], D and F at least 2.

    Raises:
        ValueError: other shapes, negative or infinite numbers.
    """
    importance = _matrix(importance, "importance")
    if min(importance.shape) < 2 or (importance < 0).any():
        raise ValueError(f"importance must be numbers >= 0, at least [2,2], got {list(importance.shape)}")
    disentanglement, completeness = _concentration(importance), _concentration(importance.T)
    return DCIScores(
        disentanglement=_average(disentanglement, importance.sum(1)),
        completeness=_average(completeness, importance.sum(0)),
        disentanglement_per_code=disentanglement,
        completeness_per_factor=completeness,
    )


def fit_estimators(
    train_codes: npt.ArrayLike,
    train_factors: npt.ArrayLike,
    test_codes: npt.ArrayLike,
    test_factors: npt.ArrayLike,
    kinds: Sequence[Kind],
    *,
    estimator: Estimator = boosted_trees,
    seed: int = 0,
) -> Fits:
    """Fits a new estimator for each factor, and tests it on held-out rows.

    Eastwood & Williams measure informativeness as an error. For a continuous factor, it is the root-mean-square error
    divided by the standard deviation of the held-out values, NRMSE, which is 1 if their mean is predicted. Both
    measures are returned here. If R^2 is not negative, R^2 = 1 - NRMSE^2.

    Args:
        train_codes: numbers [m,D].
        train_factors: numbers [m,F]; every factor varies.
        test_codes: numbers [k,D].
        test_factors: numbers [k,F]; every factor varies.
        kinds: "discrete" or "continuous" for each factor.
        estimator: makes an unfitted estimator as in scikit-learn, with `feature_importances_`.
        seed: of the random state that the estimators share.

    Raises:
        ValueError: an unknown kind.
    """
    train_codes, test_codes = np.asarray(train_codes), np.asarray(test_codes)
    random_state = np.random.RandomState(seed)
    columns = []
    for kind, train, test in zip(kinds, np.transpose(train_factors), np.transpose(test_factors), strict=True):
        fitted = estimator(kind, random_state)
        if kind == "discrete":
            classes, labels = np.unique(train, return_inverse=True)
            predicted = classes[fitted.fit(train_codes, labels).predict(test_codes)]
            informativeness = float((predicted == test).mean())
            error = 1 - informativeness
            chance = float((classes[np.bincount(labels).argmax()] == test).mean())
        elif kind == "continuous":
            predicted = fitted.fit(train_codes, train).predict(test_codes)
            error = float(np.sqrt(np.square(predicted - test).mean()) / test.std())
            informativeness, chance = max(0.0, 1 - error**2), 0.0
        else:
            raise ValueError(f"a factor is discrete or continuous, got {kind!r}")
        columns.append((np.abs(fitted.feature_importances_), informativeness, error, chance))
    importance, *scores = zip(*columns, strict=True)
    return Fits(np.stack(importance, axis=1), *(np.array(score) for score in scores))


class ObjectFactors(NamedTuple):
    """Factors to score codes against; see `object_factors`."""

    values: Floats
    """[n,O,G]; NaN where an entity is not visible."""
    names: tuple[str, ...]


def object_factors(factors: npt.ArrayLike, names: Sequence[str], true_masks: npt.ArrayLike) -> ObjectFactors:
    """The factors of a data set that are properties of an object and visible in a picture.

    Shape, colour, material, size or scale, and angles in the picture are kept. Factors that are the same for all
    objects of a scene (camera, floor, ..), the visibility of an object, and its place in the world are left out. The
    place is replaced by `row` and `column`, the middle of the visible mask, which do not depend on the camera. If there
    is a factor `colour`, red, green and blue are also left out, because they repeat it.

    Args:
        factors: numbers [n,O,F], or a structured array [n,O] whose fields are numbers, vectors or texts. Texts become
            numbers in alphabetical order.
        names: the names of the F columns; not used for a structured array.
        true_masks: uint8 [n,O,H,W,1], 255 inside and 0 outside.

    Raises:
        ValueError: shapes that do not agree.
    """
    factors, centres = np.asarray(factors), mask_centres(true_masks)
    fields = {name: factors[name] for name in factors.dtype.names} if factors.dtype.names else {}
    if not fields and factors.shape[-1] == len(names):
        fields = {name: factors[..., column] for column, name in enumerate(names)}
    if not fields or factors.shape[:2] != centres.shape[:2]:
        raise ValueError(
            f"factors must have the shape [{centres.shape[0]},{centres.shape[1]},{len(names)}], with the images and "
            f"entities of true_masks and a column for each name, got {list(factors.shape)}"
        )
    left_out = NOT_OF_OBJECTS | IN_THE_WORLD | ({"red", "green", "blue"} if "colour" in fields else set())
    columns = {"row": centres[..., 0], "column": centres[..., 1]}
    for name, field in fields.items():
        if name in left_out:
            continue
        if field.dtype.kind not in "biuf":
            field = np.unique(field, return_inverse=True)[1].reshape(field.shape)
        parts = field.reshape(*centres.shape[:2], -1)
        labels = [name] if parts.shape[-1] == 1 else [f"{name}_{part}" for part in range(parts.shape[-1])]
        columns |= {label: parts[..., part] for part, label in enumerate(labels)}
    visible = ~np.isnan(centres[..., :1])
    return ObjectFactors(np.where(visible, np.stack(list(columns.values()), axis=-1), np.nan), tuple(columns))


class MatchedCodes(NamedTuple):
    """A row for each object that a slot holds; see `matched_codes`."""

    codes: Floats
    """[m,D]"""
    factors: Floats
    """[m,F]"""
    images: npt.NDArray[np.int64]
    """[m], the image that each object is in."""


def matched_codes(
    codes: npt.ArrayLike,
    true_masks: npt.ArrayLike,
    predicted_masks: npt.ArrayLike,
    factors: npt.ArrayLike,
    *,
    background_entities: Iterable[int] = (0,),
    min_pixels: int = 1,
    min_iou: float = 0.1,
) -> MatchedCodes:
    """The code and the factors of each object, from the slot that `match_objects_to_slots` gives it.

    Args:
        codes: numbers [n,K,D].
        true_masks: uint8 [n,O,H,W,1], 255 inside and 0 outside.
        predicted_masks: probabilities or uint8 [n,K,H,W,1]; see `match_objects_to_slots`.
        factors: numbers [n,O,F].
        background_entities: entities that are not objects.
        min_pixels: visible pixels that an object needs. (Emami et al. 2021 require 50 of 96 x 96.)
        min_iou: intersection over union in [0,1] that object and slot need.

    Raises:
        ValueError: shapes that do not agree, masks that are not finite, entities that do not exist.
    """
    codes, factors = np.asarray(codes), np.asarray(factors)
    for what, values, masks in (("codes", codes, predicted_masks), ("factors", factors, true_masks)):
        if values.ndim != 3 or values.shape[:2] != np.shape(masks)[:2]:
            raise ValueError(
                f"{what} must have the images and slots or entities of their masks, "
                f"{list(np.shape(masks)[:2])}, and a third axis, got {list(values.shape)}"
            )
    slots = match_objects_to_slots(
        true_masks,
        predicted_masks,
        min_pixels=min_pixels,
        min_iou=min_iou,
        background_entities=background_entities,
    )
    images, entities = np.nonzero(slots >= 0)
    return MatchedCodes(
        codes=codes[images, slots[images, entities]].astype(np.float64),
        factors=factors[images, entities].astype(np.float64),
        images=images.astype(np.int64),
    )


def activeness(means: npt.ArrayLike, stds: npt.ArrayLike) -> Floats:
    """How much the posterior of each dimension moves from image to image, relative to its width.

        activeness_d = standard deviation over images of mean_d / mean over images of std_d

    A dimension that always follows the prior has 0. Above 1, it can distinguish images. (EfficientMORL also shows an
    activeness of dimensions. This definition is our own. It needs only posteriors, and no decoder.)

    Args:
        means: posterior means [n,D] or [n,K,D], n at least 2. Slots in no fixed order belong on the first axis.
        stds: posterior standard deviations > 0, same shape.

    Returns:
        float64 [D] or [K,D].

    Raises:
        ValueError: fewer than two images, shapes that differ, numbers that are not finite, standard deviations <= 0.
    """
    means, stds = _posteriors(means, "means"), _posteriors(stds, "stds")
    if means.shape != stds.shape:
        raise ValueError(f"means and stds must have the same shape, got {list(means.shape)} and {list(stds.shape)}")
    if (stds <= 0).any():
        raise ValueError("stds must be above 0")
    spread: Floats = means.std(axis=0, ddof=1)
    return spread / stds.mean(axis=0)


def active_dimensions(means: npt.ArrayLike, threshold: float = ACTIVE_VARIANCE) -> npt.NDArray[np.int64]:
    """Number of dimensions whose posterior mean has a variance over images above a threshold (Burda et al. 2016).

    Args:
        means: posterior means [n,D] or [n,K,D], n at least 2.
        threshold: Burda et al. use 0.01, for a prior with variance 1.

    Returns:
        A whole number, or int64 [K].

    Raises:
        ValueError: fewer than two images, or numbers that are not finite.
    """
    means = _posteriors(means, "means")
    return np.asarray((means.var(axis=0, ddof=1) > threshold).sum(axis=-1), dtype=np.int64)


def _matrix(values: npt.ArrayLike, name: str) -> Floats:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} must have two axes, both not empty, got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return values


def _posteriors(values: npt.ArrayLike, name: str) -> Floats:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (2, 3) or len(values) < 2:
        raise ValueError(f"{name} must be [n,D] or [n,K,D] with n at least 2, got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return values


def _kind(factor: Floats) -> Kind:
    return "discrete" if len(np.unique(factor)) <= MOST_CLASSES else "continuous"


def _training_rows(groups: npt.NDArray[Any], rows: int, share: float, seed: int) -> npt.NDArray[np.bool_]:
    if groups.shape != (rows,):
        raise ValueError(f"groups must have the shape [{rows}], got {list(groups.shape)}")
    if not 0 < share < 1:
        raise ValueError(f"train_share must lie between 0 and 1, got {share}")
    names, members = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ValueError("dci needs rows of at least two groups: one to fit to, one to test on")
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    chosen = np.random.default_rng(seed).permutation(len(names)) < count
    return np.asarray(chosen[members])


def _concentration(importance: Floats) -> Floats:
    """1 - entropy of each row, to the base of its length."""
    shares = importance + IMPORTANCE_FLOOR
    shares /= shares.sum(axis=1, keepdims=True)
    entropy: Floats = -(shares * np.log(shares)).sum(axis=1)
    return 1 - entropy / np.log(importance.shape[1])


def _average(values: Floats, weights: Floats) -> float:
    return float(np.average(values, weights=weights if weights.any() else None))
