"""Running an extractor over batches, and the rounding that both extractors share."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_sri.features import extract
from pyro_sri.features.extraction import to_8_bits


class Means:
    """Mean of each colour, and its double."""

    name = "means"
    size = 6

    def __call__(self, images: Tensor) -> Tensor:
        means = images.mean((2, 3))
        return torch.cat([means, 2 * means], dim=1)


def test_extract_keeps_the_order_and_one_batch_at_a_time() -> None:
    images = torch.rand(10, 3, 4, 4, requires_grad=True)
    alive = []

    def batches() -> Iterator[Tensor]:
        for part in images.split(4):
            alive.append(part)
            yield part
            alive.clear()  # a reader that took all batches first would have seen none alive

    class Watching(Means):
        def __call__(self, images: Tensor) -> Tensor:
            assert alive
            assert alive[-1] is images
            return super().__call__(images)

    features = extract(Watching(), batches())
    assert features.dtype == np.float32
    expected = images.detach().numpy().mean((2, 3))
    np.testing.assert_allclose(features, np.concatenate([expected, 2 * expected], axis=1), rtol=1e-5)


def test_extract_of_nothing() -> None:
    assert extract(Means(), []).shape == (0, 6)


def test_8_bits_are_rounded_and_clipped() -> None:
    values = torch.tensor([-0.3, 0, 0.49 / 255, 0.51 / 255, 1.4 / 255, 1.6 / 255, 254.6 / 255, 1, 1.2])
    images = values.expand(1, 3, 2, -1)
    assert to_8_bits(images)[0, 0, 0].tolist() == [0, 0, 0, 1, 1, 2, 255, 255, 255]


def test_8_bits_give_back_what_was_read_from_a_file() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).expand(1, 3, 2, -1)
    assert torch.equal(to_8_bits(pixels.float() / 255), pixels)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 1, 8, 8), (2, 8, 8, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[images, 3, height, width\]"):
        to_8_bits(torch.zeros(shape))


def test_images_that_are_not_finite_are_refused() -> None:
    images = torch.zeros(2, 3, 4, 4)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        to_8_bits(images)
