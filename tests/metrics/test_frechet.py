"""Moments against NumPy's, Fréchet distances against closed forms and SciPy's matrix square root."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from pyro_sri.metrics.frechet import FeatureMoments, frechet_distance


def features(n: int, size: int, seed: int = 0) -> np.ndarray:
    """Correlated features with scales over two decades and a mean far from 0."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((size, size)) * np.logspace(-1, 1, size)
    return rng.standard_normal((n, size)) @ mix + 10 * rng.standard_normal(size)


def with_moments(mean: np.ndarray, covariance: np.ndarray, n: int = 50) -> np.ndarray:
    """Features [n, F] with exactly this sample mean and covariance."""
    size = len(mean)
    noise = np.random.default_rng(size).standard_normal((n, size))
    whitened, _ = np.linalg.qr(noise - noise.mean(0))  # orthonormal columns that sum to 0
    return whitened * np.sqrt(n - 1) @ np.linalg.cholesky(covariance).T + mean


def covariance_matrix(size: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((size, 2 * size))
    return factor @ factor.T


# Moments


@pytest.mark.parametrize("sizes", [[200], [1] * 200, [7, 0, 93, 1, 99]])
def test_moments_of_batches_are_those_of_all(sizes: list[int]) -> None:
    all_of_them = features(200, 6)
    moments = FeatureMoments(6)
    for batch in np.split(all_of_them, np.cumsum(sizes)[:-1]):
        moments.update(batch)
    assert moments.count == 200
    np.testing.assert_allclose(moments.mean, all_of_them.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(all_of_them, rowvar=False), rtol=1e-10, atol=1e-10)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_merging_is_like_seeing_both(sizes: list[int]) -> None:
    all_of_them = features(sum(sizes) + 2, 3, seed=sum(sizes))
    merged = FeatureMoments(3)
    for batch in np.split(all_of_them, np.cumsum(sizes)):
        merged.merge(FeatureMoments(3).update(batch))
    np.testing.assert_allclose(merged.mean, all_of_them.mean(0), rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, np.cov(all_of_them, rowvar=False), rtol=1e-9, atol=1e-9)


def test_moments_hold_no_reference_to_what_they_merged() -> None:
    one, other = FeatureMoments(2), FeatureMoments(2).update([[0.0, 1], [2, 3]])
    one.merge(other).update([[9.0, 9]])
    assert other.count == 2
    np.testing.assert_allclose(other.mean, [1, 2])
    np.testing.assert_allclose(other.covariance, [[2, 2], [2, 2]])


def test_small_spread_around_a_large_mean_is_kept() -> None:
    spread = np.random.default_rng(0).standard_normal((1000, 2))
    moments = FeatureMoments(2)
    for batch in np.split(spread + 1e8, 50):
        moments.update(batch)
    # A sum of squares less the squared sum would be off by about 1e16 times the rounding of float64, which is 1.
    np.testing.assert_allclose(moments.covariance, np.cov(spread, rowvar=False), atol=1e-6)


def test_float32_features_are_summed_in_float64() -> None:
    single = features(500, 4).astype(np.float32)
    expected = np.cov(single.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(FeatureMoments(4).update(single).covariance, expected, rtol=1e-10, atol=1e-10)


# Distances


@pytest.mark.parametrize("n", [5, 40, 400])
def test_equal_sets_are_at_distance_0(n: int) -> None:
    same = features(n, 30)
    trace = np.trace(np.cov(same, rowvar=False))
    assert 0 <= frechet_distance(same, same[::-1]) < 1e-10 * trace


def test_one_feature_by_hand() -> None:
    # Means 1 and 4, standard deviations sqrt(2) and 3 sqrt(2): (1 - 4)^2 + (sqrt(2) - 3 sqrt(2))^2 = 9 + 8.
    assert frechet_distance([[0.0], [2]], [[1.0], [7]]) == pytest.approx(17)


def test_covariances_that_commute() -> None:
    # In a common basis the Gaussians are independent along each axis: sum (m1 - m2)^2 + (s1 - s2)^2.
    rotation, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((5, 5)))
    scales = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 2, 1, 7, 0.5])
    means = np.array([0.0, 1, 0, -1, 3]), np.array([1.0, 1, 2, 0, 0])
    sets = [with_moments(m, rotation * s**2 @ rotation.T) for m, s in zip(means, scales, strict=True)]
    expected = np.square(means[0] - means[1]).sum() + np.square(scales[0] - scales[1]).sum()
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [2, 7, 40])
def test_covariances_that_do_not_commute(size: int) -> None:
    first, second = covariance_matrix(size, 1), covariance_matrix(size, 2)
    assert np.abs(first @ second - second @ first).max() > 1
    mean = np.random.default_rng(3).standard_normal(size)
    sets = with_moments(mean, first, n=100), with_moments(np.zeros(size), second, n=80)
    outside = mean @ mean + np.trace(first) + np.trace(second)
    by_eigenvalues = outside - 2 * np.sqrt(np.linalg.eigvals(first @ second).real).sum()
    by_square_root = outside - 2 * np.trace(linalg.sqrtm(first @ second)).real
    assert frechet_distance(*sets) == pytest.approx(by_eigenvalues, rel=1e-9)
    assert frechet_distance(*sets) == pytest.approx(by_square_root, rel=1e-9)


