"""Reconstruction error and bits per dimension, by hand and against the authors' numbers."""

import math

import numpy as np
import pytest

from pyro_sri.metrics import bits_per_dimension, mean_squared_error
from support.golden import GOLDEN

CASE = GOLDEN / "metrics_segmentation.npz"


def test_mean_squared_error_golden() -> None:
    with np.load(CASE) as golden:
        images, colors, masks = (golden[f"in/mse/{name}"] for name in ("image", "colors", "masks"))
        expected = golden["out/mse"]
    errors = mean_squared_error(images, (masks * colors).sum(1))
    assert errors.dtype == np.float64
    np.testing.assert_allclose(errors, expected, rtol=1e-5)


def test_mean_squared_error_is_per_image() -> None:
    images = np.zeros((3, 3, 2, 2), np.float32)
    reconstructions = images.copy()
    reconstructions[1] = 1
    reconstructions[2, 0, 0, 0] = 0.5
    assert mean_squared_error(images, reconstructions) == pytest.approx([0, 1, 0.25 / 12])


def test_mean_squared_error_refuses_wrong_arrays() -> None:
    images = np.zeros((2, 3, 4, 4))
    with pytest.raises(ValueError, match="same shape"):
        mean_squared_error(images, images[:1])
    with pytest.raises(ValueError, match="divide 8-bit ones by 255"):
        mean_squared_error(images.astype(np.uint8), images)


@pytest.mark.parametrize("image_size", [32, 64])
def test_bits_per_dimension_of_the_gaussian_floor(image_size: int) -> None:
    sigma = 0.7
    nats = 3 * image_size**2 * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
    assert bits_per_dimension(nats, image_size) == pytest.approx(0.8112, abs=5e-5)
    assert bits_per_dimension(3 * image_size**2 * 0.5655, image_size) == pytest.approx(0.816, abs=5e-4)


def test_bits_per_dimension_keeps_the_shape() -> None:
    one_bit = 3 * 4**2 * math.log(2)
    np.testing.assert_allclose(bits_per_dimension([[0.0, one_bit, -2 * one_bit]], 4), [[0, 1, -2]])
    assert isinstance(bits_per_dimension(one_bit, 4), float)
    with pytest.raises(ValueError, match="at least 1"):
        bits_per_dimension(1.0, 0)
