"""Precision, recall, density and coverage against one loop over all pairs, and cases worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from pyro_sri.metrics import manifold
from pyro_sri.metrics.manifold import density_coverage, precision_recall


def brute_force(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """All four, pair by pair, with plain differences for distances."""

    def radius(points: np.ndarray, i: int) -> float:
        return sorted(np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i)[k - 1]

    real_radii = [radius(real, i) for i in range(len(real))]
    generated_radii = [radius(generated, j) for j in range(len(generated))]
    distances = [[np.linalg.norm(x - y) for y in generated] for x in real]
    in_real = [[d <= real_radii[i] for d in row] for i, row in enumerate(distances)]
    in_generated = [[d <= generated_radii[j] for j, d in enumerate(row)] for row in distances]
    pairs = len(real), len(generated)
    return (
        sum(any(in_real[i][j] for i in range(pairs[0])) for j in range(pairs[1])) / pairs[1],
        sum(any(row) for row in in_generated) / pairs[0],
        sum(sum(row) for row in in_real) / (k * pairs[1]),
        sum(any(row) for row in in_real) / pairs[0],
    )


def all_four(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[float, ...]:
    return (*precision_recall(real, generated, neighbours=k), *density_coverage(real, generated, neighbours=k))


@given(st.integers(5, 25), st.integers(5, 25), st.integers(1, 8), st.integers(1, 4), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_like_brute_force(real: int, generated: int, size: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sets = rng.standard_normal((real, size)), 0.7 * rng.standard_normal((generated, size)) + 0.5
    assert all_four(*sets, k) == pytest.approx(brute_force(*sets, k))


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_the_rows_held_at_once_do_not_matter(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sets = rng.standard_normal((50, 20)), rng.standard_normal((40, 20)) * 1.1
    expected = all_four(*sets, 3)
    monkeypatch.setattr(manifold, "ROWS", rows)
    assert all_four(*sets, 3) == expected
    assert 0 < expected[0] < 1  # so that it could have failed


def test_by_hand_on_a_line() -> None:
    # k = 1. Balls of 0, 1, 3, 10: radii 1, 1, 2, 7. Balls of 0.5, 4, 20: radii 3.5, 3.5, 16.
    real, generated = np.array([[0.0], [1], [3], [10]]), np.array([[0.5], [4], [20]])
    precision, recall = precision_recall(real, generated, neighbours=1)
    # 0.5 lies in the balls of 0 and 1; 4 in those of 3 ([1, 5]) and 10 ([3, 17]); 20 in none.
    assert precision == pytest.approx(2 / 3)
    # The balls of 0.5 ([-3, 4]), 4 ([0.5, 7.5]) and 20 ([4, 36]) hold all four.
    assert recall == 1
    density, coverage = density_coverage(real, generated, neighbours=1)
    assert density == pytest.approx(4 / 3)
    assert coverage == 1


def test_points_on_the_surface_lie_inside() -> None:
    grid = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), axis=-1).reshape(-1, 2) / 3 + 1000
    shifted = grid + [1 / 3, 0]  # the last column falls outside all but on the surface of its neighbours' balls
    assert precision_recall(grid, shifted, neighbours=1) == (1, 1)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equal_sets(k: int) -> None:
    points = np.random.default_rng(0).standard_normal((60, 10)).astype(np.float32) + 100
    precision, recall, density, coverage = all_four(points, points[::-1], k)
    assert (precision, recall, coverage) == (1, 1, 1)
    assert density == pytest.approx(1 + 1 / k)  # each lies in its own ball, and is among the k nearest of k others


def test_sets_far_apart() -> None:
    points = np.random.default_rng(0).standard_normal((60, 10))
    assert all_four(points, points + 100, 3) == (0, 0, 0, 0)


def test_half_of_the_modes_missing() -> None:
    rng = np.random.default_rng(0)
    modes = np.array([0.0, 1000])
    real = rng.standard_normal((200, 4)) + np.repeat(modes, 100)[:, None]
    generated = rng.standard_normal((200, 4))
    precision, recall, density, coverage = all_four(real, generated, 5)
    assert precision > 0.9
    assert recall == pytest.approx(0.5, abs=0.05)
    assert density > 0.5
    assert coverage == pytest.approx(0.5 * (1 - 3**-5), abs=0.02)  # 100 real ones among 300 points, k = 5
    precision, recall, _, coverage = all_four(generated, real, 5)  # half of the generated ones are nothing real
    assert precision == pytest.approx(0.5, abs=0.05)
    assert recall > 0.9
    assert coverage == pytest.approx(1 - (2 / 3) ** 5, abs=0.05)  # 200 real ones among 300 points


def test_one_real_outlier_moves_precision_and_hardly_density() -> None:
    rng = np.random.default_rng(0)
    real, generated = rng.standard_normal((200, 2)), rng.standard_normal((200, 2)) + 30
    odd = np.append(real, [[60.0, 60]], axis=0)  # its ball reaches back over all generated points
    assert precision_recall(real, generated).precision == 0
    assert precision_recall(odd, generated).precision == 1
    assert density_coverage(odd, generated).density == pytest.approx(1 / 5)
    assert density_coverage(odd, generated).coverage == pytest.approx(1 / 201)


def test_samples_of_one_distribution() -> None:
    # Naeem et al. 2020: density 1 and coverage 1 - 2^-k on average, whatever the distribution.
    rng = np.random.default_rng(0)
    scores = [density_coverage(*rng.standard_normal((2, 200, 8)), neighbours=2) for _ in range(40)]
    density, coverage = np.mean(scores, axis=0)
    assert density == pytest.approx(1, abs=0.05)
    assert coverage == pytest.approx(0.75, abs=0.02)


def test_duplicates_need_a_distance_of_0() -> None:
    real = np.repeat(np.random.default_rng(0).standard_normal((5, 300)), 4, axis=0)  # every ball has radius 0
    assert precision_recall(real, real[:8], neighbours=3) == (1, 2 / 5)
    assert cdist(real, real[:8]).min() == 0
    assert precision_recall(real, real[:8] + 1e-4, neighbours=3) == (0, 0)


@pytest.mark.parametrize(
    ("real", "generated", "k", "words"),
    [
        (np.zeros((9, 2)), np.zeros((9, 3)), 3, "shapes"),
        (np.zeros(9), np.zeros(9), 3, "shapes"),
        (np.zeros((3, 2)), np.zeros((9, 2)), 3, "fewer than the images"),
        (np.zeros((9, 2)), np.zeros((3, 2)), 3, "fewer than the images"),
        (np.zeros((9, 2)), np.zeros((9, 2)), 0, "at least 1"),
        (np.zeros((9, 2)), np.full((9, 2), np.nan), 3, "finite"),
        (np.full((9, 2), np.inf), np.zeros((9, 2)), 3, "finite"),
    ],
)
def test_wrong_sets_are_refused(real: np.ndarray, generated: np.ndarray, k: int, words: str) -> None:
    for metric in (precision_recall, density_coverage):
        with pytest.raises(ValueError, match=words):
            metric(real, generated, neighbours=k)
