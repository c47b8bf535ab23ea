import numpy as np
import pytest
from scipy import stats

from pyro_sri.metrics.predictive import image_statistics, predictive_p_values


def test_statistics_of_images_worked_by_hand() -> None:
    grey = np.full((3, 4, 4), 0.25)
    halves = np.zeros((3, 2, 2))
    halves[:, :, 1] = 1  # black beside white
    green = np.zeros((3, 2, 2))
    green[1] = 0.5
    expected = {
        "brightness": (grey, 0.25, halves, 0.5, green, 0.587 / 2),
        "contrast": (grey, 0, halves, 0.5, green, 0),
        "saturation": (grey, 0, halves, 0, green, 0.5),
        "roughness": (grey, 0, halves, 0.5, green, 0),  # of the halves: 1 across, 0 down
    }
    for name, pairs in expected.items():
        for image, value in zip(pairs[::2], pairs[1::2], strict=True):
            assert image_statistics(image[None])[name] == pytest.approx(value, abs=1e-12)


def test_statistics_are_of_each_image_alone() -> None:
    images = np.random.default_rng(0).random((5, 3, 6, 7))
    together = image_statistics(images)
    for index in range(5):
        alone = image_statistics(images[index : index + 1])
        assert {name: values[index] for name, values in together.items()} == pytest.approx(
            {name: values[0] for name, values in alone.items()}
        )


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 1, 4, 4), (2, 3, 1, 4)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must have the shape"):
        image_statistics(np.zeros(shape))


def test_p_values_worked_by_hand() -> None:
    replicated = np.array([[1, 2, 3, 4], [5, 5, 5, 5], [0, 0, 1, 9]])
    assert predictive_p_values([2.5, 5, 10], replicated).tolist() == [0.5, 0.5, 0]
    # With the observed statistic drawn along: 1 > 0, 2 = 2, 3 < 4, 4 > 1.
    assert predictive_p_values([[0, 2, 4, 1]], [[1, 2, 3, 4]]).tolist() == [(1 + 0.5 + 0 + 1) / 4]


def test_p_values_of_a_true_model_are_uniform() -> None:
    rng = np.random.default_rng(0)
    p = predictive_p_values(rng.normal(size=400), rng.normal(size=(400, 999)))
    assert stats.kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("shapes", [((3,), (4, 2)), ((3, 1), (3, 0)), ((3, 5), (3, 2)), ((3,), (3,))])
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="replicated"):
        predictive_p_values(np.zeros(shapes[0]), np.zeros(shapes[1]))
