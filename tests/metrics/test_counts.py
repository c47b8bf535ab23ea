"""Counting, by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix

from pyro_sri.metrics import count_accuracy, count_confusion

TRUE = np.array([0, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 1, 2, 2, 2, 3])


def test_by_hand() -> None:
    assert count_accuracy(TRUE, PREDICTED) == pytest.approx(4 / 6)
    expected = [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 2, 1], [0, 0, 0, 0]]
    assert count_confusion(TRUE, PREDICTED).tolist() == expected
    assert count_accuracy([0], [0]) == 1
    assert count_confusion([0], [0]).tolist() == [[1]]


def test_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, 200), rng.integers(0, 5, 200)
    assert count_accuracy(true, predicted) == pytest.approx(accuracy_score(true, predicted))
    np.testing.assert_array_equal(count_confusion(true, predicted), confusion_matrix(true, predicted, labels=range(5)))


def test_counts_may_be_stored_as_floats() -> None:
    assert count_accuracy(TRUE.astype(np.float32), PREDICTED) == pytest.approx(4 / 6)
    assert count_confusion(TRUE.astype(np.float32), PREDICTED).sum() == 6


@pytest.mark.parametrize("wrong", [[], [[0, 1]], [0], [0, -1], [0, 0.5], [0, np.nan]])
def test_refuses_what_are_not_counts(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="counts"):
        count_accuracy([0, 1] if wrong else [], wrong)