def test_two_by_two_by_hand() -> None:
    # Of 2 x 2 matrices, (tr M^(1/2))^2 = tr M + 2 sqrt(det M). C1 C2 = [[2, 2], [4, 8]]: trace 10, determinant 8.
    first, second = np.diag([2.0, 4]), np.array([[1.0, 1], [1, 2]])
    expected = (2 + 4) + (1 + 2) - 2 * np.sqrt(10 + 2 * np.sqrt(8))
    sets = [with_moments(np.zeros(2), covariance) for covariance in (first, second)]
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-9)


def test_fewer_images_than_features() -> None:
    # The covariances have rank 1 along unit vectors at an angle: tr (C1 C2)^(1/2) = s1 s2 |cos|.
    cosine = 0.6
    first, second = np.eye(50)[0], cosine * np.eye(50)[0] + 0.8 * np.eye(50)[1]
    distance = frechet_distance(np.outer([-3, 3], first), np.outer([-5, 5], second))
    assert distance == pytest.approx(18 + 50 - 2 * np.sqrt(18 * 50) * cosine, rel=1e-12)


def test_orthogonal_ranges_add_up() -> None:
    left, right = np.zeros((6, 20)), np.zeros((6, 20))
    left[:, :10], right[:, 10:] = features(6, 10, 1), features(6, 10, 2)
    left, right = left - left.mean(0), right - right.mean(0)
    expected = np.trace(np.cov(left, rowvar=False)) + np.trace(np.cov(right, rowvar=False))
    assert frechet_distance(left, right) == pytest.approx(expected, rel=1e-9)


def test_constant_features_count_by_their_means() -> None:
    assert frechet_distance(np.zeros((4, 3)), np.full((9, 3), 2.0)) == pytest.approx(12)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_symmetric_and_never_negative(first: int, second: int, size: int, seed: int) -> None:
    one, other = features(first, size, seed), features(second, size, seed + 1)
    there, back = frechet_distance(one, other), frechet_distance(other, one)
    assert there >= 0
    assert there == pytest.approx(back, rel=1e-9, abs=1e-9)


def test_invariant_under_rotation_and_quadratic_in_scale() -> None:
    one, other = features(30, 5, 1), features(30, 5, 2)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((5, 5)))
    distance = frechet_distance(one, other)
    assert frechet_distance(one @ rotation, other @ rotation) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(3 * one, 3 * other) == pytest.approx(9 * distance, rel=1e-9)


def test_moments_and_arrays_give_the_same() -> None:
    one, other = features(60, 5, 1), features(40, 5, 2)
    moments = FeatureMoments(5)
    for batch in np.split(one, 6):
        moments.update(batch)
    expected = frechet_distance(one, other)
    assert frechet_distance(moments, other) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(moments, FeatureMoments(5).update(other)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("wrong", [np.zeros(3), np.zeros((4, 2)), np.zeros((4, 3, 1)), np.zeros((4, 0))])
def test_wrong_shapes_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"shape|same features"):
        frechet_distance(wrong, np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"shape \[images, 3\]"):
        FeatureMoments(3).update(wrong)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    bad = features(10, 3)
    bad[4, 1] = value
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(features(10, 3), bad)


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        frechet_distance(features(10, 3), features(1, 3))


def test_moments_of_other_sizes_do_not_merge() -> None:
    with pytest.raises(ValueError, match="2 features cannot be merged with those of 3"):
        FeatureMoments(2).merge(FeatureMoments(3))
